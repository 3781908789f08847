"""What a format is: a form that a trained network can take, with all that writes, opens and checks its file."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, NamedTuple

from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from modeling_slimresnet import SlimResNetConfig
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.errors import SlimResNetError
from slimresnet.formats.graph import LogitsOfPixels
from slimresnet.formats.trained import ModelError, load_config, load_processing
from slimresnet.run_folder.names import EXPORTS_NAME
from slimresnet.run_folder.reading import read_json


class ExportError(SlimResNetError):
    """The network is not exported; the message, one line, names the flag or the package and says what to do."""


class Runnable(NamedTuple):
    """
    A network, and what is done to a picture for it.

    Attributes:
        network: takes `pixel_values` and gives `logits`; has a `config`.
        normalize: makes `pixel_values` of uint8 pixels.
        pixel_format: form of the pixels.
    """

    network: nn.Module
    normalize: Callable[[Tensor], Tensor]
    pixel_format: PixelFormat

    @property
    def config(self) -> SlimResNetConfig:
        """The network's config."""
        config = self.network.config
        assert isinstance(config, SlimResNetConfig)
        return config


class ForeignNetwork(nn.Module):
    """
    A network that another program runs, on the CPU.

    Args:
        run: `pixel_values` `[B, 3, H, W]` to float32 logits `[B, num_labels]`. A graph takes what the image processor
            makes, three channels for a network of one too.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], config: SlimResNetConfig):
        super().__init__()
        self._run, self.config = run, config

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutputWithNoAttention:
        return ImageClassifierOutputWithNoAttention(
            logits=self._run(pixel_values.cpu().expand(-1, 3, -1, -1).contiguous())
        )


class Source(NamedTuple):
    """
    What an exported file is made of.

    Attributes:
        module: the network, BatchNorm folded.
        example: `pixel_values` of two images, of the type and size that the file is to take.
        opset: version of ONNX's operators.
        folder: folder of the files that were exported before, by their names.
        calibration: `pixel_values` of training images, `[N, 3, H, W]`, for a format that `is_calibrated`; else None.
    """

    module: LogitsOfPixels
    example: Tensor
    opset: int
    folder: Path
    calibration: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Format(ABC):
    """
    A form that a trained network can take, as one program runs it.

    Attributes:
        backend: name of the program, as `--backend` takes it.
        precision: what the program computes in: `float32`, or a value of `--quantize`.
        uses_gpu: whether the program computes on a GPU, where there is one, and not on the CPU alone.
    """

    backend: str
    precision: str = "float32"
    uses_gpu: ClassVar[bool] = False

    @property
    def is_quantized(self) -> bool:
        """Whether the format is named by `--quantized` beside `--backend`."""
        return self.precision != "float32"

    @property
    def scored_as(self) -> str:
        """Infix of the format's figures in `all_results.json`, between the prefix of the rows and the figure's name."""
        return f"{self.backend}_{self.precision}" if self.is_quantized else self.backend

    @abstractmethod
    def open_network(self, folder: Path, *, trust_remote_code: bool) -> Runnable:
        """
        The network of a trained folder in this format.

        Args:
            trust_remote_code: whether the user trusts who made the folder. A format that `holds_code` needs it; all
                other files are data.

        Raises:
            ModelError: the folder lacks a file, needs trust, a file does not load, or a package is missing.
        """


@dataclass(frozen=True, kw_only=True)
class ExportedFormat(Format):
    """
    A format with a file that export.py makes.

    Attributes:
        file: path of the file in a trained folder.
        format: the `--format` of export.py that makes the file.
        open: turns the file into a function of `pixel_values` that gives float32 logits `[B, num_labels]`, on as many
            threads as PyTorch has. `open` raises whatever the program raises.
        packages: pip packages that `open` needs.
        write: makes the file, and returns further facts for `exports.json`; None where another format makes the file.
        packages_to_write: pip packages that `write` needs.
        check: raises `ExportError` where logits `[N, num_labels]` are too far from the network's. Its arguments are the
            file's name, the logits, the network's, what the images are, and the logit from which a class is given,
            as in `agreement`.
        is_calibrated: whether `write` needs training images. The file is then checked on other training images.
        holds_code: whether a file may bring code, so that opening it needs the user's trust.
        js_dtype: the dtype by which transformers.js finds the file; None where it does not.
    """

    file: str
    format: str
    open: Callable[[Path], Callable[[Tensor], Tensor]]
    packages: tuple[str, ...] = ()
    write: Callable[[Source, Path], dict[str, int]] | None = None
    packages_to_write: tuple[str, ...] = ()
    check: Callable[[str, Tensor, Tensor, str, float | None], None]
    is_calibrated: bool = False
    holds_code: bool = False
    js_dtype: str | None = None

    @property
    def export_flags(self) -> str:
        """Flags of export.py that make the file."""
        return f"--format {self.format}" + (f" --quantize {self.precision}" if self.is_quantized else "")

    def refuse_without_packages(self) -> None:
        """
        Checks, before anything is exported, that the format's packages are installed.

        Raises:
            ExportError: a package is missing.
        """
        flag = f"--quantize {self.precision}" if self.is_quantized else f"--format {self.format}"
        if missing := _missing(*self.packages_to_write, *self.packages):
            raise ExportError(f"{flag} needs a package: pip install {missing}.")

    def open_file(self, file: Path) -> Callable[[Tensor], Tensor]:
        """
        A file as a function of `pixel_values` that gives logits.

        Code that the file holds is run, where the format `holds_code`.

        Raises:
            ModelError: the file does not load, or a package is missing.
        """
        if missing := _missing(*self.packages):
            raise ModelError(f"--backend {self.backend} needs a package: pip install {missing}.")
        try:
            return self.open(file)
        except Exception as error:  # each program's own
            raise ModelError(f"{file} cannot be loaded by {self.backend}: {error}") from error

    def open_network(self, folder: Path, *, trust_remote_code: bool) -> Runnable:
        takes_uint8 = self._takes_uint8(folder)
        if self.holds_code and not trust_remote_code:
            raise ModelError(
                f"--backend {self.backend} runs code that {self.file} of MODEL {folder} may hold, because it is made "
                "of pickles: add --trust_remote_code if you trust who made it, or take --backend torch or "
                "onnxruntime, which read data."
            )
        pixel_format, normalize = load_processing(folder)
        network = ForeignNetwork(self.open_file(folder / self.file), load_config(folder))
        return Runnable(network, nn.Identity() if takes_uint8 else normalize, pixel_format)

    def _takes_uint8(self, folder: Path) -> bool:
        """Whether the folder's file takes pixels of 0–255, and not what the image processor makes of them."""
        facts = read_json(folder / EXPORTS_NAME).get(self.file)
        if facts is None or not (folder / self.file).is_file():
            raise ModelError(
                f"MODEL {folder} has no {self.file}, or no {EXPORTS_NAME} that tells of it: make it with python "
                f"export.py MODEL {self.export_flags}."
            )
        takes = facts.get("pixel_values")
        if takes not in ("float32", "uint8"):
            raise ModelError(
                f"{folder / EXPORTS_NAME} does not say whether {self.file} takes pixel_values as float32 or uint8: "
                "make it anew with export.py --overwrite_output_dir."
            )
        return takes == "uint8"


def _missing(*packages: str) -> str | None:
    return next((package for package in packages if find_spec(package) is None), None)
