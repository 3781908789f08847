"""Metrics, views and eval.py: the figures are those of scikit-learn and of a trained folder."""

import json
import shutil
from types import SimpleNamespace
from unittest.mock import Mock

import evaluate
import numpy as np
import PIL.Image
import pytest
import torch
from conftest import BREAKING, REPOSITORY, SAMPLE, edit_weights
from huggingface_hub import ModelCard
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss, top_k_accuracy_score
from torch.nn import functional as F
from training_runs import evaluate_folder, read, run_script, snapshot, train
from transformers import AutoImageProcessor, ViTImageProcessorPil
from transformers.models.oneformer import image_processing_pil_oneformer as oneformer

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.api.export import export
from slimresnet.api.predict import _predict_batches, predict
from slimresnet.data.loader import Loading
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.source import DatasetError, ImageSplit
from slimresnet.evaluation.logits import predict_logits
from slimresnet.evaluation.scores import (
    METRICS,
    MULTI_LABEL_METRICS,
    Metric,
    Score,
    measure,
    report_split,
    score,
    score_logits,
)
from slimresnet.evaluation.temperature import fit_temperature
from slimresnet.evaluation.tta import (
    POLICIES,
    VIEWS,
    accuracy,
    average,
    best_policy,
    compare_policies,
    logits_of_views,
    views_of,
)
from slimresnet.formats.format import ForeignNetwork
from slimresnet.formats.registry import find_format
from slimresnet.formats.trained import ModelError, find_folder, fold_batchnorm, load_model, load_processing
from slimresnet.hub.card_text import render_model_card
from slimresnet.hub.files import collect
from slimresnet.hub_errors import HubError
from slimresnet.recipe.checks import RecipeError
from slimresnet.run_folder.reading import read_json
from slimresnet.run_folder.writing import FolderError, write_json

METRICS_FOLDER = REPOSITORY / "slimresnet" / "evaluation" / "metrics"


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


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("classes", [range(10), [1, 4, 7], [3]], ids=str)
def test_means_over_classes_are_scikit_learns(logits, classes):
    """Classes that are not there have no recall; those that are only predicted count for F1."""
    logits, labels = logits
    chosen = np.isin(labels, classes)
    scores = measure("per_class", logits[chosen], labels[chosen])
    predicted = logits[chosen].argmax(dim=1).numpy()
    assert set(predicted) > set(classes) or len(classes) == 10
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels[chosen], predicted))
    assert scores["macro_f1"] == pytest.approx(f1_score(labels[chosen], predicted, average="macro"))


def test_a_row_of_the_confusion_matrix_is_a_true_class():
    scores = measure("per_class", torch.eye(3)[[1, 1, 1, 2]], np.array([0, 0, 1, 2]))
    assert scores["confusion_matrix"] == [[0, 2, 0], [0, 1, 0], [0, 0, 1]]
    assert scores["precision"] == pytest.approx([0, 1 / 3, 1]) and scores["recall"] == [0, 1, 1]
    assert scores["f1"] == pytest.approx([0, 0.5, 1])


def test_the_fifth_is_among_the_top_five_and_the_sixth_is_not():
    falling = torch.arange(10, 0, -1.0).repeat(4, 1)
    scores = measure("classification", falling, np.array([0, 4, 5, 9]))
    assert scores["top_5_accuracy"] == 0.5 and scores["accuracy"] == 0.25


def test_of_five_classes_no_top_five_is_said():
    falling, labels = torch.arange(6, 0, -1.0).repeat(2, 1), np.array([0, 4])
    assert measure("classification", falling, labels)["top_5_accuracy"] == 1
    assert "top_5_accuracy" not in measure("classification", falling[:, :5], labels)


@pytest.mark.parametrize(("second", "predicted"), [(0.0, 0), (1e-30, 1)], ids=["a tie", "nearly a tie"])
def test_all_agree_on_which_class_is_the_largest(second, predicted):
    """The lower one of equal logits; probabilities are equal where logits are nearly so."""
    logits, labels = torch.tensor([[0.0, second, -1.0]]).repeat(3, 1), np.array([0, 1, 1])
    share = float((labels == predicted).mean())
    assert measure("classification", logits, labels)["accuracy"] == pytest.approx(share)
    assert np.array(measure("per_class", logits, labels)["confusion_matrix"])[:, predicted].tolist() == [1, 2, 0]
    (only,) = measure("calibration", logits, labels)["bins"]
    assert only["accuracy"] == pytest.approx(share)
    assert accuracy({"original": logits}, POLICIES["none"], labels) == pytest.approx(share)


