"""Sharpness-aware minimisation against its definition, and in which epochs a run has it."""

import pytest
import torch
from torch.nn import functional as F
from training_runs import assert_same_weights, by_hand, read, train, train_on_two, weights

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.cli.train import parse_recipe
from slimresnet.evaluation.flops import multiply_adds
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe
from slimresnet.training.flops import total_flos
from slimresnet.training.optim.sam import is_sharpness_aware, worst_weights
from slimresnet.training.state.progress import Progress


def a_loss(model):
    generator = torch.Generator().manual_seed(1)
    pixel_values = torch.randn(8, 3, 16, 16, generator=generator)
    return model(pixel_values, labels=torch.arange(8)).loss


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_the_weights_within_the_block_lie_at_rho_up_the_gradient(tiny_config, scale):
    model = SlimResNetForImageClassification(tiny_config).train()
    a_loss(model).backward()
    gradient = flat(parameter.grad for parameter in model.parameters())
    model.zero_grad()
    before = flat(model.parameters())
    with worst_weights(model, scale * a_loss(model), 0.3):
        moved = flat(model.parameters()) - before
    torch.testing.assert_close(moved, 0.3 * gradient / gradient.norm(), rtol=1e-3, atol=1e-6)


def test_after_the_block_all_is_as_before_but_the_gradients(tiny_config):
    model = SlimResNetForImageClassification(tiny_config).train()
    loss = a_loss(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InterruptedError), worst_weights(model, loss, 0.5):
        higher = a_loss(model)
        assert higher > loss
        higher.backward()
        raise InterruptedError
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_gradient_of_zero_moves_nothing(tiny_config):
    model = SlimResNetForImageClassification(tiny_config).train()
    before = flat(model.parameters())
    with worst_weights(model, 0.0 * a_loss(model), 0.5):
        assert torch.equal(flat(model.parameters()), before)


def test_the_loop_against_a_plain_one(flags, smooth_config_dir):
    """By hand: the gradient, weights up along it, the gradient there, weights back, a step of SGD."""
    flags += ["--max_train_steps=3", "--cutmix_prob=0", "--random_erasing_prob=0"]
    flags += ["--crop_padding=0", "--horizontal_flip_prob=0", "--lr_scheduler_type=constant", "--channels_last=false"]
    flags += ["--gradient_accumulation_steps=2", "--sam_rho=0.1", "--learning_rate=0.02"]
    flags += [f"--config_name={smooth_config_dir}", "--temperature=1"]
    folder = train(flags)
    recipe = parse_recipe(flags)
    model, batches = by_hand(recipe, smooth_config_dir, batch_size=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    losses = []
    for _ in range(3):
        sums = [torch.zeros_like(parameter) for parameter in model.parameters()]
        for _ in range(2):
            pixel_values, labels = next(batches)
            there = {name: value.clone() for name, value in model.state_dict().items() if "running" not in name}
            loss = F.cross_entropy(model(pixel_values).logits, labels)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            statistics = {name: value.clone() for name, value in model.state_dict().items() if name not in there}
            norm = flat(gradients).norm()
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.data += 0.1 * gradient / norm
            around = F.cross_entropy(model(pixel_values).logits, labels)
            for total, gradient in zip(sums, torch.autograd.grad(around, list(model.parameters())), strict=True):
                total += gradient / 2
            counted = {name: value + 1 for name, value in there.items() if name.endswith("num_batches_tracked")}
            model.load_state_dict(there | statistics | counted)
            losses.append(loss.item())
        for parameter, total in zip(model.parameters(), sums, strict=True):
            parameter.grad = total
        optimizer.step()
    torch.testing.assert_close(weights(folder), dict(model.state_dict()), rtol=1e-4, atol=1e-5)
    (entry,) = read(folder, "trainer_state.json")["log_history"]
    assert entry["loss"] == pytest.approx(sum(losses) / 6, abs=1e-5)  # of the weights themselves, as in other epochs


def test_which_epochs_have_it():
    late = Recipe(sam_rho=0.1, num_final_sam_epochs=2)
    assert [is_sharpness_aware(late, epoch, 5) for epoch in range(5)] == [False] * 3 + [True] * 2
    assert all(is_sharpness_aware(Recipe(sam_rho=0.1), epoch, 5) for epoch in range(5))
    assert not any(is_sharpness_aware(Recipe(), epoch, 5) for epoch in range(5))


def test_the_last_epochs_alone(flags, tmp_path):
    """Until they begin the run is the plain one, and it resumes to the bit within them."""
    flags += ["--max_train_samples=96", "--num_train_epochs=2", "--save_total_limit=9", "--checkpointing_steps=1"]
    plain = train(flags)
    flags += ["--sam_rho=0.1", "--num_final_sam_epochs=1"]
    late = train(flags, f"--output_dir={tmp_path / 'late'}")
    assert_same_weights(late / "checkpoint-3", plain / "checkpoint-3")
    classifier = "classifier.weight"
    assert not torch.equal(weights(late / "checkpoint-4")[classifier], weights(plain / "checkpoint-4")[classifier])
    resumed = train(flags, f"--resume_from_checkpoint={late / 'checkpoint-4'}", f"--output_dir={tmp_path / 'resumed'}")
    assert_same_weights(resumed, late)


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes(flags, smooth_config_dir, tmp_path):
    """Each looks around on its share, as one process does that accumulates both."""
    flags += [f"--config_name={smooth_config_dir}", "--sam_rho=0.1", "--max_train_steps=1", "--temperature=1"]
    launched = train_on_two(flags, tmp_path)
    accumulated = train(flags, "--gradient_accumulation_steps=2", f"--output_dir={tmp_path / 'accumulated'}")
    at_once = train(flags, f"--output_dir={tmp_path / 'at_once'}")
    names = [name for name in weights(at_once) if "running" not in name and "num_batches" not in name]
    two, same, other = (flat(weights(folder)[name] for name in names) for folder in (launched, accumulated, at_once))
    assert (two - same).norm() < 0.001 * (two - other).norm()


def test_arithmetic_counts_such_a_step_twice():
    config, progress = SlimResNetConfig(), Progress(steps_per_epoch=3, max_steps=10)  # 4 epochs, the last of 1 step
    progress.global_step = 10
    for changes, steps in (({}, 20), ({"num_final_sam_epochs": 2}, 14)):
        recipe = Recipe(sam_rho=0.1, **changes)
        assert total_flos(recipe, config, progress, 10) == 6 * 10 * steps * multiply_adds(config, 32)


def test_epochs_without_a_radius():
    with pytest.raises(RecipeError, match="--num_final_sam_epochs needs a --sam_rho"):
        Recipe(num_final_sam_epochs=2)
