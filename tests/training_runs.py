"""What the tests of train.py share: one run in this process, and looking at what it wrote."""

import json
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import train as train_script
from training.recipe import parse_recipe


def train(flags, *more):
    """One run in this process; the last of two equal flags counts."""
    AcceleratorState._reset_state(reset_partial_state=True)
    recipe = parse_recipe([*flags, *map(str, more)])
    train_script.run(recipe)
    return Path(recipe.output_dir)


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
