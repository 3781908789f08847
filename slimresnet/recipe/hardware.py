"""Settings that choose themselves from the machine and the length of the run, each with its reason."""

import ctypes
import importlib.util
import os
import platform
import shutil
import sysconfig
from pathlib import Path
from typing import Generic, Literal, NamedTuple, TypeVar

import psutil
import torch
from accelerate import Accelerator

from modeling_slimresnet import SlimResNetConfig
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe

# On a two-core CPU a compiled step in bf16 is 1 % faster than an eager one (benchmarks/training_step.json) and takes
# 45 s to compile, which about a million images repay. On an H100 a step that is compiled and launched as a CUDA graph
# saves 5 to 7 s a million images and takes 15 to 29 s to compile (benchmarks/gpu_step.json).
COMPILE_FROM_IMAGES = {"cpu": 1_000_000, "cuda": 5_000_000}

# Images that are scored at once. A GPU computes on a thousand of 32 pixels for longer than a CPU takes to launch their
# kernels, and larger images take more of its memory. CIFAR's 5,000 validation and 10,000 test images make batches of
# this one size: cuDNN searches anew for each size.
_EVAL_BATCH_SIZE = 128
_EVAL_PIXELS_OF_A_GPU = 1000 * 32**2

Value = TypeVar("Value", str, bool)

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def has_bf16(device_type: str) -> bool:
    """Whether the device computes with bfloat16 itself; where a processor or a GPU does not, PyTorch emulates it."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device_type == "cpu" else {}
    return any(capabilities.get(f"{unit}_bf16") for unit in ("avx512", "amx", "arm"))


def processor_name() -> str:
    """Maker and family of the CPU."""
    return torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()


def keep_freed_memory() -> None:
    """
    Has glibc keep the memory of freed tensors for those of the next step. Elsewhere nothing happens.

    By itself it returns each large block to the kernel, and the next one costs a page fault every 4 KiB: a step of the
    default network on two cores took an eighth longer so.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)  # large blocks come from the heap too
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)  # whose free end stays, up to the largest number of bytes it takes


