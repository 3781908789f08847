"""A graph of torch.export, run by PyTorch without the classes of this project."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from slimresnet.formats.agreement import check_rounding
from slimresnet.formats.format import ExportedFormat, Source
from slimresnet.formats.graph import LogitsOfPixels, free_dimensions, quiet

TORCH_EXPORT_FILE = "model.pt2"


def export_torch(module: LogitsOfPixels, pixel_values: Tensor, file: Path) -> None:
    """
    Writes what `torch.export.load` reads: a graph for any number of images, and for any size that `smallest_side` says.

    Args:
        pixel_values: an example of at least two images, of the type and size that the graph is to take.
    """
    with quiet():
        program = torch.export.export(module, (pixel_values,), dynamic_shapes=free_dimensions(module))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of Python, with their paths on this machine
    torch.export.save(program, file)


def _write(source: Source, file: Path) -> dict[str, int]:
    export_torch(source.module, source.example, file)
    return {}


def _open(file: Path) -> Callable[[Tensor], Tensor]:
    module = torch.export.load(file).module()
    return lambda pixel_values: module(pixel_values)  # not the module itself: it refuses `eval()`


FORMATS = (
    ExportedFormat(
        backend="torch_export",
        file=TORCH_EXPORT_FILE,
        format="torch_export",
        open=_open,
        write=_write,
        check=check_rounding,
        holds_code=True,
    ),
)
