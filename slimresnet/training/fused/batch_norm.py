"""BatchNorm in training, with ReLU and the shortcut's addition, as one function that autograd knows."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from slimresnet.training.fused import kernels

_PARTS_A_PROCESSOR = 4  # of a GPU; parts that are summed side by side


def batch_norm(x: Tensor, norm: nn.BatchNorm2d, *, residual: Tensor | None = None, relu: bool) -> Tensor:
    """
    `relu(norm(x) + residual)` in training, rounded once at its end.

    Args:
        x: `[B, C, H, W]`, float32, bfloat16 or float16; any order of memory, channels_last without a copy.
        norm: its running statistics are brought up to date. It has weight and bias, float32, and a momentum.
        residual: of the same shape and type as `x`; None adds nothing.
        relu: whether values below 0 become 0.

    Returns:
        The shape and type of `x`, channels_last.

    Raises:
        ValueError: a channel has a single value, of which there is no variance; or `x` has nearly 2³¹ values.
    """
    if x.numel() == x.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(x.shape)}.")
    # Places in memory are 32-bit numbers in the kernels, those of the rows that fill the last block included.
    if x.numel() > 2**31 - 1 - kernels.BLOCK_ROWS * max(x.shape[1], kernels.BLOCK_COLUMNS):
        raise ValueError(f"{x.numel():,} values are too many at once: lower --per_device_train_batch_size.")
    return _BatchNorm.apply(x, residual, norm.weight, norm.bias, norm, relu)


class _Shape:
    """A feature map as the matrix that the kernels see, and the grids that they are launched over."""

    def __init__(self, x: Tensor):
        numel, self.channels = x.numel(), x.shape[1]
        self.width = self.channels * max(1, kernels.BLOCK_COLUMNS // self.channels)
        rows = -(-numel // self.width)
        self.row_blocks = -(-rows // kernels.BLOCK_ROWS)
        self.column_blocks = -(-self.width // kernels.BLOCK_COLUMNS)
        processors = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1
        self.parts = min(self.row_blocks, _PARTS_A_PROCESSOR * processors)
        matrix = {
            "num_rows": rows,
            "num_channels": self.channels,
            "width": self.width,
            "numel": numel,
            "block_rows": kernels.BLOCK_ROWS,
            "block_columns": kernels.BLOCK_COLUMNS,
        }
        self.sums = {**matrix, "num_parts": self.parts, "num_warps": 8}
        self.apply = {**matrix, "num_warps": 4}
        self.by_channel = {
            "num_parts": self.parts,
            "num_channels": self.channels,
            "width": self.width,
            "count": float(numel // self.channels),
            "block": kernels.BLOCK_PARTS,
            "num_warps": 4,
        }


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, relu: bool
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        shape = _Shape(x)
        parts = x.new_empty((2, shape.width, shape.parts), dtype=torch.float32)
        moments, factors = x.new_empty((2, 2, shape.channels), dtype=torch.float32)
        out = torch.empty_like(x)
        has_residual = residual is not None
        # A pointer that is not read stands where there is no residual.
        added = x if residual is None else residual.contiguous(memory_format=torch.channels_last)
        kernels.forward_sums[(shape.parts, shape.column_blocks)](x, parts, **shape.sums)
        kernels.forward_channels[(shape.channels,)](
            x, parts, weight, bias, norm.running_mean, norm.running_var, norm.num_batches_tracked, moments, factors,
            momentum=norm.momentum, eps=norm.eps, **shape.by_channel,
        )  # fmt: skip
        kernels.forward_apply[(shape.row_blocks, shape.column_blocks)](
            x, added, factors, out, has_residual=has_residual, relu=relu, **shape.apply
        )
        ctx.save_for_backward(x, moments, factors, *([out] if has_residual and relu else []))
        ctx.has_residual, ctx.relu = has_residual, relu
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, moments, factors, *rest = ctx.saved_tensors
        grad = grad_outputs[0].contiguous(memory_format=torch.channels_last)
        shape = _Shape(x)
        parts = x.new_empty((2, shape.width, shape.parts), dtype=torch.float32)
        grad_weight, grad_bias = x.new_empty((2, shape.channels), dtype=torch.float32)
        terms = x.new_empty((2, shape.channels), dtype=torch.float32)
        grad_x = torch.empty_like(x)
        # Without a ReLU the residual's gradient is the output's.
        masks_residual = ctx.has_residual and ctx.relu
        grad_residual = torch.empty_like(x) if masks_residual else grad
        kernels.backward_sums[(shape.parts, shape.column_blocks)](
            grad, x, rest[0] if masks_residual else x, moments, factors, grad_residual, parts,
            has_residual=masks_residual, relu=ctx.relu, **shape.sums,
        )  # fmt: skip
        kernels.backward_channels[(shape.channels,)](
            parts, moments, factors, grad_weight, grad_bias, terms, **shape.by_channel
        )
        kernels.backward_apply[(shape.row_blocks, shape.column_blocks)](
            grad_residual, x, factors, terms, grad_x, relu=ctx.relu and not masks_residual, **shape.apply
        )
        return grad_x, grad_residual if ctx.has_residual else None, grad_weight, grad_bias, None, None
