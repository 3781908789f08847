"""Muon with each of its settings against torch's, on kernels that are high, wide and square matrices."""

import copy
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.recipe.settings import Recipe
from slimresnet.training.optim.muon import PADDING_WORTH_A_BATCH, Muon, MuonWithSGD, batches, orthogonalized
from slimresnet.training.optim.optimizer import NEWTON_SCHULZ_STEPS, build_optimizer

SHAPES = [(4, 3, 3, 2), (40, 2, 3, 3), (6, 6, 1, 1), (4, 3, 3, 2), (18, 2, 3, 3), (4, 7, 1, 1), (1, 4, 3, 3)]


@pytest.fixture(params=["cpu", "cuda"])
def padding(request, monkeypatch):
    """Matrices share batches as on a CPU, and as on a GPU, where they are transposed and padded to do so."""
    monkeypatch.setitem(PADDING_WORTH_A_BATCH, "cpu", PADDING_WORTH_A_BATCH[request.param])
    return request.param


def kernels():
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.5}, {"momentum": 0.5}, {"lr": 0.3}, {"ns_steps": 2}])
def test_a_setting_does_what_torchs_does(monkeypatch, padding, nesterov, settings):
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


class Operators(TorchDispatchMode):
    """Counts the calls of each operator of PyTorch."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def set_gradients(parameters):
    generator = torch.Generator().manual_seed(5)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_the_default_network_has_four_batches_where_launches_cost(monkeypatch, padding):
    """Three products an iteration and batch. All else of a step is done for many kernels at once."""
    monkeypatch.setattr("slimresnet.training.optim.optimizer.has_bf16", lambda device_type: False)
    model = SlimResNetForImageClassification(SlimResNetConfig()).to(memory_format=torch.channels_last)
    muon = build_optimizer(model, Recipe(optim="muon", nesterov=True))._parts["muon"]
    set_gradients(model.parameters())
    muon.step()  # which makes the averages
    with Operators() as operators:
        muon.step()
    num_batches = {"cpu": 10, "cuda": 4}[padding]
    assert operators.calls["bmm"] == num_batches * NEWTON_SCHULZ_STEPS
    assert operators.calls["baddbmm"] == num_batches * NEWTON_SCHULZ_STEPS * 2
    assert operators.calls["stack"] == num_batches
    assert operators.calls["_foreach_add_"] == 2  # the shortcuts, which are tall, move at a rate of their own
    assert operators.calls["constant_pad_nd"] == {"cpu": 0, "cuda": 6}[padding]


@pytest.mark.parametrize("widths", [[7, 5, 1], [1, 1, 9], [12, 24, 12]])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_networks_of_any_widths_take_steps_of_orthogonal_directions(widths, layout):
    """Each kernel moves as it would by itself, padded or not, at rates that are numbers or tensors."""

    def moved(worth, rate):
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setitem(PADDING_WORTH_A_BATCH, "cpu", worth)
            torch.manual_seed(0)
            config = SlimResNetConfig(embedding_size=3, hidden_sizes=widths, depths=[1, 2, 1], strides=[1, 2, 1])
            model = SlimResNetForImageClassification(config).to(memory_format=layout)
            kernels = [kernel for kernel in model.slimresnet.encoder.parameters() if kernel.ndim == 4]
            muon = Muon(
                kernels, lr=rate, momentum=0.0, nesterov=False, weight_decay=0.0, ns_steps=5, dtype=torch.float32
            )
            set_gradients(kernels)
            before = [kernel.detach().clone() for kernel in kernels]
            muon.step()
            return kernels, [kernel.detach() - start for kernel, start in zip(kernels, before, strict=True)]

    kernels, alone = moved(worth=0, rate=0.5)
    for kernel, move in zip(kernels, alone, strict=True):
        matrix = kernel.grad.flatten(1)
        step = 0.5 * max(1, matrix.size(0) / matrix.size(1)) ** 0.5
        expected = -step * orthogonalized(matrix[None], 5, torch.float64)[0]
        torch.testing.assert_close(move.flatten(1), expected.float(), rtol=0, atol=1e-5)
    for worth, rate in ((0, torch.tensor(0.5)), (10**9, 0.5), (10**9, torch.tensor(0.5))):
        for move, expected in zip(moved(worth, rate)[1], alone, strict=True):
            torch.testing.assert_close(move, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("decades", [0, 2, 4])
def test_columns_of_zeros_change_no_singular_value(dtype, tolerance, decades):
    """Also where the values lie as far apart as those of a gradient do."""
    generator = torch.Generator().manual_seed(6)
    left, _ = torch.linalg.qr(torch.randn(2, 16, 16, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(2, 40, 16, generator=generator, dtype=torch.float64))
    matrices = (left * torch.logspace(0, -decades, 16, dtype=torch.float64)) @ right.mT
    padded = torch.nn.functional.pad(matrices, (0, 100))

    def values(directions):
        return (left.mT @ directions.double() @ right).diagonal(dim1=1, dim2=2)

    exact = values(orthogonalized(matrices, 4, torch.float64))
    directions = orthogonalized(padded, 4, dtype)
    assert not directions[:, :, 40:].any()
    torch.testing.assert_close(values(directions[:, :, :40]), exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("worth", "expected"),
    [
        # A tall matrix and a wide one of its shape share a batch for nothing.
        (0, [(8, 90), (8, 72), (8, 16), (4, 72), (4, 8)]),
        # Two of 8 columns are padded to 72: 2 matrices × 64 columns × 2 products × 4² × 5 iterations.
        (2 * 64 * 2 * 4**2 * 5 - 1, [(8, 90), (8, 72), (8, 16), (4, 72), (4, 8)]),
        (2 * 64 * 2 * 4**2 * 5, [(8, 90), (8, 72), (8, 16), (4, 72)]),
        # Three of 72 columns are padded to 90.
        (3 * 18 * 2 * 8**2 * 5, [(8, 90), (8, 16), (4, 72)]),
        (10**9, [(8, 90), (4, 72)]),
    ],
)
def test_matrices_share_a_batch_where_padding_costs_less_than_it(worth, expected):
    shapes = [(8, 72), (8, 4), (8, 72), (90, 8), (16, 8), (4, 72), (72, 8), (4, 8), (8, 16)]
    found = batches(shapes, 5, worth)
    assert [(min(shape), max(shape)) for shape, _ in found] == expected
    assert sorted(number for _, members in found for number in members) == list(range(len(shapes)))
    for (rows, columns), members in found:
        own = {shapes[member] for member in members}
        assert own == {(rows, columns)} or rows == min(rows, columns)  # what is of one shape is not transposed
        assert all(min(shape) == min(rows, columns) and max(shape) <= max(rows, columns) for shape in own)
