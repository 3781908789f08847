"""What is done with a batch: forward, backward, and the step of the optimiser."""

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from slimresnet.recipe.settings import Recipe
from slimresnet.training.cuda_graphs import GraphedStep, Step
from slimresnet.training.optim.sam import worst_weights


def build_step(
    recipe: Recipe, accelerator: Accelerator, model: nn.Module, prepared: nn.Module, optimizer: torch.optim.Optimizer
) -> Step:
    """
    The step of a recipe: compiled, and launched as a CUDA graph, where the recipe says so.

    Args:
        model: the plain network, whose weights are trained.
        prepared: the same network, as `accelerator` prepared it.
        optimizer: of its weights, prepared too.
    """
    # Compiled on the side, so that evaluation stays eager and the state dict has no `_orig_mod.` in its names; for each
    # size of images by itself: code for any size is slower.
    stepped = prepared
    if recipe.torch_compile:
        stepped = torch.compile(prepared, mode=recipe.torch_compile_mode, dynamic=False)

    def learn(inputs: dict[str, Tensor], sharpness_aware: bool) -> Tensor:
        """The loss of a batch, which has its part in a step of the optimiser."""
        with accelerator.accumulate(stepped):
            if sharpness_aware:
                # On each process's own share of the batch, as Foret et al. do (section 4.1).
                with accelerator.no_sync(stepped):
                    loss = stepped(**inputs).loss
                scaled = accelerator.scaler.scale(loss) if accelerator.scaler else loss
                with worst_weights(model, scaled, recipe.sam_rho):
                    accelerator.backward(stepped(**inputs).loss)
            else:
                loss = stepped(**inputs).loss
                accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach().clone()  # torch.compile's own CUDA graphs write the next one into the same place

    return GraphedStep(learn, optimizer) if recipe.cuda_graphs else learn
