"""How much each class counts in the loss: `--class_weights`."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from slimresnet.data.opening import TrainingData
from slimresnet.data.sources.source import DatasetError
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import BALANCED, Recipe


@dataclass(frozen=True)
class ClassWeights:
    """
    Weights of the classes in the loss.

    Attributes:
        given: the weights of a file, by the name of the class; None for balanced ones.
        values: float32 `[num_labels]`. Over the images of an epoch their mean is 1, so that the loss, and what a
            learning rate does, are of the size that they have without weights.
    """

    given: dict[str, float] | None
    values: Tensor

    @property
    def asked(self) -> str:
        """What the weights are a function of, beside the training images."""
        if self.given is None:
            return BALANCED
        return ", ".join(f"{name} {weight}" for name, weight in self.given.items())

    def describe(self, label_names: list[str]) -> str:
        """The least and the largest weight, for people."""
        low, high = int(self.values.argmin()), int(self.values.argmax())
        return f"{self.values[low]:.3g} ({label_names[low]}) to {self.values[high]:.3g} ({label_names[high]})"


def open_class_weights(recipe: Recipe, data: TrainingData) -> ClassWeights | None:
    """
    The weights that `--class_weights` means for the training images; None where the recipe names none.

    Raises:
        RecipeError: the file cannot be read, or does not give each class of the data a weight.
        DatasetError: a class has no training image, so that no weight balances it.
    """
    if recipe.class_weights is None:
        return None
    names = data.train.label_names
    counts = np.bincount(data.train.labels[data.train_rows], minlength=len(names))
    given = None
    if recipe.class_weights == BALANCED:
        if not counts.all():
            raise DatasetError(
                f"--class_weights balanced cannot weigh {names[int(counts.argmin())]}, of which there is no training "
                "image: give a file of weights, or leave the class out of the data."
            )
        weights = len(data.train_rows) / (len(names) * counts)
    else:
        given = _read(Path(recipe.class_weights), names)
        weights = np.array([given[name] for name in names])
    seen = (counts > 0) if recipe.balanced_sampling else counts  # in proportion to the images of an epoch
    mean = float(weights @ seen / seen.sum())
    if not mean:
        raise RecipeError(f"--class_weights {recipe.class_weights} gives each class that is there a weight of 0.")
    return ClassWeights(given, torch.tensor(weights / mean, dtype=torch.float32))


def _read(file: Path, names: list[str]) -> dict[str, float]:
    """The weights of a file, by the names of the classes of the data, in their order."""
    flag = f"--class_weights {file}"
    try:
        # JSON is YAML. The base loader leaves every word a text: `no` and `1` are names that a class may have.
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise RecipeError(f"{flag} cannot be read ({error.strerror}): give balanced, or a file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{flag} is neither JSON nor YAML ({reason}): give class names and weights.") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{flag} must hold class names with their weights, such as cat: 2.5.")
    unknown, missing = [name for name in content if name not in names], [name for name in names if name not in content]
    if unknown:
        raise RecipeError(f"{flag} names {unknown[0]}, which is no class of the data: {_shown(names)}.")
    if missing:
        raise RecipeError(f"{flag} has no weight for {_shown(missing)}: each class of the data needs one.")
    return {name: _weight(content[name], name, flag) for name in names}


def _weight(text: object, name: str, flag: str) -> float:
    try:
        weight = float(text) if isinstance(text, str) else math.nan
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise RecipeError(f"{flag} must give {name} a number, 0 or more, got {text}.")
    return weight


def _shown(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
