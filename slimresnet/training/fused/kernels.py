"""Triton kernels of BatchNorm, ReLU and the shortcut's addition, over feature maps in channels_last order.

In this order a feature map `[B, C, H, W]` is a matrix of `B · H · W` rows and `C` columns in memory. Networks for small
images have few channels, so several rows are taken as one of `width` columns: the largest multiple of `C` up to 256, or
`C` itself where it is larger. So each kernel reads whole lines of memory, and one compiled kernel serves all layers.

Sums are added in an order that the shape and the card decide, without atomics: the same step gives the same bits.
"""

import triton
import triton.language as tl

BLOCK_ROWS = 16
BLOCK_COLUMNS = 256
BLOCK_PARTS = 1024
# By itself a GPU takes the maximum of NaN and 0 to be 0: a network that diverged would show no sign of it.
ALL_NAN = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def _tile(first_row, columns, width, numel, block_rows: tl.constexpr):
    """Places of a tile in memory, and which of them lie within the matrix."""
    rows = first_row + tl.arange(0, block_rows)[:, None]
    places = rows * width + columns[None, :]
    return places, (columns[None, :] < width) & (places < numel)


@triton.jit
def _add_parts(parts, channel, num_parts, num_channels, width, block: tl.constexpr):
    """The two sums of a channel over the parts of all its columns. `parts` is `[2, width, num_parts]`."""
    count = width // num_channels * num_parts
    first = tl.zeros([block], tl.float32)
    second = tl.zeros([block], tl.float32)
    for start in range(0, count, block):
        number = start + tl.arange(0, block)
        column = channel + number // num_parts * num_channels
        place = column * num_parts + number % num_parts
        first += tl.load(parts + place, mask=number < count, other=0.0)
        second += tl.load(parts + width * num_parts + place, mask=number < count, other=0.0)
    return tl.sum(first), tl.sum(second)


@triton.jit(do_not_specialize=["num_rows", "num_parts"])
def forward_sums(
    x, parts, num_rows, num_parts, num_channels, width, numel, block_rows: tl.constexpr, block_columns: tl.constexpr
):
    """
    Sums of `x - p` and of its square by column, where `p` is the channel's value in the first row.

    Without `p` the variance would be a small difference of large numbers where a mean is far from 0.
    """
    part = tl.program_id(0)
    columns = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    pivot = tl.load(x + columns % num_channels).to(tl.float32)[None, :]
    first = tl.zeros([block_rows, block_columns], tl.float32)
    second = tl.zeros([block_rows, block_columns], tl.float32)
    for row in range(part * block_rows, num_rows, num_parts * block_rows):
        places, inside = _tile(row, columns, width, numel, block_rows)
        value = tl.where(inside, tl.load(x + places, mask=inside, other=0.0).to(tl.float32) - pivot, 0.0)
        first += value
        second += value * value
    place = columns * num_parts + part
    tl.store(parts + place, tl.sum(first, axis=0), mask=columns < width)
    tl.store(parts + width * num_parts + place, tl.sum(second, axis=0), mask=columns < width)


@triton.jit(do_not_specialize=["num_parts"])
def forward_channels(
    x, parts, weight, bias, running_mean, running_var, num_batches_tracked, moments, factors,
    num_parts, num_channels, width, count, momentum, eps, block: tl.constexpr,
):  # fmt: skip
    """
    Of a channel: mean and 1 / standard deviation into `moments` `[2, C]`, factor and summand of the normalisation into
    `factors` `[2, C]`, and the running statistics as `nn.BatchNorm2d` keeps them.
    """
    channel = tl.program_id(0)
    first, second = _add_parts(parts, channel, num_parts, num_channels, width, block)
    shift = first / count
    variance = tl.maximum(second / count - shift * shift, 0.0, propagate_nan=ALL_NAN)
    mean = tl.load(x + channel).to(tl.float32) + shift
    inverse = 1 / tl.sqrt(variance + eps)
    factor = tl.load(weight + channel) * inverse
    tl.store(moments + channel, mean)
    tl.store(moments + num_channels + channel, inverse)
    tl.store(factors + channel, factor)
    tl.store(factors + num_channels + channel, tl.load(bias + channel) - mean * factor)
    old_mean, old_var = tl.load(running_mean + channel), tl.load(running_var + channel)
    tl.store(running_mean + channel, old_mean + momentum * (mean - old_mean))
    tl.store(running_var + channel, old_var + momentum * (variance * (count / (count - 1)) - old_var))
    if channel == 0:
        tl.store(num_batches_tracked, tl.load(num_batches_tracked) + 1)


