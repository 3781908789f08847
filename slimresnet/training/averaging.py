"""
Steps of several processes that a CUDA graph can capture: the step itself averages the gradients over the processes.

DistributedDataParallel averages in hooks of the backward pass, which rebuild their buckets in the first steps and are
not for capturing. One sum over all gradients after the backward pass is: NCCL's sums can be captured, and the eager
steps before a capture set its communicator up.
"""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from slimresnet.recipe.plan import Plan


def step_averages(plan: Plan, accelerator: Accelerator) -> bool:
    """Whether the step averages the gradients, which DistributedDataParallel does otherwise."""
    return plan.cuda_graphs and accelerator.num_processes > 1


def prepare_network(plan: Plan, accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """
    The network for `build_train_step`: with autocast, and in DistributedDataParallel unless the step averages.

    All processes begin with the weights and the buffers of the first one, with DistributedDataParallel and without.
    DistributedDataParallel also broadcasts the first one's BatchNorm statistics before each step. No training step
    reads them, and the loop broadcasts them before it scores or saves, so that what is saved is the same.

    SyncBatchNorm needs no DistributedDataParallel: it gathers statistics over all processes in its own forward and
    backward pass. While a stream is captured it leaves out the one thing that would wait for the GPU, the search for
    processes with empty batches (`torch.nn.modules._functions.SyncBatchNorm`); here no batch is empty.

    Args:
        model: on its device; all processes call with the same shapes and layouts.
    """
    averages = step_averages(plan, accelerator)
    if averages:
        broadcast([_memory(value.detach()) for value in (*model.parameters(), *model.buffers())])
    return accelerator.prepare_model(model, evaluation_mode=averages)  # autocast without the wrapper


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """
    Replaces gradients by their mean over all processes.

    All processes call it with the same parameters, of one dtype, of which the same ones have gradients. These become
    parts of one tensor, which is what is summed.
    """
    trained = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
    gradients = torch.cat([_memory(gradient) for _, gradient in trained])
    gradients /= torch.distributed.get_world_size()  # gloo has sums, and no means
    torch.distributed.all_reduce(gradients)
    parts = gradients.split([gradient.numel() for _, gradient in trained])
    for (parameter, gradient), part in zip(trained, parts, strict=True):
        parameter.grad = part.as_strided(gradient.size(), gradient.stride())


def _memory(tensor: Tensor) -> Tensor:
    """The memory of a weight, a buffer or a gradient as a vector. None has gaps in it, in any layout."""
    return tensor.as_strided((tensor.numel(),), (1,))
