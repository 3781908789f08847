"""A trained folder, or one on the Hub, as something to score and to predict with."""

import copy
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from modeling_slimresnet.modeling_slimresnet import SlimResNetConvLayer
from slimresnet.data.sources.diagnosis import looks_like_path, nearest
from slimresnet.data.task import PROBLEM_TYPES
from slimresnet.errors import SlimResNetError, first_line
from slimresnet.formats.image_processor import ImageProcessing, processing_of
from slimresnet.hub_errors import explain_hub_error
from slimresnet.run_folder.changes import sha256
from slimresnet.run_folder.names import CHECKPOINT_PREFIX, CHECKSUMS_NAME, CONFIG_NAME, PREPROCESSOR_NAME, WEIGHTS_NAME
from slimresnet.run_folder.ownership import prepare_to_read

OF_TRAIN = "give a folder that train.py, transformers' Trainer or save_pretrained wrote"


class ModelError(SlimResNetError):
    """The model cannot be used; the message, one line, names it and says what to do."""


def find_folder(name: str | PathLike[str]) -> Path:
    """
    The folder of a model: `name` itself, or a copy of the repository of that name on the Hub.

    Raises:
        ModelError: there is no such folder and no such repository, or the folder's run was not finished.
        FolderError: files of the folder are changing places.
    """
    if not isinstance(name, str | PathLike):
        raise ModelError(f"MODEL must be a folder or a name on the Hub, got {type(name).__name__}: give its folder.")
    name = fspath(name)
    folder = Path(name)
    if not folder.is_dir():
        if folder.exists():
            raise ModelError(f"MODEL {name} is a file: give the folder that train.py wrote.")
        if looks_like_path(name):
            raise ModelError(f"MODEL {name} is not there{nearest(name)}: {OF_TRAIN}.")
        try:
            folder = Path(snapshot_download(name))
        except Exception as error:  # huggingface_hub's, httpx's and OSErrors
            raise ModelError(
                f"MODEL {name} is no folder here{nearest(name)}, and {explain_hub_error(error, name, 'model')}; or "
                f"{OF_TRAIN}."
            ) from error
    prepare_to_read(folder)
    if reason := explain_unfinished(folder):
        raise ModelError(f"MODEL {reason}")
    if not (folder / CONFIG_NAME).is_file():
        raise ModelError(f"MODEL {name} holds no config.json: {OF_TRAIN}.")
    return folder


def explain_unfinished(folder: Path) -> str | None:
    """Why a folder is no finished run, though train.py wrote it, and how it goes on; None where that is not so."""
    if (folder / CHECKSUMS_NAME).is_file():
        return (
            f"{folder} is a checkpoint, which train.py alone makes use of: give the folder of the finished run, or "
            f"resume with the command that began it and --resume_from_checkpoint {folder}."
        )
    checkpoints = list(folder.glob(f"*{CHECKPOINT_PREFIX}*/{CHECKSUMS_NAME}"))
    if checkpoints and not (folder / CONFIG_NAME).is_file():
        return f"{folder} is unfinished: resume with the command that began it and --resume_from_checkpoint last."
    return None


def explain_error(error: Exception, name: str, advice: str) -> str:
    """What a flag that names a model says of an error that this model gave: its name, the reason, what to give."""
    reason = str(error) if isinstance(error, SlimResNetError) else first_line(error)
    reason = reason.removeprefix("MODEL ").replace(OF_TRAIN, advice)
    return reason if reason.startswith(name) else f"{name} cannot be used: {reason}"


def weights_digest(folder: Path) -> str | None:
    """SHA-256 of a folder's weights; None where it has none."""
    try:
        return sha256(folder / WEIGHTS_NAME)
    except FileNotFoundError:
        return None


def refuse_another_model(output_dir: Path, weights: str | None) -> None:
    """
    Checks that a folder has no weights, or exactly those of a digest.

    Args:
        weights: digest of MODEL's weights.

    Raises:
        ModelError: the folder has other weights.
    """
    if weights_digest(output_dir) not in (None, weights):
        raise ModelError(f"--output_dir {output_dir} holds another model than MODEL: name another folder.")


def load_config(folder: Path) -> SlimResNetConfig:
    """
    The config of a trained folder.

    Raises:
        ModelError: the config cannot be loaded, or is of another kind of network.
    """
    try:
        content, _ = SlimResNetConfig.get_config_dict(folder)
        kind = content.get("model_type")
        if kind != SlimResNetConfig.model_type:
            raise ValueError(f"its model_type is {kind}, not {SlimResNetConfig.model_type}")
        return SlimResNetConfig.from_dict(content)
    except Exception as error:  # JSON's, huggingface_hub's and the config's own
        raise ModelError(f"MODEL {folder} has no config.json that can be used: {error}") from error


