"""A trained folder, or one on the Hub, as something to score and to predict with."""

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from huggingface_hub import snapshot_download
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers import AutoImageProcessor

from cifar10.augmentation import normalize
from modeling_slimresnet import SlimResNetForImageClassification
from modeling_slimresnet.modeling_slimresnet import SlimResNetConvLayer


class ModelError(ValueError):
    """The model cannot be used; the message, one line, names it and says what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def find_folder(name: str) -> Path:
    """
    The folder of a model: `name` itself, or a copy of the repository of that name on the Hub.

    Raises:
        ModelError: there is neither.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.exists():
            raise ModelError(f"MODEL {name} is a file: give the folder that train.py wrote.")
        try:
            folder = Path(snapshot_download(name))
        except Exception as error:  # huggingface_hub's, httpx's and OSErrors
            reason = str(error).strip().splitlines()[0]
            raise ModelError(
                f"MODEL {name} is neither a folder here nor a model on the Hub that can be reached ({reason}): give a "
                "folder that train.py wrote."
            ) from error
    if not (folder / "config.json").is_file():
        raise ModelError(f"MODEL {name} holds no config.json: give a folder that train.py wrote.")
    return folder


def load_model(folder: Path) -> SlimResNetForImageClassification:
    """
    The network of a trained folder, in evaluation mode.

    Raises:
        ModelError: its weights cannot be loaded, or are not those of its config.
    """
    try:
        model, loading = SlimResNetForImageClassification.from_pretrained(folder, output_loading_info=True)
    except Exception as error:  # safetensors, huggingface_hub, JSON: each its own
        raise ModelError(f"MODEL {folder} cannot be loaded: {error}") from error
    wrong = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
    if wrong:
        raise ModelError(f"MODEL {folder} has other weights than its config.json says: {', '.join(map(str, wrong))}.")
    return model


def fold_batchnorm(model: SlimResNetForImageClassification) -> SlimResNetForImageClassification:
    """A copy for evaluation alone, each BatchNorm folded into the convolution before it: the same sums, fewer steps."""
    folded = copy.deepcopy(model).eval()
    for module in folded.modules():
        if isinstance(module, SlimResNetConvLayer):
            module.convolution = fuse_conv_bn_eval(module.convolution, module.normalization)
            module.normalization = nn.Identity()
    return folded


def load_normalize(folder: Path) -> Callable[[Tensor], Tensor]:
    """
    What turns uint8 `[B, 3, H, W]` into the `pixel_values` of the folder's network.

    Raises:
        ModelError: the folder has no image processor.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(folder)
    except Exception as error:
        raise ModelError(f"MODEL {folder} has no preprocessor_config.json that can be used: {error}") from error
    return partial(normalize, mean=tuple(processor.image_mean), std=tuple(processor.image_std))


def read_json(file: Path) -> dict:
    """
    What a file of figures holds so far; nothing, if there is none.

    Raises:
        ModelError: it is no JSON object.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is no JSON ({error}): restore it, or remove it.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds no object: restore it, or remove it.")
    return content