GOOD = [[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]]
ODD = {
    "NaN": ([[1.0, np.nan, 3.0], GOOD[1]], [2, 0], "1 of 2 samples .* the first is sample 0"),
    "all NaN": ([[np.nan] * 3] * 2, [2, 0], "2 of 2 samples .* the first is sample 0"),
    "+inf": ([GOOD[0], [np.inf, 1.0, 2.0]], [2, 0], "1 of 2 samples .* the first is sample 1"),
    "-inf": ([GOOD[0], [3.0, -np.inf, 2.0]], [2, 0], "1 of 2 samples .* the first is sample 1"),
    "beyond float32": ([GOOD[0], [1e300, 1.0, 2.0]], [2, 0], "1 of 2 samples .* the first is sample 1"),
    "no number": ([GOOD[0], [3.0, None, 2.0]], [2, 0], "1 of 2 samples .* the first is sample 1"),
    "label below": (GOOD, [2, -1], r"a label outside 0 … 2; the first is sample 1, whose label is -1\."),
    "label beyond": (GOOD, [3, 0], r"a label outside 0 … 2; the first is sample 0, whose label is 3\."),
    "no label": (GOOD, [2, None], r"a label outside 0 … 2; the first is sample 1, whose label is nan\."),
    "no sample": ([], [], "at least one sample and two classes, got 0 samples"),
    "one class": ([[1.0], [2.0]], [0, 0], r"at least one sample and two classes, got 2 samples of \[1\] classes"),
    "no class": ([[], []], [0, 0], r"at least one sample and two classes, got 2 samples of \[0\] classes"),
    "ragged": ([[1.0, 2.0], GOOD[0]], [1, 2], r"got 2 samples of \[2, 3\] classes"),
}


@pytest.mark.parametrize("case", ODD)
def test_the_metrics_refuse_odd_input_alike(case):
    predictions, references, said = ODD[case]
    refusals = set()
    for name in METRICS:
        with pytest.raises(ValueError, match=said) as refused:
            evaluate.load(str(METRICS_FOLDER / name)).compute(predictions=predictions, references=references)
        refusals.add(str(refused.value))
    assert len(refusals) == 1 and "\n" not in refusals.pop()


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_what_goes_in(name):
    metric = evaluate.load(str(METRICS_FOLDER / name))
    assert "predictions: logits" in metric.inputs_description and metric.description and not metric.citation


def test_what_the_metrics_check_is_one_text():
    """`evaluate` copies a script without its neighbours, so each has a copy of the text of its task."""
    for metrics in (METRICS, MULTI_LABEL_METRICS):
        files = [METRICS_FOLDER / name / f"{name}.py" for name in metrics]
        texts = {file.read_text().partition("def _checked")[2] for file in files}
        assert len(texts) == 1 and texts.pop()
    assert {*METRICS, *MULTI_LABEL_METRICS} == {file.stem for file in METRICS_FOLDER.glob("*/*.py")}


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


@pytest.mark.filterwarnings("error")
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


def test_calibration_has_fifteen_bins():
    """0.62 and 0.68 lie in one bin of ten and in two of fifteen; 1 lies in the last."""
    shares = torch.tensor([0.62, 0.68])
    logits = torch.stack([shares, 1 - shares], dim=1).log()
    labels = np.array([0, 1])
    scores = measure("calibration", logits, labels)
    assert scores["expected_calibration_error"] == pytest.approx((0.38 + 0.68) / 2, abs=1e-6)
    metric = evaluate.load(str(METRICS_FOLDER / "calibration"))
    of_ten = metric.compute(predictions=logits, references=labels, num_bins=10)
    assert of_ten["expected_calibration_error"] == pytest.approx(0.65 - 0.5, abs=1e-6)
    # A bin holds its upper end: 0.5 is not in one bin with 0.75.
    of_two = metric.compute(predictions=[[0, 0], [np.log(3), 0]], references=[1, 0], num_bins=2)
    assert of_two["expected_calibration_error"] == pytest.approx((0.5 + 0.25) / 2, abs=1e-6)
    of_one = metric.compute(predictions=[[0, 0], [np.log(3), 0]], references=[1, 0], num_bins=1)
    assert of_one["expected_calibration_error"] == pytest.approx((0.5 + 0.75) / 2 - 0.5, abs=1e-6)
    (last,) = measure("calibration", torch.tensor([[1000.0, 0.0]]), np.array([0]))["bins"]
    assert last == {"confidence": 1, "accuracy": 1, "share": 1}
    with pytest.raises(ValueError, match="num_bins must be at least 1, got 0"):
        metric.compute(predictions=logits, references=labels, num_bins=0)


