"""
Pictures of a run and of what its model gets right: PNG files, legible at their full size, safe for the colour-blind.

Without pyplot, whose choice of a display is the notebook's or the program's that calls.
"""

import itertools
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from slimresnet.data.loader import Loading, load_batches
from slimresnet.data.sources.source import ImageSplit
from slimresnet.run_folder.names import (
    AVERAGE_PRECISION_SUFFIX,
    CLASSES_SUFFIX,
    CONFUSION_MATRIX_SUFFIX,
    MISTAKES_SUFFIX,
    RELIABILITY_SUFFIX,
)

# Okabe and Ito's palette, told apart by the colour-blind; line styles and markers say the same once more.
_BLACK, _BLUE, _VERMILION, _GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
_TRAIN = {"color": _BLACK, "linestyle": "-", "marker": "o", "label": "training"}
_VALIDATION = {"color": _BLUE, "linestyle": "--", "marker": "s", "label": "validation"}
_AVERAGED = {"color": _VERMILION, "linestyle": "-.", "marker": "^", "label": "validation, averaged weights"}
_LINES = {
    "loss": [("loss", _TRAIN), ("eval_loss", _VALIDATION), ("eval_loss_ema", _AVERAGED)],
    "accuracy": [("eval_accuracy", _VALIDATION), ("eval_accuracy_ema", _AVERAGED)],
    "mean average precision": [
        ("eval_mean_average_precision", _VALIDATION),
        ("eval_mean_average_precision_ema", _AVERAGED),
    ],
}
_RATES = {  # as `log_history` names them: for people
    "learning_rate": "SGD",
    "learning_rate_trunk": "SGD, stem and stages",
    "learning_rate_muon": "Muon, convolutions",
    "learning_rate_norm_bias": "BatchNorm's biases",
}
_MOST_CLASSES_WITH_NUMBERS = 20  # of a heat map, beyond which they would not be legible
_MOST_NAMED = 3  # of the classes of a training image
_MOST_CLASSES = 50  # of a heat map or of bars whose names are legible


def draw(pictures: dict[str, Callable[[Path], None]], folder: Path) -> None:
    """
    Draws pictures into a folder; one that cannot be drawn is left out, with a warning, whatever the reason.

    Args:
        pictures: what draws each to a path, by the name of its file.
    """
    for name, draw_one in pictures.items():
        try:
            draw_one(folder / name)
        except Exception as error:  # fonts, memory, the disk, the data: each its own
            (folder / name).unlink(missing_ok=True)
            reason = " ".join(str(error).split()) or type(error).__name__
            print(f"picture {name} could not be drawn, and is left out: {reason}", file=sys.stderr)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.set_dpi(120)
    FigureCanvasAgg(figure).print_png(path)  # `savefig` would draw all of it twice, first for the layout


