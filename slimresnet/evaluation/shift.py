"""Scores under a shift: a split under corruptions, or a folder of shifted images."""

from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np

from slimresnet.data.corruptions.extra import EXTRA_CORRUPTIONS
from slimresnet.data.corruptions.frost import open_photographs
from slimresnet.data.corruptions.standard import CORRUPTIONS, SEVERITIES, Corruption, with_photographs
from slimresnet.data.sources.corrupted import CorruptedImages
from slimresnet.data.sources.source import ImageSplit
from slimresnet.evaluation.protocol import Evaluation, ScoredNetwork
from slimresnet.evaluation.rows import ScoredRows, count_test, unreserved
from slimresnet.evaluation.tta import POLICIES, accuracy, views_of
from slimresnet.run_folder.names import CORRUPTIONS_SUFFIX, DETAILS_SUFFIX

STANDARD, EXTRA = "corruptions", "extra_corruptions"
"""Names of the 15 corruptions of CIFAR-10-C, and of its 4 extra ones."""


class CorruptionSet(NamedTuple):
    """
    Corruptions that are scored together.

    Attributes:
        name: `STANDARD` or `EXTRA`.
        corruptions: by name.
        frost: what the set's frost is made of, `"photographs"` or `"synthetic"`; None where there is none.
    """

    name: str
    corruptions: Mapping[str, Corruption]
    frost: str | None = None


def open_corruptions(name: str, frost_folder: Path | None, image_size: int) -> CorruptionSet:
    """
    The corruptions of a name.

    Args:
        frost_folder: photographs of frost, for `STANDARD`; None for synthetic frost.

    Raises:
        DatasetError: the folder holds no photographs that can be used.
    """
    if name == EXTRA:
        return CorruptionSet(EXTRA, EXTRA_CORRUPTIONS)
    if frost_folder is None:
        return CorruptionSet(STANDARD, CORRUPTIONS, "synthetic")
    return CorruptionSet(STANDARD, with_photographs(open_photographs(frost_folder, image_size)), "photographs")


def score_corruptions(
    network: ScoredNetwork,
    scored: ScoredRows,
    corrupting: CorruptionSet,
    *,
    tta: str,
    seed: int,
    of_output: dict,
    say: Callable[[str], None],
) -> Evaluation:
    """
    Scores rows of a split under every corruption and severity.

    Args:
        tta: policy of test-time augmentation, beside the original images.
        seed: seed of the draws, each of which belongs to its image.
        of_output: as in `score_split`.
        say: gets a line as each corruption is done.
    """
    width = max(map(len, corrupting.corruptions))
    accuracies: dict[str, dict[str, list[float]]] = {policy: {} for policy in dict.fromkeys(["none", tta])}
    for name, corruption in corrupting.corruptions.items():
        for policy, of_severities in _score_severities(network, scored, name, corruption, tta, seed).items():
            accuracies[policy][name] = of_severities
        means = ", ".join(f"{policy} {np.mean(each[name]):.2%}" for policy, each in accuracies.items())
        say(f"{name:{width}}  {means}")
    rows_prefix = network.prefix(scored)
    results: dict = scored.facts(rows_prefix) | count_test(scored, of_output)
    prefix = f"{rows_prefix}_{corrupting.name.removesuffix('s')}"
    results |= {f"{prefix}_samples": len(scored.rows), f"{prefix}_precision": network.precision, f"{prefix}_tta": tta}
    if corrupting.frost:
        results[f"{prefix}_frost"] = corrupting.frost
    for policy, by_corruption in accuracies.items():
        results[f"{prefix}_accuracy{_ending(policy)}"] = fmean(chain.from_iterable(by_corruption.values()))
    extra = "_extra" if corrupting.name == EXTRA else ""
    return Evaluation(results, {f"{rows_prefix}{extra}{CORRUPTIONS_SUFFIX}": accuracies})


def _score_severities(
    network: ScoredNetwork, scored: ScoredRows, name: str, corruption: Corruption, tta: str, seed: int
) -> dict[str, list[float]]:
    """Accuracy, 0–1, under each severity of a corruption, by policy."""
    split = scored.split
    accuracies: dict[str, list[float]] = {policy: [] for policy in dict.fromkeys(["none", tta])}
    for severity in SEVERITIES:
        images = CorruptedImages(split, name, corruption, severity, seed)
        corrupted = ImageSplit(split.labels, split.label_names, images)
        logits = network.predict(corrupted, scored.rows, views=views_of(tta))
        for policy, of_severities in accuracies.items():
            of_severities.append(accuracy(logits, POLICIES[policy], split.labels[scored.rows]))
    return accuracies


def score_arrays(network: ScoredNetwork, folder: Path, splits: dict[str, ImageSplit], *, tta: str) -> Evaluation:
    """
    Scores the files of CIFAR-10-C or CIFAR-10.1.

    An accuracy under a corruption is over all of its severities. The mean of CIFAR-10-C is that of the 15 corruptions
    that its authors test with: the 4 extra ones are for validation.

    Args:
        folder: folder of the files, whose name is the prefix of the figures.
        splits: one a file, by the file's name without its ending.
        tta: policy of test-time augmentation, beside the original images.
    """
    prefix = unreserved(folder.resolve().name)
    accuracies: dict[str, dict[str, float]] = {policy: {} for policy in dict.fromkeys(["none", tta])}
    for name, split in splits.items():
        logits = network.predict(split, np.arange(len(split.labels)), views=views_of(tta))
        for policy, by_name in accuracies.items():
            by_name[name] = accuracy(logits, POLICIES[policy], split.labels)
    results: dict = {f"{prefix}_precision": network.precision}
    fifteen = {*CORRUPTIONS, "frost"}
    for policy, by_name in accuracies.items():
        corrupted = [each for name, each in by_name.items() if name in fifteen]
        if corrupted:
            results[f"{prefix}_accuracy{_ending(policy)}"] = fmean(corrupted)
            results[f"{prefix}_corruptions"] = len(corrupted)
        others = {name: each for name, each in by_name.items() if name not in fifteen}
        results |= {f"{unreserved(name)}_accuracy{_ending(policy)}": each for name, each in others.items()}
    return Evaluation(results, {f"{prefix}{DETAILS_SUFFIX}": accuracies})


def _ending(policy: str) -> str:
    """Suffix of the names of a policy's figures."""
    return "" if policy == "none" else "_tta"
