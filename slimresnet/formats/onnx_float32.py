"""An ONNX graph in float32, run by ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from slimresnet.formats.agreement import check_rounding
from slimresnet.formats.format import ExportedFormat, ExportError, Source
from slimresnet.formats.graph import LogitsOfPixels, free_dimensions, quiet

ONNX_FILE = "onnx/model.onnx"  # where transformers.js and optimum look


def export_onnx(module: LogitsOfPixels, pixel_values: Tensor, file: Path, opset: int) -> None:
    """
    Writes an ONNX graph with the input `pixel_values` and the output `logits`, for any number of images.

    Height and width are free too, where `smallest_side` gives a size.

    Args:
        pixel_values: an example of at least two images, of the type and size that the graph is to take.

    Raises:
        ExportError: the graph cannot be made with this opset.
    """
    import onnx

    oldest, newest = 18, onnx.defs.onnx_opset_version()
    if not oldest <= opset <= newest:
        raise ExportError(
            f"--opset must be between {oldest}, the oldest that torch writes, and {newest}, the newest that the "
            f"package onnx {onnx.__version__} knows, got {opset}."
        )
    with quiet():
        program = torch.onnx.export(
            module,
            (pixel_values,),
            dynamo=True,
            dynamic_shapes=free_dimensions(module),
            input_names=["pixel_values"],
            output_names=["logits"],
            opset_version=opset,
            verbose=False,
        )
    assert program is not None  # None only without dynamo
    made = program.model.opset_imports[""]
    if made != opset:
        raise ExportError(f"--opset {opset} cannot be made of this network, only {made}: leave the flag out.")
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # lines of Python, with their paths on this machine
    program.save(str(file))


def open_onnxruntime(file: Path) -> Callable[[Tensor], Tensor]:
    """
    An ONNX file as a function of `pixel_values` that gives logits.

    The file and the files of weights beside it are data. No file outside of the folder is opened.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda pixel_values: torch.from_numpy(session.run(None, {"pixel_values": pixel_values.numpy()})[0])


def _write(source: Source, file: Path) -> dict[str, int]:
    export_onnx(source.module, source.example, file, source.opset)
    return {"opset": source.opset}


ONNX = ExportedFormat(
    backend="onnxruntime",
    file=ONNX_FILE,
    format="onnx",
    open=open_onnxruntime,
    packages=("onnxruntime",),
    write=_write,
    packages_to_write=("onnx", "onnxscript"),
    check=check_rounding,
    js_dtype="fp32",
)
FORMATS = (ONNX,)
