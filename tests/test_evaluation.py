"""Metrics, views and eval.py: the figures are those of scikit-learn and of a trained folder."""

import json
import shutil

import evaluate
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import REPOSITORY, run_python
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from torch.nn import functional as F
from training_runs import read, snapshot, train

import eval as eval_script
from cifar10.reading import DatasetError
from evaluation.report import best_policy, compare_policies
from evaluation.scoring import fit_temperature, measure
from evaluation.trained import ModelError, fold_batchnorm
from evaluation.views import POLICIES, VIEWS, average
from modeling_slimresnet import SlimResNetForImageClassification
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
    assert scores["accuracy"] == accuracy_score(labels, logits.argmax(dim=1).numpy())
    assert scores["top_5_accuracy"] == top_k_accuracy_score(labels, logits.numpy(), k=5)
    assert scores["loss"] == pytest.approx(log_loss(labels, logits.softmax(dim=1).double().numpy()), abs=1e-6)
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


def test_folded_into_the_convolutions_batchnorm_gives_the_same_logits(tiny_config):
    model = SlimResNetForImageClassification(tiny_config)
    for value in model.state_dict().values():
        value.uniform_(0.1, 0.3) if value.is_floating_point() else value.fill_(7)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_batchnorm(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    pixel_values = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(folded(pixel_values).logits, model.eval()(pixel_values).logits)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())  # a copy


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
    assert scores["accuracy"] == accuracy_score(labels, logits.argmax(dim=1).numpy())
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


def evaluate_folder(folder, *flags):
    AcceleratorState._reset_state(reset_partial_state=True)
    eval_script.run(eval_script.parse([str(folder), *flags]))


def test_training_chooses_on_validation_and_says_it_all(trained):
    results = read(trained)
    details = {prefix: json.loads((trained / f"{prefix}_details.json").read_text()) for prefix in ("eval", "test")}
    assert results["test_tta"] == results["eval_tta"] == best_policy(details["eval"]["tta"])
    assert "tta" not in details["test"] and results["temperature"] > 0
    assert ("test_accuracy_tta" in results) == (results["test_tta"] != "none")
    recipe = (trained / "recipe.yaml").read_text()
    assert f"tta: {results['test_tta']}" in recipe and f"temperature: {results['temperature']}" in recipe
    for prefix in ("eval", "test"):
        assert results[f"{prefix}_accuracy_low"] < results[f"{prefix}_accuracy"] < results[f"{prefix}_accuracy_high"]
        assert {f"{prefix}_top_5_accuracy", f"{prefix}_expected_calibration_error_scaled"} <= results.keys()
    assert {file.name for file in (trained / "figures").iterdir()} == {
        "curves.png", "learning_rate.png", "training_samples.png",
        "test_confusion_matrix.png", "test_classes.png", "test_reliability.png", "test_mistakes.png",
    }  # fmt: skip


def test_without_validation_nothing_is_chosen(flags):
    results = read(train(flags, "--validation_size=0", "--max_train_steps=1"))
    assert results["test_tta"] == "none" and not {"temperature", "eval_accuracy"} & results.keys()
    given = ["--tta=flip", "--temperature=0.5", "--overwrite_output_dir"]
    folder = train(flags, "--validation_size=0", "--max_train_steps=1", *given)
    results = read(folder)
    assert results["test_tta"] == "flip" and "test_accuracy_tta" in results
    assert results["temperature"] == 0.5 and "test_expected_calibration_error_scaled" in results
    assert "Dividing the logits by 0.500, given by the recipe," in (folder / "README.md").read_text()


def test_eval_reproduces_the_figures_of_the_run(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    before = read(folder)
    evaluate_folder(folder, f"--output_dir={folder}", f"--tta={before['test_tta']}")
    after = read(folder)
    assert after.keys() - before.keys() == {"test_runtime", "test_samples_per_second"}
    for name, value in before.items():  # a process in NCHW and one in NHWC differ in the last bits
        assert after[name] == (pytest.approx(value, abs=1e-6) if isinstance(value, float) else value), name
    details = json.loads((folder / "test_details.json").read_text())
    assert np.array(details["confusion_matrix"]).sum() == 90 and len(details["f1"]) == 10


def test_figures_of_another_policy_do_not_stay_behind(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    evaluate_folder(folder, f"--output_dir={folder}", "--tta=flip")
    assert read(folder)["test_tta"] == "flip" and "test_loss_tta" in read(folder)
    evaluate_folder(folder, f"--output_dir={folder}")
    assert read(folder)["test_tta"] == "none" and "test_loss_tta" not in read(folder)
    assert read(folder)["eval_tta"] == read(trained)["eval_tta"]


def test_choices_can_be_made_again_on_validation(trained, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "all_results.json").unlink()
    evaluate_folder(folder, "--split=validation", "--compare_tta", f"--output_dir={folder}")
    output = capsys.readouterr().out
    assert "paper without blur" in output and f"best on validation: --tta {read(trained)['eval_tta']}" in output
    assert read(folder)["temperature"] == pytest.approx(read(trained)["temperature"], rel=1e-4)
    evaluate_folder(folder, f"--output_dir={folder}")
    assert "test_expected_calibration_error_scaled" in read(folder)


def test_without_an_output_dir_nothing_is_written(trained, capsys):
    before = snapshot(trained)
    evaluate_folder(trained, "--per_device_eval_batch_size=7")
    assert snapshot(trained) == before and "test_accuracy = " in capsys.readouterr().out


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
    with pytest.raises(ModelError, match=r"other weights than its config\.json says: classifier\.bias"):
        evaluate_folder(folder)


def test_on_the_command_line_a_mistake_is_one_sentence(tmp_path):
    process = run_python("eval.py", tmp_path)
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert process.stderr.strip() == (
        f"eval.py: error: MODEL {tmp_path} holds no config.json: give a folder that train.py wrote."
    )
