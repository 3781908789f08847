"""Images/s of one optimiser step at batch 128: python -m benchmarks.training_step

The report's loop, this project's best setting, each change alone, and where the time of a step goes before and after.
"""

import argparse
from collections.abc import Callable, Iterator

import torch
from datasets import load_dataset
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from benchmarks import our_loop, report_loop
from benchmarks.measuring import report, take_turns
from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.diagnosis import SAMPLE_FOLDER

BATCH = 128
AUGMENTED = {"crop_padding": 2, "vertical_flip_prob": 0.05, "gaussian_blur_prob": 0.3, "cutmix_prob": 1.0}
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]

# Operators of the profile's rows, by what they do.
PARTS = {
    "convolution, forward": ("mkldnn_convolution", "_slow_conv2d_forward", "thnn_conv2d"),
    "convolution, backward": ("convolution_backward",),
    "BatchNorm": ("native_batch_norm", "native_batch_norm_backward"),
    "ReLU": ("clamp_min", "relu", "threshold_backward"),
    "casts and copies": ("copy_", "_to_copy", "contiguous"),
}


class Trainer:
    """A network and its optimiser in one setting; a call does one step."""

    def __init__(
        self,
        batches: Batches,
        *,
        channels_last: bool = False,
        bf16: bool = False,
        compiled: bool = False,
        optimizer: dict | None = None,
        threads: int | None = None,
    ):
        torch.manual_seed(0)
        model = SlimResNetForImageClassification(SlimResNetConfig()).train()
        if channels_last:
            model = model.to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.SGD(
            model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, **(optimizer or {})
        )
        self._model = torch.compile(model) if compiled else model
        self._batches, self._bf16 = batches, bf16
        self._threads = threads or torch.get_num_threads()

    def __call__(self) -> int:
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        images, labels = next(self._batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            logits = self._model(images).logits
            loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        torch.set_num_threads(before)
        return len(images)


def one_batch(size: int, pixels: int = 32) -> Batches:
    """The same batch again and again: the network's arithmetic alone."""
    images, labels = torch.randn(size, 3, pixels, pixels), torch.rand(size, 10).softmax(dim=1)
    while True:
        yield images, labels


def our_batches(dataset_name: str) -> Batches:
    """The report's augmentations by our pipeline, from memory."""
    split = open_split(dataset_name, "train", image_size=32, resident_on=torch.device("cpu"))
    for inputs in our_loop.batches(split, AUGMENTED, BATCH):
        yield inputs["pixel_values"], inputs["labels"]


def report_batches(dataset_name: str) -> Batches:
    """The report's own pipeline: per-image transforms in two DataLoader workers, CutMix on the batch."""
    dataset = report_loop.transformed(load_dataset(dataset_name, split="train"))
    loader = DataLoader(
        dataset, BATCH, shuffle=True, num_workers=2, collate_fn=report_loop.collate, drop_last=True,
        persistent_workers=True,
    )  # fmt: skip
    while True:
        for images, labels in loader:
            yield report_loop.cutmix(images, labels)


def shares(step: Callable[[], int], steps: int = 3) -> dict[str, float]:
    """Where the time of a step goes: share of each part, and milliseconds of the whole, from torch.profiler."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(steps):
            step()
    rows = {row.key: row.self_cpu_time_total for row in profiled.key_averages()}
    total = sum(rows.values())
    result = {
        part: round(sum(rows.get(f"aten::{name}", 0) for name in names) / total, 3) for part, names in PARTS.items()
    }
    result["all else (add, optimiser, loss, dispatch)"] = round(1 - sum(result.values()), 3)
    return result | {"milliseconds a step": round(total / steps / 1000)}


def main() -> None:
    """Measures and writes `benchmarks/training_step.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_name", default=SAMPLE_FOLDER)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    same = one_batch(BATCH)
    fast = {"channels_last": True, "bf16": True}
    loops = {
        "the report's loop": Trainer(report_batches(arguments.dataset_name)),
        "ours, eager": Trainer(our_batches(arguments.dataset_name), **fast),
        "ours, compiled": Trainer(our_batches(arguments.dataset_name), **fast, compiled=True),
    }
    changes = {
        "eager, float32, NCHW": Trainer(same),
        "channels_last": Trainer(same, channels_last=True),
        "bf16": Trainer(same, bf16=True),
        "compiled": Trainer(same, compiled=True),
        "channels_last + bf16": Trainer(same, **fast),
        "channels_last + bf16 + compiled": Trainer(same, **fast, compiled=True),
        "channels_last + bf16, batch 32": Trainer(one_batch(32), **fast),
        "channels_last + bf16, batch 512": Trainer(one_batch(512), **fast),
        "channels_last + bf16, 24 pixels": Trainer(one_batch(BATCH, 24), **fast),
        "channels_last + bf16, 16 pixels": Trainer(one_batch(BATCH, 16), **fast),
        "channels_last + bf16, fused optimiser": Trainer(same, **fast, optimizer={"fused": True}),
        "channels_last + bf16, loop optimiser": Trainer(same, **fast, optimizer={"foreach": False}),
        "channels_last + bf16, one thread": Trainer(same, **fast, threads=1),
    }
    tables = {
        "whole loops, data included": ("the report's loop", take_turns(loops, arguments.rounds)),
        "the step alone, batch 128, each lever": ("eager, float32, NCHW", take_turns(changes, arguments.rounds)),
    }
    profiles = {
        "before: eager, float32, NCHW": shares(changes["eager, float32, NCHW"]),
        "after: channels_last + bf16, eager": shares(changes["channels_last + bf16"]),
    }
    print("\nshares of a step's time")
    for name, parts in profiles.items():
        print(f"  {name}: " + ", ".join(f"{part} {share}" for part, share in parts.items()))
    report(
        "training_step",
        f"python -m benchmarks.training_step --dataset_name {arguments.dataset_name}",
        tables,
        {"profile": profiles},
    )


if __name__ == "__main__":
    main()
