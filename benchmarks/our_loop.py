"""The batches of this project's training loop, from memory or from a stream, as the other contender."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from modeling_slimresnet import SlimResNetConfig
from slimresnet.data.feed import training_inputs
from slimresnet.data.inputs import TrainingInputs
from slimresnet.data.loader import Loading, TrainingLoader
from slimresnet.data.sources.source import ImageSplit
from slimresnet.recipe.settings import Recipe

NUM_EPOCHS = 10**6  # all of them with all of the augmentation


def batches(split: ImageSplit, settings: dict, batch_size: int) -> Iterator[dict[str, Tensor]]:
    """The model's inputs, epoch after epoch, more than anybody asks for; `settings` are those of a recipe."""
    make_inputs = TrainingInputs(Recipe(**settings), SlimResNetConfig(), NUM_EPOCHS)
    loader = TrainingLoader(
        split,
        np.arange(len(split.labels)),
        Loading(torch.device("cpu")),
        seed=0,
        batch_size=batch_size,
        accumulation=1,
        shuffle_buffer_size=50000,
    )
    yield from training_inputs(loader, make_inputs, 0, NUM_EPOCHS * loader.steps_per_epoch)