def test_what_a_head_gave_before_it_was_divided_stands_beside_what_it_gives():
    probabilities = torch.softmax(2 * torch.randn(2000, 5), dim=1)
    labels = torch.multinomial(probabilities, 1)[:, 0].numpy()
    scores, details = score_logits(probabilities.log(), labels, temperature=3.0)
    before, bins_before = score_logits(3 * probabilities.log(), labels)
    assert not [name for name in (*before, *bins_before) if name.endswith("_uncalibrated")]
    for name in ("loss", "expected_calibration_error"):
        assert scores[f"{name}_uncalibrated"] == pytest.approx(before[name], abs=1e-6)
    bins = [pytest.approx(each, abs=1e-6) for each in bins_before["reliability"]]
    assert details["reliability_uncalibrated"] == bins
    confidence = sum(each["share"] * each["confidence"] for each in details["reliability"])
    assert confidence == pytest.approx(probabilities.max(dim=1).values.mean().item(), abs=1e-5)
    assert scores["expected_calibration_error"] < 0.05 < scores["expected_calibration_error_uncalibrated"]
    assert scores.keys() - before.keys() == {"loss_uncalibrated", "expected_calibration_error_uncalibrated"}


def test_temperature_finds_what_the_logits_were_scaled_with():
    probabilities = torch.softmax(2 * torch.randn(20000, 5), dim=1)
    labels = torch.multinomial(probabilities, 1)[:, 0].numpy()
    assert fit_temperature(3 * probabilities.log(), labels) == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("margin", [3.0, 60.0, 5000.0])  # at 60 the loss is 0 in float64, whatever the temperature
def test_logits_that_fit_no_temperature_get_none(margin):
    labels = np.arange(80) % 4
    right = margin * torch.eye(4)[labels]
    assert fit_temperature(right, labels) is None  # the smaller, the better
    assert fit_temperature(-right, labels) is None  # the larger, the better
    assert fit_temperature(torch.zeros(80, 4), labels) is None  # all the same


def test_few_images_fit_no_temperature():
    """Of five images a network may be all but certain of four, and that says nothing of any other image."""
    probabilities = torch.softmax(torch.randn(50, 5), dim=1)
    labels = torch.multinomial(probabilities, 1)[:, 0].numpy()
    assert fit_temperature(probabilities.log(), labels) is not None
    assert fit_temperature(probabilities.log()[:49], labels[:49]) is None


def test_metrics_load_and_combine_as_any(logits):
    logits, labels = logits
    combined = evaluate.combine(
        [evaluate.load(str(METRICS_FOLDER / name)) for name in ("classification", "calibration")]
    )
    for scored, label in zip(logits.numpy(), labels, strict=True):
        combined.add(prediction=scored, reference=label)
    scores = combined.compute()
    assert scores["accuracy"] == accuracy_score(labels, logits.argmax(dim=1).numpy())
    assert 0 < scores["expected_calibration_error"] < 1


BRIER = """
import datasets
import evaluate
import numpy as np
from scipy.special import softmax


class Brier(evaluate.Metric):
    def _info(self):
        features = {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(features))

    def _compute(self, predictions, references):
        wrong = softmax(np.array(predictions), axis=1) - np.eye(len(predictions[0]))[references]
        return {"brier_score": float((wrong**2).sum(axis=1).mean()), "brier_parts": [1]}
"""


