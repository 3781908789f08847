"""Distillation against its definition, with teachers of this family and of transformers, and what is refused."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from conftest import SAMPLE, edit_weights, tiny_run_flags
from scipy.special import log_softmax, rel_entr, softmax
from torch.nn import functional as F
from training_runs import assert_same_weights, by_hand, read, snapshot, train, train_on_two, weights
from transformers import (
    AutoModelForImageClassification,
    BitImageProcessorPil,
    ConvNextImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.cli.train import parse_recipe
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.transforms.normalize import normalize
from slimresnet.evaluation.flops import multiply_adds
from slimresnet.hub.card_text import render_model_card
from slimresnet.hub.shared_recipe import shared_recipe
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.checkpoints import CheckpointError
from slimresnet.training.distillation.loss import averaged_log_probabilities, distillation_loss
from slimresnet.training.distillation.teachers import open_teachers
from slimresnet.training.flops import total_flos
from slimresnet.training.state.progress import Progress

LABELS = open_split(str(SAMPLE), "train", image_size=32).label_names


# --- the loss ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_against_its_definition(temperature, alpha, smoothing):
    """In float64, with two teachers; the last two labels mix classes."""
    random = np.random.default_rng(0)
    student, *teachers = random.normal(size=(3, 6, 5)) * 3
    labels = np.eye(5)[[0, 1, 2, 3, 4, 4]]
    labels[4:] = 0.7 * labels[4:] + 0.3 * np.eye(5)[[1, 2]]
    labels = (1 - smoothing) * labels + smoothing / 5
    taught = np.mean([softmax(logits / temperature, axis=1) for logits in teachers], axis=0)
    divergence = rel_entr(taught, softmax(student / temperature, axis=1)).sum(axis=1)
    entropy = -(labels * log_softmax(student, axis=1)).sum(axis=1)
    share = np.array([alpha] * 4 + [1.0] * 2)
    expected = (share * temperature**2 * divergence + (1 - share) * entropy).mean()
    found = distillation_loss(
        torch.tensor(student),
        averaged_log_probabilities([torch.tensor(logits) for logits in teachers], temperature),
        torch.tensor(labels, dtype=torch.float32),
        temperature=temperature,
        alpha=alpha,
        smoothing=smoothing,
    )
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_student_that_says_what_its_teacher_says_has_learnt_all():
    logits = torch.randn(8, 10, requires_grad=True)
    taught = averaged_log_probabilities([logits.detach()], 2.0)
    loss = distillation_loss(logits, taught, torch.eye(10)[:8], temperature=2.0, alpha=1.0, smoothing=0.0)
    (gradient,) = torch.autograd.grad(loss, [logits])
    assert loss.item() == pytest.approx(0, abs=1e-6) and gradient.abs().max() < 1e-6


def test_logits_that_leave_no_probability_to_a_class_give_a_finite_gradient():
    logits = torch.tensor([[300.0, -300.0, 0.0]], requires_grad=True)
    taught = averaged_log_probabilities([torch.tensor([[-400.0, 400.0, 0.0]])], 1.0)
    loss = distillation_loss(logits, taught, torch.eye(3)[:1], temperature=1.0, alpha=0.5, smoothing=0.0)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


# --- runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of a teacher of this family, with another width, and BatchNorm statistics that have seen images."""
    folder = tmp_path_factory.mktemp("teachers") / "wide"
    config = SlimResNetConfig(embedding_size=24, hidden_sizes=[24, 40], depths=[1, 1], strides=[2, 2])
    torch.manual_seed(1)
    config.save_pretrained(folder.parent / "config")
    flags = tiny_run_flags(folder.parent / "config", folder)
    return train(flags, "--num_train_epochs=1", "--learning_rate=0.03")


def taught_by(*teachers):
    return "--teacher_name_or_path=" + ",".join(map(str, teachers))


