"""What the tests of train.py share: one run in this process, and looking at what it wrote."""

import json
from pathlib import Path

import numpy as np
import torch
from accelerate.state import AcceleratorState
from conftest import SAMPLE
from safetensors.torch import load_file

import train as train_script
from cifar10.augmentation import normalize
from cifar10.randomness import sample_order
from cifar10.reading import open_split
from cifar10.splitting import random_subset
from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from training.recipe import parse_recipe


def train(flags, *more):
    """One run in this process; the last of two equal flags counts."""
    AcceleratorState._reset_state(reset_partial_state=True)
    recipe = parse_recipe([*flags, *map(str, more)])
    train_script.run(recipe)
    return Path(recipe.output_dir)


def by_hand(recipe, config_dir, batch_size):
    """The network that a run of the recipe begins with, and its batches without augmentation: pixel values, labels."""
    torch.manual_seed(recipe.seed)
    model = SlimResNetForImageClassification(SlimResNetConfig.from_pretrained(config_dir)).train()
    split = open_split(str(SAMPLE), "train", image_size=32)
    rows = random_subset(np.arange(2000), recipe.max_train_samples, recipe.seed)
    order = rows[sample_order(recipe.seed, 0, len(rows), recipe.shuffle_buffer_size)]
    batches = [order[start:][:batch_size] for start in range(0, len(order), batch_size)]
    labels = [torch.from_numpy(split.labels[batch]) for batch in batches]
    pixel_values = (normalize(pixels, recipe.image_mean, recipe.image_std) for pixels in split.images.read(batches))
    return model, zip(pixel_values, labels, strict=True)


def weights(folder):
    """The tensors of a folder's `model.safetensors`, by name."""
    return load_file(folder / "model.safetensors")


def assert_same_weights(first, second):
    expected = weights(second)
    assert list(expected) == list(weights(first))
    for name, value in weights(first).items():
        assert torch.equal(value, expected[name]), name


def read(folder, name="all_results.json"):
    return json.loads((folder / name).read_text())


def snapshot(folder):
    """The bytes of every file in a folder."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