def test_a_new_metric_is_a_folder_and_an_entry(trained, tmp_path, monkeypatch):
    """From there it comes into the results, the details, the table of the card and its metadata."""
    script = tmp_path / "brier" / "brier.py"
    script.parent.mkdir()
    script.write_text(BRIER)
    score = Score("Brier score", "brier_score", "Brier", ".3f")
    monkeypatch.setitem(METRICS, str(script.parent), Metric(shown={"brier_score": score}, renamed={}))
    folder = shutil.copytree(trained, tmp_path / "run")
    found = evaluate_folder(folder, "--tta=flip", f"--output_dir={folder}")
    assert read(folder)["test_brier_score"] == found.results["test_brier_score"] != read(folder)["test_brier_score_tta"]
    assert read(folder, "test_details.json")["brier_parts"] == [1]
    card = ModelCard.load(folder / "README.md")
    assert f" {found.results['test_brier_score']:.3f} |" in card.text and " | Brier |\n" in card.text
    assert [each.metric_value for each in card.data.eval_results if each.metric_name == "Brier score"] == [
        found.results["test_brier_score"]
    ]
    (folder / "all_results.json").write_text(json.dumps(read(folder) | {"test_brier_score": "low"}))
    with pytest.raises(FolderError, match="test_brier_score must be a number, got 'low'"):
        render_model_card(folder, "user/name")


class Shades:
    """Images whose shade is their row number, and 100 more in the right half."""

    uses_workers = False

    def read(self, batches):
        for rows in batches:
            shade = torch.from_numpy(rows).to(torch.uint8).view(-1, 1, 1, 1)
            yield shade + torch.tensor([0, 0, 100, 100], dtype=torch.uint8).expand(1, 3, 4, 4)


def scoring(config, logits_of_row, rows):
    """Arguments for `predict_logits` and `score`, of a network that knows the row number; on one process."""
    network = ForeignNetwork(
        lambda shades: torch.stack([logits_of_row(int(shade[0, 0, 0])) for shade in shades]), config
    )
    split = ImageSplit(np.arange(20) % 2, ["b", "a"], Shades())
    return (network, split, rows, Loading(torch.device("cpu"))), {"batch_size": 3, "normalize": torch.Tensor.float}


