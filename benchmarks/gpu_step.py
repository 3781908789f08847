"""What a training step costs on a GPU: python -m benchmarks.gpu_step

For each size of batch the step of best_long.yaml as it is, with fused BatchNorm, compiled within its CUDA graph, with
the augmentation of fast.yaml, and at 24 pixels; where asked for, with SGD alone in place of Muon. Measured are images/s
of the whole loop, data included, kernels a step and the longest of them, and how long the GPU waits between steps and
within. All this should take three minutes, half of them to compile. Without a GPU it rehearses the same on the CPU, and
has no kernels to count; fused BatchNorm then needs TRITON_INTERPRET=1, and minutes.
"""

import argparse
import dataclasses
import gc
import itertools
import shlex
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.measuring import FOLDER, machine
from modeling_slimresnet import SlimResNetConfig
from slimresnet.cli.train import parse_recipe
from slimresnet.data.feed import training_inputs
from slimresnet.data.inputs import TrainingInputs, batches_at_once
from slimresnet.data.loader import Loading, TrainingLoader
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.diagnosis import SAMPLE_FOLDER
from slimresnet.data.sources.source import ImageSplit
from slimresnet.recipe.launch import start_accelerator
from slimresnet.recipe.plan import batch_sizes, make_plan
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.writing import write_json
from slimresnet.training.averaging import prepare_network
from slimresnet.training.cuda_graphs import NUM_EAGER_STEPS
from slimresnet.training.network import build_network
from slimresnet.training.optim.optimizer import build_optimizer, set_learning_rates
from slimresnet.training.step import build_train_step

RECIPE = FOLDER.parent / "configuration" / "best_long.yaml"
FAST = {"trivial_augment": False, "cutmix_prob": 0.0, "alternating_flip": False}
FUSED = {"fused_batchnorm": True}
VARIANTS = {
    "as it is": {},
    "fused": FUSED,
    "compiled": {"torch_compile": True},
    "fast.yaml's augmentation, fused": FAST | FUSED,
    "fast.yaml's augmentation, compiled": FAST | {"torch_compile": True},
    "fast.yaml's augmentation, fused, 24 pixels": FAST | FUSED | {"progressive_resizing": ["24:1.0"]},
    "fast.yaml's augmentation, fused, SGD in place of Muon": FAST | FUSED | {"optim": "sgd"},
}
NUM_LONGEST = 10
NUM_SAMPLES = 50_000  # of an epoch, however few images the data has: inputs are made at once within an epoch
NUM_EPOCHS = 200


