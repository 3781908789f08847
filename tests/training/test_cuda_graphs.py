"""Where steps are launched as graphs. No test has a GPU: graphs are stood in for by what they are defined to do."""

import copy
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from modeling_slimresnet import SlimResNetForImageClassification
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.hardware import choose_cuda_graphs
from slimresnet.recipe.settings import Recipe
from slimresnet.training.cuda_graphs import NUM_EAGER_STEPS, GraphedStep
from slimresnet.training.optim.optimizer import build_optimizer, set_learning_rates
from slimresnet.training.optim.sam import worst_weights

# Rates at which rounding, which differs in the fused optimiser that a graph takes, does not grow.
RECIPE = Recipe(optim="muon", nesterov=True, learning_rate=0.01, norm_bias_learning_rate=0.02, muon_learning_rate=0.005)


class Training:
    """A network, its optimiser, and the step of the loop."""

    def __init__(self, config):
        torch.manual_seed(0)
        self.model = SlimResNetForImageClassification(config).train()
        self.optimizer = build_optimizer(self.model, RECIPE)
        self.last = None  # what the last step read, and the loss it gave
        self.captures = 0

    def step(self, inputs, sharpness_aware):
        loss = self.model(**inputs).loss
        if sharpness_aware:
            with worst_weights(self.model, loss, 0.1):
                self.model(**inputs).loss.backward()
        else:
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.last = inputs, sharpness_aware, loss.detach()
        return self.last[-1]


@pytest.fixture
def training(tiny_config, monkeypatch):
    """On a CPU, where capturing a step undoes it, and replaying it takes it again on what its inputs hold by then."""
    monkeypatch.setattr("slimresnet.training.optim.optimizer.has_bf16", lambda device_type: False)
    tiny_config.hidden_act = "gelu"  # at the kink of a ReLU rounding would decide over a gradient
    training = Training(tiny_config)

    class Graph:
        def replay(self):
            self.loss.copy_(training.step(self.inputs, self.sharpness_aware))

    @contextmanager
    def capture(graph, capture_error_mode):
        tensors = [*training.model.state_dict().values()]
        tensors += [value for part in training.optimizer.state_dict().values() for value in _tensors(part["state"])]
        before = [tensor.clone() for tensor in tensors]
        training.captures += 1
        yield
        graph.inputs, graph.sharpness_aware, graph.loss = training.last
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "Stream", MagicMock)
    monkeypatch.setattr(torch.cuda, "current_stream", MagicMock())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return training


def _tensors(state):
    return [value for values in state.values() for value in values.values() if isinstance(value, torch.Tensor)]


def batches(count):
    """In two sizes that take turns, then sharpness-aware; every one has other pixels and other labels."""
    generator = torch.Generator().manual_seed(1)
    for number in range(count):
        size = 8 if number % 2 else 16
        pixel_values = torch.randn(4, 3, size, size, generator=generator)
        labels = torch.randn(4, 10, generator=generator).mul(5).softmax(dim=1)
        yield {"pixel_values": pixel_values, "labels": labels}, number >= count // 2


