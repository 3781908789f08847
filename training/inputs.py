"""What a recipe makes of pixels: the model's inputs in training, and the image processor that goes with the model."""

from functools import partial

from torch import Tensor
from transformers import ViTImageProcessorPil

from cifar10.augmentation import Augmentation, normalize
from cifar10.cutmix import CutMixCollator
from cifar10.loading import TrainingBatch
from modeling_slimresnet import SlimResNetConfig

from .recipe import Recipe


class TrainingInputs:
    """
    Makes the model's inputs of a batch: augment, mix, normalise.

    Attributes:
        normalize: uint8 `[B, 3, H, W]` to the float32 `pixel_values` that the model takes, in evaluation too.
    """

    def __init__(self, recipe: Recipe, num_labels: int):
        self.normalize = partial(normalize, mean=tuple(recipe.image_mean), std=tuple(recipe.image_std))
        light = {
            "crop_padding": recipe.crop_padding,
            "crop_padding_mode": recipe.crop_padding_mode,
            "horizontal_flip_prob": recipe.horizontal_flip_prob,
        }
        full = {
            "vertical_flip_prob": recipe.vertical_flip_prob,
            "gaussian_blur_prob": recipe.gaussian_blur_prob,
            "gaussian_blur_sigma": tuple(recipe.gaussian_blur_sigma),
            "random_erasing_prob": recipe.random_erasing_prob,
            "random_erasing_area": tuple(recipe.random_erasing_area),
            "erasing_color": tuple(round(255 * mean) for mean in recipe.image_mean),
        }
        smoothing = recipe.label_smoothing_factor
        self._num_light_epochs = recipe.num_light_augmentation_epochs
        self._light = (
            Augmentation(**light),
            CutMixCollator(num_labels, self.normalize, prob=0.0, label_smoothing=smoothing),
        )
        self._full = (
            Augmentation(**light, **full),
            CutMixCollator(num_labels, self.normalize, recipe.cutmix_alpha, recipe.cutmix_prob, smoothing),
        )

    def __call__(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Returns `pixel_values`, float32 `[B, 3, H, W]`, and `labels`, float32 `[B, num_labels]`."""
        augment, collate = self._light if batch.draws.epoch < self._num_light_epochs else self._full
        return collate(augment(batch.pixels, batch.draws), batch.labels, batch.draws)


def build_image_processor(recipe: Recipe, config: SlimResNetConfig) -> ViTImageProcessorPil:
    """The processor that does to an image what training did, but for augmentation; works without torchvision."""
    return ViTImageProcessorPil(
        size={"height": config.image_size, "width": config.image_size},
        image_mean=recipe.image_mean,
        image_std=recipe.image_std,
        do_convert_rgb=True,
    )
