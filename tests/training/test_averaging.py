"""Steps that average gradients themselves against DistributedDataParallel, on two processes with gloo."""

import gc
import weakref

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from training_runs import SECONDS, start_two

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.recipe.launch import leave_group
from slimresnet.recipe.plan import BatchSizes, Plan
from slimresnet.recipe.settings import Recipe
from slimresnet.training import step as step_module
from slimresnet.training.averaging import average_gradients, prepare_network
from slimresnet.training.optim.optimizer import build_optimizer
from slimresnet.training.step import build_train_step

RECIPE = Recipe(optim="muon", nesterov=True, sam_rho=0.1, learning_rate=0.1, momentum=0.9)


def build_model(rank, layout):
    """Of weights and statistics that differ from process to process."""
    torch.manual_seed(rank)
    config = SlimResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        strides=[1, 2],
        problem_type="single_label_classification",
    )
    model = SlimResNetForImageClassification(config).to(memory_format=layout).train()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    return model


def train(accelerator, captured, layout, sharpness_aware):
    """The state dict after a few steps on batches of each process's own, and as what the network was prepared."""
    rank = accelerator.process_index
    model = build_model(rank, layout)
    plan = Plan(
        RECIPE,
        mixed_precision=accelerator.mixed_precision,
        channels_last=layout is torch.channels_last,
        torch_compile=False,
        fused_batchnorm=False,
        cuda_graphs=captured,
        batch=BatchSizes(4, 8),
        eval_batch_size=8,
        steps_per_epoch=5,
        max_steps=5,
        reasons={},
    )
    prepared = prepare_network(plan, accelerator, model)
    optimizer = accelerator.prepare(build_optimizer(model, RECIPE))
    train_step = build_train_step(plan, accelerator, model, prepared, optimizer)
    generator = torch.Generator().manual_seed(10 + rank)
    for _ in range(4):
        labels = torch.randn(4, 10, generator=generator).softmax(dim=1)
        train_step({"pixel_values": torch.randn(4, 3, 16, 16, generator=generator), "labels": labels}, sharpness_aware)
        assert all(parameter.grad is None for parameter in model.parameters())
    broadcast(list(model.buffers()))  # as the loop does before it scores or saves
    return model.state_dict(), type(prepared)


def compare_both():
    """Fails where a weight or a statistic depends on the way, or on the process."""
    step_module.GraphedStep = lambda step, optimizer: step  # the step that a GPU captures, without the capture
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state()
        accelerator = Accelerator(cpu=True, mixed_precision=precision)
        for layout in (torch.contiguous_format, torch.channels_last):
            for sharpness_aware in (False, True):
                expected, wrapped = train(accelerator, False, layout, sharpness_aware)
                state, plain = train(accelerator, True, layout, sharpness_aware)
                assert wrapped is DistributedDataParallel and plain is SlimResNetForImageClassification
                for name, value in state.items():
                    case = precision, layout, sharpness_aware, name
                    assert value.isfinite().all() and torch.equal(value, expected[name]), case
                    both = accelerator.gather(value.contiguous().reshape(1, -1))
                    assert len(both) == 2 and torch.equal(both[0], both[1]), case
    print("the same")
    leave_group()


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_end_in_the_weights_of_distributed_data_parallel(tmp_path):
    """To the bit, in float32 and in bf16, in both layouts, and where a step looks at the weights around."""
    for process, log in start_two([], tmp_path, compare_both):
        process.join(SECONDS)
        assert process.exitcode == 0 and "the same" in log.read_text(), log.read_text()


def test_gradients_become_means_in_their_own_layout(monkeypatch):
    """Frozen weights, those of other layouts, and scalars among them."""
    shapes = [(4, 3, 2, 2), (5, 2, 1, 1), (7,), (), (3, 2)]
    layouts = [torch.channels_last, torch.channels_last, *[torch.contiguous_format] * 3]
    generator = torch.Generator().manual_seed(0)
    kinds = list(zip(shapes, layouts, strict=True))
    values, others = (
        [torch.randn(shape, generator=generator).to(memory_format=layout) for shape, layout in kinds] for _ in range(2)
    )
    parameters = [nn.Parameter(torch.zeros_like(value)) for value in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = value.clone()
    parameters[-1].grad = None
    strides = [parameter.stride() for parameter in parameters]
    sums = []

    def all_reduce(tensor):
        sums.append(len(tensor))
        theirs = [other.as_strided((other.numel(),), (1,)) for other in others[:-1]]
        tensor += torch.cat(theirs) / 2

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    average_gradients(parameters)
    assert sums == [48 + 10 + 7 + 1] and parameters[-1].grad is None
    for parameter, value, other, stride in zip(parameters[:-1], values, others, strides, strict=False):
        torch.testing.assert_close(parameter.grad, (value + other) / 2)
        assert parameter.grad.stride() == stride


def test_a_group_is_left_once_the_graphs_are_gone(monkeypatch):
    """NCCL would wait for ever for a graph that only the collector of cycles frees."""

    class Graph:
        def __init__(self):
            self.me = self

    graph = weakref.ref(Graph())
    left = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: left.append(graph()))
    gc.disable()
    try:
        leave_group()
    finally:
        gc.enable()
    assert left == [None]
