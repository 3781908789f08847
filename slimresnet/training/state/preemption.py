"""A request to stop, as a preempted machine or Ctrl-C makes it: finish the step, write a checkpoint, then exit."""

import os
import signal
import threading
from contextlib import suppress

from accelerate import Accelerator

from slimresnet.data.loader import STOP_SIGNALS
from slimresnet.errors import InterruptedRun


class StopRequest:
    """
    While it is entered, the first SIGTERM or SIGINT is only noted; the second one ends the process at once.

    Args:
        accelerator: whose processes stop together, whichever of them got the signal.
    """

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator
        self._signal: signal.Signals | None = None

    def __enter__(self) -> "StopRequest":
        # Python has handlers for the main thread alone; elsewhere, as in some notebooks, nothing can ask.
        numbers = STOP_SIGNALS if threading.current_thread() is threading.main_thread() else ()
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _) -> None:
        if self._signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._signal = signal.Signals(number)
        if self._accelerator.is_main_process:
            # Not print: the signal may have come within one. Nor may a terminal that is gone end the run here.
            with suppress(OSError):
                os.write(
                    2, f"{self._signal.name}: finishing this step, then a checkpoint; once more stops now\n".encode()
                )

    def is_made(self, waits_for_device: bool) -> bool:
        """
        Whether to stop here: the same answer on all processes, which have to ask together.

        Args:
            waits_for_device: whether the caller has just synchronised with the device. Agreeing synchronises the
                processes, so that on GPUs the answer is False unless the caller has done so anyway.
        """
        if self._accelerator.num_processes == 1:
            return self._signal is not None
        if self._accelerator.device.type != "cpu" and not waits_for_device:
            return False
        if self._signal is not None:
            self._accelerator.set_trigger()
        return self._accelerator.check_trigger()

    def stop(self, checkpoint_step: int) -> InterruptedRun:
        """The exception to raise once the checkpoint is written."""
        received = self._signal or signal.SIGTERM  # another process got it
        return InterruptedRun(
            f"stopped by {received.name} behind checkpoint {checkpoint_step}: the same command with "
            "--resume_from_checkpoint last goes on.",
            128 + received,
        )
