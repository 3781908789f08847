"""What is done with a batch: forward, backward, and the step of the optimiser."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from slimresnet.recipe.plan import Plan
from slimresnet.training.averaging import average_gradients, step_averages
from slimresnet.training.cuda_graphs import GraphedStep, Step
from slimresnet.training.objective import Objective, of_labels
from slimresnet.training.optim.sam import worst_weights


def build_train_step(
    plan: Plan,
    accelerator: Accelerator,
    model: nn.Module,
    prepared: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective = of_labels,
) -> Step:
    """
    The training step: compiled, and launched as a CUDA graph, where the plan says so.

    Args:
        model: the plain network, whose weights are trained. Its layers are fused where the plan says so.
        prepared: the same network, as `accelerator` or `prepare_network` prepared it.
        optimizer: of its weights, prepared too.
        objective: what the step minimises.
    """
    if plan.fused_batchnorm:
        from slimresnet.training.fused.layers import fuse_layers  # needs Triton

        fuse_layers(model)
    # Compiled on the side: evaluation stays eager, and the names of the state dict have no `_orig_mod.`. Each size of
    # images is compiled by itself: code for any size is slower.
    stepped: Any = prepared
    if plan.torch_compile:
        stepped = torch.compile(prepared, mode=plan.recipe.torch_compile_mode, dynamic=False)
    averages = step_averages(plan, accelerator)

    def train_step(inputs: dict[str, Tensor], sharpness_aware: bool) -> Tensor:
        """Forward, backward, and the optimiser where its batches are complete; returns the loss, a scalar."""
        with accelerator.accumulate(stepped):
            loss_of = objective(inputs)
            if sharpness_aware:
                # On each process's own share of the batch, as Foret et al. do (section 4.1).
                with accelerator.no_sync(stepped):
                    loss = loss_of(stepped)
                scaled = accelerator.scaler.scale(loss) if accelerator.scaler else loss
                with worst_weights(model, scaled, plan.recipe.sam_rho):
                    accelerator.backward(loss_of(stepped))
            else:
                loss = loss_of(stepped)
                accelerator.backward(loss)
            if averages:
                average_gradients(model.parameters())
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach().clone()  # torch.compile's own CUDA graphs write the next one into the same place

    return GraphedStep(train_step, optimizer) if plan.cuda_graphs else train_step
