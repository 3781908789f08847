"""Training steps as CUDA graphs: a step of this network is a thousand short kernels, which a GPU does in less time than
a CPU takes to launch them one by one; a graph launches them all at once."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Before its capture a step has to have run: kernels are loaded then, algorithms searched, states of the optimiser made.
NUM_EAGER_STEPS = 3

Step = Callable[[dict[str, Tensor], bool], Tensor]
"""Takes a batch's inputs, and whether the step is sharpness-aware; returns its loss."""


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    loss: Tensor


class GraphedStep:
    """
    A step that replays what it did in an earlier one of its kind, on other inputs.

    A kind is the shapes of the inputs, and whether the step is sharpness-aware. The first few steps of each are taken
    as they come, the next one is captured, and it and all later ones are replayed. With several processes all of them
    have to take the same kinds of steps in the same order, and to free their graphs before `leave_group`.

    Args:
        step: reads and writes the same tensors each time, waits for nothing on the GPU, and leaves no gradients.
        optimizer: of the step. Its learning rates are replaced by tensors at the first step: a captured graph bakes
            numbers in. No state may be loaded into it after that.
    """

    def __init__(self, step: Step, optimizer: torch.optim.Optimizer):
        self._step, self._optimizer = step, optimizer
        self._taken: Counter[tuple] = Counter()
        self._captured: dict[tuple, _Captured] = {}

    def __call__(self, inputs: dict[str, Tensor], sharpness_aware: bool) -> Tensor:
        """Takes a step; returns its loss."""
        if not self._taken:
            self._put_rates_on_device()
        kind = (sharpness_aware, *(value.shape for value in inputs.values()))
        if kind not in self._captured:
            if self._taken[kind] < NUM_EAGER_STEPS:
                self._taken[kind] += 1
                return self._take_aside(inputs, sharpness_aware)
            self._captured[kind] = self._capture(inputs, sharpness_aware)
        captured = self._captured[kind]
        for name, value in inputs.items():
            captured.inputs[name].copy_(value)
        captured.graph.replay()
        return captured.loss.clone()

    def _put_rates_on_device(self) -> None:
        """Replaces learning rates by tensors. A checkpoint that was loaded has put numbers or CPU tensors there."""
        for group in self._optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=group["params"][0].device)
            if "fused" in group:
                group["fused"] = True  # PyTorch's SGD otherwise asks the GPU for the number

    def _take_aside(self, inputs: dict[str, Tensor], sharpness_aware: bool) -> Tensor:
        """Takes the step on a side stream, as the capture will."""
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            loss = self._step(inputs, sharpness_aware)
        current.wait_stream(stream)
        return loss

    def _capture(self, inputs: dict[str, Tensor], sharpness_aware: bool) -> _Captured:
        graph, kept = torch.cuda.CUDAGraph(), {name: value.clone() for name, value in inputs.items()}
        # thread_local: another thread may pin memory for later batches during the capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            loss = self._step(kept, sharpness_aware)
        return _Captured(graph, kept, loss)
