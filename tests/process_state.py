"""What a function that is called from Python has to leave as it was in the process that calls it."""

import logging
import os
import random
import sys
import warnings
from contextlib import contextmanager

import numpy as np
import torch


def process_state() -> dict:
    """Threads, environment, working folder, random states, precision, logging and warnings, by name."""
    return {
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "arguments": list(sys.argv),
        "streams": (sys.stdout, sys.stderr),
        "random": random.getstate(),
        "numpy": [str(each) for each in np.random.get_state(legacy=True)],
        "torch": torch.get_rng_state().tolist(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "dtype": torch.get_default_dtype(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "logging": {name: logging.getLogger(name).level for name in (None, "torch.onnx", "transformers")},
        "warnings": list(warnings.filters),
    }


@contextmanager
def unchanged():
    """Fails where what it runs leaves the process other than it was."""
    before = process_state()
    yield
    after = process_state()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, {name: (before[name], after[name]) for name in changed}
