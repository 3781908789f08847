"""Weights of classes in the loss, against PyTorch's own; where they come from, and what is refused."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from training_runs import assert_same_weights, by_hand, read, train, weights

from slimresnet.cli.train import parse_recipe
from slimresnet.data.opening import TrainingData
from slimresnet.data.partition import Rows
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.source import DatasetError, ImageSplit
from slimresnet.hub.files import collect
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.checkpoints import CheckpointError
from slimresnet.training.class_weights import open_class_weights
from slimresnet.training.distillation.loss import distillation_loss
from slimresnet.training.objective import build_objective, of_weighted_labels

NAMES = ["cat", "no", "1"]
FILE = {"cat": 3.0, "no": 1.0, "1": 0.5}


def data_of(labels, rows=None):
    """Images that are not there, of these class numbers; the rows are trained on."""
    labels = np.array(labels)
    rows = np.arange(len(labels)) if rows is None else np.array(rows)
    split = ImageSplit(labels, NAMES, None)
    none = rows[:0]
    return TrainingData(
        split, split, split, rows, none, none, divided=Rows(rows, none, none, None, 0), spare_split=None
    )


def opened(text, labels=(0, 0, 0, 1, 1, 2), **settings):
    return open_class_weights(Recipe(class_weights=str(text), **settings), data_of(labels))


class Logits(torch.nn.Module):
    """A network whose logits are its parameter, for as many images as it is asked of, from the first on."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, pixel_values):
        first = int(pixel_values[0])
        return type("Output", (), {"logits": self.logits[first : first + len(pixel_values)]})


class Teacher(torch.nn.Module):
    def forward(self, pixel_values):
        return torch.zeros(len(pixel_values), 3)