def test_replayed_steps_are_the_steps(training, tiny_config):
    plain, graphed = Training(tiny_config), GraphedStep(training.step, training.optimizer)
    count = 8 * NUM_EAGER_STEPS
    for number, (inputs, sharpness_aware) in enumerate(batches(count)):
        for optimizer in (plain.optimizer, training.optimizer):
            set_learning_rates(optimizer, 1 - number / count)  # a graph has to read the rate of each step anew
        expected = plain.step(inputs, sharpness_aware)
        torch.testing.assert_close(graphed(inputs, sharpness_aware), expected, rtol=1e-4, atol=1e-5)
    for (name, value), other in zip(plain.model.named_parameters(), training.model.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("changed", ["pixel_values", "labels"])
def test_a_replay_reads_every_input_of_its_own_call(training, changed):
    """Two batches that differ in one input alone, without learning, which would change the loss too."""
    training.optimizer.step = lambda: None
    graphed = GraphedStep(training.step, training.optimizer)
    (batch, _), _, (other, _) = batches(3)
    other = batch | {changed: other[changed]}
    plain, there = (training.step(inputs, False).clone() for inputs in (batch, other))
    assert (plain - there).abs() > 1e-2
    losses = [graphed(inputs, False) for inputs in [batch, other] * NUM_EAGER_STEPS]
    torch.testing.assert_close(torch.stack(losses), torch.stack([plain, there] * NUM_EAGER_STEPS))


def test_each_kind_is_captured_once_and_its_losses_outlive_it(training):
    graphed = GraphedStep(training.step, training.optimizer)
    calls = list(batches(16 * NUM_EAGER_STEPS))
    losses = [graphed(*call) for call in calls]
    assert training.captures == 4
    assert len({loss.data_ptr() for loss in losses}) == len(losses)


def test_callers_keep_their_inputs(training):
    """A graph reads tensors of its own: those of the call that was captured may be anybody's afterwards."""
    graphed = GraphedStep(training.step, training.optimizer)
    calls = list(batches(4 * NUM_EAGER_STEPS))
    before = [{name: value.clone() for name, value in inputs.items()} for inputs, _ in calls]
    for inputs, sharpness_aware in calls:
        graphed(inputs, sharpness_aware)
    for (inputs, _), expected in zip(calls, before, strict=True):
        assert all(torch.equal(value, expected[name]) for name, value in inputs.items())


def test_a_kind_is_captured_once_it_has_run_so_often(training):
    graphed = GraphedStep(training.step, training.optimizer)
    (inputs, _), *_ = batches(2)
    for number in range(1, NUM_EAGER_STEPS + 3):
        graphed(inputs, False)
        assert training.captures == (number > NUM_EAGER_STEPS)


def take_first_step(training, state=None):
    graphed = GraphedStep(training.step, training.optimizer)
    if state is not None:
        training.optimizer.load_state_dict(state)
    (inputs, _), *_ = batches(2)
    graphed(inputs, False)


def test_the_optimiser_asks_a_gpu_for_no_number(training):
    """PyTorch's SGD would, where it is not fused; Muon has no such choice."""
    take_first_step(training)
    fused = [group["fused"] for group in training.optimizer.param_groups if "fused" in group]
    assert fused and all(fused)


@pytest.mark.parametrize("resumed", [False, True])
def test_rates_stay_the_tensors_that_a_graph_reads(training, resumed):
    """Also where a checkpoint was loaded, whose rates may be numbers: a graph would keep the first of them for good."""
    state = copy.deepcopy(training.optimizer.state_dict()) if resumed else None
    take_first_step(training, state)
    groups = training.optimizer.param_groups
    rates = [group["lr"] for group in groups]
    set_learning_rates(training.optimizer, 0.25)
    for group, rate in zip(groups, rates, strict=True):
        assert group["lr"] is rate and rate.item() == pytest.approx(group["initial_lr"] / 4)


@pytest.mark.parametrize(
    ("settings", "device", "processes", "obstacle"),
    [
        ({}, "cuda", 1, None),
        ({}, "cpu", 1, "CPU"),
        ({"gradient_accumulation_steps": 2}, "cuda", 2, "accumulates"),
        ({"torch_compile": True, "sync_batchnorm": True}, "cuda", 1, None),
        ({"torch_compile": True, "sync_batchnorm": True}, "cuda", 2, "sync_batchnorm is compiled"),
        ({"gradient_accumulation_steps": 2}, "cuda", 1, "accumulates"),
        ({"mixed_precision": "fp16"}, "cuda", 1, "fp16"),
        ({"torch_compile": True}, "cuda", 1, None),
        ({"torch_compile": True, "torch_compile_mode": "max-autotune-no-cudagraphs"}, "cuda", 1, None),
        ({"torch_compile": True, "torch_compile_mode": "reduce-overhead"}, "cuda", 1, "reduce-overhead captures"),
        ({"torch_compile": True, "torch_compile_mode": "max-autotune"}, "cuda", 1, "max-autotune captures"),
    ],
)
def test_graphs_choose_themselves(settings, device, processes, obstacle):
    choice = choose(device, processes, **settings)
    assert choice.value is (obstacle is None) and (obstacle or "one GPU") in choice.reason
    assert choose(device, processes, **settings, cuda_graphs=False) == (False, "as asked")
    if obstacle:
        with pytest.raises(RecipeError, match=f"--cuda_graphs true is not possible: .*{obstacle}"):
            choose(device, processes, **settings, cuda_graphs=True)
    else:
        assert choose(device, processes, **settings, cuda_graphs=True).value is True


def choose(device, processes, **settings):
    recipe = Recipe(**settings)
    accelerator = SimpleNamespace(device=torch.device(device), num_processes=processes)
    precision = settings.get("mixed_precision", "no")
    return choose_cuda_graphs(recipe, accelerator, mixed_precision=precision, is_compiled=recipe.torch_compile is True)


@pytest.mark.parametrize("settings", [{}, {"torch_compile": True}, {"sync_batchnorm": True}])
def test_graphs_of_several_gpus_are_taken_where_they_are_asked_for(settings):
    assert choose("cuda", 2, **settings) == (False, "not tried on several GPUs")
    assert choose("cuda", 2, **settings, cuda_graphs=True) == (True, "as asked")
