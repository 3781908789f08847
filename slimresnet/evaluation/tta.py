"""Test-time augmentation: views of an image whose logits are averaged, and which policy helps most."""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn import functional as F

from slimresnet.data.task import task_of
from slimresnet.data.transforms.gaussian_blur import gaussian_blur

View = Callable[[Tensor], Tensor]
"""Makes a view of a batch: uint8 `[B, C, H, W]` to the same."""


def _same(pixels: Tensor) -> Tensor:
    return pixels


def _shift(pixels: Tensor, down: int, right: int) -> Tensor:
    """The images moved by one pixel; the border that comes in mirrors the pixels beside it."""
    height, width = pixels.shape[-2:]
    padded = F.pad(pixels.float(), (1, 1, 1, 1), mode="reflect").to(pixels.dtype)
    return padded[..., 1 - down : 1 - down + height, 1 - right : 1 - right + width]


def _mirrored_shift(pixels: Tensor, down: int, right: int) -> Tensor:
    return _shift(pixels.flip(3), down, right)


def _blur(pixels: Tensor) -> Tensor:
    return gaussian_blur(pixels, np.ones(len(pixels), bool), np.ones(len(pixels)))


VIEWS: dict[str, View] = {
    "original": _same,
    "mirror": lambda pixels: pixels.flip(3),
    "up left": partial(_shift, down=-1, right=-1),
    "down right": partial(_shift, down=1, right=1),
    "mirror, up left": partial(_mirrored_shift, down=-1, right=-1),
    "mirror, down right": partial(_mirrored_shift, down=1, right=1),
    "upside down": lambda pixels: pixels.flip(2),
    "centre crop": _same,  # of the image padded by 4 pixels on each side
    "blur": _blur,
}

# Weights of the views in each policy.
POLICIES: dict[str, dict[str, float]] = {
    "none": {"original": 1.0},
    "flip": {"original": 0.5, "mirror": 0.5},
    # As in Jordan, 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", section 3.5.
    "flip_shift": {
        "original": 0.25,
        "mirror": 0.25,
        "up left": 0.125,
        "mirror, up left": 0.125,
        "down right": 0.125,
        "mirror, down right": 0.125,
    },
    # The five views of the paper. Its centre crop of the padded image is the original, which so counts twice.
    "paper": dict.fromkeys(("original", "mirror", "upside down", "centre crop", "blur"), 0.2),
}


def logits_of_views(predict: Callable[[Tensor], Tensor], pixels: Tensor, views: Iterable[str]) -> dict[str, Tensor]:
    """
    Logits of each view of a batch, by name. Views that show the same image are predicted once.

    Args:
        predict: uint8 `[B, C, H, W]` to logits `[B, num_labels]`.
        pixels: uint8 `[B, C, H, W]`.
        views: names of `VIEWS`.
    """
    views = list(views)
    predicted = {make: predict(make(pixels)) for make in dict.fromkeys(VIEWS[view] for view in views)}
    return {view: predicted[VIEWS[view]] for view in views}


def average(logits: dict[str, Tensor], policy: dict[str, float]) -> Tensor:
    """The weighted mean of the logits of a policy's views, `[num_samples, num_labels]` each, by name."""
    return torch.stack([weight * logits[name] for name, weight in policy.items()]).sum(dim=0)


def views_of(*policies: str) -> list[str]:
    """The views that the policies need, each once, the original first."""
    return list(dict.fromkeys(["original", *(view for policy in policies for view in POLICIES[policy])]))


def compare_policies(logits: dict[str, Tensor], labels: np.ndarray) -> dict[str, float]:
    """
    The main score of the task, 0–1, of each policy, and of `paper` with each of its views left out.

    Args:
        logits: logits of every view that a policy uses, `[N, num_labels]` each.
    """
    contenders = dict(POLICIES)
    for left_out in POLICIES["paper"]:
        others = [name for name in POLICIES["paper"] if name != left_out]
        contenders[f"paper without {left_out}"] = dict.fromkeys(others, 1 / len(others))
    quality = _mean_average_precision if task_of(labels).is_multi_label else accuracy
    return {name: quality(logits, policy, labels) for name, policy in contenders.items()}


def _mean_average_precision(logits: dict[str, Tensor], policy: dict[str, float], labels: np.ndarray) -> float:
    averaged, there = average(logits, policy).numpy(), labels.any(axis=0)
    each = [average_precision_score(labels[:, number], averaged[:, number]) for number in np.flatnonzero(there)]
    return float(np.mean(each)) if each else 0.0


def accuracy(logits: dict[str, Tensor], policy: dict[str, float], labels: np.ndarray) -> float:
    """Share, 0–1, of the samples that the weighted views of a policy get right; arguments as `average`."""
    return float((average(logits, policy).argmax(dim=1).numpy() == labels).mean())


def best_policy(scores: dict[str, float]) -> str:
    """The policy with the best score; of equal ones the one with the fewest views."""
    return max(POLICIES, key=lambda name: (scores[name], -len(POLICIES[name])))
