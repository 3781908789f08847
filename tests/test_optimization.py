"""The learning rate against PyTorch's schedulers, and the optimiser's groups."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

from modeling_slimresnet import SlimResNetForImageClassification
from training.optimization import build_optimizer, learning_rate
from training.recipe import Recipe


def rates(steps, **settings):
    recipe = Recipe(**settings)
    return [learning_rate(recipe, step, steps) for step in range(steps)]


def reference(make_scheduler, steps, rate=0.1):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    scheduler = make_scheduler(optimizer)
    values = []
    for _ in range(steps):
        values.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return values


def test_cosine():
    expected = reference(lambda optimizer: CosineAnnealingLR(optimizer, T_max=200), 200)
    assert rates(200, lr_scheduler_type="cosine") == pytest.approx(expected)


def test_multi_step():
    expected = reference(lambda optimizer: MultiStepLR(optimizer, [100, 150], gamma=0.1), 200)
    assert rates(200, lr_scheduler_type="multi_step") == pytest.approx(expected)
    other = reference(lambda optimizer: MultiStepLR(optimizer, [60, 120, 160], gamma=0.2), 200)
    settings = {"lr_milestones": [0.3, 0.6, 0.8], "lr_gamma": 0.2}
    assert rates(200, lr_scheduler_type="multi_step", **settings) == pytest.approx(other)


def test_hybrid_is_the_notebooks_two_phases():
    first = reference(lambda optimizer: MultiStepLR(optimizer, [50, 75], gamma=0.1), 100)
    second = reference(lambda optimizer: CosineAnnealingLR(optimizer, T_max=100), 100, rate=0.01)
    assert rates(200, lr_scheduler_type="hybrid") == pytest.approx(first + second)


def test_constant():
    assert rates(10, lr_scheduler_type="constant", learning_rate=0.3) == [0.3] * 10


@pytest.mark.parametrize("schedule", ["constant", "cosine", "multi_step", "hybrid"])
@pytest.mark.parametrize("warmup", [20, 0.1])
def test_warmup_is_linear_and_leaves_the_rest(schedule, warmup):
    plain = rates(200, lr_scheduler_type=schedule)
    warmed = rates(200, lr_scheduler_type=schedule, warmup_steps=warmup)
    assert warmed[20:] == plain[20:]
    factors = [warm / full for warm, full in zip(warmed[:20], plain[:20], strict=True)]
    assert factors == pytest.approx([(step + 1) / 21 for step in range(20)])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "multi_step", "hybrid"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_runs(schedule, steps):
    assert all(0 < rate <= 0.1 and math.isfinite(rate) for rate in rates(steps, lr_scheduler_type=schedule))


def test_optimizer_settings(tiny_config):
    model = SlimResNetForImageClassification(tiny_config)
    optimizer = build_optimizer(model, Recipe(learning_rate=0.2, momentum=0.8, nesterov=True, weight_decay=0.01))
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.2, 0.8, True, 0.01)
    assert len(group["params"]) == len(list(model.parameters()))


def test_no_decay_on_norms_and_biases(tiny_config):
    model = SlimResNetForImageClassification(tiny_config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = build_optimizer(model, Recipe(decay_norm_and_bias=False)).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (5e-4, 0.0)
    for parameter in decayed["params"]:
        assert "convolution" in names[id(parameter)] or names[id(parameter)] == "classifier.weight"
    for parameter in spared["params"]:
        assert "normalization" in names[id(parameter)] or names[id(parameter)] == "classifier.bias"
    assert len(decayed["params"]) + len(spared["params"]) == len(names)
