"""An ONNX graph in int8, run by ONNX Runtime.

Quantisation is static (Jacob et al., 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference").
"""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch import Tensor

from slimresnet.formats.format import ExportedFormat, ExportError, Source
from slimresnet.formats.onnx_float32 import ONNX_FILE, open_onnxruntime

QUANTIZED_ONNX_FILE = "onnx/model_quantized.onnx"  # where transformers.js and optimum look
# int8 has two digits. The bound is a share of the widest spread of an image's logits, because the steps of int8 are as
# wide for all images. A share of the largest logit would not do: a constant added to all must not widen the bound.
ROUNDING = 0.02
SMALLEST_SHARE = 0.95  # of images with the network's class, or one that ties with it
_AVERAGED_OVER = 8  # images


def quantize_int8(source: Path, target: Path, pixel_values: np.ndarray) -> None:
    """
    Writes `source` with its stages in int8: a scale for each output channel of weights, and for each feature map one
    that its range on the calibration images gives.

    Stem and head, not half a percent of the arithmetic, stay in float32: pixels need more than int8 has, and logits
    beyond those of the calibration images, such as pictures of other sizes have, would be cut off.

    Args:
        source: a float32 graph that `export_onnx` made, BatchNorm folded.
        pixel_values: `[N, 3, H, W]` as the graph takes them, of training images.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_static

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # ONNX Runtime writes its advice there
    try:
        with TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            # This step finds shapes, without which the quantised graph is slower than the float32 graph.
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            stem = next(node for node in onnx.load(prepared).graph.node if node.op_type == "Conv")
            quantize_static(
                str(prepared),
                str(target),
                _Reader(pixel_values),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Add", "Relu"],
                nodes_to_exclude=[stem.name],
                per_channel=True,
                # Weights of 7 bits: processors without VNNI add two products in 16 bits, where 8-bit weights overflow.
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                # A range is the mean of the ranges of small batches. The widest range of all images would serve one
                # value of millions and make every step coarser: it puts logits of the shipped network off by half as
                # much again.
                extra_options={"CalibMovingAverage": True},
            )
    finally:
        root.setLevel(level)


class _Reader:
    """The calibration images as ONNX Runtime asks for them, `_AVERAGED_OVER` at a time."""

    def __init__(self, pixel_values: np.ndarray):
        self._starts = iter(range(0, len(pixel_values), _AVERAGED_OVER))
        self._pixel_values = pixel_values

    def get_next(self) -> dict[str, np.ndarray] | None:
        start = next(self._starts, None)
        return None if start is None else {"pixel_values": self._pixel_values[start : start + _AVERAGED_OVER]}


def check_classes(name: str, logits: Tensor, expected: Tensor, images: str, given_from: float | None = None) -> None:
    """
    Checks that a file gives the network's classes.

    Two classes whose logits lie within rounding of each other are a tie, where either will do. Where an image may be of
    several classes, each class counts by itself, and a logit within rounding of `given_from` is a tie.

    Args:
        name: name of the file, for messages.
        logits: the file's logits, `[N, num_labels]`.
        expected: the network's logits on the same images, finite.
        images: a name for the images, for messages.
        given_from: as in `agreement`.

    Raises:
        ExportError: too many images get another class.
    """
    highest = expected.max(dim=1).values
    apart = (highest - expected.min(dim=1).values).max()
    if given_from is None:
        chosen = expected.gather(1, logits.argmax(dim=1, keepdim=True)).squeeze(1)
        agrees = highest - chosen <= ROUNDING * apart
    else:
        is_tie = (expected - given_from).abs() <= ROUNDING * apart
        agrees = is_tie | ((logits >= given_from) == (expected >= given_from))
    matching = agrees.double().mean().item()
    if matching < SMALLEST_SHARE:
        raise ExportError(
            f"{name} disagrees with the network: another class for {1 - matching:.2%} of {len(expected)} {images}, but "
            "for ties; nothing was written. Take the ranges from more --calibration_samples, or from what the network "
            "was trained on (--dataset_name); or leave --quantize out."
        )


def _write(source: Source, file: Path) -> dict[str, int]:
    assert source.calibration is not None  # the format says that it needs them
    quantize_int8(source.folder / ONNX_FILE, file, source.calibration.numpy())
    return {"opset": source.opset}


ONNX_INT8 = ExportedFormat(
    backend="onnxruntime",
    precision="int8",
    file=QUANTIZED_ONNX_FILE,
    format="onnx",
    open=open_onnxruntime,
    packages=("onnxruntime",),
    write=_write,
    packages_to_write=("onnx",),
    check=check_classes,
    is_calibrated=True,
    js_dtype="q8",
)
FORMATS = (ONNX_INT8,)
