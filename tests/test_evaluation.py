"""Metrics, views and eval.py: the figures are those of scikit-learn and of a trained folder."""

import json
import shutil

import evaluate
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import REPOSITORY, run_python, tiny_run_flags
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from torch.nn import functional as F
from training_runs import read, train

import eval as eval_script
from cifar10.reading import DatasetError
from evaluation.report import best_policy, compare_policies
from evaluation.scoring import fit_temperature, measure
from evaluation.views import POLICIES, VIEWS, average
from training.recipe import RecipeError

METRICS = REPOSITORY / "evaluation" / "metrics"


@pytest.fixture
def logits():
    """500 samples of 10 classes, right about half the time, and their labels."""
    labels = np.random.default_rng(0).integers(0, 10, 500)
    return torch.randn(500, 10) + 1.5 * F.one_hot(torch.from_numpy(labels), 10), labels


def test_scores_are_scikit_learns(logits):
    logits, labels = logits
    scores = measure("classification", logits, labels)
    assert scores["accuracy"] == accuracy_score(labels, logits.argmax(dim=1))
    assert scores["top_5_accuracy"] == top_k_accuracy_score(labels, logits, k=5)
    assert scores["loss"] == pytest.approx(log_loss(labels, logits.softmax(dim=1).double()), abs=1e-6)
    # Wilson's interval by hand (Wilson, 1927).
    p, n, z = scores["accuracy"], 500, 1.959964
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert scores["accuracy_low"] == pytest.approx((centre - half) / (1 + z**2 / n), abs=1e-6)
    assert scores["accuracy_high"] == pytest.approx((centre + half) / (1 + z**2 / n), abs=1e-6)


def test_each_class(logits):
    logits, labels = logits
    scores = measure("per_class", logits, labels)
    matrix = np.array(scores["confusion_matrix"])
    assert matrix.shape == (10, 10) and matrix.sum() == 500
    assert (matrix.sum(axis=1) == np.bincount(labels, minlength=10)).all()
    assert scores["recall"] == pytest.approx(matrix.diagonal() / matrix.sum(axis=1))
    assert scores["precision"] == pytest.approx(matrix.diagonal() / matrix.sum(axis=0))


def test_a_class_that_is_never_there():
    scores = measure("per_class", torch.eye(4)[[0, 1, 1]], np.array([0, 1, 2]))
    assert scores["recall"] == [1, 1, 0, 0] and scores["precision"] == [1, 0.5, 0, 0]


def test_calibration_error():
    """Two bins: 0.9 sure and right in half the cases, 0.7 sure and always right."""
    sure = torch.tensor([[0.9, 0.1]]).log().repeat(4, 1)
    less_sure = torch.tensor([[0.7, 0.3]]).log().repeat(2, 1)
    scores = measure("calibration", torch.cat([sure, less_sure]), np.array([0, 0, 1, 1, 0, 0]))
    assert scores["expected_calibration_error"] == pytest.approx(4 / 6 * 0.4 + 2 / 6 * 0.3, abs=1e-6)
    assert [round(each["confidence"], 4) for each in scores["bins"]] == [0.7, 0.9]


def test_temperature_finds_what_the_logits_were_scaled_with():
    probabilities = torch.softmax(2 * torch.randn(20000, 5), dim=1)
    labels = torch.multinomial(probabilities, 1)[:, 0].numpy()
    assert fit_temperature(3 * probabilities.log(), labels) == pytest.approx(3, rel=0.05)


def test_metrics_load_and_combine_as_any(logits):
    logits, labels = logits
    combined = evaluate.combine([evaluate.load(str(METRICS / name)) for name in ("classification", "calibration")])
    for scored, label in zip(logits.numpy(), labels, strict=True):
        combined.add(prediction=scored, reference=label)
    scores = combined.compute()
    assert scores["accuracy"] == accuracy_score(labels, logits.argmax(dim=1))
    assert 0 < scores["expected_calibration_error"] < 1


