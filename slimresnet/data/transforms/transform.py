"""What a transform is, and which of them a recipe asks for.

Transforms work on whole uint8 batches `[B, C, H, W]`, each sample by its own draw, on any device. Decisions are made on
the CPU from `Draws` (a few numbers a sample) and copied to the device, so that nothing has to be read back from it.
"""

from dataclasses import dataclass, fields
from typing import ClassVar, Self, TypeVar

from torch import Tensor

from slimresnet.data.randomness import Draws, JoinedDraws
from slimresnet.discovery import modules_of
from slimresnet.recipe.settings import Recipe


@dataclass(frozen=True)
class Transform:
    """
    A transform of training batches. Its fields are settings of the recipe, by the recipe's names.

    The first field gives the transform's place: transforms run in the order in which the recipe lists their first
    settings. A transform that its settings switch off returns its inputs.

    Attributes:
        is_light: whether the transform is part of the light augmentation, the only one that a recipe may leave to the
            first and last epochs.
    """

    is_light: ClassVar[bool] = False

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """The transform with the recipe's settings, lists as tuples."""
        values = {field.name: getattr(recipe, field.name) for field in fields(cls)}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def check(self, image_size: int) -> None:
        """
        Checks that the settings fit the network's images.

        Args:
            image_size: height and width of the images, in pixels.

        Raises:
            RecipeError: a setting does not fit.
        """

    def overlaps(self) -> dict[str, tuple[str, ...]]:
        """By name of an augmentation, the names of the corruptions that do the same; empty where none does."""
        return {}


@dataclass(frozen=True)
class ImageTransform(Transform):
    """A transform of the pixels alone, at the size that they are read in."""

    def __call__(self, pixels: Tensor, draws: Draws | JoinedDraws) -> Tensor:
        """Transforms a batch, uint8 `[B, C, H, W]`; returns the same shape and type, the input unchanged."""
        raise NotImplementedError


@dataclass(frozen=True)
class LabelTransform(Transform):
    """A transform of the labels, and maybe of the pixels with them, at the size that the network gets."""

    def __call__(
        self, pixels: Tensor, targets: Tensor, draws: Draws | JoinedDraws, chance: float
    ) -> tuple[Tensor, Tensor]:
        """
        Transforms a batch.

        Args:
            pixels: uint8 `[B, C, H, W]`.
            targets: distributions over the classes, float32 `[B, num_labels]`, whose rows sum to 1; or 0 … 1 for each
                class, where an image may be of several.
            chance: the target of a label that says nothing, as `Task.chance`.

        Returns:
            Pixels and targets of the same shapes and types. The inputs are unchanged.
        """
        raise NotImplementedError


AnyTransform = TypeVar("AnyTransform", bound=Transform)


def transforms_of(recipe: Recipe, kind: type[AnyTransform]) -> list[AnyTransform]:
    """The transforms of a kind in `slimresnet.data.transforms`, with the recipe's settings, in the order they run."""
    order = [field.name for field in fields(recipe)]
    found = [
        value.of(recipe)
        for module in modules_of("slimresnet.data.transforms")
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, kind) and value.__module__ == module.__name__ and fields(value)
    ]
    return sorted(found, key=lambda transform: order.index(fields(transform)[0].name))


def overlapping_augmentations(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """
    The training augmentations that do what corruptions do. A network that learnt them has seen these corruptions.

    Returns:
        By augmentation, the names of the corruptions, of the 15 and of the extra ones.
    """
    overlaps: dict[str, tuple[str, ...]] = {}
    for transform in transforms_of(recipe, Transform):
        overlaps |= transform.overlaps()
    return overlaps
