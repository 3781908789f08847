"""How much a run computes, against a sum over its steps and over the layers of its network."""

import functools

import pytest
import torch
from torch import nn

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.evaluation.flops import multiply_adds
from slimresnet.recipe.settings import Recipe
from slimresnet.training.flops import total_flos
from slimresnet.training.state.progress import Progress

CONFIG = SlimResNetConfig(
    embedding_size=6, hidden_sizes=[8, 10], depths=[1, 2], strides=[1, 2], image_size=16, num_labels=7, num_channels=4
)


@functools.cache
def counted(size):
    """Multiply-adds of convolutions and linear layers, from what a forward pass of one image puts out."""
    total = 0

    def add(layer, _, output):
        nonlocal total
        total += output[0].numel() * layer.weight[0].numel()

    model = SlimResNetForImageClassification(CONFIG).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(add)
    model(torch.zeros(1, 4, size, size))
    return total


def test_multiply_adds_are_counted_once_for_each_network_and_size(monkeypatch):
    def alike():
        return SlimResNetConfig(**{**CONFIG.to_dict(), "depths": [2, 1]})

    first = [multiply_adds(alike(), size) for size in (16, 8)]
    assert first[0] > first[1] and first[0] != multiply_adds(CONFIG, 16) == counted(16)
    with monkeypatch.context() as patched:
        patched.setattr("slimresnet.evaluation.flops.FlopCounterMode", None)
        assert [multiply_adds(alike(), size) for size in (16, 8)] == first
    more = SlimResNetConfig(**{**CONFIG.to_dict(), "depths": [2, 1], "id2label": dict.fromkeys(range(9), "x")})
    assert multiply_adds(more, 16) == first[0] + 2 * 10  # two more classes of ten features


def test_a_checkpoints_progress_does_not_bring_its_own_length():
    progress = Progress(steps_per_epoch=3, max_steps=12)
    progress.load_state_dict(Progress(steps_per_epoch=5, max_steps=20).state_dict() | {"global_step": 7})
    assert (progress.steps_per_epoch, progress.max_steps, progress.global_step) == (3, 12, 7)


@pytest.mark.parametrize("size", [8, 13, 16])
def test_multiply_adds_of_an_image(size):
    assert multiply_adds(CONFIG, size) == counted(size)


@pytest.mark.parametrize(("rho", "final_epochs"), [(0.0, None), (0.1, None), (0.1, 2)])
@pytest.mark.parametrize("max_steps", [12, 10, 9, 1])
def test_operations_of_a_run(rho, final_epochs, max_steps):
    """Four epochs of three steps, the last cut short, the first half at 8 pixels."""
    recipe = Recipe(progressive_resizing=["8:0.5"], sam_rho=rho, num_final_sam_epochs=final_epochs)
    num_epochs, expected = -(-max_steps // 3), 0
    for step in range(max_steps):
        epoch = step // 3
        size = 8 if epoch < num_epochs / 2 else 16
        is_twice = rho and (final_epochs is None or epoch >= num_epochs - final_epochs)
        expected += 20 * counted(size) * 3 * 2 * (2 if is_twice else 1)
    progress = Progress(steps_per_epoch=3, max_steps=max_steps)
    progress.global_step = max_steps
    total = total_flos(recipe, CONFIG, progress, 20)
    assert total == expected and isinstance(total, int)  # JSON would have 1.2e16 for a float