def label_names(config: SlimResNetConfig) -> list[str]:
    """Names of the classes, in the order of their numbers."""
    return [config.id2label[label] for label in range(config.num_labels)]


def load_model(folder: Path) -> SlimResNetForImageClassification:
    """
    The network of a trained folder, in evaluation mode.

    Raises:
        ModelError: the weights cannot be loaded, do not fit the config, or hold NaN or infinity; or the network does
            not give classes to an image.
    """
    file = folder / WEIGHTS_NAME
    if not file.is_file():
        pickles = sorted(each.name for each in folder.glob("*.bin"))
        raise ModelError(
            f"MODEL {folder} has no model.safetensors"
            + (f", and a pickle such as its {pickles[0]} is a program, which is not run" if pickles else "")
            + f": {OF_TRAIN}."
        )
    with torch.device("meta"):
        model = SlimResNetForImageClassification(load_config(folder))
    # from_pretrained would follow what else a folder may hold: adapters, lists of pickles, quantisers.
    try:
        weights = load_file(file)
    except Exception as error:  # safetensors' own, and OSErrors
        raise ModelError(f"MODEL {folder} cannot be loaded: {error}") from error
    expected = model.state_dict()
    wrong = [
        name
        for name in [*expected, *(weights.keys() - expected.keys())]
        if name not in expected or name not in weights or weights[name].shape != expected[name].shape
    ]
    if wrong:
        raise ModelError(f"MODEL {folder} has other weights than its config.json says: {', '.join(wrong)}.")
    model.load_state_dict({name: value.to(expected[name].dtype) for name, value in weights.items()}, assign=True)
    model.eval()
    broken = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise ModelError(
            f"MODEL {folder} has weights that are NaN or infinite in {len(broken)} of its tensors, the first is "
            f"{broken[0]}: restore model.safetensors from a copy, or train anew with a lower --learning_rate."
        )
    if model.config.problem_type not in (None, *PROBLEM_TYPES):
        raise ModelError(
            f"MODEL {folder} gives an image no classes: its problem_type is {model.config.problem_type}. Give a folder "
            "that train.py wrote."
        )
    return model


def fold_batchnorm(model: SlimResNetForImageClassification) -> SlimResNetForImageClassification:
    """A copy for evaluation alone, each BatchNorm folded into the convolution before it: the same sums, fewer steps."""
    folded = copy.deepcopy(model).eval()
    for module in folded.modules():
        if isinstance(module, SlimResNetConvLayer):
            module.convolution = fuse_conv_bn_eval(module.convolution, module.normalization)
            module.add_module("normalization", nn.Identity())
    return folded


def check_finite(logits: Tensor, names: Sequence) -> None:
    """
    Refuses logits `[N, num_labels]` that are NaN or infinite.

    Args:
        names: names of the images, for the message.

    Raises:
        ModelError: some logits are not finite; the message has the number of images, and the name of the first.
    """
    broken = (~logits.isfinite().all(dim=1)).nonzero().flatten()
    if len(broken):
        raise ModelError(
            f"MODEL gives logits that are NaN or infinite for {len(broken)} of {len(logits)} images, the first is "
            f"{names[int(broken[0])]}: its weights are damaged or too large. Restore them, or train anew with a lower "
            "--learning_rate."
        )


def load_processing(folder: Path) -> ImageProcessing:
    """
    What a folder's image processor does to a picture.

    Raises:
        ModelError: the network takes neither RGB nor grey images; or the folder has no image processor, or one that
            does other than resize to the network's size (bilinear), rescale and normalise.
    """
    config = load_config(folder)
    if config.num_channels not in (1, 3):
        raise ModelError(
            f"MODEL {folder} takes images of {config.num_channels} channels, by num_channels in its config.json, and "
            "pictures here have 3 or 1."
        )
    if not (folder / PREPROCESSOR_NAME).is_file():
        size = f'{{"height": {config.image_size}, "width": {config.image_size}}}'
        raise ModelError(
            f"MODEL {folder} has no {PREPROCESSOR_NAME}, and only who trained it knows how pixels were normalised: "
            f"save that there, ViTImageProcessor(size={size}, image_mean=[…], image_std=[…]).save_pretrained("
            f'"{folder}"), with the mean and the standard deviation of training.'
        )
    try:
        return processing_of(folder, config)
    except Exception as error:  # each processor has its own
        raise ModelError(f"MODEL {folder} has no preprocessor_config.json that can be used: {error}") from error
