"""Images/s of one optimiser step at batch 128: python -m benchmarks.training_step

The report's loop, transformers' Trainer, what this project chooses for the machine, each change alone, and where the
time of a step goes before and after. What computes in bf16 is measured where the processor does so itself.
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
from benchmarks.trainer_loop import TrainerLoop
from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.diagnosis import SAMPLE_FOLDER
from slimresnet.recipe.hardware import has_bf16

BATCH = 128
AUGMENTED = {"crop_padding": 2, "vertical_flip_prob": 0.05, "gaussian_blur_prob": 0.3, "cutmix_prob": 1.0}
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]
FIRST = "eager, float32, NCHW"

# Operators of the profile's rows, by what they do.
PARTS = {
    "convolution, forward": ("mkldnn_convolution", "_slow_conv2d_forward", "thnn_conv2d"),
    "convolution, backward": ("convolution_backward",),
    "BatchNorm": ("native_batch_norm", "native_batch_norm_backward"),
    "ReLU": ("clamp_min", "relu", "threshold_backward"),
    "casts and copies": ("copy_", "_to_copy", "contiguous"),
}


class Stepper:
    """A network and its optimiser in one setting."""

    def __init__(
        self,
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
        self._bf16, self._threads = bf16, threads or torch.get_num_threads()

    def on(self, batches: Batches) -> Callable[[], int]:
        """A contender: each call takes a step on the next batch."""
        return lambda: self._step(batches)

    def _step(self, batches: Batches) -> int:
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        images, labels = next(batches)
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


def step_contenders(best: str, fast: dict, compiled: Stepper) -> dict[str, Callable[[], int]]:
    """
    The step alone, on the same batch each time.

    Args:
        best, fast: what the machine is fastest with but for compiling, in words and as arguments of `Stepper`.
        compiled: that, compiled.
    """
    same = one_batch(BATCH)
    bf16 = {"bf16": Stepper(bf16=True).on(same)} if fast["bf16"] else {}
    return {
        FIRST: Stepper().on(same),
        "channels_last": Stepper(channels_last=True).on(same),
        **bf16,
        "compiled": Stepper(compiled=True).on(same),
        **({best: Stepper(**fast).on(same)} if bf16 else {}),
        f"{best} + compiled": compiled.on(same),
        f"{best}, batch 32": Stepper(**fast).on(one_batch(32)),
        f"{best}, batch 512": Stepper(**fast).on(one_batch(512)),
        f"{best}, 24 pixels": Stepper(**fast).on(one_batch(BATCH, 24)),
        f"{best}, 16 pixels": Stepper(**fast).on(one_batch(BATCH, 16)),
        f"{best}, fused optimiser": Stepper(**fast, optimizer={"fused": True}).on(same),
        f"{best}, loop optimiser": Stepper(**fast, optimizer={"foreach": False}).on(same),
        f"{best}, one thread": Stepper(**fast, threads=1).on(same),
    }


def main() -> None:
    """Measures and writes the file of this kind of processor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default=SAMPLE_FOLDER)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    fast = {"channels_last": True, "bf16": has_bf16("cpu")}  # what a recipe's `auto` chooses
    best = "channels_last + bf16" if fast["bf16"] else "channels_last"
    compiled = Stepper(**fast, compiled=True)
    trainers = {f"transformers' Trainer, {'bf16' if bf16 else 'float32'}": bf16 for bf16 in {False, fast["bf16"]}}
    trainers = {name: TrainerLoop(arguments.dataset_name, BATCH, bf16=bf16) for name, bf16 in trainers.items()}
    loops = {
        "the report's loop": Stepper().on(report_batches(arguments.dataset_name)),
        **trainers,
        "ours, eager": Stepper(**fast).on(our_batches(arguments.dataset_name)),
        "ours, compiled": compiled.on(our_batches(arguments.dataset_name)),
    }
    whole = take_turns(loops, arguments.rounds)
    for trainer in trainers.values():
        trainer.close()
    changes = step_contenders(best, fast, compiled)
    tables = {
        "whole loops, data included": ("the report's loop", whole),
        "the step alone, batch 128, each change alone": (FIRST, take_turns(changes, arguments.rounds)),
    }
    profiles = {f"before: {FIRST}": shares(changes[FIRST]), f"after: {best}, eager": shares(changes[best])}
    print("\nshares of a step's time")
    for name, parts in profiles.items():
        print(f"  {name}: " + ", ".join(f"{part} {share}" for part, share in parts.items()))
    report(
        "training_step" if fast["bf16"] else "training_step_without_bf16",
        f"python -m benchmarks.training_step --dataset_name {arguments.dataset_name} --rounds {arguments.rounds}",
        tables,
        {"profile": profiles},
    )


if __name__ == "__main__":
    main()
