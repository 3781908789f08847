"""The learning rate against PyTorch's and transformers' schedulers, and the optimiser's groups."""

import copy
import math

import pytest
import torch
from conftest import REPOSITORY
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR
from transformers import get_scheduler

from modeling_slimresnet import SlimResNetForImageClassification
from slimresnet.cli.train import parse_recipe
from slimresnet.recipe.settings import Recipe
from slimresnet.training.optim.muon import MuonWithSGD, orthogonalized
from slimresnet.training.optim.optimizer import build_optimizer, set_learning_rates
from slimresnet.training.optim.schedule import schedule

SCHEDULES = ["constant", "linear", "cosine", "multi_step", "hybrid"]


def rates(steps, **settings):
    recipe = Recipe(**settings)
    return [recipe.learning_rate * schedule(recipe, step, steps) for step in range(steps)]


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


def test_linear():
    expected = reference(lambda optimizer: LinearLR(optimizer, 1.0, 0.0, total_iters=200), 200)
    assert rates(200, lr_scheduler_type="linear") == pytest.approx(expected)


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


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("warmup", "warmup_steps"), [(20, 20), (1, 1), (0.15, 30), (0.101, 21), (199, 199), (0.0, 0)])
def test_after_the_warmup_the_rate_is_that_of_transformers_scheduler(name, warmup, warmup_steps):
    theirs = "constant_with_warmup" if name == "constant" else name
    expected = reference(lambda optimizer: get_scheduler(theirs, optimizer, warmup_steps, 200), 200)
    warmed = rates(200, lr_scheduler_type=name, warmup_steps=warmup)
    assert warmed[warmup_steps:] == pytest.approx(expected[warmup_steps:], rel=1e-9, abs=1e-12)
    assert warmed[warmup_steps] == max(warmed) == 0.1  # the peak is reached


@pytest.mark.parametrize("name", ["multi_step", "hybrid"])
def test_milestones_fall_on_the_same_steps_with_a_warmup_and_without(name):
    settings = {"lr_scheduler_type": name, "lr_milestones": [0.3, 0.8], "lr_gamma": 0.2}
    assert rates(200, warmup_steps=20, **settings)[20:] == rates(200, **settings)[20:]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [20, 0.1])
def test_warmup_rises_in_equal_steps_to_the_peak_and_has_no_step_of_rate_0(name, warmup):
    warmed = rates(200, lr_scheduler_type=name, warmup_steps=warmup, learning_rate=2.1)
    assert warmed[:21] == pytest.approx([0.1 * (step + 1) for step in range(21)])
    assert all(rate > 0 for rate in warmed[:-1])