def test_the_loop_against_a_plain_one(flags, smooth_config_dir, teacher):
    """Sharpness-aware, so that two forward passes share what the teacher says of a batch."""
    flags += ["--max_train_steps=3", "--cutmix_prob=0", "--random_erasing_prob=0", "--crop_padding=0"]
    flags += ["--horizontal_flip_prob=0", "--lr_scheduler_type=constant", "--channels_last=false", "--sam_rho=0.05"]
    flags += ["--learning_rate=0.02", "--distillation_temperature=3", "--distillation_alpha=0.7"]
    flags += [f"--config_name={smooth_config_dir}", taught_by(teacher), "--temperature=1"]
    before = snapshot(teacher)
    folder = train(flags)
    assert snapshot(teacher) == before
    model, batches = by_hand(parse_recipe(flags), smooth_config_dir, batch_size=32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    taught = SlimResNetForImageClassification.from_pretrained(teacher).eval()

    def loss_of(pixel_values, labels):
        logits = model(pixel_values).logits
        with torch.no_grad():
            expected = F.softmax(taught(pixel_values).logits / 3, dim=1)
        divergence = F.kl_div(F.log_softmax(logits / 3, dim=1), expected, reduction="batchmean")
        return 0.7 * 9 * divergence + 0.3 * F.cross_entropy(logits, labels)

    for _ in range(3):
        batch = next(batches)
        gradients = torch.autograd.grad(loss_of(*batch), list(model.parameters()))
        statistics = {name: value.clone() for name, value in model.named_buffers()}
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        there = [parameter.detach().clone() for parameter in model.parameters()]
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.data += 0.05 * gradient / norm
        loss_of(*batch).backward()
        for parameter, value in zip(model.parameters(), there, strict=True):
            parameter.data = value
        model.load_state_dict(statistics, strict=False)
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(weights(folder), dict(model.state_dict()), rtol=1e-3, atol=2e-5)


def test_it_resumes_to_the_bit_wherever_the_teachers_lie_by_then(flags, tmp_path, teacher):
    """With two teachers, CutMix and averaged weights."""
    other = shutil.copytree(teacher, tmp_path / "other")
    edit_weights(other, lambda tensors: tensors["classifier.weight"].mul_(0.5))
    flags += ["--num_train_epochs=2", "--ema_decay=0.9", "--save_total_limit=9"]
    whole = train(flags, taught_by(teacher, other))
    moved = shutil.copytree(teacher, tmp_path / "moved")
    resume = [f"--resume_from_checkpoint={whole / 'checkpoint-7'}", f"--output_dir={tmp_path / 'resumed'}"]
    assert_same_weights(train(flags, *resume, taught_by(moved, other)), whole)
    for teachers in ([moved], [other, moved], []):
        with pytest.raises(CheckpointError, match=r"different run: files of --teacher_name_or_path .* there, .* here"):
            train(flags, *resume, "--overwrite_output_dir", *([taught_by(*teachers)] if teachers else []))


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes(flags, smooth_config_dir, tmp_path, teacher):
    """Each asks the teacher of its own share, as one process does that accumulates both."""
    flags += [f"--config_name={smooth_config_dir}", "--max_train_steps=1", taught_by(teacher), "--temperature=1"]
    launched = train_on_two(flags, tmp_path)
    accumulated = train(flags, "--gradient_accumulation_steps=2", f"--output_dir={tmp_path / 'accumulated'}")
    at_once = train(flags, f"--output_dir={tmp_path / 'at_once'}")
    names = [name for name in weights(at_once) if "running" not in name and "num_batches" not in name]
    two, same, other = (
        torch.cat([weights(folder)[name].flatten() for name in names]) for folder in (launched, accumulated, at_once)
    )
    assert (two - same).norm() < 0.001 * (two - other).norm()


def test_with_autocast_and_by_accumulation(flags, teacher):
    """A teacher in bfloat16 says nearly the same."""
    flags += ["--max_train_steps=2", taught_by(teacher), "--gradient_accumulation_steps=2"]
    losses = [
        read(train(flags, f"--mixed_precision={precision}", "--overwrite_output_dir"))["train_loss"]
        for precision in ("no", "bf16")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


# --- teachers ------------------------------------------------------------------------------------------------------


def opened(recipe, tmp_path, label_names=LABELS):
    return open_teachers(recipe, SlimResNetConfig(), label_names, tmp_path / "run")


def sample_pixels(count=6):
    split = open_split(str(SAMPLE), "test", image_size=32)
    return next(iter(split.images.read([np.arange(count)])))


@pytest.fixture
def foreign(tmp_path):
    """A ResNet of transformers with the classes in another order, and a processor with other means."""
    folder = tmp_path / "foreign"
    names = sorted(LABELS, reverse=True)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )  # fmt: skip
    network = ResNetForImageClassification(config)
    network.classifier[1].weight.data.mul_(20)
    network.eval().save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=1.0).save_pretrained(folder)
    return folder


