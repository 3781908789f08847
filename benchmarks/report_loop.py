"""The way the report's notebook feeds and trains its network, as the contender that ours is compared with.

Per-image transforms on Pillow images under a DataLoader, as torchvision's would be (which does not import beside the
pinned torch), then an eager float32 step on contiguous NCHW batches.
"""

import random

import numpy as np
import torch
from datasets import Dataset
from PIL import Image, ImageFilter
from torch import Tensor

MEAN = np.array([0.4914, 0.4822, 0.4465], dtype=np.float32).reshape(3, 1, 1)
STD = np.array([0.2470, 0.2435, 0.2616], dtype=np.float32).reshape(3, 1, 1)


def transform(image: Image.Image, *, padding: int = 2, blur: float = 0.3, erasing: float = 0.0) -> Tensor:
    """Crop, flips, blur, to a normalised tensor, erasing: one image, each step a new one; float32 `[3, 32, 32]`."""
    width, height = image.size
    padded = Image.new("RGB", (width + 2 * padding, height + 2 * padding))
    padded.paste(image, (padding, padding))
    left, top = random.randint(0, 2 * padding), random.randint(0, 2 * padding)
    image = padded.crop((left, top, left + width, top + height))
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if random.random() < blur:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 1.5)))
    pixels = torch.from_numpy((np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255 - MEAN) / STD)
    if random.random() < erasing:
        area = random.uniform(0.02, 0.2) * height * width
        ratio = random.uniform(0.3, 3.3)
        box_height, box_width = min(height, round((area * ratio) ** 0.5)), min(width, round((area / ratio) ** 0.5))
        top, left = random.randint(0, height - box_height), random.randint(0, width - box_width)
        pixels[:, top : top + box_height, left : left + box_width] = 0
    return pixels


def transformed(dataset: Dataset, **settings) -> Dataset:
    """The dataset with `transform` on every image as it is read."""

    def apply(rows: dict) -> dict:
        pixels = [transform(image.convert("RGB"), **settings) for image in rows["img"]]
        return {"pixels": pixels, "label": rows["label"]}

    return dataset.with_transform(apply)


def cutmix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """One λ and one box for the batch, as the paper's own code; float32 `[B, 3, 32, 32]` and `[B, 10]`."""
    lam, (height, width) = np.random.beta(1, 1), images.shape[-2:]
    other = torch.randperm(len(images))
    half_height, half_width = int(height * (1 - lam) ** 0.5) // 2, int(width * (1 - lam) ** 0.5) // 2
    row, column = random.randrange(height), random.randrange(width)
    top, bottom = max(row - half_height, 0), min(row + half_height, height)
    left, right = max(column - half_width, 0), min(column + half_width, width)
    images[:, :, top:bottom, left:right] = images[other, :, top:bottom, left:right]
    share = (bottom - top) * (right - left) / (height * width)
    targets = torch.nn.functional.one_hot(labels, 10).float()
    return images, (1 - share) * targets + share * targets[other]


def collate(rows: list[dict]) -> tuple[Tensor, Tensor]:
    """Rows of `pixels` and `label` to a batch."""
    return torch.stack([row["pixels"] for row in rows]), torch.tensor([row["label"] for row in rows])