@triton.jit(do_not_specialize=["num_rows"])
def forward_apply(
    x, residual, factors, out, num_rows, num_channels, width, numel,
    has_residual: tl.constexpr, relu: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    """`relu(x · factor + summand + residual)`."""
    columns = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    factor = tl.load(factors + columns % num_channels)[None, :]
    summand = tl.load(factors + num_channels + columns % num_channels)[None, :]
    places, inside = _tile(tl.program_id(0) * block_rows, columns, width, numel, block_rows)
    value = tl.load(x + places, mask=inside, other=0.0).to(tl.float32) * factor + summand
    if has_residual:
        value += tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
    if relu:
        value = tl.maximum(value, 0.0, propagate_nan=ALL_NAN)
    tl.store(out + places, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gradient(grad_out, x, out, factor, summand, places, inside, has_residual: tl.constexpr, relu: tl.constexpr):
    """The gradient before the ReLU, and `x`. Where nothing was added to it, `x` tells what the ReLU let through."""
    grad = tl.load(grad_out + places, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    if relu:
        if has_residual:
            grad = tl.where(tl.load(out + places, mask=inside, other=0.0).to(tl.float32) > 0, grad, 0.0)
        else:
            grad = tl.where(value * factor + summand > 0, grad, 0.0)
    return grad, value


@triton.jit(do_not_specialize=["num_rows", "num_parts"])
def backward_sums(
    grad_out, x, out, moments, factors, grad_residual, parts, num_rows, num_parts, num_channels, width, numel,
    has_residual: tl.constexpr, relu: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    """By column, sums of the gradient before the ReLU and of its product with `x - mean`; the residual's gradient."""
    part = tl.program_id(0)
    columns = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    channels = columns % num_channels
    mean = tl.load(moments + channels)[None, :]
    factor = tl.load(factors + channels)[None, :]
    summand = tl.load(factors + num_channels + channels)[None, :]
    first = tl.zeros([block_rows, block_columns], tl.float32)
    second = tl.zeros([block_rows, block_columns], tl.float32)
    for row in range(part * block_rows, num_rows, num_parts * block_rows):
        places, inside = _tile(row, columns, width, numel, block_rows)
        grad, value = _gradient(grad_out, x, out, factor, summand, places, inside, has_residual, relu)
        if has_residual:
            tl.store(grad_residual + places, grad.to(grad_residual.dtype.element_ty), mask=inside)
        first += grad
        second += grad * (value - mean)
    place = columns * num_parts + part
    tl.store(parts + place, tl.sum(first, axis=0), mask=columns < width)
    tl.store(parts + width * num_parts + place, tl.sum(second, axis=0), mask=columns < width)


@triton.jit(do_not_specialize=["num_parts"])
def backward_channels(
    parts, moments, factors, grad_weight, grad_bias, terms, num_parts, num_channels, width, count, block: tl.constexpr
):
    """
    Of a channel: the gradients of weight and bias, and the terms of the gradient of `x`.

    That gradient is `grad · factor + a · x + b`; `terms` `[2, C]` takes `a` and `b`.
    """
    channel = tl.program_id(0)
    first, second = _add_parts(parts, channel, num_parts, num_channels, width, block)
    mean, inverse = tl.load(moments + channel), tl.load(moments + num_channels + channel)
    factor = tl.load(factors + channel)
    tl.store(grad_weight + channel, second * inverse)
    tl.store(grad_bias + channel, first)
    slope = -factor * inverse * inverse * second / count
    tl.store(terms + channel, slope)
    tl.store(terms + num_channels + channel, -factor * first / count - slope * mean)


@triton.jit(do_not_specialize=["num_rows"])
def backward_apply(
    grad_out, x, factors, terms, grad_x, num_rows, num_channels, width, numel,
    relu: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    """The gradient of `x`. `relu`: `grad_out` is from behind the ReLU."""
    columns = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    channels = columns % num_channels
    factor = tl.load(factors + channels)[None, :]
    summand = tl.load(factors + num_channels + channels)[None, :]
    slope = tl.load(terms + channels)[None, :]
    offset = tl.load(terms + num_channels + channels)[None, :]
    places, inside = _tile(tl.program_id(0) * block_rows, columns, width, numel, block_rows)
    grad, value = _gradient(grad_out, x, x, factor, summand, places, inside, False, relu)
    tl.store(grad_x + places, (grad * factor + slope * value + offset).to(grad_x.dtype.element_ty), mask=inside)
