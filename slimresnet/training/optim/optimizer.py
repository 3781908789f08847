"""The optimiser that a recipe asks for."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from modeling_slimresnet import SlimResNetForImageClassification
from slimresnet.recipe.hardware import has_bf16
from slimresnet.recipe.settings import Recipe
from slimresnet.training.optim.muon import Muon, MuonWithSGD

# Enough to orthogonalise: Jordan's own runs on CIFAR-10 take 3, torch.optim.Muon 5 by default.
NEWTON_SCHULZ_STEPS = 4


def build_optimizer(model: SlimResNetForImageClassification, recipe: Recipe) -> torch.optim.Optimizer:
    """
    SGD, or Muon for the convolutions of the encoder and SGD for stem, BatchNorm and head, as `optim` says.

    Where the recipe says so, BatchNorm's parameters and biases have no weight decay, BatchNorm's biases a learning rate
    of their own, and stem and stages a share of all rates. Frozen parameters are left out. Each group keeps its peak
    learning rate as `initial_lr`.
    """
    kernels: list[nn.Parameter] = []
    if recipe.optim == "muon":
        kernels = [each for each in model.slimresnet.encoder.parameters() if each.ndim == 4 and each.requires_grad]
    sgd = torch.optim.SGD(
        _groups_of_sgd(model, recipe, {*kernels}),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    optimizer: torch.optim.Optimizer = sgd
    if kernels:
        muon = Muon(
            kernels,
            lr=recipe.muon_learning_rate * recipe.trunk_learning_rate_factor,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.muon_weight_decay,
            ns_steps=NEWTON_SCHULZ_STEPS,
            dtype=torch.bfloat16 if has_bf16(kernels[0].device.type) else torch.float32,
        )
        optimizer = MuonWithSGD(muon, sgd)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _groups_of_sgd(
    model: SlimResNetForImageClassification, recipe: Recipe, of_muon: set[nn.Parameter]
) -> list[dict[str, Any]]:
    """The groups of SGD, each with what differs from the defaults: of the head last where its rate is its own."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter not in of_muon]
    norm_biases: set[nn.Parameter] = set()
    if recipe.norm_bias_learning_rate is not None:
        norm_biases = {module.bias for module in model.modules() if isinstance(module, _BatchNorm)}
    others = [parameter for parameter in trained if parameter not in norm_biases]
    groups: list[dict[str, Any]] = [{"params": others}]
    if not recipe.decay_norm_and_bias:
        groups = [
            {"params": [parameter for parameter in others if parameter.ndim > 1]},
            {"params": [parameter for parameter in others if parameter.ndim <= 1], "weight_decay": 0.0},
        ]
    if biases := [parameter for parameter in trained if parameter in norm_biases]:
        decay = recipe.weight_decay if recipe.decay_norm_and_bias else 0.0
        groups.append({"params": biases, "lr": recipe.norm_bias_learning_rate, "weight_decay": decay})
    factor = recipe.trunk_learning_rate_factor
    if factor == 1:
        return groups
    head = {*model.classifier.parameters()}
    of_trunk = [
        {**group, "params": [each for each in group["params"] if each not in head]}
        | {"lr": group.get("lr", recipe.learning_rate) * factor}
        for group in groups
    ]
    of_head = [{**group, "params": [each for each in group["params"] if each in head]} for group in groups]
    return [group for group in (*of_trunk, *of_head) if group["params"]]


def set_learning_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Sets each group's rate to `share` of its peak. Tensors are filled in place: a CUDA graph may read them."""
    for group in optimizer.param_groups:
        rate = group["initial_lr"] * share
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
