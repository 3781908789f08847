"""Thresholds below which nothing is answered: what they promise, on which images, and how they come into results."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import SAMPLE
from scipy.stats import binomtest
from training_runs import read

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.data.loader import Loading
from slimresnet.data.opening import open_data
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.evaluation.merging import still_true
from slimresnet.evaluation.protocol import ScoredNetwork, score_split
from slimresnet.evaluation.rows import ScoredRows
from slimresnet.evaluation.thresholds import choose_thresholds, figures_at, held_out_prefix, thresholds_of
from slimresnet.hub.card_text import render_model_card
from slimresnet.recipe.settings import Recipe
from slimresnet.training.choosing import score_finished


def calibrated(number, seed):
    """Logits of two classes that are as often right as they say, and the classes."""
    rng = np.random.default_rng(seed)
    share = 1 - 0.5 * rng.uniform(1e-3, 1, number) ** 3  # of the class that is thought to be the right one
    logits = torch.from_numpy(np.stack([np.log(share), np.log1p(-share)], axis=1)).float()
    return {"original": logits}, (rng.random(number) > share).astype(np.int64)


def test_the_lower_end_of_the_interval_reaches_the_precision_and_no_lower_threshold_does():
    logits, labels = calibrated(3000, seed=0)
    probability, right = logits["original"].softmax(1).amax(1).numpy(), logits["original"].argmax(1).numpy() == labels
    chosen = choose_thresholds(logits, labels, "none")
    assert 0 < chosen["90"] < chosen["95"] < chosen["99"] < 1

    def low(answered):
        return binomtest(int(right[answered].sum()), int(answered.sum())).proportion_ci(0.95, "wilson").low

    for name, threshold in chosen.items():
        assert low(probability >= threshold) >= int(name) / 100
        assert all(low(probability >= other) < int(name) / 100 for other in probability[probability < threshold][::20])


def test_on_new_images_the_precision_holds():
    """Of a hundred choices, a few at most are of a threshold whose answers are right less often than was asked for."""
    new, new_labels = calibrated(200_000, seed=1000)
    broken = 0
    for seed in range(100):
        chosen = choose_thresholds(*calibrated(1000, seed), "none")
        found = figures_at("test", new, new_labels, "none", {"90": chosen["90"]})
        broken += found["test_precision_90"] < 0.9
        assert found["test_coverage_90"] > 0.5
    assert broken <= 6


@pytest.mark.parametrize(
    ("answers", "reached"), [(34, []), (35, ["90"]), (73, ["90", "95"]), (381, ["90", "95", "99"])]
)
def test_few_images_give_no_threshold(answers, reached):
    """Though none of them is a mistake. Where all may be answered, the threshold is 0."""
    logits, labels = {"original": torch.tensor([[2.0, 0]]).expand(answers, 2)}, np.zeros(answers, np.int64)
    assert choose_thresholds(logits, labels, "none") == dict.fromkeys(reached, 0.0)


def test_images_of_one_probability_are_answered_together():
    logits = {"original": torch.tensor([[3.0, 0]] * 40 + [[1.0, 0]] * 40)}
    labels = np.array([0] * 40 + [0] * 10 + [1] * 30)  # right ones first
    [(name, threshold)] = choose_thresholds(logits, labels, "none").items()
    low, high = (float(torch.tensor([logit, 0.0]).softmax(0)[0]) for logit in (1.0, 3.0))
    assert name == "90" and threshold == pytest.approx((low + high) / 2)
    assert figures_at("eval", logits, labels, "none", {name: threshold}) == {
        "eval_threshold_90": threshold, "eval_coverage_90": 0.5, "eval_precision_90": 1.0,
    }  # fmt: skip
    assert figures_at("eval", logits, labels, "none", {"99": 0.99}) == {
        "eval_threshold_99": 0.99,
        "eval_coverage_99": 0,
    }


def test_a_policy_has_thresholds_of_its_own():
    logits = {"original": torch.tensor([[3.0, 0]] * 40), "mirror": torch.tensor([[0.0, 1]] * 40)}
    labels = np.zeros(40, np.int64)
    assert choose_thresholds(logits, labels, "flip") == {"90": 0.0, "90_tta": 0.0}
    labels[:20] = 1
    sure = torch.nn.functional.one_hot(torch.from_numpy(labels)) * 10.0
    assert choose_thresholds(logits | {"mirror": sure}, labels, "flip") == {"90_tta": 0.0}
    results = {"eval_threshold_90": 0.1, "eval_threshold_90_tta": 0.2, "eval_threshold_99": 0.3, "eval_tta": "flip"}
    assert thresholds_of(results, "eval", "none") == {"90": 0.1, "99": 0.3}
    assert thresholds_of(results, "eval", "paper") == {"90": 0.1, "99": 0.3}
    assert thresholds_of(results, "eval", "flip") == {"90": 0.1, "99": 0.3, "90_tta": 0.2}
    assert thresholds_of(results, held_out_prefix("onnxruntime_int8", True), "flip") == {}
    assert held_out_prefix("onnxruntime", False) == "eval"


def test_figures_at_earlier_thresholds_go_with_the_scores_they_stood_beside():
    before = {
        "eval_threshold_99": 0.9, "eval_coverage_99_tta": 0.2, "eval_accuracy": 0.8, "eval_fingerprint": "a",
        "eval_onnxruntime_int8_threshold_99": 0.7, "test_threshold_99": 0.9, "test_precision": "float32",
    }  # fmt: skip
    kept = still_true(before, {"eval_fingerprint": "a", "eval_accuracy": 0.9})
    assert kept.keys() == before.keys() - {"eval_threshold_99", "eval_coverage_99_tta", "eval_accuracy"} - {
        "eval_fingerprint"
    }
    shifted = still_true(before, {"eval_fingerprint": "a", "eval_corruption_accuracy": 0.5})
    assert shifted.keys() == before.keys() - {"eval_fingerprint"}


# --- how they come into results and card -----------------------------------------------------------------------------


def three_of_four(split, rows):
    """Logits that are sure of the right class, but for each fourth image: there they are wrong, and not sure."""
    labels, is_hard = torch.from_numpy(split.labels[rows]), torch.arange(len(rows)) % 4 == 0
    right, wrong = (torch.nn.functional.one_hot(each, 10) for each in (labels, (labels + 1) % 10))
    return torch.where(is_hard[:, None], 1.5 * wrong, 6.0 * right)


def run_that_holds_out_400(has_seen=False, **settings):
    """Results of a run that held 400 images of the sample out."""
    recipe = Recipe(dataset_name=str(SAMPLE), validation_size=400, tta="flip", **settings)
    data = open_data(recipe, Loading(torch.device("cpu"), 0, 1), PixelFormat(8))

    def predict(network, split, rows, views):
        return dict.fromkeys(views, three_of_four(split, rows))

    network = SlimResNetForImageClassification(SlimResNetConfig())
    return score_finished(recipe, data, network, predict, has_seen=has_seen).results


@pytest.fixture(scope="module")
def finished():
    return run_that_holds_out_400()


def test_training_chooses_them_on_held_out_images_and_measures_them_on_the_test_split(finished):
    """300 answers without a mistake are enough for 95 %, and not for 99 %."""
    for ending in ("90", "95", "90_tta", "95_tta"):
        assert finished[f"eval_threshold_{ending}"] == finished[f"test_threshold_{ending}"]
        assert 0.1 < finished[f"eval_threshold_{ending}"] < 1
        for prefix in ("eval", "test"):
            assert (finished[f"{prefix}_coverage_{ending}"], finished[f"{prefix}_precision_{ending}"]) == (0.75, 1)
    assert not [name for name in finished if "_99" in name]
    assert finished["test_precision"] == "float32"  # of the network: another thing


def score(prefix, of_model, split="test", **options):
    opened = open_split(str(SAMPLE), split, image_size=8)
    network = ScoredNetwork(lambda split, rows, views: dict.fromkeys(views, three_of_four(split, rows)), **options)
    scored = ScoredRows(opened, np.arange(400), prefix, "cifar10_sample", split)
    return score_split(network, scored, tta="none", compare_tta=False, of_model=of_model, of_output={}).results


def test_eval_scores_other_images_at_the_thresholds_of_the_run(finished):
    results = score("new", {"eval_threshold_95": 0.5, "eval_threshold_95_tta": 0.9, "eval_tta": "flip"})
    assert (results["new_threshold_95"], results["new_coverage_95"], results["new_precision_95"]) == (0.5, 0.75, 1)
    assert not [name for name in results if "_95_tta" in name or "_90" in name]
    assert not [name for name in score("new", {}) if "threshold" in name]
    quantized = {"scored_as": "onnxruntime_int8", "precision": "int8", "held_out_prefix": "eval_onnxruntime_int8"}
    assert not [name for name in score("new", {"eval_threshold_95": 0.5}, **quantized) if "threshold" in name]


def test_eval_chooses_anew_on_the_held_out_images(finished):
    results = score("eval", {"eval_threshold_95": 0.99, "eval_threshold_99": 0.999})
    assert results["eval_threshold_95"] < 0.99 and results["eval_coverage_95"] == 0.75
    assert "eval_threshold_99" not in results


def test_images_that_were_trained_on_before_give_no_thresholds_and_no_temperature():
    results = run_that_holds_out_400(has_seen=True)
    assert not [name for name in results if "threshold" in name or "calibration_temperature" in name]
    assert (
        results["eval_samples"] == 400
        and run_that_holds_out_400(temperature=2.0, has_seen=True)["calibration_temperature"] == 2
    )
    for fact in ("train_started_from_saw_held_out", "train_teacher_saw_held_out"):
        assert not [name for name in score("eval", {fact: 1}) if "threshold" in name]


def test_the_card_says_it_in_one_sentence(trained, tmp_path, finished):
    folder = shutil.copytree(trained, tmp_path / "run")
    assert "--target_precision" not in render_model_card(folder, "user/name")
    (folder / "all_results.json").write_text(json.dumps(read(folder) | finished))
    card = " ".join(render_model_card(folder, "user/name").split())
    threshold = finished["test_threshold_95"]
    assert card.count("--target_precision") == 1
    assert f"; for 95 % below {threshold:.3f} (it answers 75.0% of the test images, 100.0% of them rightly). " in card