def plot_curves(log_history: list[dict], path: Path) -> None:
    """
    Draws loss and, where there was validation, accuracy or mean average precision over the epochs.

    Args:
        log_history: an entry an epoch, with `epoch`, `loss` and maybe `eval_loss` and `eval_accuracy` or
            `eval_mean_average_precision`, 0–1; the names of those of averaged weights end in `_ema`.
        path: of the PNG; its folder is made. Every function of this module writes to such a path.
    """
    panels = {name: [(key, style) for key, style in lines if key in log_history[-1]] for name, lines in _LINES.items()}
    panels = {name: lines for name, lines in panels.items() if lines}
    figure = Figure(figsize=(6 * len(panels), 4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (name, lines) in zip(axes[0], panels.items(), strict=True):
        for key, style in lines:
            entries = [entry for entry in log_history if key in entry]
            axis.plot(
                [entry["epoch"] for entry in entries],
                [entry[key] for entry in entries],
                markevery=max(1, len(entries) // 20),
                markersize=4,
                **style,
            )
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend()
        if name == "loss":
            axis.set_ylabel("cross entropy (nats)")
        else:
            axis.set_ylabel(name)
            axis.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    _save(figure, path)


def plot_learning_rate(epochs: np.ndarray, rates: dict[str, np.ndarray], path: Path) -> None:
    """
    Draws the learning rate of each group of weights over the epochs.

    Args:
        epochs: that are done before each step, `[num_steps]`.
        rates: of each step, `[num_steps]`, by the name that `log_history` has.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    styles = itertools.cycle([(_BLACK, "-"), (_BLUE, "--"), (_VERMILION, "-."), (_GREEN, ":")])
    for (name, values), (color, line) in zip(rates.items(), styles, strict=False):
        axis.plot(epochs, values, color=color, linestyle=line, label=_RATES.get(name, name))
    axis.set_xlabel("epoch")
    axis.set_ylabel("learning rate")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    if len(rates) > 1:
        axis.legend()
    _save(figure, path)


def plot_confusion_matrix(matrix: list[list[int]], names: list[str], path: Path) -> None:
    """Draws counts `[num_labels, num_labels]`, a row a true class, with the share of the row in each cell."""
    counts = np.array(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(6.0, 0.85 * len(names)), 20)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    _name_ticks(axis.set_xticks, names, rotation=45, ha="right", rotation_mode="anchor")
    _name_ticks(axis.set_yticks, names)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if len(names) <= _MOST_CLASSES_WITH_NUMBERS:
        for row, column in np.ndindex(*counts.shape):
            axis.text(
                column,
                row,
                f"{counts[row, column]:,}\n{shares[row, column]:.1%}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if shares[row, column] > 0.5 else "black",
                in_layout=False,  # they lie within the axes; measuring each takes the layout a while
            )
    bar = figure.colorbar(image, ax=axis, shrink=0.8, format=PercentFormatter(xmax=1))
    bar.set_label("share of the true class")
    _save(figure, path)


def plot_classes(scores: dict[str, list[float]], names: list[str], path: Path) -> None:
    """Draws bars of precision, recall and F1, `[num_labels]` each, by class."""
    kinds = [("precision", _BLUE, None), ("recall", _VERMILION, "//"), ("f1", _GREEN, "..")]
    figure = Figure(figsize=(min(max(8.0, 1.1 * len(names)), 40), 4.5), layout="constrained")
    axis = figure.subplots()
    for offset, (kind, color, hatch) in zip((-0.27, 0, 0.27), kinds, strict=True):
        label = "F1" if kind == "f1" else kind
        places = np.arange(len(names)) + offset
        axis.bar(places, scores[kind], 0.25, color=color, hatch=hatch, edgecolor="white", label=label)
    lowest = min(min(scores[kind]) for kind, *_ in kinds)
    axis.set_ylim(max(0, np.floor(10 * lowest - 0.5) / 10), 1)  # most of a bar that starts at 0 says nothing
    _name_ticks(axis.set_xticks, names, rotation=30, ha="right", rotation_mode="anchor")
    axis.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axis.grid(alpha=0.3, axis="y")
    axis.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=3)
    _save(figure, path)


def plot_average_precision(values: list[float | None], names: list[str], path: Path) -> None:
    """Draws a bar of average precision, 0–1, a class, `[num_labels]`; none where it is None."""
    figure = Figure(figsize=(min(max(8.0, 0.6 * len(names)), 40), 4.5), layout="constrained")
    axis = figure.subplots()
    axis.bar(np.arange(len(names)), [value or 0 for value in values], 0.6, color=_BLUE, edgecolor="white")
    _name_ticks(axis.set_xticks, names, rotation=30, ha="right", rotation_mode="anchor")
    axis.set_ylim(0, 1)
    axis.set_ylabel("average precision")
    axis.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axis.grid(alpha=0.3, axis="y")
    axis.set_axisbelow(True)
    _save(figure, path)


def plot_reliability(bins: list[dict], uncalibrated: list[dict] | None, path: Path) -> None:
    """
    Draws accuracy over confidence, and how many samples lie where.

    Args:
        bins: `confidence`, `accuracy` and `share` of each, as `evaluation/metrics/calibration` gives them.
        uncalibrated: the same before calibration; None where there was none.
    """
    figure = Figure(figsize=(6, 6.5), layout="constrained")
    above, below = figure.subplots(2, height_ratios=(3, 1), sharex=True)
    above.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfectly calibrated")
    groups = [(bins, _BLUE, "-", "o", "as it is"), (uncalibrated, _VERMILION, "--", "^", "before calibration")]
    for group, color, line, marker, label in groups:
        if group is not None:
            confidence = [each["confidence"] for each in group]
            above.plot(confidence, [each["accuracy"] for each in group], line, color=color, marker=marker, label=label)
            below.plot(confidence, [each["share"] for each in group], line, color=color, marker=marker)
    above.set_ylabel("accuracy")
    above.legend()
    below.set_ylabel("share of samples")
    below.set_xlabel("confidence")
    for axis in (above, below):
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_formatter(PercentFormatter(xmax=1))
        axis.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    _save(figure, path)


def most_confident_mistakes(logits: Tensor, labels: np.ndarray, count: int = 24) -> np.ndarray:
    """The samples, int64 `[at most count]`, that are classified wrongly, the most confident mistake first."""
    probabilities = logits.softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    wrong = (predicted != torch.from_numpy(labels)).nonzero()[:, 0]
    return wrong[confidence[wrong].argsort(descending=True, stable=True)][:count].numpy()


def plot_mistakes(pixels: Tensor, logits: Tensor, labels: np.ndarray, names: list[str], path: Path) -> None:
    """Draws images, uint8 `[N, C, H, W]`, each with its true class, its predicted class and the confidence of that."""
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    captions = [
        f"{names[label]}\n→ {names[guess]} {sure:.1%}"
        for label, guess, sure in zip(labels, predicted.tolist(), confidence.tolist(), strict=True)
    ]
    _contact_sheet(pixels, captions, path, columns=6)


def plot_training_samples(
    before: Tensor, after: Tensor, labels: Tensor, names: list[str], path: Path, floor: float = 0.0
) -> None:
    """
    Draws training images as they are, and below each what the network sees of it and the label that it gets.

    Args:
        before, after: uint8 `[N, C, H, W]`, RGB or grey; H and W may differ between the two.
        labels: what is trained on, float `[N, num_labels]`, 0–1.
        floor: what label smoothing gives to each class.
    """
    columns = 8
    pixels, captions = [], []
    for start in range(0, len(before), columns):
        pixels += [*before[start : start + columns], *after[start : start + columns]]
        captions += [""] * len(before[start : start + columns])
        for label in labels[start : start + columns]:
            largest = label.topk(min(_MOST_NAMED, len(label)))
            captions.append(
                "\n".join(
                    f"{names[index]} {share:.0%}"
                    for share, index in zip(largest.values.tolist(), largest.indices.tolist(), strict=True)
                    if share > floor + 0.005
                )
            )
    _contact_sheet(pixels, captions, path, columns)


def _contact_sheet(pixels: list[Tensor] | Tensor, captions: list[str], path: Path, columns: int) -> None:
    """Images `[C, H, W]` of any size side by side, each in a square of side 1 with its caption above it."""
    rows = -(-len(captions) // columns)
    width, height = 1.1, 1.45
    figure = Figure(figsize=(1.5 * columns * width, 1.5 * rows * height))
    axis = figure.subplots()
    # One pair of axes for all: a pair for each takes several times as long to lay out.
    for index, (image, caption) in enumerate(zip(pixels, captions, strict=True)):
        row, column = divmod(index, columns)
        left, top = column * width, row * height
        axis.imshow(
            image.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy(),
            extent=(left, left + 1, top + 1, top),
            interpolation="nearest",
        )
        axis.text(
            left + 0.5,
            top - 0.04,
            caption,
            ha="center",
            va="bottom",
            fontsize=9,
            linespacing=1.05,
            parse_math=False,
        )
    axis.set_xlim(-0.05, columns * width - 0.05)
    axis.set_ylim(rows * height - height + 1.05, -height + 1)
    axis.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    _save(figure, path)


def _name_ticks(set_ticks: Callable[..., object], names: list[str], **style: Any) -> None:
    every = -(-len(names) // _MOST_CLASSES)
    set_ticks(range(0, len(names), every), names[::every], parse_math=False, **style)  # a name may be $1_$2


def split_pictures(
    prefix: str, split: ImageSplit, rows: np.ndarray, logits: Tensor, details: dict
) -> dict[str, Callable[[Path], None]]:
    """
    Confusion matrix, classes, reliability diagram and most confident mistakes of a scored split, for `draw`; of several
    classes an image the average precision of each class.

    Args:
        prefix: that the names of the files begin with.
        rows: those that were scored.
        logits: of these rows, `[len(rows), num_labels]`.
        details: as `report_split` gives them.
    """
    names, labels = split.label_names, split.labels[rows]
    if split.task.is_multi_label:
        bars = partial(plot_average_precision, details["average_precision"], names)
        return {f"{prefix}{AVERAGE_PRECISION_SUFFIX}": bars}
    missed = most_confident_mistakes(logits, labels)

    def draw_mistakes(path: Path) -> None:
        [(pixels, _)] = load_batches(split, [rows[missed]], Loading(torch.device("cpu")))
        plot_mistakes(pixels, logits[missed], labels[missed], names, path)

    pictures: dict[str, Callable[[Path], None]] = {
        f"{prefix}{CONFUSION_MATRIX_SUFFIX}": partial(plot_confusion_matrix, details["confusion_matrix"], names),
        f"{prefix}{CLASSES_SUFFIX}": partial(plot_classes, details, names),
        f"{prefix}{RELIABILITY_SUFFIX}": partial(
            plot_reliability, details["reliability"], details.get("reliability_uncalibrated")
        ),
    }
    if len(missed):
        pictures[f"{prefix}{MISTAKES_SUFFIX}"] = draw_mistakes
    return pictures