def test_logits_come_in_the_order_of_the_rows(tiny_config):
    rows = np.array([7, 2, 11, 19, 0])
    positional, named = scoring(tiny_config, lambda row: torch.tensor([row, 10.0]), rows)
    logits = predict_logits(*positional, **named, views=["mirror", "original"])
    assert list(logits) == ["mirror", "original"]
    assert logits["original"].tolist() == [[float(row), 10.0] for row in rows]
    assert logits["mirror"].tolist() == [[100.0 + row, 10.0] for row in rows]
    # Labels are 1, 0, 1, 1, 0; predicted are 1, 1, 0, 0, 1.
    scores = score(*positional, **named)
    assert scores["accuracy"] == pytest.approx(1 / 5)
    expected = log_loss(rows % 2, F.softmax(logits["original"].double(), dim=1).numpy())
    assert scores["loss"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(tiny_config, value):
    """Whatever ran the network."""
    broken = {11, 2}
    positional, named = scoring(
        tiny_config, lambda row: torch.tensor([0.0, value if row in broken else 1.0]), np.array([7, 2, 11, 19, 0])
    )
    for each in (predict_logits, score):
        with pytest.raises(ModelError, match=r"NaN or infinite for 2 of 5 images, the first is row 2: .*learning_rate"):
            each(*positional, **named)


def test_figures_are_strict_json(tmp_path, trained):
    for file in trained.glob("*.json"):
        assert read_json(file)
    file = tmp_path / "figures.json"
    content = {"accuracy": 0.5, "name": "Ä", "classes": [1, None]}
    write_json(file, content)
    assert read_json(file) == content == json.loads(file.read_text(encoding="utf-8"))
    before = file.read_bytes()
    for number in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(file, {"details": [{"loss": number}]})
    assert file.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["figures.json"]
    for token in ("NaN", "Infinity", "-Infinity", "1e999"):
        file.write_text(f'{{"details": [{{"loss": {token}}}]}}')
        with pytest.raises(FolderError, match=rf"figures\.json is no JSON \({token} is not a finite number\): restore"):
            read_json(file)


def test_a_split_is_reported_without_and_with_views(logits):
    logits, labels = logits
    views = {"original": logits, "mirror": logits.flip(0)}
    results, details = report_split("eval", views, labels, policy="flip", temperature=2.0)
    plain, expected = score_logits(logits, labels, 2.0)
    both, _ = score_logits((logits + logits.flip(0)) / 2, labels)
    assert details == expected
    counts = np.bincount(labels)
    assert results == (
        {f"eval_{name}": value for name, value in plain.items()}
        | {f"eval_{name}_tta": value for name, value in both.items()}
        | {"eval_samples": 500, "eval_tta": "flip"}
        | {"eval_smallest_class_samples": counts.min(), "eval_largest_class_samples": counts.max()}
    )
    assert both["accuracy"] != plain["accuracy"]


def test_views():
    pixels = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    made = {name: view(pixels) for name, view in VIEWS.items()}
    assert all(view.shape == pixels.shape and view.dtype == torch.uint8 for view in made.values())
    assert torch.equal(made["centre crop"], pixels) and torch.equal(made["mirror"].flip(3), pixels)
    assert torch.equal(made["up left"][:, :, :-1, :-1], pixels[:, :, 1:, 1:])
    assert torch.equal(made["down right"][:, :, 1:, 1:], pixels[:, :, :-1, :-1])
    assert torch.equal(made["up left"][:, :, -1, :-1], pixels[:, :, -2, 1:])  # mirrored at the border
    assert torch.equal(made["mirror, down right"][:, :, 1:, 1:], pixels.flip(3)[:, :, :-1, :-1])
    assert torch.equal(made["mirror, up left"][:, :, :-1, :-1], pixels.flip(3)[:, :, 1:, 1:])
    assert torch.equal(made["upside down"].flip(2), pixels)
    assert torch.equal(made["original"], pixels)
    # Gaussian of one pixel's deviation, three wide.
    side = np.exp(-0.5)
    kernel = torch.tensor([side, 1, side], dtype=torch.float64) / (1 + 2 * side)
    padded = F.pad(pixels.double(), (1, 1, 1, 1), mode="reflect").reshape(9, 1, 10, 10)
    blurred = F.conv2d(padded, torch.outer(kernel, kernel)[None, None]).view(3, 3, 8, 8)
    assert (made["blur"].double() - blurred).abs().max() <= 0.51


def test_views_that_show_the_same_image_are_predicted_once():
    pixels, seen = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8), []

    def predict(view):
        seen.append(view)
        return view.float().mean(dim=(2, 3))

    logits = logits_of_views(predict, pixels, views_of(*POLICIES))
    assert list(logits) == views_of(*POLICIES) and logits.keys() == VIEWS.keys()
    for name, make in VIEWS.items():
        assert torch.equal(logits[name], make(pixels).float().mean(dim=(2, 3)))
    assert len(seen) == len(VIEWS) - 1  # the centre crop is the original
    for views in (["original"], views_of("flip"), views_of("flip_shift")):
        seen.clear()
        logits_of_views(predict, pixels, views)
        assert len(seen) == len(views)


def test_logits_are_copied_from_the_device_once(untrained, monkeypatch):
    """Each copy waits for the device."""
    copies, plain = [], torch.Tensor.cpu
    model, split = load_model(untrained), open_split(str(SAMPLE), "test", image_size=32)
    settings = {"batch_size": 8, "normalize": load_processing(untrained).normalize, "views": ["original", "mirror"]}
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(tensor.shape) or plain(tensor))
    logits = predict_logits(model, split, np.arange(20), Loading(torch.device("cpu")), **settings)
    assert copies == [(2, 20, 10)] and [each.shape for each in logits.values()] == [(20, 10)] * 2


def test_a_process_without_a_row_gives_nothing(untrained, monkeypatch):
    """Two processes share one row."""
    model, split = load_model(untrained), open_split(str(SAMPLE), "test", image_size=32)
    shares = []

    def gather(share):
        shares.append(share)
        return [logits for each in shares for logits in each]

    monkeypatch.setattr("slimresnet.evaluation.logits.gather_object", gather)
    for process in range(2):
        loading = Loading(torch.device("cpu"), process, num_processes=2)
        normalize = load_processing(untrained).normalize
        scored = predict_logits(model, split, np.array([3]), loading, batch_size=8, normalize=normalize)
    assert [len(share) for share in shares] == [1, 0] and scored["original"].shape == (1, 10)