def test_a_network_of_transformers_says_what_it_says_by_itself(foreign, tmp_path):
    """Its own processor on the pictures, against the student's tensor."""
    recipe = Recipe(teacher_name_or_path=str(foreign))
    (teacher,) = opened(recipe, tmp_path)
    pixels = sample_pixels()
    found = teacher(normalize(pixels, recipe.image_mean, recipe.image_std))
    network = AutoModelForImageClassification.from_pretrained(foreign).eval()
    processor = ConvNextImageProcessorPil.from_pretrained(foreign)
    with torch.no_grad():
        logits = network(**processor(list(pixels), return_tensors="pt")).logits
    expected = torch.stack([logits[:, network.config.label2id[name]] for name in LABELS], dim=1)
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert not any(module.training for module in teacher.train().modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert teacher.num_parameters == network.num_parameters()


def test_a_teacher_of_larger_images_gets_them_enlarged(foreign, tmp_path):
    """By bilinear interpolation, which the processor rounds to whole numbers."""
    BitImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, resample=2).save_pretrained(
        foreign
    )
    recipe = Recipe(teacher_name_or_path=str(foreign))
    (teacher,) = opened(recipe, tmp_path)
    pixels = sample_pixels()
    seen = []
    teacher.network.register_forward_pre_hook(lambda module, args, given: seen.append(given), with_kwargs=True)
    teacher(normalize(pixels, recipe.image_mean, recipe.image_std))
    processor = BitImageProcessorPil.from_pretrained(foreign)
    expected = processor(list(pixels), return_tensors="pt")["pixel_values"]
    assert seen[0]["pixel_values"].shape == expected.shape == (6, 3, 48, 48)
    step = 1 / 255 / min(processor.image_std)
    assert (seen[0]["pixel_values"] - expected).abs().max() < 1.01 * step


def test_without_a_processor_the_tensor_is_as_the_student_sees_it(foreign, tmp_path):
    (foreign / "preprocessor_config.json").unlink()
    (teacher,) = opened(Recipe(teacher_name_or_path=str(foreign)), tmp_path)
    seen = []
    teacher.network.register_forward_pre_hook(lambda module, args, given: seen.append(given), with_kwargs=True)
    pixel_values = torch.randn(2, 3, 24, 24)
    teacher(pixel_values)
    assert seen[0]["pixel_values"] is pixel_values


def test_a_run_learns_from_a_network_of_transformers(flags, foreign):
    folder = train(flags, "--max_train_steps=2", taught_by(foreign), "--progressive_resizing=16:0.5")
    parameters = AutoModelForImageClassification.from_pretrained(foreign).num_parameters()
    results = read(folder)
    assert (results["train_teacher"], results["train_teacher_parameters"]) == ("foreign", parameters)
    text = render_model_card(folder, "student")
    assert f"was distilled from `foreign` ({parameters:,} parameters): it learnt" in text and "Hinton" in text
    assert str(foreign.parent) not in text
    assert shared_recipe(folder).teacher_name_or_path == "foreign"


def test_arithmetic_counts_a_teacher_once_a_step_forward(teacher, tmp_path):
    recipe = Recipe(teacher_name_or_path=str(teacher), sam_rho=0.1, progressive_resizing=["16:0.5"])
    (opened_teacher,) = opened(recipe, tmp_path)
    own = SlimResNetConfig.from_pretrained(teacher)
    progress = Progress(steps_per_epoch=2, max_steps=8)
    progress.global_step = 8
    student = sum(2 * 4 * 6 * multiply_adds(SlimResNetConfig(), size) for size in (16, 32))
    taught = sum(4 * 2 * multiply_adds(own, size) for size in (16, 32))
    found = total_flos(recipe, SlimResNetConfig(), progress, 10, [opened_teacher])
    assert found == 10 * (student + taught)