def are_threads_the_launchers() -> bool:
    """
    Whether the launcher, and not a person, set the number of threads to 1.

    `accelerate launch` and torchrun set OMP_NUM_THREADS where it is not set. Only the environment that they themselves
    were started in tells whose it is; where that cannot be read, it is taken for a person's.
    """
    if not {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"} & os.environ.keys():
        return False
    try:
        launcher = psutil.Process().parent()
        if launcher is None:
            return False
        before, words = launcher.environ(), " ".join(launcher.cmdline()).replace("-", "_")
    except (psutil.Error, OSError, AttributeError):
        return False
    return not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & before.keys() and "num_cpu_threads_per_process" not in words


class Choice(NamedTuple, Generic[Value]):
    """A setting as decided, and why, for people."""

    value: Value
    reason: str


def choose_mixed_precision(wanted: str, device_type: str) -> Choice[str]:
    """
    `no`, `bf16` or `fp16`.

    `auto` takes what `accelerate launch` was told, if that is more than `no`, and else bf16 where the processor or the
    GPU computes with it: elsewhere it is emulated, and slower than float32.
    """
    if wanted != "auto":
        return Choice(wanted, "as asked")
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched != "no":
        return Choice(launched, "as launched")
    if has_bf16(device_type):
        return Choice("bf16", f"the {device_type} has it")
    return Choice("no", f"the {device_type} has no bf16")


def choose_eval_batch_size(wanted: int | None, device_type: str, image_size: int) -> int:
    """
    Images that a network takes at once where it is not trained.

    Args:
        wanted: None where it is left open.
        device_type: of where the network runs.
        image_size: height and width of the images, in pixels.
    """
    if wanted is not None:
        return wanted
    return max(_EVAL_BATCH_SIZE, _EVAL_PIXELS_OF_A_GPU // image_size**2 if device_type == "cuda" else 0)


def choose_channels_last(wanted: bool | Literal["auto"], device_type: str, config: SlimResNetConfig) -> Choice[bool]:
    """
    True where the convolutions of the device work on NHWC: with oneDNN on CPUs, with tensor cores on GPUs.

    oneDNN's backward pass of a strided 1×1 convolution, which a shortcut is, writes past its memory in this layout if
    fewer channels come in than one of its blocks holds, 16 (https://github.com/uxlfoundation/oneDNN/issues/6035):
    with batches of an odd size the process crashes.

    Raises:
        RecipeError: it is asked for with such a network on a CPU.
    """
    widths = [config.embedding_size, *config.hidden_sizes]
    too_narrow = [width for width, stride in zip(widths, config.strides, strict=False) if stride > 1 and width < 16]
    crashes = device_type == "cpu" and bool(too_narrow)
    if wanted is True and crashes:
        raise RecipeError(
            f"--channels_last true crashes PyTorch on a CPU where {too_narrow[0]} channels, fewer than 16, go into a "
            "stage that strides: leave the flag out, or widen the network."
        )
    if wanted != "auto":
        return Choice(wanted, "as asked")
    if crashes:
        return Choice(False, "the network is too narrow for it")
    return Choice(device_type in ("cpu", "cuda"), f"convolutions of the {device_type}")


def choose_fused_batchnorm(
    recipe: Recipe, accelerator: Accelerator, config: SlimResNetConfig, *, channels_last: bool, is_compiled: bool
) -> Choice[bool]:
    """
    Whether BatchNorm, ReLU and the shortcut's addition are one pass each way, by Triton kernels.

    Args:
        config: of the network.
        channels_last, is_compiled: as decided for the run.

    Raises:
        RecipeError: they are asked for where they cannot be.
    """
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's own switch: slow, to try kernels on a CPU
    obstacles = {
        "the kernels need a CUDA GPU": accelerator.device.type != "cuda" and not is_interpreted,
        "Triton is not installed (pip install triton)": not _has_triton(),
        "Triton needs a C compiler and Python's headers": not is_interpreted
        and not _has_compiler("CC", "gcc", "clang"),
        f"the network's hidden_act is {config.hidden_act}, and relu alone is fused": config.hidden_act != "relu",
        "the kernels need --channels_last": not channels_last,
        "--torch_compile true fuses by itself": is_compiled,
        "--sync_batchnorm takes statistics over several GPUs": recipe.sync_batchnorm and accelerator.num_processes > 1,
    }
    auto = Choice(False, f"not known to be faster on {accelerator.device.type}")
    return _choose_among("fused_batchnorm", recipe.fused_batchnorm, obstacles, auto)


def choose_cuda_graphs(
    recipe: Recipe, accelerator: Accelerator, *, mixed_precision: str, is_compiled: bool
) -> Choice[bool]:
    """
    True on one GPU. On several GPUs graphs are untested and have to be asked for. Steps that accumulate batches are not
    captured.

    Args:
        mixed_precision, is_compiled: as decided for the run.

    Raises:
        RecipeError: they are asked for where they cannot be.
    """
    obstacles = {
        "steps are launched one by one on a CPU": accelerator.device.type != "cuda",
        "a step accumulates several batches": recipe.gradient_accumulation_steps > 1,
        "fp16 looks at the gradients of each step": mixed_precision == "fp16",
        f"--torch_compile_mode {recipe.torch_compile_mode} captures graphs of its own": is_compiled
        and recipe.torch_compile_mode in ("reduce-overhead", "max-autotune"),
        # Compiled, it may not notice that it is captured, and wait for the GPU.
        "--sync_batchnorm is compiled": recipe.sync_batchnorm and is_compiled and accelerator.num_processes > 1,
    }
    several = accelerator.num_processes > 1
    auto = Choice(False, "not tried on several GPUs") if several else Choice(True, "one GPU")
    return _choose_among("cuda_graphs", recipe.cuda_graphs, obstacles, auto)


def _choose_among(
    name: str, wanted: bool | Literal["auto"], obstacles: dict[str, bool], auto: Choice[bool]
) -> Choice[bool]:
    """What is wanted of a setting; where that is left open, False for the first obstacle that stands, else `auto`."""
    obstacle = next((reason for reason, stands in obstacles.items() if stands), None)
    if wanted is True and obstacle:
        raise RecipeError(f"--{name} true is not possible: {obstacle}. Leave the flag out, or change that.")
    if wanted != "auto":
        return Choice(wanted, "as asked")
    return Choice(False, obstacle) if obstacle else auto


def _has_compiler(variable: str, *names: str) -> bool:
    """Whether the compiler that the environment names, or one of these, is there, and Python's headers for it."""
    found = any(map(shutil.which, [os.environ[variable]] if variable in os.environ else names))
    return found and Path(sysconfig.get_path("include"), "Python.h").exists()


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def choose_torch_compile(recipe: Recipe, accelerator: Accelerator, num_images: int) -> Choice[bool]:
    """
    True where a run is long enough to repay compiling.

    Args:
        num_images: images of one size that the run computes on, over all its epochs and with all copies.
    """
    device_type = accelerator.device.type
    if recipe.torch_compile != "auto":
        return Choice(recipe.torch_compile, "as asked")
    if recipe.fused_batchnorm is True:
        return Choice(False, "--fused_batchnorm does most of its work")
    if recipe.progressive_resizing:
        return Choice(False, "it would compile anew for each size of images")
    if device_type == "cuda" and accelerator.num_processes > 1:
        return Choice(False, "not tried on several GPUs")
    if device_type == "cuda" and not _has_triton():
        return Choice(False, "Triton is not installed")
    enough = COMPILE_FROM_IMAGES.get(device_type)
    if enough is None:
        return Choice(False, f"not known to be faster on {device_type}")
    if num_images < enough:
        return Choice(False, f"a run of {num_images:,} images does not repay it")
    if not _has_compiler("CXX", "g++", "clang++"):
        return Choice(False, "it needs a C++ compiler and Python's headers")
    return Choice(True, f"a run of {num_images:,} images repays it")
