"""The batches of this project's training loop, from memory or from a stream, as the other contender."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from modeling_slimresnet import SlimResNetConfig
from slimresnet.data.inputs import TrainingInputs
from slimresnet.data.loader import Loading, TrainingLoader
from slimresnet.data.sources.source import ImageSplit
from slimresnet.recipe.settings import Recipe


def batches(split: ImageSplit, settings: dict, batch_size: int) -> Iterator[dict[str, Tensor]]:
    """The model's inputs, epoch after epoch without end; `settings` are those of a recipe."""
    make_inputs = TrainingInputs(Recipe(**settings), SlimResNetConfig(), num_epochs=1)
    loader = TrainingLoader(
        split,
        np.arange(len(split.labels)),
        Loading(torch.device("cpu")),
        seed=0,
        batch_size=batch_size,
        accumulation=1,
        shuffle_buffer_size=50000,
    )
    epoch = 0
    while True:
        yield from make_inputs.of(loader.epoch(epoch))
        epoch += 1
