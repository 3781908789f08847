"""The launch of a run: accelerate, its precision and its processes; and the process as it was before."""

import gc
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType, set_seed
from joblib import cpu_count

from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.hardware import are_threads_the_launchers, choose_mixed_precision, keep_freed_memory
from slimresnet.recipe.settings import NO_TRACKER, Recipe

_OF_LAUNCH = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
_CUDNN_FLAGS = ("allow_tf32", "benchmark", "deterministic")


@contextmanager
def process_left_as_it_was() -> Iterator[None]:
    """
    Within the block, a launch of its own: accelerate starts anew. After it the process is as it was before.

    That is its threads, its environment, its random states, PyTorch's choice of algorithms, and the accelerate of
    whoever called. Where a launcher's processes form a group, the group stays: they cannot form another one.
    """
    threads, environment = torch.get_num_threads(), dict(os.environ)
    random_states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    flags = _cudnn_flags()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
    own = [AcceleratorState._shared_state, GradientState._shared_state]
    before = [dict(state) for state in (*own, PartialState._shared_state)]
    for state in (*own, *_of_no_group()):
        state.clear()
    try:
        yield
    finally:
        for state, content in zip((*own, *_of_no_group()), before, strict=False):
            state.clear()
            state.update(content)
        torch.use_deterministic_algorithms(deterministic, warn_only=warns_only)
        for name, value in flags.items():
            setattr(torch.backends.cudnn, name, value)
        random.setstate(random_states[0])
        np.random.set_state(random_states[1])
        torch.set_rng_state(random_states[2])
        if devices:
            torch.cuda.set_rng_state_all(devices)
        kept = set() if _of_no_group() else _OF_LAUNCH  # which the group goes on to be known by
        for name in os.environ.keys() - environment.keys() - kept:
            del os.environ[name]
        os.environ.update(environment)
        torch.set_num_threads(threads)


def _cudnn_flags() -> dict[str, bool]:
    try:
        return {name: getattr(torch.backends.cudnn, name) for name in _CUDNN_FLAGS}
    except RuntimeError:  # whoever called uses PyTorch's newer settings of precision, which exclude these
        return {}


def _of_no_group() -> list[dict]:
    """accelerate's `PartialState`; nothing while a process group is alive, which cannot be formed twice."""
    in_group = torch.distributed.is_available() and torch.distributed.is_initialized()
    return [] if in_group else [PartialState._shared_state]


def leave_group() -> None:
    """Ends the process group of a launch, where there is one: the last thing that a program does."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # NCCL waits here for ever while a CUDA graph with one of its sums in it lives
        torch.distributed.destroy_process_group()


def _trackers(recipe: Recipe) -> list[str]:
    """The trackers of the recipe, each once; a RecipeError for one that accelerate or this machine does not have."""
    trackers = [name for name in dict.fromkeys(recipe.report_to) if name != NO_TRACKER]
    available = [str(each) for each in get_available_trackers()]
    for name in trackers:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise RecipeError(
                f"--report_to {name} is no tracker that accelerate has: give {NO_TRACKER}, or some of "
                f"{', '.join(LOGGER_TYPE_TO_CLASS)}."
            )
        if name not in available and name in LoggerType.list():  # others were registered with accelerate
            raise RecipeError(f"--report_to {name} needs a package: pip install {name}.")
    return trackers


def start_accelerator(recipe: Recipe) -> tuple[Accelerator, str]:
    """
    Starts accelerate, with the precision and the threads that this machine and this launch are for.

    Returns:
        The accelerator, and why it has its precision.

    Raises:
        RecipeError: precision, tracker or BatchNorm do not fit the machine or the launch.
    """
    trackers = _trackers(recipe)
    # Restarted workers would read the addresses of the dead from the launcher's store, and wait for them
    # (https://github.com/pytorch/pytorch/issues/135712).
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise RecipeError(
            "--max_restarts needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment and --rdzv_backend c10d "
            "among the flags of accelerate launch: without them restarted processes do not find each other."
        )
    device = None if recipe.use_cpu else torch.accelerator.current_accelerator(check_available=True)
    precision = choose_mixed_precision(recipe.mixed_precision, device.type if device else "cpu")
    accelerator = Accelerator(
        cpu=device is None,
        mixed_precision=precision.value,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        log_with=trackers or None,
        project_dir=recipe.output_dir,
    )
    if accelerator.device.type == "mps" and recipe.trivial_augment:
        raise RecipeError("--trivial_augment computes in float64, which Apple's GPUs do not have: add --use_cpu.")
    if accelerator.device.type == "cuda":
        # Where float32 is asked for, scores are those of a CPU; what is to be fast has bf16.
        torch.backends.cudnn.allow_tf32 = False
        # Batches have few shapes, each worth a search; which algorithm wins it may differ from run to run.
        torch.backends.cudnn.benchmark = not recipe.deterministic
    if accelerator.device.type == "cpu":
        if accelerator.mixed_precision == "fp16":
            raise RecipeError("--mixed_precision fp16 has no effect on a CPU: use bf16 or no.")
        if recipe.sync_batchnorm and accelerator.num_processes > 1:
            raise RecipeError("--sync_batchnorm works on GPUs alone: leave it out where several processes share CPUs.")
        keep_freed_memory()
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if accelerator.num_processes > 1 and "OMP_NUM_THREADS" not in os.environ:
            # accelerate sets this when it forms the group; a second run finds the group formed.
            torch.set_num_threads(max(1, (psutil.cpu_count(logical=False) or 1) // local_processes))
        if torch.get_num_threads() == 1 and are_threads_the_launchers():
            torch.set_num_threads(max(1, cpu_count(only_physical_cores=True) // local_processes))
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it, before its first use
    set_seed(recipe.seed, deterministic=recipe.deterministic)
    return accelerator, precision.reason
