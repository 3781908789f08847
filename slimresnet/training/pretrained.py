"""Trained weights that a run starts from."""

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.data.sources.dataset import shared_name
from slimresnet.data.sources.decoding import ResizeMode
from slimresnet.errors import SlimResNetError
from slimresnet.formats.image_processor import mean_and_std, open_processor, resize_mode_of
from slimresnet.formats.trained import explain_error, find_folder, label_names, load_model, weights_digest
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.names import PREPROCESSOR_NAME

_OF_ANYBODY = "give a folder or a model on the Hub with the config.json and the model.safetensors of a SlimResNet"


@dataclass(frozen=True)
class Pretrained:
    """
    A trained network that a run starts from.

    Attributes:
        name: for people, without a path of this machine.
        is_local: whether it is a folder of this machine.
        folder: where its files are.
        digest: SHA-256 of its weights.
        network: on the CPU, in float32.
        mean, std: what its image processor normalises channels with, in 0–1; None where it has no processor.
        resize_mode: what the processor does to a picture that is not square; None where no `ResizeMode` is that.
    """

    name: str
    is_local: bool
    folder: Path
    digest: str
    network: SlimResNetForImageClassification
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    resize_mode: ResizeMode | None

    def new_config(self) -> SlimResNetConfig:
        """The config of a network of the same layers, for one class an image until the data says otherwise."""
        fields = {name: getattr(self.network.config, name) for name in SlimResNetConfig.__annotations__}
        return SlimResNetConfig(**fields | {"problem_type": "single_label_classification"})

    def keeps_head(self, classes: Sequence[str]) -> bool:
        """Whether its head tells these very classes apart, in whatever order."""
        own = label_names(self.network.config)
        return len(own) == len(classes) and {*own} == {*classes}

    def describe(self, classes: Sequence[str]) -> str:
        """What a network for these classes has of it, for people."""
        own = label_names(self.network.config)
        if not self.keeps_head(classes):
            return f"{self.name}: stem and stages kept, a new head for {len(classes)} classes (it had {len(own)})"
        order = "" if own == [*classes] else ", its head in the order of these classes"
        return f"{self.name}: all weights kept{order}"

    @torch.no_grad()
    def load_into(self, model: SlimResNetForImageClassification, classes: Sequence[str]) -> None:
        """
        Gives a network these weights, bit for bit: the head too where the classes are the same.

        Args:
            model: of the same stem and stages, on any device, with a head for `classes`.
        """
        model.slimresnet.load_state_dict(self.network.slimresnet.state_dict())
        if self.keeps_head(classes):
            own = label_names(self.network.config)
            order = torch.tensor([own.index(name) for name in classes])
            for ours, theirs in zip(model.classifier.parameters(), self.network.classifier.parameters(), strict=True):
                ours.copy_(theirs[order])

    def facts(self, classes: Sequence[str]) -> dict[str, str | bool]:
        """The entries of `all_results.json`."""
        return {
            "train_started_from": self.name,
            "train_started_from_is_local": self.is_local,
            "train_started_from_digest": self.digest,
            "train_head_is_new": not self.keeps_head(classes),
        }


def open_pretrained(recipe: Recipe, output_dir: Path) -> Pretrained | None:
    """
    Opens the network that `--model_name_or_path` names; None where it names none. No code of a folder is run.

    Args:
        output_dir: folder of the run.

    Raises:
        RecipeError: there is none, it is no sound SlimResNet, or it is what the run would replace.
    """
    if (name := recipe.model_name_or_path) is None:
        return None
    if not name:
        raise RecipeError(f"--model_name_or_path is empty: {_OF_ANYBODY}.")
    if Path(name).resolve() == output_dir.resolve():
        raise RecipeError(f"--model_name_or_path {name} is the --output_dir of this run: name another output folder.")
    try:
        folder = find_folder(name)
        network = load_model(folder)
        mean, std, resize_mode = None, None, None
        if (folder / PREPROCESSOR_NAME).is_file():
            processor = open_processor(folder)
            mean, std = map(tuple, mean_and_std(processor).tolist())
            with suppress(ValueError):
                resize_mode = resize_mode_of(processor, network.config.image_size)
    except (SlimResNetError, ValueError) as error:
        raise RecipeError(f"--model_name_or_path {explain_error(error, name, _OF_ANYBODY)}") from error
    digest = weights_digest(folder)
    assert digest is not None  # the weights were read
    return Pretrained(shared_name(name), Path(name).exists(), folder, digest, network, mean, std, resize_mode)


def as_it_sees(recipe: Recipe, pretrained: Pretrained | None) -> Recipe:
    """The recipe with what the image processor of trained weights does, where the recipe leaves that at its default."""
    if pretrained is None:
        return recipe
    if recipe.resize_mode is None:
        recipe = dataclasses.replace(recipe, resize_mode=pretrained.resize_mode)
    is_default = (recipe.image_mean, recipe.image_std) == (Recipe.image_mean, Recipe.image_std)
    if pretrained.mean is None or pretrained.std is None or not is_default:
        return recipe
    return dataclasses.replace(recipe, image_mean=pretrained.mean, image_std=pretrained.std)