def loss_of(network, labels, of_classes, first=0):
    inputs = {"pixel_values": torch.arange(first, first + len(labels)), "labels": labels}
    return of_weighted_labels(of_classes)(inputs)(network)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_pytorchs_but_for_what_it_is_divided_by(smoothing):
    """PyTorch divides the sum over class numbers by the weights of the batch, and here it is the number of images."""
    logits, labels, of_classes = torch.randn(12, 3), torch.arange(12) % 3, torch.tensor([0.2, 1.0, 3.0])
    soft = (1 - smoothing) * F.one_hot(labels, 3).float() + smoothing / 3
    expected = F.cross_entropy(logits, labels, weight=of_classes, label_smoothing=smoothing)
    found = loss_of(Logits(logits), soft, of_classes)
    torch.testing.assert_close(found * 12 / of_classes[labels].sum(), expected)
    each = F.cross_entropy(logits, labels, weight=of_classes, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(found, each.mean())


def test_a_mixed_label_counts_each_of_its_classes_by_its_weight():
    logits, of_classes = torch.randn(1, 3), torch.tensor([0.5, 4.0, 9.0])
    found = loss_of(Logits(logits), torch.tensor([[0.7, 0.3, 0.0]]), of_classes)
    expected = -(0.7 * 0.5 * logits.log_softmax(1)[0, 0] + 0.3 * 4 * logits.log_softmax(1)[0, 1])
    torch.testing.assert_close(found, expected)


def test_accumulated_batches_and_those_of_processes_are_one_large_batch():
    """The classes of the parts differ as much as they can."""
    logits, of_classes = torch.randn(8, 3), torch.tensor([0.1, 1.0, 5.0])
    labels = F.one_hot(torch.tensor([0] * 4 + [2] * 4), 3).float()
    whole, parts = Logits(logits), Logits(logits)
    loss_of(whole, labels, of_classes).backward()
    for first in (0, 4):
        (loss_of(parts, labels[first : first + 4], of_classes, first) / 2).backward()
    torch.testing.assert_close(parts.logits.grad, whole.logits.grad)


def test_beside_a_teacher_only_the_labels_are_weighed():
    logits, taught, labels = (
        torch.randn(4, 3),
        torch.randn(4, 3).log_softmax(1),
        F.one_hot(torch.arange(4) % 3, 3).float(),
    )
    of_classes = torch.tensor([0.5, 1.0, 2.0])

    def loss(alpha, class_weights=None):
        return distillation_loss(
            logits, taught, labels, temperature=1.0, alpha=alpha, smoothing=0.0, class_weights=class_weights
        )

    expected = 0.25 * loss(1.0) + 0.75 * F.cross_entropy(logits, labels, weight=of_classes)
    torch.testing.assert_close(loss(0.25, of_classes), expected)


@pytest.mark.parametrize("settings", [{}, {"teacher_name_or_path": "elsewhere", "distillation_alpha": 0.0}])
def test_a_run_hands_its_weights_to_the_loss(settings):
    """Without a teacher, and beside one that has no part in the loss."""
    recipe = Recipe(class_weights="balanced", **settings)
    plan = SimpleNamespace(recipe=recipe, torch_compile=False, channels_last=False, mixed_precision="no")
    accelerator = SimpleNamespace(device=torch.device("cpu"), autocast=nullcontext)
    teachers = [Teacher()] if settings else []
    of_classes = open_class_weights(recipe, data_of([0, 0, 0, 1, 1, 2]))
    logits, labels = torch.randn(3, 3), F.one_hot(torch.arange(3), 3).float()
    objective = build_objective(plan, accelerator, teachers, of_classes)
    found = objective({"pixel_values": torch.arange(3), "labels": labels})(Logits(logits))
    torch.testing.assert_close(found, F.cross_entropy(logits, labels, weight=torch.tensor([2 / 3, 1.0, 2.0])))


def test_balanced_weights_are_the_inverse_of_shares_of_the_training_rows():
    of_classes = open_class_weights(
        Recipe(class_weights="balanced"), data_of([0, 0, 0, 0, 1, 2, 2], [0, 1, 2, 4, 5, 6])
    )
    assert of_classes.values.tolist() == pytest.approx([6 / (3 * 3), 6 / (3 * 1), 6 / (3 * 2)])
    assert of_classes.given is None and of_classes.asked == "balanced"


@pytest.mark.parametrize("text", [json.dumps(FILE), "# by hand\ncat: 3\nno: 1.0\n1: 5e-1\n"], ids=["JSON", "YAML"])
def test_weights_of_a_file(tmp_path, text):
    """Names stay texts, whatever YAML takes them for; over the images of an epoch the mean is 1."""
    (tmp_path / "weights").write_text(text)
    of_classes = opened(tmp_path / "weights")
    assert of_classes.given == FILE and of_classes.asked == "cat 3.0, no 1.0, 1 0.5"
    assert of_classes.values.tolist() == pytest.approx([3 / (11.5 / 6), 1 / (11.5 / 6), 0.5 / (11.5 / 6)])
    assert of_classes.values @ torch.tensor([3.0, 2.0, 1.0]) / 6 == pytest.approx(1)
    balanced = opened(tmp_path / "weights", balanced_sampling=True)
    assert balanced.values.mean() == pytest.approx(1)
    assert of_classes.describe(NAMES) == "0.261 (1) to 1.57 (cat)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cat: 1\nno: 1", "has no weight for 1: each class"),
        ("cat: 1\nno: 1\n1: 2\ndog: 3", "names dog, which is no class of the data: cat, no, 1"),
        ("cat: 1\nno: many\n1: 2", "must give no a number, 0 or more, got many"),
        ("cat: 1\nno: -1\n1: 2", "must give no a number, 0 or more, got -1"),
        ("cat: .inf\nno: 1\n1: 2", "must give cat a number, 0 or more, got .inf"),
        ("cat: inf\nno: 1\n1: 2", "must give cat a number, 0 or more, got inf"),
        ("cat: [1]\nno: 1\n1: 2", "must give cat a number"),
        ("cat: 0\nno: 0\n1: 0", "gives each class that is there a weight of 0"),
        ("- 1\n- 2", "must hold class names with their weights"),
        ("{", "is neither JSON nor YAML"),
    ],
)
def test_files_that_are_no_weights(tmp_path, text, said):
    (tmp_path / "weights").write_text(text)
    with pytest.raises(RecipeError) as error:
        opened(tmp_path / "weights")
    assert said in str(error.value) and f"--class_weights {tmp_path / 'weights'}" in str(error.value)


