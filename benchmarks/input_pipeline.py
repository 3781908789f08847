"""Images/s of read + augment + normalise + collate, on one core: python -m benchmarks.input_pipeline

Ours, from memory and from a stream, against per-image Pillow and NumPy transforms under `datasets.set_transform` and a
DataLoader, and against kornia's batch transforms (pip install kornia).
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from datasets import load_dataset
from torch.utils.data import DataLoader

from benchmarks import our_loop, report_loop
from benchmarks.measuring import report, take_turns
from slimresnet.data.randomness import Draws
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.diagnosis import SAMPLE_FOLDER
from slimresnet.data.sources.source import ImageSplit
from slimresnet.data.transforms.gaussian_blur import GaussianBlur
from slimresnet.data.transforms.random_crop import RandomCrop
from slimresnet.data.transforms.random_erasing import RandomErasing
from slimresnet.data.transforms.random_flip import HorizontalFlip, VerticalFlip
from slimresnet.data.transforms.transform import ImageTransform

BATCH = 128
CPU = torch.device("cpu")
SIMPLE = {"crop_padding": 2, "horizontal_flip_prob": 0.5, "random_erasing_prob": 0.5}
MIXED = {"crop_padding": 2, "horizontal_flip_prob": 0.5, "gaussian_blur_prob": 0.3, "cutmix_prob": 1.0}


def ours(split: ImageSplit, settings: dict, batches: int) -> Callable[[], int]:
    """Batches of the training loop, made into the model's inputs."""
    stream = our_loop.batches(split, settings, BATCH)

    def work() -> int:
        for _ in range(batches):
            next(stream)
        return batches * BATCH

    return work


def per_image(dataset, settings: dict, batches: int, mixes: bool) -> Callable[[], int]:
    """Pillow and NumPy transforms, an image at a time, in a DataLoader without workers: one core."""
    loader = DataLoader(
        report_loop.transformed(dataset, **settings), BATCH, shuffle=True, collate_fn=report_loop.collate
    )

    def work() -> int:
        stream = iter(loader)
        for _ in range(batches):
            images, labels = next(stream)
            if mixes:
                report_loop.cutmix(images, labels)
        return batches * BATCH

    return work


def kornias(pixels: torch.Tensor, labels: torch.Tensor, batches: int, mixes: bool) -> Callable[[], int]:
    """kornia's transforms of float batches, each sample by its own draw, from a tensor in memory."""
    from kornia.augmentation import (
        AugmentationSequential,
        Normalize,
        RandomCrop,
        RandomCutMixV2,
        RandomErasing,
        RandomGaussianBlur,
        RandomHorizontalFlip,
    )

    middle = RandomGaussianBlur((3, 3), (0.1, 1.5), p=0.3) if mixes else RandomErasing(scale=(0.02, 0.2), p=0.5)
    transforms = AugmentationSequential(
        RandomCrop((32, 32), padding=2),
        RandomHorizontalFlip(p=0.5),
        middle,
        Normalize(mean=report_loop.MEAN.ravel().tolist(), std=report_loop.STD.ravel().tolist()),
        data_keys=["input"],
    )
    cutmix = RandomCutMixV2(num_mix=1, p=1.0, data_keys=["input", "class"])

    def work() -> int:
        for _ in range(batches):
            rows = torch.randint(len(pixels), (BATCH,))
            images = transforms(pixels.index_select(0, rows).float().div_(255))
            if mixes:
                cutmix(images, labels.index_select(0, rows))
        return batches * BATCH

    return work


def one_transform(pixels: torch.Tensor, transform: ImageTransform, batches: int) -> Callable[[], int]:
    """One transform alone, of a batch in memory."""

    def work() -> int:
        for position in range(batches):
            transform(pixels, Draws(0, 0, position * BATCH, np.arange(BATCH)))
        return batches * BATCH

    return work


def main() -> None:
    """Measures and writes `benchmarks/input_pipeline.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_name", default=SAMPLE_FOLDER)
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    memory = open_split(arguments.dataset_name, "train", image_size=32, resident_on=CPU)
    stream = open_split(arguments.dataset_name, "train", image_size=32)
    dataset = load_dataset(arguments.dataset_name, split="train")
    [pixels] = memory.images.read([np.arange(len(memory.labels))])
    labels = torch.from_numpy(memory.labels)
    with torch.inference_mode():
        tables = {
            title: (
                "per image: Pillow, NumPy, DataLoader",
                take_turns(
                    {
                        "ours, from memory": ours(memory, settings, 100),
                        "ours, from a stream": ours(stream, settings, 15),
                        "kornia, from memory": kornias(pixels, labels, 5, mixes),
                        "per image: Pillow, NumPy, DataLoader": per_image(dataset, plain, 8, mixes),
                    },
                    arguments.rounds,
                ),
            )
            for title, settings, plain, mixes in (
                ("crop + flip + erasing + normalise", SIMPLE, {"blur": 0.0, "erasing": 0.5}, False),
                ("crop + flip + blur of 30 % + CutMix + normalise", MIXED, {"blur": 0.3}, True),
            )
        }
        batch = pixels[:BATCH]
        tables["each augmentation alone, in memory"] = (
            "crop, zero",
            take_turns(
                {
                    name: one_transform(batch, transform, 100)
                    for name, transform in {
                        "crop, zero": RandomCrop(4, "zero"),
                        "crop, reflect": RandomCrop(4, "reflect"),
                        "horizontal flip": HorizontalFlip(0.5, alternating_flip=False),
                        "vertical flip": VerticalFlip(0.05),
                        "blur of 30 %": GaussianBlur(0.3, gaussian_blur_sigma=(0.1, 1.5)),
                        "erasing of 50 %": RandomErasing(0.5, (0.02, 0.2), image_mean=(0, 0, 0)),
                    }.items()
                },
                arguments.rounds,
            ),
        )
    report("input_pipeline", f"python -m benchmarks.input_pipeline --dataset_name {arguments.dataset_name}", tables)


if __name__ == "__main__":
    main()
