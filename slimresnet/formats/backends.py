"""A trained network as evaluation calls it, whichever program runs it: PyTorch, ONNX Runtime, OpenVINO."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from modeling_slimresnet import SlimResNetConfig
from slimresnet.formats.trained import ModelError, fold_batchnorm, load_config, load_model, load_normalize
from slimresnet.run_folder.reading import read_json

BACKENDS = ("torch", "torch_export", "onnxruntime", "openvino")

# Where transformers.js and optimum look for them.
ONNX_FILE, QUANTIZED_ONNX_FILE = "onnx/model.onnx", "onnx/model_quantized.onnx"
TORCH_EXPORT_FILE = "model.pt2"
EXPORTS_NAME = "exports.json"  # of each exported file: what it takes, and how it was checked
SCORED_AS = {  # an exported file: what stands in the names of its figures, between the rows and the figure
    ONNX_FILE: ("onnxruntime", "openvino"),
    QUANTIZED_ONNX_FILE: ("onnxruntime_int8", "openvino_int8"),
    TORCH_EXPORT_FILE: ("torch_export",),
}


class Runnable(NamedTuple):
    """A network that takes `pixel_values` and gives `logits`, with a `config`, and what makes its input of uint8."""

    network: nn.Module
    normalize: Callable[[Tensor], Tensor]


class ForeignNetwork(nn.Module):
    """
    A network that another program runs, on the CPU.

    Args:
        run: `pixel_values` to float32 logits `[B, num_labels]`.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], config: SlimResNetConfig):
        super().__init__()
        self._run, self.config = run, config

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutputWithNoAttention:
        return ImageClassifierOutputWithNoAttention(logits=self._run(pixel_values.cpu().contiguous()))


def open_network(folder: Path, backend: str, *, quantized: bool = False, trust_remote_code: bool = False) -> Runnable:
    """
    The network of a trained folder, or of one that export.py made.

    Args:
        backend: one of `BACKENDS`; all but `torch` read an exported file.
        quantized: its int8 file.
        trust_remote_code: whether the user trusts who made the folder, as `torch_export` needs, whose file holds
            pickles; all other files of a folder are data.

    Raises:
        ModelError: the folder has no such file or needs trust, the file does not load, or a package is missing.
    """
    if quantized and backend not in ("onnxruntime", "openvino"):
        raise ModelError(f"--quantized is for --backend onnxruntime and openvino, not for {backend}.")
    if backend == "torch":
        torch.backends.cudnn.allow_tf32 = False  # float32 on a GPU is that of a CPU
        return Runnable(fold_batchnorm(load_model(folder)), load_normalize(folder))
    is_onnx = backend != "torch_export"
    name = (QUANTIZED_ONNX_FILE if quantized else ONNX_FILE) if is_onnx else TORCH_EXPORT_FILE
    facts = read_json(folder / EXPORTS_NAME).get(name)
    if facts is None or not (folder / name).is_file():
        flags = f"--format {'onnx' if is_onnx else 'torch_export'}{' --quantize int8' if quantized else ''}"
        raise ModelError(
            f"MODEL {folder} has no {name}, or no {EXPORTS_NAME} that tells of it: make it with python export.py MODEL "
            f"{flags}."
        )
    if backend == "torch_export" and not trust_remote_code:
        raise ModelError(
            f"--backend torch_export runs code that {name} of MODEL {folder} may hold, because it is made of pickles: "
            "add --trust_remote_code if you trust who made it, or take --backend torch or onnxruntime, which read data."
        )
    takes = facts.get("pixel_values")
    if takes not in ("float32", "uint8"):
        raise ModelError(
            f"{folder / EXPORTS_NAME} does not say whether {name} takes pixel_values as float32 or uint8: make it anew "
            "with export.py --overwrite_output_dir."
        )
    config = load_config(folder)
    normalize = _unchanged if takes == "uint8" else load_normalize(folder)
    return Runnable(ForeignNetwork(open_file(folder / name, backend), config), normalize)


def open_file(file: Path, backend: str) -> Callable[[Tensor], Tensor]:
    """
    An exported file as a function of `pixel_values` that gives logits, on as many threads as PyTorch has.

    With `torch_export`, code that the file holds is run. ONNX files are data, and so are those beside them that hold
    their weights: ONNX Runtime and OpenVINO open none outside of the file's own folder.

    Raises:
        ModelError: the file does not load, or a package is missing.
    """
    open_with = {"torch_export": _open_torch_export, "onnxruntime": _open_onnxruntime, "openvino": _open_openvino}
    try:
        return open_with[backend](file)
    except ModuleNotFoundError as error:
        raise ModelError(f"--backend {backend} needs a package: pip install {error.name}.") from error
    except Exception as error:  # each program's own
        raise ModelError(f"{file} cannot be loaded by {backend}: {error}") from error


def _open_torch_export(file: Path) -> Callable[[Tensor], Tensor]:
    module = torch.export.load(file).module()
    return lambda pixel_values: module(pixel_values)  # not the module itself: it refuses `eval()`


def _open_onnxruntime(file: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda pixel_values: torch.from_numpy(session.run(None, {"pixel_values": pixel_values.numpy()})[0])


def _open_openvino(file: Path) -> Callable[[Tensor], Tensor]:
    import openvino

    # Left to itself it computes a float32 graph in bf16 where the processor can.
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(str(file), "CPU", options)
    return lambda pixel_values: torch.from_numpy(compiled([pixel_values.numpy()])[0].copy())


def _unchanged(pixels: Tensor) -> Tensor:
    return pixels
