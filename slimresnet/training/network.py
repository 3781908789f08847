"""The network that a recipe asks for."""

import torch
from torch import nn

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.recipe.checks import RecipeError
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
        if config.num_channels != 3:
            raise ValueError(f"num_channels must be 3, because images are read as RGB, got {config.num_channels}")
        if config.problem_type != "single_label_classification":
            raise ValueError(
                f"problem_type must be single_label_classification, because a label here is one class, got "
                f"{config.problem_type}"
            )
        if content.get("id2label") and content.get("num_labels") not in (None, len(content["id2label"])):
            raise ValueError(f"num_labels is {content['num_labels']}, but id2label names {len(content['id2label'])}")
        return config
    except Exception as error:  # OSError, strict-dataclass and JSON errors, each of its own base
        reason = " ".join(str(error).split())
        raise RecipeError(f"--config_name {recipe.config_name} cannot be used: {reason}") from error


def build_network(plan: Plan, config: SlimResNetConfig, label_names: list[str]) -> SlimResNetForImageClassification:
    """A new network for the classes of the dataset, its weights drawn by seed."""
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: index for index, name in config.id2label.items()}
    model = SlimResNetForImageClassification(config)
    if plan.recipe.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model.to(memory_format=torch.channels_last) if plan.channels_last else model
