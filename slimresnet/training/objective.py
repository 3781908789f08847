"""What a step minimises: the network's own loss on labels, or what it is to learn from teachers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from slimresnet.recipe.plan import Plan
from slimresnet.training.class_weights import ClassWeights
from slimresnet.training.distillation.loss import averaged_log_probabilities, distillation_loss
from slimresnet.training.distillation.teachers import Teacher

Objective = Callable[[dict[str, Tensor]], Callable[[nn.Module], Tensor]]
"""Takes a batch's inputs; returns the function that gives the loss of a network on them, a scalar."""


def of_labels(inputs: dict[str, Tensor]) -> Callable[[nn.Module], Tensor]:
    """The network's own loss with `labels`: cross entropy, or binary cross entropy where its config says so."""
    return lambda network: network(**inputs).loss


def of_weighted_labels(weights: Tensor) -> Objective:
    """
    Cross entropy in which each class counts by its weight, as a share of an image's label.

    It is PyTorch's for labels that are distributions: the mean over images of `-Σ_c w_c · y_c · log p_c`. For class
    numbers PyTorch divides by the sum of the weights in the batch instead. Then an image would count by what else is in
    its batch, and accumulated batches, or those of several processes, would no longer be the same as one large batch.

    Args:
        weights: float32 `[num_labels]`, on the device.
    """

    def of_batch(inputs: dict[str, Tensor]) -> Callable[[nn.Module], Tensor]:
        def loss(network: nn.Module) -> Tensor:
            logits = network(pixel_values=inputs["pixel_values"]).logits
            return F.cross_entropy(logits.float(), inputs["labels"], weight=weights)

        return loss

    return of_batch


def build_objective(
    plan: Plan, accelerator: Accelerator, teachers: Sequence[Teacher], class_weights: ClassWeights | None = None
) -> Objective:
    """
    The objective of a run.

    Args:
        teachers: none for the labels alone. They go to the device, in the layout and the precision of the run.
        class_weights: weights of the classes in the loss on labels; what is learnt from teachers has none.
    """
    weights = class_weights.values.to(accelerator.device) if class_weights else None
    if not teachers:
        return of_labels if weights is None else of_weighted_labels(weights)
    recipe = plan.recipe
    temperature = recipe.distillation_temperature
    for teacher in teachers:
        _prepare(plan, accelerator, teacher)

    def ask(pixel_values: Tensor) -> Tensor:
        return averaged_log_probabilities([teacher(pixel_values) for teacher in teachers], temperature)

    asked: Any = ask
    if plan.torch_compile:  # all teachers as one: the answers of one would be overwritten while another is asked
        asked = torch.compile(ask, mode=recipe.torch_compile_mode, dynamic=False)

    def of_batch(inputs: dict[str, Tensor]) -> Callable[[nn.Module], Tensor]:
        # Once a batch: a sharpness-aware step looks twice at the same images.
        with torch.no_grad(), accelerator.autocast():
            taught = asked(inputs["pixel_values"]).clone()  # torch.compile's own CUDA graphs write into one place

        def loss(network: nn.Module) -> Tensor:
            return distillation_loss(
                network(pixel_values=inputs["pixel_values"]).logits,
                taught,
                inputs["labels"],
                temperature=temperature,
                alpha=recipe.distillation_alpha,
                smoothing=recipe.label_smoothing_factor,
                class_weights=weights,
            )

        return loss

    return of_batch


def _prepare(plan: Plan, accelerator: Accelerator, teacher: Teacher) -> None:
    teacher.to(accelerator.device)
    # BatchNorm that is not folded stays in float32, as autocast leaves it.
    if plan.mixed_precision == "bf16" and not any(isinstance(module, _BatchNorm) for module in teacher.modules()):
        teacher.network.to(torch.bfloat16)  # autocast would cast the same weights anew in every step
    if plan.channels_last:
        teacher.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # PyTorch's gap
