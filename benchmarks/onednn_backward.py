"""Forward, backward by data and backward by weights of the network's convolutions: python -m benchmarks.onednn_backward

Each has the same multiply-adds, so each should take the same time. With AMX, oneDNN sums the gradient of a weight over
one row of an image at a time (jit_brgemm_conv_utils.cpp, init_conf_bwd_w: K is tr_ow), where a tile has room for 32
pixels. Images side by side make rows longer: whether that repays the copies is measured too.
"""

import argparse
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.measuring import report, take_turns
from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.recipe.hardware import has_bf16

WIDE = "backward by weights, side by side"
DIRECTIONS = {  # by what is asked of convolution_backward: the gradients of input, weight and bias
    "forward": None,
    "backward by data": (True, False, False),
    "backward by weights": (False, True, False),
    WIDE: (False, True, False),
}
ROW = 128  # pixels of images in a row, of images side by side
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def convolutions(batch: int) -> dict[tuple[nn.Conv2d, tuple[int, ...]], int]:
    """The convolutions of the default network: one of each kind, the shape of its input, and how many there are."""
    model, calls = SlimResNetForImageClassification(SlimResNetConfig()), []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, _: calls.append((module, tuple(inputs[0].shape[1:]))))
    model(torch.zeros(1, 3, 32, 32))
    kinds, counts = {}, Counter()
    for module, shape in calls:
        name = (shape, module.out_channels, module.kernel_size, module.stride)
        kinds.setdefault(name, (module, (batch, *shape)))
        counts[name] += 1
    return {kinds[name]: count for name, count in counts.items()}


def side_by_side(images: Tensor) -> Tensor:
    """
    Images in rows of `ROW` pixels, a black column behind each: the padding of a 3×3 convolution.

    Args:
        images: `[B, C, H, W]`, channels_last; `ROW / W` images make a row.
    """
    batch, channels, height, width = images.shape
    count = ROW // width
    padded = nn.functional.pad(images.permute(0, 2, 3, 1), (0, 0, 0, 1))
    rows = padded.view(batch // count, count, height, width + 1, channels).transpose(1, 2)
    return rows.reshape(batch // count, height, count * (width + 1), channels).permute(0, 3, 1, 2)


def is_widened(convolution: nn.Conv2d, shape: tuple[int, ...]) -> bool:
    """Whether a row of the images of a convolution is shorter than a tile, and they may stand side by side."""
    return shape[-1] < 32 and convolution.kernel_size == (3, 3) and convolution.stride == (1, 1)


def work(convolution: nn.Conv2d, shape: tuple[int, ...], dtype: torch.dtype, direction: str) -> Callable[[], int]:
    """Does a convolution of channels_last tensors in one direction, and returns the number of its images."""
    weight = convolution.weight.detach().to(dtype, memory_format=torch.channels_last)
    images = torch.randn(shape).to(dtype, memory_format=torch.channels_last)
    stride, padding = convolution.stride, convolution.padding

    def forward() -> Tensor:
        return nn.functional.conv2d(images, weight, None, stride, padding)

    gradient = torch.randn_like(forward())
    mask = DIRECTIONS[direction]

    def call() -> int:
        if mask is None:
            forward()
        else:
            tensors = (side_by_side(gradient), side_by_side(images)) if direction == WIDE else (gradient, images)
            torch.ops.aten.convolution_backward(*tensors, weight, None, stride, padding, (1, 1), False, (0, 0), 1, mask)
        return shape[0]

    return call


def measure(precision: str, batch_size: int, rounds: int) -> tuple[dict[str, tuple[str, dict]], Counter]:
    """A table for each kind of convolution, and the seconds that all of a step take in each direction."""
    tables: dict[str, tuple[str, dict]] = {}
    seconds: Counter = Counter()
    for (convolution, shape), count in convolutions(batch_size).items():
        channels, side, stride = shape[1], shape[-1], convolution.stride[0]
        out, size = convolution.out_channels, convolution.kernel_size[0]
        directions = [each for each in DIRECTIONS if each != WIDE or is_widened(convolution, shape)]
        rows = take_turns({each: work(convolution, shape, DTYPES[precision], each) for each in directions}, rounds)
        title = f"{count} of {size}×{size}, {channels} → {out}, {side} pixels, stride {stride}, {precision}"
        print(f"{title}, GFLOP/s:", end=" ")
        for direction, row in rows.items():
            operations = 2 * channels * out * size**2 * (side // stride) ** 2  # an image's
            row["gflop_per_second"] = round(row["images_per_second"] * operations / 1e9, 1)
            print(direction, row["gflop_per_second"], end="; ")
            if direction != WIDE:
                seconds[direction] += count * batch_size / row["images_per_second"]
        print(flush=True)
        tables[title] = ("forward", rows)
    return tables, seconds


def main() -> None:
    """Measures and writes `benchmarks/onednn_backward.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    tables: dict[str, tuple[str, dict]] = {}
    notes = {}
    for precision in ("float32", "bf16") if has_bf16("cpu") else ("float32",):
        more, seconds = measure(precision, arguments.batch_size, arguments.rounds)
        tables |= more
        in_all = {direction: round(1000 * each) for direction, each in seconds.items()}
        notes[f"milliseconds of all convolutions of a step, {precision}"] = in_all
    print(notes)
    command = f"python -m benchmarks.onednn_backward --batch_size {arguments.batch_size} --rounds {arguments.rounds}"
    report("onednn_backward", command, tables, notes)


if __name__ == "__main__":
    main()
