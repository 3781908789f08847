"""What scoring 10,000 images with six views takes, by layout, batch and search: python -m benchmarks.scoring

The first call is that of a run's end: cuDNN has seen none of the shapes. Without a GPU the CPU rehearses the same.
"""

import argparse
import itertools
import multiprocessing
import shlex
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import numpy as np
import torch

from benchmarks.measuring import FOLDER, report
from slimresnet.data.loader import Loading
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.diagnosis import SAMPLE_FOLDER
from slimresnet.data.sources.source import ImageSplit
from slimresnet.evaluation.logits import predict_logits
from slimresnet.evaluation.tta import views_of
from slimresnet.formats.registry import find_format
from slimresnet.recipe.hardware import has_bf16

MODEL = FOLDER.parent / "pretrained" / "slimresnet-cifar10"
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
VIEWS = views_of("flip_shift")
COMPARED = 64  # images whose logits are compared with those of the CPU


def measure(arguments: argparse.Namespace, search: bool) -> dict[str, dict]:
    """
    Times each precision, layout and batch, in a process that has seen no shape.

    Args:
        search: whether cuDNN tries its algorithms for each new shape, or takes what its heuristics say.

    Returns:
        By row: images/s of calls after the first, the seconds of the first, peak memory, and the largest difference of
        a logit from the CPU's in float32.
    """
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    network, normalize, _ = find_format("torch").open_network(MODEL, trust_remote_code=False)
    rows = np.arange(COMPARED)
    expected = _predict(network, normalize, arguments, torch.device("cpu"), rows, 128)[0]
    torch.backends.cudnn.benchmark = search
    result = {}
    precisions = ("float32", "bf16") if has_bf16(device.type) else ("float32",)
    for precision, layout, batch in itertools.product(precisions, LAYOUTS, arguments.batch_sizes):
        network.to(device, memory_format=LAYOUTS[layout])
        speeds, first = [], 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            for call in range(1 + arguments.rounds):
                logits, seconds = _predict(network, normalize, arguments, device, np.arange(arguments.images), batch)
                if call:
                    speeds.append(arguments.images / seconds)
                else:
                    first = seconds
        compared = min(COMPARED, arguments.images)
        row = f"{precision}, {layout}, batch {batch:,}, {'search' if search else 'heuristics'}"
        result[row] = {
            "images_per_second": round(statistics.median(speeds), 1),
            "lowest": round(min(speeds), 1),
            "highest": round(max(speeds), 1),
            "seconds_first": round(first, 3),
            "largest_difference": float((logits[:compared] - expected[:compared]).abs().max()),
        }
        if device.type == "cuda":
            result[row]["peak_megabytes"] = round(torch.cuda.max_memory_allocated() / 1e6)
        print(row, result[row], flush=True)
    return result


def _predict(
    network, normalize, arguments: argparse.Namespace, device: torch.device, rows: np.ndarray, batch: int
) -> tuple[torch.Tensor, float]:
    """Logits of the original images, and the seconds that all views took; images are taken again where they end."""
    split = _split(arguments.dataset_name, device)
    started = time.perf_counter()
    logits = predict_logits(
        network, split, rows % len(split.labels), Loading(device), batch_size=batch, normalize=normalize, views=VIEWS
    )
    return logits["original"], time.perf_counter() - started


@cache
def _split(dataset_name: str, device: torch.device) -> ImageSplit:
    """The test images, resident on the device as in a run with `--streaming false`."""
    return open_split(dataset_name, "test", image_size=32, resident_on=device)


def main() -> None:
    """Measures and writes `benchmarks/scoring.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default=SAMPLE_FOLDER)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[128, 500, 1000, 2000])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows = {}
    for search in (True, False):
        # PyTorch keeps the algorithm that a shape once got, whichever way: each way has a process of its own.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            rows |= process.submit(measure, arguments, search).result()
    command = shlex.join(["python", "-m", "benchmarks.scoring", *sys.argv[1:]])
    title = f"scoring {arguments.images:,} images with {len(VIEWS)} views"
    report("scoring", command, {title: (next(iter(rows)), rows)})


if __name__ == "__main__":
    main()