def test_recipes_tuned_under_a_warmup_that_scaled_the_fall_train_as_they_did():
    """Their rates are nine tenths of what was tuned: behind the warm-up the curve is the same."""
    for name, steps in (("fast", 24 * 195), ("best", 65 * 195), ("best_long", 200 * 195)):
        recipe = parse_recipe([f"--config={REPOSITORY / f'configuration/{name}.yaml'}"])
        tuned = {"fast": (0.2, 0.05, 1.6)}.get(name, (0.2, 0.1, 1.6))
        now = (recipe.learning_rate, recipe.muon_learning_rate, recipe.norm_bias_learning_rate)
        assert now == pytest.approx([0.9 * rate for rate in tuned])
        for step in range(math.ceil(0.1 * steps), steps, 97):
            fallen = 1 - step / steps  # times the tuned rate, as those runs had it
            assert 0.9 * schedule(recipe, step, steps) == pytest.approx(fallen, abs=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
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


@pytest.mark.parametrize("decays", [True, False])
def test_batchnorms_biases_have_a_rate_of_their_own(tiny_config, decays):
    model = SlimResNetForImageClassification(tiny_config)
    recipe = Recipe(optim="muon", norm_bias_learning_rate=3.0, decay_norm_and_bias=decays)
    *others, biases = build_optimizer(model, recipe).param_groups
    assert biases["lr"] == biases["initial_lr"] == 3.0 and biases["weight_decay"] == (5e-4 if decays else 0.0)
    assert {group["lr"] for group in others} == {recipe.muon_learning_rate, recipe.learning_rate}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(names.pop(id(parameter)).endswith("normalization.bias") for parameter in biases["params"])
    assert not any(name.endswith("normalization.bias") for name in names.values())
    assert {id(parameter) for group in others for parameter in group["params"]} == names.keys()


def test_learning_rates_are_a_share_of_their_peaks_in_the_tensors_that_a_graph_reads(tiny_config):
    optimizer = build_optimizer(SlimResNetForImageClassification(tiny_config), Recipe(decay_norm_and_bias=False))
    captured = torch.tensor(0.1)
    optimizer.param_groups[0]["lr"] = captured
    for share in (0.5, 0.2):
        set_learning_rates(optimizer, share)
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert first is captured and [float(first), second] == pytest.approx([0.1 * share] * 2)


def gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


MUON = Recipe(
    optim="muon",
    muon_learning_rate=0.02,
    muon_weight_decay=0.1,
    momentum=0.8,
    nesterov=True,
    decay_norm_and_bias=False,
)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bf16", [True, False])
def test_muon_is_torchs_on_the_kernels_and_sgd_on_the_rest(tiny_config, monkeypatch, layout, bf16):
    """Ours notes its precision; both then iterate in double, since what bf16 comes to depends on the processor."""
    given = set()

    def orthogonalized_in_double(matrices, steps, dtype):
        given.add(dtype)
        return orthogonalized(matrices, steps, torch.float64)

    monkeypatch.setattr("slimresnet.training.optim.optimizer.has_bf16", {"cpu": bf16}.__getitem__)
    monkeypatch.setattr("slimresnet.training.optim.muon.orthogonalized", orthogonalized_in_double)
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.double)
    model = SlimResNetForImageClassification(tiny_config).to(memory_format=layout)
    optimizer = build_optimizer(model, MUON)
    copies = {name: parameter.detach().clone().contiguous() for name, parameter in model.named_parameters()}
    on_matrices = [name for name, value in copies.items() if value.ndim == 4 and "encoder" in name]
    assert len(on_matrices) == 5  # two blocks of two, one shortcut
    reference = {
        name: torch.nn.Parameter(value.clone().flatten(1) if name in on_matrices else value.clone())
        for name, value in copies.items()
    }
    muon = torch.optim.Muon(
        [reference[name] for name in on_matrices], lr=0.02, momentum=0.8, nesterov=True, weight_decay=0.1, ns_steps=4
    )
    others = [name for name in reference if name not in on_matrices]
    sgd = torch.optim.SGD(
        [
            {"params": [reference[name] for name in others if reference[name].ndim > 1]},
            {"params": [reference[name] for name in others if reference[name].ndim <= 1], "weight_decay": 0.0},
        ],
        lr=0.1,
        momentum=0.8,
        nesterov=True,
        weight_decay=5e-4,
    )
    for step, share in enumerate((0.5, 1.0, 0.25)):
        gradients(model, step)
        for name, parameter in model.named_parameters():
            gradient = parameter.grad.contiguous()
            reference[name].grad = gradient.flatten(1) if name in on_matrices else gradient
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share
        for other in (muon, sgd):
            for group in other.param_groups:
                group["lr"] = (0.02 if other is muon else 0.1) * share
            other.step()
        optimizer.step()
    for name, parameter in model.named_parameters():
        tolerance = {"rtol": 0, "atol": 1e-6} if name in on_matrices else {"rtol": 1e-6, "atol": 1e-7}
        torch.testing.assert_close(parameter.detach().flatten(), reference[name].detach().flatten(), **tolerance)
        assert not torch.equal(parameter, copies[name])
    assert given == {torch.bfloat16 if bf16 else torch.float32}


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16)])
def test_newton_schulz_keeps_the_singular_vectors_and_brings_their_values_near_1(shape):
    matrices = torch.randn(2, *shape)
    matrix = matrices[1]
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    exact = orthogonalized(matrices, 8, torch.float64)[1].float()
    between = left.T @ exact @ right.T
    assert torch.allclose(between, torch.diag(between.diagonal()), atol=1e-4)
    assert ((between.diagonal() > 0.6) & (between.diagonal() < 1.3)).all() and values.max() > 2
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        rounded = orthogonalized(matrices, 8, dtype)[1]
        assert rounded.dtype == dtype and rounded.shape == shape
        assert torch.allclose(rounded.float(), exact, atol=tolerance)


def test_muon_goes_on_from_its_state(tiny_config):
    through = SlimResNetForImageClassification(tiny_config)
    optimizer = build_optimizer(through, MUON)
    gradients(through, 0)
    optimizer.step()
    resumed = SlimResNetForImageClassification(tiny_config)
    resumed.load_state_dict(through.state_dict())
    other = build_optimizer(resumed, MUON)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for model, its in ((through, optimizer), (resumed, other)):
        gradients(model, 1)
        for group in its.param_groups:
            group["lr"] = group["initial_lr"] / 2
        its.step()
        its.zero_grad()
        assert all(parameter.grad is None for parameter in model.parameters())
    for (name, one), two in zip(through.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two), name


def test_muon_skips_kernels_without_gradients(tiny_config):
    model = SlimResNetForImageClassification(tiny_config)
    optimizer = build_optimizer(model, MUON)
    assert isinstance(optimizer, MuonWithSGD)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.classifier.bias.grad = torch.ones_like(model.classifier.bias)
    optimizer.step()
    assert [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])] == [
        "classifier.bias"
    ]
