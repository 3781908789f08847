"""A network as one graph, in a file that no class of this project is needed for."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.errors import SlimResNetError


class ExportError(SlimResNetError):
    """The network is not exported; the message, one line, names the flag or the package and says what to do."""


class LogitsOfPixels(nn.Module):
    """
    `pixel_values` to `logits`, without labels or options: what a graph is made of.

    Args:
        normalize: uint8 `[B, 3, H, W]` to what the network takes, where the graph is to do that itself.
    """

    def __init__(self, network: SlimResNetForImageClassification, normalize: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.network, self.normalize = network, normalize

    def forward(self, pixel_values: Tensor) -> Tensor:
        if self.normalize is not None:
            pixel_values = self.normalize(pixel_values)
        return self.network(pixel_values=pixel_values, return_dict=True).logits


def smallest_side(config: SlimResNetConfig) -> int | None:
    """
    From which height and width on a graph takes any; None, if it takes those of the config alone.

    The network takes every size. But of feature maps of a single pixel torch.export makes a graph for single pixels
    alone. The stages divide a side by their strides, rounding up: beyond their product there are two pixels or more.
    """
    smallest = math.prod(config.strides) + 1
    return smallest if smallest <= config.image_size else None


def export_onnx(module: LogitsOfPixels, pixel_values: Tensor, file: Path, opset: int) -> None:
    """
    Writes an ONNX graph with the input `pixel_values` and the output `logits`, of any number of images.

    Height and width are free too, if `smallest_side` gives one.

    Args:
        pixel_values: an example of at least two images, of the type and size that the graph is to take.

    Raises:
        ExportError: a package is missing, or cannot make this opset.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401, what torch.onnx makes the graph with
    except ModuleNotFoundError as error:
        raise ExportError(f"--format onnx needs a package: pip install {error.name}.") from error
    oldest, newest = 18, onnx.defs.onnx_opset_version()
    if not oldest <= opset <= newest:
        raise ExportError(
            f"--opset must be between {oldest}, the oldest that torch writes, and {newest}, the newest that the "
            f"package onnx {onnx.__version__} knows, got {opset}."
        )
    with _quiet():
        program = torch.onnx.export(
            module,
            (pixel_values,),
            dynamo=True,
            dynamic_shapes=_free_dimensions(module),
            input_names=["pixel_values"],
            output_names=["logits"],
            opset_version=opset,
            verbose=False,
        )
    made = program.model.opset_imports[""]
    if made != opset:
        raise ExportError(f"--opset {opset} cannot be made of this network, only {made}: leave the flag out.")
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # lines of Python, with their paths on this machine
    program.save(str(file))


def export_torch(module: LogitsOfPixels, pixel_values: Tensor, file: Path) -> None:
    """Writes what `torch.export.load` reads; arguments as `export_onnx`."""
    with _quiet():
        program = torch.export.export(module, (pixel_values,), dynamic_shapes=_free_dimensions(module))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # as above
    torch.export.save(program, file)


def _free_dimensions(module: LogitsOfPixels) -> dict[str, dict[int, torch.export.Dim]]:
    free = {0: torch.export.Dim("batch", min=1)}
    smallest = smallest_side(module.network.config)
    if smallest is not None:
        free |= {2: torch.export.Dim("height", min=smallest), 3: torch.export.Dim("width", min=smallest)}
    return {"pixel_values": free}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on their own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
