"""A stand-in for the streams, the events and the time of a GPU, on a CPU, by what CUDA defines them to do."""

from contextlib import contextmanager

import torch

from slimresnet.data.inputs import TrainingInputs
from slimresnet.data.loader import TrainingLoader

LAUNCH = 1e-6  # seconds that each call to the GPU takes the host


class StandInGpu:
    """
    Inputs that are made on another stream than the main one are NaN until an event behind them is waited for.

    Attributes:
        host: seconds on the host's clock.
        main: the stream that is current where none is entered.
        log: what was done, in order, such as `("main", "waits", 3)` for the third event.
    """

    def __init__(self):
        self.host, self.log, self.num_events = 0.0, [], 0
        self.main = self.current = Stream(self, "main")

    def install(self, monkeypatch):
        """Loaders then say that their batches are on a GPU, whose calls come here."""
        together = TrainingInputs.together

        def make(inputs, group):
            self.log.append((self.current.name, "makes", [batch.draws.epoch for batch in group]))
            made = together(inputs, group)
            later = [{name: torch.full_like(value, torch.nan) for name, value in values.items()} for values in made]
            self.current.undone.append((made, later))
            return later

        @contextmanager
        def enter(stream):
            before, self.current = self.current, stream
            try:
                yield
            finally:
                self.current = before

        monkeypatch.setattr(TrainingInputs, "together", make)
        monkeypatch.setattr(TrainingLoader, "device", torch.device("cuda"))
        monkeypatch.setattr(torch.cuda, "Stream", lambda device=None: Stream(self, "side"))
        monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing=False: Event(self, enable_timing))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: self.current)
        monkeypatch.setattr(torch.cuda, "stream", enter)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: stream.used.append(tensor.data_ptr()))
        return self

    def launch(self, seconds):
        """Work of so many seconds on the current stream."""
        self.host += LAUNCH
        self.current.end = max(self.current.end, self.host) + seconds


class Stream:
    """
    Attributes:
        end: when the stream will have done what it was given.
        undone: pairs of inputs and of the places that they will be written to.
        used: addresses of tensors that the allocator was told of by `record_stream`.
    """

    def __init__(self, gpu, name):
        self.gpu, self.name, self.end, self.undone, self.used = gpu, name, 0.0, [], []

    def record_event(self):
        event = torch.cuda.Event()
        event.record(self)
        return event

    def wait_event(self, event):
        self.gpu.log.append((self.name, "waits", event.number))
        self.end = max(self.end, event.time)
        event.write()

    def wait_stream(self, stream):
        self.wait_event(stream.record_event())


class Event:
    def __init__(self, gpu, enable_timing):
        gpu.num_events += 1
        self.gpu, self.number, self.is_timed, self.time, self.undone = gpu, gpu.num_events, enable_timing, None, []

    def record(self, stream=None):
        stream = stream or self.gpu.current
        self.gpu.host += LAUNCH
        self.time, self.undone = max(self.gpu.host, stream.end), [*stream.undone]
        self.gpu.log.append((stream.name, "records", self.number))

    def write(self):
        for made, places in self.undone:
            for values, others in zip(made, places, strict=True):
                for name, value in values.items():
                    others[name].copy_(value)

    def synchronize(self):
        self.gpu.log.append(("host", "waits", self.number))
        self.gpu.host = max(self.gpu.host, self.time)

    def elapsed_time(self, end):
        """In milliseconds; an error, as with CUDA, where an event has no time or lies ahead."""
        assert self.is_timed and end.is_timed and max(self.time, end.time) <= self.gpu.host
        return 1000 * (end.time - self.time)