# --- what is refused -----------------------------------------------------------------------------------------------


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def spoil(folder, **changes):
    config = AutoModelForImageClassification.from_pretrained(folder).config
    for name, value in changes.items():
        setattr(config, name, value)
    config.save_pretrained(folder)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda folder: shutil.rmtree(folder), r"foreign is not there: give a folder or a model on the Hub with"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be used: OSError: .*no file named"),
        (lambda folder: os.truncate(folder / "model.safetensors", 500), "cannot be used: SafetensorError"),
        (lambda folder: edit_config(folder, hidden_sizes="abc"), "cannot be used: StrictDataclass"),
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "strange"}'), "cannot be used: ValueError"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be used: OSError: .*not a valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "cannot be used: "),
        (
            lambda folder: spoil(folder, id2label={number: f"LABEL_{number}" for number in range(10)}),
            "tells other classes apart than the dataset: id2label in its config.json names LABEL_0",
        ),
        (
            lambda folder: (folder / "preprocessor_config.json").write_text(
                '{"image_processor_type": "ViTImageProcessor", "size": {"height": 30, "width": 40}}'
            ),
            "preprocessor_config.json makes images of .*, and a teacher sees squares",
        ),
    ],
)
def test_teachers_that_cannot_teach(foreign, tmp_path, prepare, said):
    prepare(foreign)
    with pytest.raises(RecipeError, match=f"^--teacher_name_or_path .*{said}") as refused:
        opened(Recipe(teacher_name_or_path=str(foreign)), tmp_path)
    assert str(refused.value).count(str(foreign)) >= 1 and "MODEL" not in str(refused.value)


def test_a_head_that_transformers_would_draw_at_random_teaches_nothing(foreign, tmp_path):
    edit_weights(foreign, lambda tensors: tensors.pop("classifier.1.weight"))
    with pytest.raises(RecipeError, match=r"cannot be used: its weights lack classifier.1.weight: a teacher has"):
        opened(Recipe(teacher_name_or_path=str(foreign)), tmp_path)


def test_broken_weights_teach_nothing(foreign, tmp_path):
    edit_weights(foreign, lambda tensors: tensors["classifier.1.bias"][:1].fill_(torch.nan))
    with pytest.raises(RecipeError, match="cannot be used: some of its weights are NaN or infinite"):
        opened(Recipe(teacher_name_or_path=str(foreign)), tmp_path)


def test_a_teacher_of_one_size_alone_takes_it_whatever_the_student_sees(tmp_path):
    """A vision transformer, whose position embeddings are those of its size."""
    folder = tmp_path / "vit"
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        id2label=dict(enumerate(LABELS)), label2id={name: number for number, name in enumerate(LABELS)},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    resizing = Recipe(teacher_name_or_path=str(folder), progressive_resizing=["24:0.5"])
    with pytest.raises(RecipeError, match=r"vit takes no images of 24×24 pixels .*or leave --progressive_resizing out"):
        opened(resizing, tmp_path)
    assert opened(Recipe(teacher_name_or_path=str(folder)), tmp_path)
    spoil(folder, problem_type="multi_label_classification")
    with pytest.raises(RecipeError, match="problem_type is multi_label_classification: give a network that chooses"):
        opened(Recipe(teacher_name_or_path=str(folder)), tmp_path)
    spoil(folder, problem_type=None, image_size=40)
    edit_weights(folder, lambda tensors: tensors.update({
        "vit.embeddings.position_embeddings": torch.zeros(1, 26, 16)
    }))  # fmt: skip
    ViTImageProcessorPil(size={"height": 40, "width": 40}).save_pretrained(folder)
    (teacher,) = opened(resizing, tmp_path)
    assert teacher(torch.randn(2, 3, 24, 24)).shape == (2, 10)


def test_code_and_pickles_of_a_teacher_are_not_run(foreign, tmp_path):
    run = tmp_path / "it_ran"
    (foreign / "own.py").write_text(f"open({str(run)!r}, 'w')")
    (foreign / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}')
    with pytest.raises(RecipeError, match="cannot be used"):
        opened(Recipe(teacher_name_or_path=str(foreign)), tmp_path)
    assert not run.exists()


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--teacher_name_or_path=", "--teacher_name_or_path has an empty name: give FOLDER, or"),
        ("--distillation_temperature=0", "--distillation_temperature must be at least 0.01"),
        ("--teacher_name_or_path=null", "--distillation_alpha needs a --teacher_name_or_path"),
        ("--distillation_alpha=1.5", "--distillation_alpha must be between 0 and 1"),
        ("--label_smoothing_factor=0.1", "which --distillation_alpha 1 leaves to the teacher"),
    ],
)
def test_settings_that_cannot_be(flags, teacher, flag, said):
    with pytest.raises(RecipeError, match=said):
        train(flags, taught_by(teacher), *(["--distillation_alpha=0.5"] if "null" in flag else []), flag)


def test_a_run_does_not_take_the_place_of_its_teacher(flags, tmp_path):
    folder = train(flags, "--max_train_steps=1")
    before = snapshot(folder)
    with pytest.raises(RecipeError, match="is the --output_dir of this run: name another output folder"):
        train(flags, "--overwrite_output_dir", taught_by(folder))
    assert snapshot(folder) == before