@pytest.mark.parametrize("asked", [None, 7])
@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_predictions_are_made_in_batches_of_the_device_that_the_network_runs_on(monkeypatch, asked, backend):
    """On a machine with a GPU, all programs but PyTorch run on the CPU."""
    taken = Mock(return_value=[])
    monkeypatch.setattr("slimresnet.api.predict.islice", taken)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: torch.device("cuda"))
    runnable = SimpleNamespace(network=Mock(), config=SlimResNetConfig())
    assert not list(_predict_batches(runnable, [], "none", asked, "no", find_format(backend).uses_gpu))
    assert taken.call_args.args[1] == (asked or {"torch": 1000, "onnxruntime": 128}[backend])


def test_policies_are_means():
    for policy in POLICIES.values():
        assert sum(policy.values()) == pytest.approx(1) and policy.keys() <= VIEWS.keys()
    logits = {name: torch.full((2, 3), float(index)) for index, name in enumerate(VIEWS)}
    assert average(logits, POLICIES["flip"])[0, 0] == 0.5
    assert list(VIEWS)[6:] == ["upside down", "centre crop", "blur"]
    assert average(logits, POLICIES["flip_shift"])[0, 0] == pytest.approx(0.25 * (0 + 1) + 0.125 * (2 + 3 + 4 + 5))
    assert average(logits, POLICIES["paper"])[0, 0] == pytest.approx((0 + 1 + 6 + 7 + 8) / 5)


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


def test_training_chooses_on_validation_and_says_it_all(trained):
    results = read(trained)
    details = {prefix: json.loads((trained / f"{prefix}_details.json").read_text()) for prefix in ("eval", "test")}
    assert results["test_tta"] == results["eval_tta"] == best_policy(details["eval"]["tta"])
    assert "tta" not in details["test"] and results["calibration_temperature"] > 0
    assert (results["calibration_source"], results["calibration_samples"]) == ("held_out", 90)
    assert ("test_accuracy_tta" in results) == (results["test_tta"] != "none")
    recipe = (trained / "recipe.yaml").read_text()
    assert "tta: auto\n" in recipe and "temperature: null\n" in recipe  # as asked
    for prefix in ("eval", "test"):
        assert results[f"{prefix}_accuracy_low"] < results[f"{prefix}_accuracy"] < results[f"{prefix}_accuracy_high"]
        assert {f"{prefix}_top_5_accuracy", f"{prefix}_expected_calibration_error_uncalibrated"} <= results.keys()
    assert results["eval_loss"] < results["eval_loss_uncalibrated"]  # which is what the temperature is fitted for
    assert {file.name for file in (trained / "figures").iterdir()} == {
        "curves.png", "learning_rate.png", "training_samples.png",
        "test_confusion_matrix.png", "test_classes.png", "test_reliability.png", "test_mistakes.png",
    }  # fmt: skip


def test_without_validation_nothing_is_chosen(flags):
    folder = train(flags, "--validation_size=0", "--max_train_steps=1")
    results = read(folder)
    assert results["test_tta"] == "none" and "eval_accuracy" not in results
    assert not [name for name in results if "calibrat" in name.replace("_expected_calibration_error", "")]
    assert "The network is not calibrated" in (folder / "README.md").read_text()
    given = ["--tta=flip", "--temperature=0.5", "--overwrite_output_dir"]
    folder = train(flags, "--validation_size=0", "--max_train_steps=1", *given)
    results = read(folder)
    assert results["test_tta"] == "flip" and "test_accuracy_tta" in results
    assert (results["calibration_temperature"], results["calibration_source"]) == (0.5, "recipe")
    assert "calibration_samples" not in results and "test_expected_calibration_error_uncalibrated" in results
    card = " ".join((folder / "README.md").read_text().split())
    assert "divided by the temperature 0.500, which its recipe gives. Its probabilities" in card


def test_eval_reproduces_the_figures_of_the_run(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    before = read(folder)
    evaluate_folder(folder, f"--output_dir={folder}", f"--tta={before['test_tta']}")
    after = read(folder)
    assert after.keys() - before.keys() == {"test_runtime", "test_samples_per_second"}
    assert after["test_times_scored"] == before.pop("test_times_scored") + 1
    for name, value in before.items():  # a process in NCHW and one in NHWC differ in the last bits
        assert after[name] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value), name
    details = json.loads((folder / "test_details.json").read_text())
    assert np.array(details["confusion_matrix"]).sum() == 90 and len(details["f1"]) == 10


