"""Clocks for what a device does: a GPU works off a queue, so that the time of launching says nothing."""

import time
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """
    Marks points in a device's work.

    Attributes:
        has_queue: whether work goes on behind the processor's back: then a mark lies ahead until it is waited for.
    """

    has_queue: bool

    def mark(self) -> Any:
        """A mark behind all that the device was given so far."""

    def wait_for(self, mark: Any) -> None:
        """Waits until the device has come to a mark."""

    def seconds(self, start: Any, end: Any) -> float:
        """The time between two marks that the device has come to."""


class ProcessorClock:
    """The clock of a CPU, where what returns is done: marks are readings of `time.perf_counter`."""

    has_queue = False

    def mark(self) -> float:
        return time.perf_counter()

    def wait_for(self, mark: float) -> None:
        """Nothing to wait for."""

    def seconds(self, start: float, end: float) -> float:
        return end - start


class CudaClock:
    """
    The clock of a GPU: marks are events in the current stream.

    A mark has the time at which the GPU has done all that was launched before; the time of launching, if it had done so
    by then.
    """

    has_queue = True

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait_for(self, mark: torch.cuda.Event) -> None:
        mark.synchronize()

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return start.elapsed_time(end) / 1000


def clock_of(device: torch.device) -> Clock:
    """The clock of a device's work."""
    return CudaClock() if device.type == "cuda" else ProcessorClock()
