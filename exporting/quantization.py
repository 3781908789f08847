"""An ONNX graph in int8: static quantisation by ONNX Runtime (Jacob et al., 2018, "Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference")."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from .graphs import ExportError


def quantize_int8(source: Path, target: Path, batches: Iterable[np.ndarray]) -> None:
    """
    Writes `source` with convolutions, sums and head in int8: a scale for each output channel of the weights, and for
    each feature map one that its range on the calibration images gives.

    Args:
        source: a float32 graph of `exporting.graphs`, BatchNorm folded.
        batches: what the graph takes, of training images.

    Raises:
        ExportError: ONNX Runtime is missing.
    """
    try:
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
            quantize_static(
                str(prepared),
                str(target),
                _Reader(batches),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Add", "Relu", "Gemm", "ReduceMean", "GlobalAveragePool"],
                per_channel=True,
                # Weights of 7 bits: processors without VNNI add two products in 16 bits, and those of 8 overflow there.
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    finally:
        root.setLevel(level)


class _Reader:
    """The calibration images as ONNX Runtime asks for them."""

    def __init__(self, batches: Iterable[np.ndarray]):
        self._batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pixel_values": batch}