def test_a_model_that_is_not_to_be_had_is_said_in_the_first_line_of_the_reason(monkeypatch):
    monkeypatch.setattr(
        "slimresnet.formats.trained.snapshot_download", Mock(side_effect=OSError("no way\nthrough here"))
    )
    with pytest.raises(ModelError, match=r"MODEL user/none is no folder here, .* \(OSError: no way\)"):
        find_folder("user/none")


def test_a_preprocessor_is_pillows(untrained, monkeypatch):
    """Another backend, which transformers would take where torchvision is, rounds in its own way."""
    load = Mock(wraps=ViTImageProcessorPil.from_dict)
    monkeypatch.setattr(ViTImageProcessorPil, "from_dict", load)
    for name in ("ViTImageProcessor", "ViTImageProcessorFast", "ViTImageProcessorPil"):
        edit_processor(untrained, image_processor_type=name)
        load_processing(untrained)
    assert load.call_count == 3


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
    before = read(trained)
    for name in ("eval_accuracy", "eval_loss", "eval_expected_calibration_error"):  # as shipped, and fitted no more
        assert read(folder)[name] == pytest.approx(before[name], abs=1e-5)
    assert not [name for name in read(folder) if "temperature" in name or name.endswith("_uncalibrated")]


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


def test_weights_that_do_not_fit_are_named(untrained):
    edit_weights(untrained, lambda tensors: tensors.pop("classifier.bias"))
    with pytest.raises(ModelError, match=r"other weights than its config\.json says: classifier\.bias"):
        evaluate_folder(untrained)


@pytest.mark.parametrize("case", BREAKING)
def test_a_network_that_is_not_a_number_is_refused_by_every_tool(untrained, tmp_path, case):
    edit_weights(untrained, BREAKING[case])
    (untrained / "recipe.yaml").write_text(f"dataset_name: {SAMPLE}\nvalidation_size: 0\nmax_eval_samples: 5\n")
    config = read(untrained, "config.json")
    names = dict(enumerate(open_split(str(SAMPLE), "test", image_size=32).label_names))
    (untrained / "config.json").write_text(json.dumps(config | {"id2label": names, "label2id": None}))
    said = "logits that are NaN" if case == "a variance below zero" else "weights that are NaN or infinite in 1 of its"
    output = tmp_path / "classes.csv"
    output.write_text("earlier")
    tools = (
        lambda: evaluate_folder(untrained, f"--output_dir={tmp_path / 'figures'}"),
        lambda: predict(untrained, SAMPLE, output=output),
        lambda: export(untrained, output_dir=tmp_path / "out"),
    )
    for tool in tools:
        with pytest.raises(ModelError, match=said):
            tool()
    assert output.read_text() == "earlier"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["classes.csv", "untrained"]


@pytest.mark.parametrize("case", BREAKING)
def test_a_network_that_is_not_a_number_is_not_shared(trained, tmp_path, case):
    folder = shutil.copytree(trained, tmp_path / "run")
    edit_weights(folder, BREAKING[case])
    with pytest.raises(HubError, match="NaN or infinite"):
        collect(folder, "user/name")


def test_a_figure_that_is_not_a_number_is_not_shared(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    for name in ("all_results.json", "test_details.json", "trainer_state.json"):
        before = (folder / name).read_text()
        (folder / name).write_text(before.replace("{", '{"extra": NaN,', 1))
        with pytest.raises(HubError, match=rf"{name} is no JSON \(NaN is not a finite number\)"):
            collect(folder, "user/name")
        (folder / name).write_text(before)
    collect(folder, "user/name")


# --- the image processor -------------------------------------------------------------------------------------------


def edit_processor(folder, **edits):
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | edits))


