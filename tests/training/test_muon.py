"""Muon with each of its settings against torch's, on kernels that are high, wide and square matrices."""

import copy

import pytest
import torch
from torch import nn

from slimresnet.training.optim.muon import Muon, MuonWithSGD, orthogonalized

SHAPES = [(4, 3, 3, 2), (40, 2, 3, 3), (6, 6, 1, 1), (4, 3, 3, 2), (18, 2, 3, 3)]


def kernels():
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.5}, {"momentum": 0.5}, {"lr": 0.3}, {"ns_steps": 2}])
def test_a_setting_does_what_torchs_does(monkeypatch, nesterov, settings):
    """Both iterate in double precision: what bf16 comes to depends on the processor."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.double)
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1, "ns_steps": 5, "nesterov": nesterov} | settings
    ours, theirs = kernels(), [nn.Parameter(kernel.detach().flatten(1)) for kernel in kernels()]
    muon, reference = Muon(ours, dtype=torch.float64, **settings), torch.optim.Muon(theirs, **settings)
    generator = torch.Generator().manual_seed(4)
    for _ in range(3):
        for kernel, matrix in zip(ours, theirs, strict=True):
            kernel.grad = torch.randn(kernel.shape, generator=generator)
            matrix.grad = kernel.grad.flatten(1).clone()
        muon.step()
        reference.step()
    for kernel, matrix in zip(ours, theirs, strict=True):
        torch.testing.assert_close(kernel.flatten(1), matrix, rtol=0, atol=1e-6)


def test_a_direction_does_not_depend_on_the_size_of_the_gradient():
    matrices = torch.randn(3, 4, 9)
    directions = orthogonalized(matrices, 5, torch.float64)
    for scale in (1e-5, 1e5):
        torch.testing.assert_close(orthogonalized(scale * matrices, 5, torch.float64), directions)
    assert torch.equal(orthogonalized(torch.zeros(2, 4, 9), 5, torch.float32), torch.zeros(2, 4, 9))


def test_the_state_of_both_optimisers_goes_into_another():
    def both(parameters):
        *convolutions, bias = parameters
        muon = Muon(
            convolutions, lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.1, ns_steps=4, dtype=torch.float32
        )
        return MuonWithSGD(muon, torch.optim.SGD([bias], lr=0.1, momentum=0.9))

    def step(optimizer, parameters, seed):
        generator = torch.Generator().manual_seed(seed)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()

    through = [*kernels(), nn.Parameter(torch.ones(3))]
    optimizer = both(through)
    step(optimizer, through, 0)
    resumed = [nn.Parameter(parameter.detach().clone()) for parameter in through]
    other = both(resumed)
    state = copy.deepcopy(optimizer.state_dict())
    assert state.keys() == {"muon", "sgd"}
    other.load_state_dict(state)
    assert [group["lr"] for group in other.param_groups] == [0.02, 0.1]
    for its, parameters in ((optimizer, through), (other, resumed)):
        for group in its.param_groups:  # a rate that is set reaches the optimiser within
            group["lr"] /= 4
        step(its, parameters, 1)
    for one, two in zip(through, resumed, strict=True):
        assert torch.equal(one, two)