def test_what_cannot_be_weighed(tmp_path):
    with pytest.raises(RecipeError, match=r"--class_weights .*nowhere cannot be read \(No such file"):
        opened(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="cannot weigh no, of which there is no training image"):
        opened("balanced", labels=[0, 0, 2])
    with pytest.raises(RecipeError, match="--class_weights balanced and --balanced_sampling both"):
        Recipe(class_weights="balanced", balanced_sampling=True)
    with pytest.raises(RecipeError, match="--alternating_flip mirrors an image alike wherever it stands"):
        Recipe(alternating_flip=True, balanced_sampling=True)
    with pytest.raises(RecipeError, match="--class_weights weighs the loss on labels, which --distillation_alpha 1"):
        Recipe(class_weights="balanced", teacher_name_or_path="elsewhere")
    assert Recipe(class_weights="balanced", teacher_name_or_path="elsewhere", distillation_alpha=0.5)


@pytest.fixture
def weighed(flags, tmp_path):
    """Flags of a run of one epoch whose third class weighs a hundred times as much as any other."""
    names = read_names(flags)
    (tmp_path / "weights.json").write_text(json.dumps({name: 100 if name == names[2] else 1 for name in names}))
    return [*flags, "--num_train_epochs=1", f"--class_weights={tmp_path / 'weights.json'}"]


def read_names(flags):
    return open_split(parse_recipe(flags).dataset_name, "train", image_size=32).label_names


def test_a_run_against_a_plain_loop_with_weights(weighed, smooth_config_dir, tmp_path):
    """Two steps of plain SGD."""
    plain = [
        *weighed, f"--config_name={smooth_config_dir}", "--cutmix_prob=0", "--random_erasing_prob=0",
        "--crop_padding=0", "--horizontal_flip_prob=0", "--lr_scheduler_type=constant", "--momentum=0",
        "--weight_decay=0", "--learning_rate=0.01", "--max_train_steps=2",
    ]  # fmt: skip
    folder = train(plain)
    recipe = parse_recipe(plain)
    model, batches = by_hand(recipe, smooth_config_dir, batch_size=32)
    _, all_batches = by_hand(recipe, smooth_config_dir, batch_size=32)
    counts = torch.bincount(torch.cat([labels for _, labels in all_batches]), minlength=10)
    of_classes = torch.ones(10).index_fill(0, torch.tensor([2]), 100.0)
    of_classes /= (of_classes * counts).sum() / counts.sum()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _, (pixel_values, labels) in zip(range(2), batches, strict=False):
        loss = F.cross_entropy(model(pixel_values).logits, labels, weight=of_classes, reduction="none").mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    kept = weights(folder / "checkpoint-2")
    torch.testing.assert_close(kept["classifier.weight"], model.state_dict()["classifier.weight"], atol=1e-5, rtol=1e-4)


def test_what_a_run_with_a_file_leaves(weighed, tmp_path, capsys):
    """The file goes with the run; a checkpoint knows it by what it holds; with SAM and averaged weights too."""
    weighed = [*weighed, "--sam_rho=0.05", "--ema_decay=0.5", "--checkpointing_steps=1", "--max_train_samples=64"]
    folder = train(weighed)
    assert "loss     classes weigh" in capsys.readouterr().out
    assert read(folder)["train_class_weights"].count("100.0") == 1
    given = json.loads((tmp_path / "weights.json").read_text())
    assert read(folder, "class_weights.json") == given
    shared = collect(folder, "user/name")
    assert b"class_weights: class_weights.json" in shared["recipe.yaml"] and "class_weights.json" in shared
    config = json.loads((folder / "config.json").read_text())
    assert "class_weights" not in config
    (tmp_path / "moved.yaml").write_text((tmp_path / "weights.json").read_text())
    (tmp_path / "weights.json").unlink()
    again = [*weighed, f"--class_weights={tmp_path / 'moved.yaml'}", f"--output_dir={tmp_path / 'again'}"]
    resumed = [*again, f"--resume_from_checkpoint={folder / 'checkpoint-1'}"]
    assert_same_weights(train(resumed), folder)
    (tmp_path / "moved.yaml").write_text(json.dumps(dict.fromkeys(given, 1)))
    with pytest.raises(CheckpointError, match=r"weights of --class_weights .*100\.0.* there, .* here"):
        train([*resumed, "--overwrite_output_dir"])
