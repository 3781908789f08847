"""Pictures of a run."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: training machines have no display
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator, PercentFormatter

# Okabe and Ito's palette, told apart by the colour-blind; line styles and markers say the same once more.
_TRAIN = {"color": "#000000", "linestyle": "-", "marker": "o", "label": "training"}
_VALIDATION = {"color": "#0072B2", "linestyle": "--", "marker": "s", "label": "validation"}
_AVERAGED = {"color": "#D55E00", "linestyle": "-.", "marker": "^", "label": "validation, averaged weights"}
_LINES = {
    "loss": [("loss", _TRAIN), ("eval_loss", _VALIDATION), ("eval_loss_ema", _AVERAGED)],
    "accuracy": [("eval_accuracy", _VALIDATION), ("eval_accuracy_ema", _AVERAGED)],
}


def plot_curves(log_history: list[dict], path: Path) -> None:
    """
    Draws loss and, where there was validation, accuracy over the epochs into a PNG.

    Args:
        log_history: an entry an epoch, with `epoch`, `loss` and maybe `eval_loss`, `eval_accuracy` and the same with
            `_ema` behind it; accuracies in 0–1.
        path: where to write; its folder is made.
    """
    panels = {name: [(key, style) for key, style in lines if key in log_history[-1]] for name, lines in _LINES.items()}
    panels = {name: lines for name, lines in panels.items() if lines}
    figure, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 4), squeeze=False, layout="constrained")
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
        if name == "accuracy":
            axis.set_ylabel("accuracy")
            axis.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        else:
            axis.set_ylabel("cross entropy (nats)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
