"""A transform is found by the file that it lies in, and runs where the recipe lists its first setting."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch

import slimresnet.data.transforms
from slimresnet.data.inputs import TrainingInputs
from slimresnet.data.loader import TrainingBatch
from slimresnet.data.randomness import Draws
from slimresnet.data.transforms.transform import (
    ImageTransform,
    LabelTransform,
    Transform,
    overlapping_augmentations,
    transforms_of,
)
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe

NUM_EPOCHS = 3
ADDED = """
from dataclasses import dataclass
from typing import ClassVar

import torch

from slimresnet.data.transforms.transform import ImageTransform, LabelTransform
from slimresnet.recipe.settings import RecipeError


@dataclass(frozen=True)
class AddToPixels(ImageTransform):
    added_to_pixels: int
    image_std: tuple[float, ...]
    is_light: ClassVar[bool] = IS_LIGHT

    def check(self, image_size):
        if self.added_to_pixels > image_size:
            raise RecipeError(f"--added_to_pixels must be at most {image_size}, got {self.added_to_pixels}.")

    def __call__(self, pixels, draws):
        assert isinstance(self.image_std, tuple)
        return pixels + self.added_to_pixels

    def overlaps(self):
        return {"added_to_pixels": ("brightness",)}


@dataclass(frozen=True)
class Reverse(LabelTransform):
    reversed_classes: bool

    def __call__(self, pixels, targets, draws, chance):
        return pixels, targets.flip(1) if self.reversed_classes else targets
"""


@pytest.fixture(params=[False, True], ids=["full", "light"])
def added(request, tmp_path, monkeypatch):
    """A file among the transforms, which nothing else names; whether its first transform is light."""
    (tmp_path / f"added_{request.param}.py").write_text(ADDED.replace("IS_LIGHT", str(request.param)))
    path = [*slimresnet.data.transforms.__path__, str(tmp_path)]
    monkeypatch.setattr(slimresnet.data.transforms, "__path__", path)
    return request.param


def recipe_with(recipe, before, **settings):
    """A recipe that lists more settings in front of the one called `before`, which is all that it takes to add them."""
    listed = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    names = list(listed)
    place = names.index(before)
    listed |= settings
    order = [*names[:place], *settings, *names[place:]]
    made = dataclasses.make_dataclass("ExtendedRecipe", [(name, type(listed[name])) for name in order], frozen=True)
    return made(**{name: listed[name] for name in order})


def inputs_of(recipe, config, epoch):
    pixels = torch.randint(0, 200, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    inputs = TrainingInputs(recipe, config, NUM_EPOCHS)
    made = inputs(TrainingBatch(pixels, torch.arange(6), Draws(0, epoch, 0, np.arange(6))))
    return inputs.denormalize(made["pixel_values"]), made["labels"]


def test_all_that_lies_here_is_found_in_the_order_of_the_recipe():
    found = [type(transform).__name__ for transform in transforms_of(Recipe(), Transform)]
    assert found == [
        "TrivialAugment", "RandomCrop", "HorizontalFlip", "VerticalFlip", "GaussianBlur", "RandomErasing", "Mixing",
        "LabelSmoothing",
    ]  # fmt: skip
    light = [type(transform).__name__ for transform in transforms_of(Recipe(), Transform) if transform.is_light]
    assert light == ["RandomCrop", "HorizontalFlip", "LabelSmoothing"]


def test_settings_have_the_recipes_names_and_values():
    recipe = Recipe(gaussian_blur_prob=0.25, gaussian_blur_sigma=[0.5, 0.75], crop_padding=3, cutmix_alpha=2.0)
    for transform in transforms_of(recipe, Transform):
        for field in dataclasses.fields(transform):
            value = getattr(recipe, field.name)
            assert getattr(transform, field.name) == (tuple(value) if isinstance(value, list) else value)
        assert hash(transform) == hash(type(transform).of(recipe))
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(transform, dataclasses.fields(transform)[0].name, 1)
        assert dataclasses.fields(transform)[0].name in inspect.getdoc(type(transform))


def test_a_file_is_all_that_a_new_transform_takes(added, tiny_config):
    """Its epochs, its check and what the card says of it come with the file."""
    without = Recipe(crop_padding=0, horizontal_flip_prob=0.0, num_light_augmentation_epochs=1)
    plain = recipe_with(without, "cutmix_prob", added_to_pixels=0, reversed_classes=False)
    recipe = dataclasses.replace(plain, added_to_pixels=16, reversed_classes=True)
    for epoch in range(NUM_EPOCHS):
        pixels, labels = inputs_of(recipe, tiny_config, epoch)
        before, labels_before = inputs_of(plain, tiny_config, epoch)
        assert torch.equal(pixels, before + (16 if epoch or added else 0))
        assert torch.equal(labels, labels_before.flip(1) if epoch else labels_before)
    assert overlapping_augmentations(recipe) == {"added_to_pixels": ("brightness",)}
    with pytest.raises(RecipeError, match="--added_to_pixels must be at most 16, got 17"):
        TrainingInputs(dataclasses.replace(recipe, added_to_pixels=17), tiny_config, NUM_EPOCHS)


@pytest.mark.parametrize(("before", "painted"), [("random_erasing_prob", 128), ("cutmix_prob", 132)])
def test_a_transform_runs_where_the_recipe_lists_it(added, tiny_config, before, painted):
    """What is added before random erasing is painted over, what is added after it is added to the paint."""
    plain = Recipe(
        crop_padding=0, horizontal_flip_prob=0.0, random_erasing_prob=1.0, random_erasing_area=[1.0, 1.0],
        image_mean=[0.5, 0.5, 0.5],
    )  # fmt: skip
    pixels, _ = inputs_of(recipe_with(plain, before, added_to_pixels=4, reversed_classes=False), tiny_config, 0)
    assert painted in pixels.unique().tolist() and 128 + 132 - painted not in pixels[:, :, 8, 8].unique().tolist()


@pytest.mark.parametrize("kind", [ImageTransform, LabelTransform])
def test_what_does_nothing_leaves_a_batch_as_it_is(kind):
    """The defaults but for crop, flip and smoothing, which are on."""
    recipe = Recipe(crop_padding=0, horizontal_flip_prob=0.0)
    pixels, targets = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8), torch.eye(4)
    for transform in transforms_of(recipe, kind):
        batch = (pixels,) if kind is ImageTransform else (pixels, targets)
        chance = () if kind is ImageTransform else (0.25,)
        result = transform(*batch, Draws(0, 0, 0, np.arange(4)), *chance)
        assert result is pixels if kind is ImageTransform else all(a is b for a, b in zip(result, batch, strict=True))
