"""The network as train.py leaves it: weights in safetensors, run by PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from slimresnet.formats.format import Format, Runnable
from slimresnet.formats.trained import fold_batchnorm, load_model, load_processing


@dataclass(frozen=True, kw_only=True)
class TorchFolder(Format):
    """A trained folder itself. transformers writes it; nothing in it is code that is run."""

    uses_gpu: ClassVar[bool] = True

    @property
    def scored_as(self) -> str:
        return ""  # the figures of a run are its own

    def open_network(self, folder: Path, *, trust_remote_code: bool) -> Runnable:
        torch.backends.cudnn.allow_tf32 = False  # float32 on a GPU is that of a CPU
        pixel_format, normalize = load_processing(folder)
        return Runnable(fold_batchnorm(load_model(folder)), normalize, pixel_format)


FORMATS = (TorchFolder(backend="torch"),)