@pytest.mark.parametrize(
    "edits",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [120.0, 110.0, 100.0], "image_std": [60.0, 61.0, 62.0]},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
        {"image_mean": 0.5, "image_std": 0.25},
        {"image_processor_type": "DeiTImageProcessor", "do_center_crop": False},
    ],
)
def test_a_processor_that_only_scales_is_followed(untrained, edits):
    edit_processor(untrained, **edits)
    pixels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    expected = AutoImageProcessor.from_pretrained(untrained)(list(pixels), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(load_processing(untrained).normalize(pixels), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"image_std": 0}, "image_std 0 and rescale_factor .* must be finite, the last two above 0"),
        ({"image_std": [0.2, 0, 0.2]}, "must be finite"),
        ({"image_mean": [0.5, float("nan"), 0.5]}, "must be finite"),
        ({"image_std": float("inf")}, "must be finite"),
        ({"rescale_factor": 0}, "rescale_factor 0 must be finite"),
        ({"image_mean": [0.5, 0.5]}, "no preprocessor_config.json that can be used"),
        ({"resample": 3}, r"other pixel_values of an image of 41×67 .*bilinear"),
        ({"resample": 0}, r"other pixel_values of an image of 41×67"),
        (
            {"size": {"height": 64, "width": 64}},
            "its size {'height': 64, 'width': 64} is not that of the n.*k, 32×32",
        ),
        ({"size": {"shortest_edge": 32}}, "its size {'shortest_edge': 32} is not that of the network"),
        ({"size": {"height": 10**6, "width": 10**6}}, "its size .* is not that of the network"),  # terabytes
        ({"do_center_crop": True, "crop_size": {"height": 10**6, "width": 10**6}}, "its crop_size .* is not that"),
        ({"do_pad": True, "pad_size": {"height": 10**6, "width": 10**6}}, "its pad_size .* is not that of"),
        ({"do_resize": False}, r"image of 41×67 \(torch\.float32, \[3, 41, 67\]\)"),
        ({"do_rescale": False, "do_normalize": False}, r"torch\.uint8"),
        ({"image_processor_type": "DeiTImageProcessor", "do_center_crop": True}, "its crop_size"),  # 224, unless said
        ({"image_processor_type": "CLIPImageProcessor"}, "CLIPImageProcessor is not known here, where ViTImageProc"),
        ({"image_processor_type": None}, "its image_processor_type None is not known here"),
    ],
)
def test_a_processor_that_does_anything_else_is_refused(untrained, edits, said):
    edit_processor(untrained, **edits)
    with pytest.raises(ModelError, match=said) as refused:
        load_processing(untrained)
    assert "preprocessor_config.json" in str(refused.value) and "\n" not in str(refused.value)


def test_no_processor_fetches_what_its_file_names(untrained, monkeypatch):
    """As OneFormer's does, of any repository or folder."""
    fetch = Mock(side_effect=OSError("fetched"))
    monkeypatch.setattr(oneformer, "hf_hub_download", fetch)
    settings = {"class_info_file": "it.json", "num_text": 1, "repo_path": "somebody/beacon"}
    with pytest.raises(OSError, match="fetched"):
        oneformer.OneFormerImageProcessorPil(**settings)
    fetch.reset_mock()
    edit_processor(untrained, image_processor_type="OneFormerImageProcessor", **settings)
    with pytest.raises(ModelError, match="its image_processor_type OneFormerImageProcessor is not known here"):
        load_processing(untrained)
    fetch.assert_not_called()


def test_a_large_network_is_not_tried_at_its_size(untrained, monkeypatch):
    """Three images of 8192×8192 and more would be gigabytes."""
    config = read(untrained, "config.json")
    (untrained / "config.json").write_text(json.dumps(config | {"image_size": 8192}))
    edit_processor(untrained, size={"height": 8192, "width": 8192})
    made = Mock(wraps=PIL.Image.fromarray)
    monkeypatch.setattr("slimresnet.formats.image_processor.fromarray", made)
    load_processing(untrained)
    assert made.call_count == 3 and max(each.args[0].size for each in made.call_args_list) < 1 << 20
    edit_processor(untrained, resample=3)
    with pytest.raises(ModelError, match="makes other pixel_values"):
        load_processing(untrained)


def test_a_processor_is_refused_by_every_tool(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    edit_processor(folder, resample=3)
    tools = (
        lambda: evaluate_folder(folder),
        lambda: predict(folder, SAMPLE, output=tmp_path / "o.csv"),
        lambda: export(folder, output_dir=tmp_path / "out"),
        lambda: collect(folder, "user/name"),
    )
    for tool in tools:
        with pytest.raises((ModelError, HubError), match=r"preprocessor_config\.json that can be used"):
            tool()


@pytest.mark.processes
def test_on_the_command_line_a_mistake_is_one_sentence(tmp_path):
    process = run_script("eval.py", tmp_path, folder=tmp_path)
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert process.stderr.strip() == (
        f"eval.py: error: MODEL {tmp_path} holds no config.json: give a folder that train.py, transformers' "
        "Trainer or save_pretrained wrote."
    )
