"""How much a run computes."""

from collections import Counter
from collections.abc import Sequence

from modeling_slimresnet import SlimResNetConfig
from slimresnet.data.inputs import resolution
from slimresnet.evaluation.flops import multiply_adds
from slimresnet.recipe.checks import parse_resizing
from slimresnet.recipe.settings import Recipe
from slimresnet.training.distillation.teachers import Teacher
from slimresnet.training.optim.sam import is_sharpness_aware
from slimresnet.training.state.progress import Progress


def total_flos(
    recipe: Recipe,
    config: SlimResNetConfig,
    progress: Progress,
    images_per_step: int,
    teachers: Sequence[Teacher] = (),
    frozen: Sequence[str] = (),
) -> int:
    """
    Floating-point operations of the steps done: six times the multiply-adds of every image, at the size it was seen.

    Six is two, an addition counting as one, for each of forward, the inputs' gradients and the weights' gradients. A
    sharpness-aware step does all that twice. Frozen parts have the forward pass alone, so two in the place of six. A
    teacher adds two times its own multiply-adds, once a step.

    Args:
        images_per_step: images that the network computes on in a step, over all processes and with all copies.
        teachers: networks that it learns from.
        frozen: names of the parts of the network that stay as they are.
    """
    stages = parse_resizing(recipe.progressive_resizing)
    steps_at: Counter[int] = Counter()
    passes_at: Counter[int] = Counter()
    for epoch in range(progress.num_epochs):
        size = resolution(stages, epoch, progress.num_epochs, config.image_size)
        steps = min(progress.steps_per_epoch, progress.global_step - epoch * progress.steps_per_epoch)
        steps_at[size] += max(0, steps)
        passes_at[size] += max(0, steps) * (2 if is_sharpness_aware(recipe, epoch, progress.num_epochs) else 1)
    passed = sum(passes * multiply_adds(config, size) for size, passes in passes_at.items())
    kept = sum(passes * multiply_adds(config, size, part) for size, passes in passes_at.items() for part in frozen)
    taught = sum(
        steps * teacher.multiply_adds(size) for teacher in teachers for size, steps in steps_at.items() if steps
    )
    return images_per_step * (6 * passed - 4 * kept + 2 * taught)
