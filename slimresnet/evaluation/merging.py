"""Which earlier figures of a folder may stand beside new ones."""

from slimresnet.evaluation.scores import is_scored, shown_scores, task_of_results
from slimresnet.evaluation.thresholds import is_figure_at_threshold


def still_true(before: dict, results: dict) -> dict:
    """
    The earlier figures that may stand beside new ones.

    Left out are figures of the same rows with another policy or at other thresholds, scores that these rows have no
    more (top-5 accuracy of few classes), figures of other data under the same names, and `_scaled` figures of an
    earlier version for the rows scored now: that temperature was never part of the weights.
    """
    scored = tuple(name.removesuffix("fingerprint") for name in results if name.endswith("_fingerprint"))
    elsewhere = tuple(
        prefix for prefix in scored if before.get(f"{prefix}fingerprint") not in (None, results[f"{prefix}fingerprint"])
    )
    rescored = [prefix for prefix in scored if is_scored(results, prefix)]
    anew = {f"{prefix}{score}" for prefix in rescored for score in shown_scores(task_of_results(results))}
    return {
        name: value
        for name, value in before.items()
        if name not in ("temperature", "temperature_samples")  # of an earlier version, which divided no head by it
        and name.removesuffix("_tta") not in results.keys() | anew
        and not name.startswith(elsewhere)
        and not (name.startswith(scored) and name.endswith("_scaled"))
        and not any(is_figure_at_threshold(name, prefix) for prefix in rescored)
    }
