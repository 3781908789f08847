"""The launch of a run: accelerate, its precision and its processes."""

import os

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import set_seed
from joblib import cpu_count

from slimresnet.recipe.hardware import are_threads_the_launchers, choose_mixed_precision, keep_freed_memory
from slimresnet.recipe.settings import Recipe, RecipeError


def start_accelerator(recipe: Recipe) -> tuple[Accelerator, str]:
    """
    Starts accelerate; fills in the recipe's precision and batch sizes, which depend on the launch.

    Returns:
        The accelerator, and why it has its precision.

    Raises:
        RecipeError: precision, tracker, BatchNorm or batch size do not fit the machine or the launch.
    """
    if recipe.report_to not in ("none", *map(str, get_available_trackers())):
        raise RecipeError(f"--report_to {recipe.report_to} needs a package: pip install {recipe.report_to}.")
    # Restarted workers would read the addresses of the dead from the launcher's store, and wait for them
    # (https://github.com/pytorch/pytorch/issues/135712).
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise RecipeError(
            "--max_restarts needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment and --rdzv_backend c10d "
            "among the flags of accelerate launch: without them restarted processes do not find each other."
        )
    on_cpu = recipe.use_cpu or not torch.accelerator.is_available()
    device_type = "cpu" if on_cpu else torch.accelerator.current_accelerator().type
    precision = choose_mixed_precision(recipe.mixed_precision, device_type)
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=precision.value,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        log_with=None if recipe.report_to == "none" else recipe.report_to,
        project_dir=recipe.output_dir,
    )
    recipe.mixed_precision = accelerator.mixed_precision
    recipe.resolve_batch_size(accelerator.num_processes)
    if accelerator.device.type == "mps" and recipe.trivial_augment:
        raise RecipeError("--trivial_augment computes in float64, which Apple's GPUs do not have: add --use_cpu.")
    if accelerator.device.type == "cuda":
        # Where float32 is asked for, scores are those of a CPU; what is to be fast has bf16.
        torch.backends.cudnn.allow_tf32 = False
        # Batches have few shapes, each worth a search; which algorithm wins it may differ from run to run.
        torch.backends.cudnn.benchmark = not recipe.deterministic
    if accelerator.device.type == "cpu":
        if recipe.mixed_precision == "fp16":
            raise RecipeError("--mixed_precision fp16 has no effect on a CPU: use bf16 or no.")
        if recipe.sync_batchnorm and accelerator.num_processes > 1:
            raise RecipeError("--sync_batchnorm works on GPUs alone: leave it out where several processes share CPUs.")
        keep_freed_memory()
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if torch.get_num_threads() == 1 and are_threads_the_launchers():
            torch.set_num_threads(max(1, cpu_count(only_physical_cores=True) // local_processes))
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it, before its first use
    set_seed(recipe.seed, deterministic=recipe.deterministic)
    return accelerator, precision.reason