class Loop:
    """The training loop of a recipe without validation and checkpoints; a call takes a step."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator, split: ImageSplit):
        set_seed(recipe.seed)
        config = SlimResNetConfig()
        plan = make_plan(recipe, accelerator, "", config, batch_sizes(recipe, 1), steps_per_epoch=1)
        model = build_network(plan, config, split.label_names).to(accelerator.device).train()
        prepared = prepare_network(plan, accelerator, model)
        self._optimizer = accelerator.prepare(build_optimizer(model, recipe))
        self._train_step = build_train_step(plan, accelerator, model, prepared, self._optimizer)
        make_inputs = TrainingInputs(recipe, config, NUM_EPOCHS)
        loader = TrainingLoader(
            split,
            np.resize(np.arange(len(split.labels)), NUM_SAMPLES),
            Loading(accelerator.device),
            seed=recipe.seed,
            batch_size=plan.batch.total,
            accumulation=1,
            shuffle_buffer_size=recipe.shuffle_buffer_size,
            copies=recipe.augmented_copies,
        )
        self._batches = training_inputs(loader, make_inputs, 0, NUM_EPOCHS * loader.steps_per_epoch)
        self.batches_at_once = batches_at_once(next(loader.epoch(0)).pixels)

    def __call__(self, begin: torch.cuda.Event | None = None) -> torch.Tensor:
        inputs = next(self._batches)
        if begin is not None:
            begin.record()
        set_learning_rates(self._optimizer, 0.1)
        return self._train_step(inputs, False)


def measure(loop: Loop, device: torch.device, images: int, rounds: int, steps: int) -> dict:
    """Images/s of `rounds` times `steps`, and what the kernels of a few steps take."""
    started = time.perf_counter()
    for _ in range(NUM_EAGER_STEPS + 3):  # the eager ones, the capture, and two replays
        loop()
    _wait(device)
    warm_up = time.perf_counter() - started
    speeds = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(steps):
            loop()
        _wait(device)
        speeds.append(images * steps / (time.perf_counter() - started))
    return {
        "images_per_second": round(float(np.median(speeds))),
        "lowest": round(min(speeds)),
        "highest": round(max(speeds)),
        "milliseconds_a_step": round(1000 * images / float(np.median(speeds)), 2),
        "seconds_until_fast": round(warm_up, 1),
        **_waiting(loop, device, steps=2 * loop.batches_at_once),
        **_kernels(loop, device, steps=loop.batches_at_once),
    }


def _waiting(loop: Loop, device: torch.device, steps: int) -> dict:
    """The share of the time, 0–1, in which the GPU is done with a step and has not begun the next, by events."""
    if device.type != "cuda":
        return {}
    begins, ends = ([torch.cuda.Event(enable_timing=True) for _ in range(steps)] for _ in range(2))
    for begin, end in zip(begins, ends, strict=True):
        loop(begin)
        end.record()
    _wait(device)
    between = sum(end.elapsed_time(begin) for end, begin in zip(ends, begins[1:], strict=False))
    return {"share_between_steps": round(between / begins[0].elapsed_time(ends[-1]), 4)}


def _kernels(loop: Loop, device: torch.device, steps: int) -> dict:
    """Of a step, by the profiler: kernels, milliseconds that the GPU works and waits, and the longest kernels."""
    if device.type != "cuda":
        return {}
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(steps):
            loop()
        _wait(device)
    spans = sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in profiled.events()
        if event.device_type == DeviceType.CUDA
    )
    busy, reached = 0.0, spans[0][0]
    for start, end, _ in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    whole = reached - spans[0][0]
    times: dict[str, list[float]] = defaultdict(list)
    for start, end, name in spans:
        times[name].append(end - start)
    longest = sorted(times, key=lambda name: sum(times[name]), reverse=True)[:NUM_LONGEST]
    return {
        "kernels_a_step": round(len(spans) / steps),
        "kernels_under_5_microseconds": round(sum(end - start < 5 for start, end, _ in spans) / steps),
        "milliseconds_busy": round(busy / steps / 1000, 2),
        "milliseconds_waiting": round((whole - busy) / steps / 1000, 2),
        "longest": [
            {
                "kernel": name[:100],
                "calls_a_step": round(len(times[name]) / steps, 1),
                "share_of_busy": round(sum(times[name]) / busy, 3),
                "microseconds_each": round(sum(times[name]) / len(times[name]), 1),
            }
            for name in longest
        ],
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measures and writes the figures, after each variant those that there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default=SAMPLE_FOLDER)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS)[:-1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=21, help="of a round")
    parser.add_argument("--output", type=Path, default=FOLDER / "gpu_step.json")
    arguments = parser.parse_args()
    base = parse_recipe(["--config", str(RECIPE), "--dataset_name", arguments.dataset_name])
    accelerator, _ = start_accelerator(base)
    device = accelerator.device
    split = open_split(arguments.dataset_name, "train", image_size=32, resident_on=device)
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.gpu_step", *sys.argv[1:]]),
        "machine": machine(),
        "precision": accelerator.mixed_precision,
        "rows": [],
    }
    for size, variant in itertools.product(arguments.batch_sizes, arguments.variants):
        settings = {"channels_last": True, "torch_compile": False, "cuda_graphs": device.type == "cuda"}
        settings |= {
            "total_train_batch_size": size,
            "per_device_train_batch_size": None,
            "progressive_resizing": None,
            "fused_batchnorm": False,
            **VARIANTS[variant],
        }
        loop = Loop(dataclasses.replace(base, **settings), accelerator, split)
        row = {"batch_size": size, "variant": variant}
        row |= measure(loop, device, size * base.augmented_copies, arguments.rounds, arguments.steps)
        result["rows"].append(row)
        print({name: value for name, value in row.items() if name != "longest"}, flush=True)
        write_json(arguments.output, result)
        accelerator.free_memory()
        del loop
        gc.collect()
        torch._dynamo.reset()


if __name__ == "__main__":
    main()
