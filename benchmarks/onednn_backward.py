"""Forward, backward by data and backward by weights of the network's convolutions: python -m benchmarks.onednn_backward

Each has the same multiply-adds, so each should take the same time. Self-contained but for the table that it writes.
"""

import argparse
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.measuring import report, take_turns
from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.recipe.hardware import has_bf16

DIRECTIONS = {  # by what is asked of convolution_backward: the gradients of input, weight and bias
    "forward": None,
    "backward by data": (True, False, False),
    "backward by weights": (False, True, False),
}
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
            torch.ops.aten.convolution_backward(
                gradient, images, weight, None, stride, padding, (1, 1), False, (0, 0), 1, mask
            )
        return shape[0]

    return call


def main() -> None:
    """Measures and writes `benchmarks/onednn_backward.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    tables: dict[str, tuple[str, dict]] = {}
    sums: dict[str, Counter] = {}
    for precision in ("float32", "bf16") if has_bf16("cpu") else ("float32",):
        sums[precision] = Counter()
        for (convolution, shape), count in convolutions(arguments.batch_size).items():
            _, channels, side, _ = shape
            size, stride = convolution.kernel_size[0], convolution.stride[0]
            out = convolution.out_channels
            name = f"{size}×{size}, {channels} → {out}, {side} pixels" + (f", stride {stride}" if stride > 1 else "")
            contenders = {each: work(convolution, shape, DTYPES[precision], each) for each in DIRECTIONS}
            rows = take_turns(contenders, arguments.rounds)
            operations = 2 * channels * out * size**2 * (side // stride) ** 2  # an image's
            for direction, row in rows.items():
                row["gflops"] = round(row["images_per_second"] * operations / 1e9, 1)
                sums[precision][direction] += count * shape[0] / row["images_per_second"]
            tables[f"{count} of {name}, {precision}"] = ("forward", rows)
    notes = {
        f"milliseconds of all convolutions of a step, {precision}": {
            direction: round(1000 * seconds) for direction, seconds in sums[precision].items()
        }
        for precision in sums
    }
    print(notes)
    report(
        "onednn_backward", f"python -m benchmarks.onednn_backward --batch_size {arguments.batch_size}", tables, notes
    )


if __name__ == "__main__":
    main()