def test_views():
    pixels = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    made = {name: view(pixels) for name, view in VIEWS.items()}
    assert all(view.shape == pixels.shape and view.dtype == torch.uint8 for view in made.values())
    assert torch.equal(made["centre crop"], pixels) and torch.equal(made["mirror"].flip(3), pixels)
    assert torch.equal(made["up left"][:, :, :-1, :-1], pixels[:, :, 1:, 1:])
    assert torch.equal(made["down right"][:, :, 1:, 1:], pixels[:, :, :-1, :-1])
    assert torch.equal(made["up left"][:, :, -1, :-1], pixels[:, :, -2, 1:])  # mirrored at the border
    assert torch.equal(made["mirror, down right"][:, :, 1:, 1:], pixels.flip(3)[:, :, :-1, :-1])


def test_policies_are_means():
    for policy in POLICIES.values():
        assert sum(policy.values()) == pytest.approx(1) and policy.keys() <= VIEWS.keys()
    logits = {name: torch.full((2, 3), float(index)) for index, name in enumerate(VIEWS)}
    assert average(logits, POLICIES["flip"])[0, 0] == 0.5


def test_the_policy_that_validation_picks():
    labels = np.array([0, 1])
    right, wrong = torch.eye(2), 1 - torch.eye(2)
    logits = dict.fromkeys(VIEWS, right) | {"upside down": 9 * wrong}
    accuracies = compare_policies(logits, labels)
    assert accuracies["none"] == accuracies["flip"] == accuracies["paper without upside down"] == 1
    assert accuracies["paper"] == 0
    assert best_policy(accuracies) == "none"  # of equal ones the cheapest
    assert best_policy(accuracies | {"none": 0.5, "flip": 0.6, "flip_shift": 0.6}) == "flip"


# --- eval.py -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_config_dir):
    return train(tiny_run_flags(tiny_config_dir, tmp_path_factory.mktemp("trained") / "run"))


def evaluate_folder(folder, *flags):
    AcceleratorState._reset_state(reset_partial_state=True)
    eval_script.run(eval_script.parse([str(folder), *flags]))


def test_eval_reproduces_the_figures_of_the_run(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    before = read(folder)
    evaluate_folder(folder, f"--output_dir={folder}", "--tta=flip")
    after = read(folder)
    assert after["test_accuracy"] == before["test_accuracy"]
    assert after["test_loss"] == pytest.approx(before["test_loss"], abs=1e-6)
    assert after["test_samples"] == 90 and after["test_tta"] == "flip" and "test_accuracy_tta" in after
    assert before.items() - after.items() <= {("test_loss", before["test_loss"])}  # nothing else is touched
    details = json.loads((folder / "test_details.json").read_text())
    assert np.array(details["confusion_matrix"]).sum() == 90 and len(details["f1"]) == 10


def test_choices_are_made_on_validation_and_used_on_test(trained, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "run")
    evaluate_folder(folder, "--split=validation", "--compare_tta", f"--output_dir={folder}")
    output = capsys.readouterr().out
    assert "paper without blur" in output and "best on validation: --tta" in output
    results = read(folder)
    assert results["eval_samples"] == 90 and results["temperature"] > 0
    assert "test_expected_calibration_error" not in results
    evaluate_folder(folder, f"--output_dir={folder}")
    assert (
        "test_expected_calibration_error_scaled" in read(folder)
        and read(folder)["temperature"] == results["temperature"]
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--compare_tta"], "--split validation"),
        (["--split=holdout"], "holdout"),
        (["--dataset_name=nobody/nothing"], "--dataset_name nobody/nothing"),
    ],
)
def test_mistakes_are_named(trained, flags, said):
    with pytest.raises((RecipeError, DatasetError), match=said):
        evaluate_folder(trained, *flags)


def test_weights_that_do_not_fit_are_named(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("classifier.bias")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecipeError, match=r"other weights than its config\.json says: classifier\.bias"):
        evaluate_folder(folder)


def test_on_the_command_line_a_mistake_is_one_sentence(tmp_path):
    process = run_python("eval.py", tmp_path)
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert process.stderr.strip() == (
        f"eval.py: error: MODEL {tmp_path} holds no config.json: give a folder that train.py wrote."
    )
