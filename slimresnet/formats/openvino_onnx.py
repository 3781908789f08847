"""The ONNX graphs, run by OpenVINO."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from slimresnet.formats.onnx_float32 import ONNX
from slimresnet.formats.onnx_int8 import ONNX_INT8


def _open(file: Path) -> Callable[[Tensor], Tensor]:
    import openvino

    # By default OpenVINO computes a float32 graph in bf16 where the processor can.
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(str(file), "CPU", options)
    return lambda pixel_values: torch.from_numpy(compiled([pixel_values.numpy()])[0].copy())


FORMATS = tuple(
    dataclasses.replace(each, backend="openvino", open=_open, packages=("openvino",), write=None)
    for each in (ONNX, ONNX_INT8)
)
