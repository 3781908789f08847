"""An ONNX graph in int8: static quantisation by ONNX Runtime (Jacob et al., 2018, "Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference")."""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from slimresnet.formats.graphs import ExportError

_AVERAGED_OVER = 8  # images


def quantize_int8(source: Path, target: Path, pixel_values: np.ndarray) -> None:
    """
    Writes `source` with its stages in int8: a scale for each output channel of weights, and for each feature map one
    that its range on the calibration images gives.

    Stem and head, not half a percent of the arithmetic, stay in float32: pixels need more than int8 has, and logits
    beyond those of the calibration images, such as pictures of other sizes have, would be cut off.

    Args:
        source: a float32 graph of `slimresnet.formats.graphs`, BatchNorm folded.
        pixel_values: `[N, 3, H, W]` as the graph takes them, of training images.

    Raises:
        ExportError: ONNX Runtime is missing.
    """
    try:
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_static
    except ModuleNotFoundError as error:
        raise ExportError(f"--quantize int8 needs a package: pip install {error.name}.") from error
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # ONNX Runtime writes its advice there
    try:
        with TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            # Without the shapes that this finds the quantised graph is slower than the one in float32.
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
                # Weights of 7 bits: processors without VNNI add two products in 16 bits, and those of 8 overflow there.
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                # A range is the mean of those of a few images each. The widest of all would serve one value of millions
                # and make every step coarser: logits of the shipped network then are off by half as much again.
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
