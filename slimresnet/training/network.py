"""The network that a recipe asks for."""

import dataclasses
from typing import Any

import torch
from torch import nn

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.data.luma import luma_of
from slimresnet.data.task import PROBLEM_TYPES
from slimresnet.recipe.checks import RecipeError, words
from slimresnet.recipe.plan import Plan
from slimresnet.recipe.reading import find_network
from slimresnet.recipe.settings import Recipe


def load_network_config(recipe: Recipe) -> SlimResNetConfig:
    """
    The config that `--config_name` names, or the default one.

    Its weights, where it is the config of a trained folder, play no part.

    Raises:
        RecipeError: there is none, or it is of no SlimResNet, has a field that no SlimResNet has, or an impossible one.
    """
    if recipe.config_name is None:
        return SlimResNetConfig()
    source = find_network(recipe.config_name)
    try:
        try:
            content, _ = SlimResNetConfig.get_config_dict(source)
        except (AttributeError, RecursionError, TypeError):
            content = None
        if not isinstance(content, dict):
            raise ValueError("it is JSON, but no object of fields")
        if not content:
            raise ValueError("there is no config.json in it, or an empty one")
        if content.get("model_type") != SlimResNetConfig.model_type:
            raise ValueError(f"its model_type is {content.get('model_type')}, not {SlimResNetConfig.model_type}")
        # transformers takes any field; a misspelt one would leave the default in its place.
        unknown = content.keys() - SlimResNetConfig().to_dict().keys() - {"num_labels"}
        if unknown:
            raise ValueError(f"SlimResNet has no field {', '.join(sorted(unknown))}: correct or remove it")
        # The other fields, such as return_dict, say how a model is used, which is for this program to say.
        described = {*SlimResNetConfig.__annotations__, "id2label", "num_labels", "out_features", "out_indices"}
        config = SlimResNetConfig(**{field: content[field] for field in content.keys() & described})
        if config.num_channels not in (1, 3):
            raise ValueError(f"num_channels must be 3 for RGB images or 1 for grey ones, got {config.num_channels}")
        if config.problem_type not in PROBLEM_TYPES:
            raise ValueError(f"problem_type must be {' or '.join(PROBLEM_TYPES)}, got {config.problem_type}")
        if content.get("id2label") and content.get("num_labels") not in (None, len(content["id2label"])):
            raise ValueError(f"num_labels is {content['num_labels']}, but id2label names {len(content['id2label'])}")
        return config
    except Exception as error:  # OSError, strict-dataclass and JSON errors, each of its own base
        reason = " ".join(str(error).split())
        raise RecipeError(f"--config_name {recipe.config_name} cannot be used: {reason}") from error


def fit_config(config: SlimResNetConfig, recipe: Recipe, *, is_trained: bool) -> None:
    """
    Gives a config the size and the channels of images that a recipe asks for.

    Args:
        is_trained: whether there are weights for it, which fit any size, but no other number of channels.

    Raises:
        RecipeError: the weights are for other channels.
    """
    if recipe.image_size is not None:
        config.image_size = recipe.image_size
    if recipe.num_channels not in (None, config.num_channels):
        if is_trained:
            raise RecipeError(
                f"--num_channels {recipe.num_channels} is not that of --model_name_or_path, {config.num_channels}: "
                "leave --num_channels out."
            )
        config.num_channels = recipe.num_channels


def fit_normalization(recipe: Recipe, num_channels: int) -> Recipe:
    """
    The recipe with a mean and a standard deviation for each channel of the network.

    Three numbers that are the default, or the same for each channel, become one for a network of grey images.

    Raises:
        RecipeError: the recipe has other numbers than the network has channels.
    """
    fitted: dict[str, Any] = {}
    for name in ("image_mean", "image_std"):
        values = getattr(recipe, name)
        if len(values) == num_channels:
            continue
        if num_channels == 3:
            raise RecipeError(f"--{name} takes three numbers, one a channel of the network, got {words(values)}.")
        if values != getattr(Recipe, name) and len(set(values)) > 1:
            raise RecipeError(f"--{name} takes one number for a network of grey images, got {words(values)}.")
        fitted[name] = (values[0] if len(set(values)) == 1 else luma_of(values),)
    return dataclasses.replace(recipe, **fitted)


def build_network(plan: Plan, config: SlimResNetConfig, label_names: list[str]) -> SlimResNetForImageClassification:
    """A new network for the classes of the dataset, its weights drawn by seed."""
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: index for index, name in config.id2label.items()}
    model = SlimResNetForImageClassification(config)
    if plan.recipe.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model.to(memory_format=torch.channels_last) if plan.channels_last else model
