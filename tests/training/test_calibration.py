"""The temperature goes into the head of what is saved, so that every client has it; and what a twin may lend."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import SAMPLE, tiny_run_flags
from PIL import Image
from training_runs import assert_same_weights, evaluate_folder, read, train, weights
from transformers import pipeline

from slimresnet.api.export import export
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.splits import random_subset, stratified_split
from slimresnet.evaluation.scores import measure
from slimresnet.evaluation.temperature import fit_temperature
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.reading import read_recipe

PRETRAINED = SAMPLE.parents[1] / "pretrained/slimresnet-cifar10"
HEAD = ("classifier.weight", "classifier.bias")


@pytest.fixture(scope="module")
def flags_of(tiny_config_dir):
    """Of a run in a folder, whose temperature is far from 1: its labels are smoothed, and few."""

    def flags(folder, *more):
        return [*tiny_run_flags(tiny_config_dir, folder), "--learning_rate=0.03", "--max_eval_samples=400", *more]

    return flags


@pytest.fixture(scope="module")
def twin(tmp_path_factory, flags_of):
    """The folder of a run that fitted its temperature on 400 held-out images."""
    return train(flags_of(tmp_path_factory.mktemp("twin") / "run", "--validation_size=400"))


@pytest.fixture(scope="module")
def lone(tmp_path_factory, flags_of):
    """The folder of a run of the same recipe that holds no images out."""
    return train(flags_of(tmp_path_factory.mktemp("lone") / "run", "--validation_size=0"))


def assert_divided(folder, raw, temperature):
    """A folder has the weights of another, but for a head that is divided."""
    expected = weights(raw)
    for name, value in weights(folder).items():
        divided = expected[name] / temperature if name in HEAD else expected[name]
        torch.testing.assert_close(value, divided, rtol=1e-6, atol=1e-8, msg=name)


def test_the_head_is_divided_by_what_fits_the_held_out_images(twin):
    results, temperature = read(twin), read(twin)["calibration_temperature"]
    assert abs(np.log(temperature)) > 0.05
    assert (results["calibration_source"], results["calibration_samples"]) == ("held_out", 400)
    assert_divided(twin, twin / "checkpoint-21", temperature)
    assert results["eval_loss"] < results["eval_loss_uncalibrated"]


def probabilities_of(folder, part, rows):
    """What transformers' pipeline says of images of the sample, `[N, num_labels]` in the order of the classes."""
    split = open_split(str(SAMPLE), part, image_size=32)
    (pixels,) = split.images.read([rows])
    images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    classify = pipeline("image-classification", model=str(folder), trust_remote_code=True, device="cpu")
    said = [{each["label"]: each["score"] for each in scores} for scores in classify(images, top_k=10)]
    return torch.tensor([[scores[name] for name in split.label_names] for scores in said]), split.labels[rows]


def test_what_is_left_to_divide_is_one(twin):
    """By eval.py, and by a second fit on what the pipeline says of the held-out images."""
    before = read(twin)
    found = evaluate_folder(twin, "--split=held_out").results
    for name in ("loss", "loss_uncalibrated", "expected_calibration_error", "expected_calibration_error_uncalibrated"):
        assert found[f"eval_{name}"] == pytest.approx(before[f"eval_{name}"], abs=1e-5), name
    labels = open_split(str(SAMPLE), "train", image_size=32).labels
    _, rows = stratified_split(labels, 400, read_recipe(twin).seed)
    probabilities, labels = probabilities_of(twin, "train", rows)
    assert fit_temperature(probabilities.log(), labels) == pytest.approx(1, abs=0.01)


def test_the_pipeline_and_onnx_give_calibrated_probabilities(twin, tmp_path):
    """Of the run's test images: the error that the results state as shipped, and not the one before."""
    results = read(twin)
    probabilities, labels = probabilities_of(twin, "test", random_subset(np.arange(500), 400, read_recipe(twin).seed))
    said = measure("calibration", probabilities.log(), labels)
    error = results["test_expected_calibration_error"]
    assert said["expected_calibration_error"] == pytest.approx(error, abs=1e-4)
    assert abs(results["test_expected_calibration_error_uncalibrated"] - error) > 1e-3
    export(twin, format="onnx", output_dir=tmp_path / "onnx")
    of_file = evaluate_folder(tmp_path / "onnx", "--backend=onnxruntime").results
    for name in ("loss", "loss_uncalibrated", "expected_calibration_error", "accuracy"):
        assert of_file[f"test_onnxruntime_{name}"] == pytest.approx(results[f"test_{name}"], abs=1e-4), name


def test_a_twin_lends_its_temperature(twin, lone, tmp_path, flags_of):
    """Accuracy is that of the run without; the error before is that run's error."""
    folder = train(flags_of(tmp_path / "run", "--validation_size=0", f"--calibration_run={twin}"))
    results, plain = read(folder), read(lone)
    assert results["calibration_temperature"] == read(twin)["calibration_temperature"]
    assert (results["calibration_source"], results["calibration_samples"]) == ("twin", 400)
    assert_divided(folder, lone, results["calibration_temperature"])
    assert results["test_accuracy"] == plain["test_accuracy"]
    for name in ("loss", "expected_calibration_error"):
        assert results[f"test_{name}_uncalibrated"] == pytest.approx(plain[f"test_{name}"], abs=1e-5)
    card = (folder / "README.md").read_text()
    assert "fitted on 400 held-out images of another run of its recipe" in card and str(twin) not in card
    assert str(twin) not in (folder / "recipe.yaml").read_text()


def test_without_held_out_images_and_a_twin_it_says_so(lone):
    results = read(lone)
    assert not any("calibration_t" in name or "uncalibrated" in name for name in results)
    assert "The network is not calibrated" in (lone / "README.md").read_text()
    assert_same_weights(lone, lone / "checkpoint-21")


def test_the_end_of_a_run_comes_to_the_same_again(twin, tmp_path, flags_of):
    """From the last checkpoint, which has the head as it was trained."""
    again = shutil.copytree(twin / "checkpoint-21", tmp_path / "run" / "checkpoint-21").parent
    train(flags_of(again, "--validation_size=400", "--resume_from_checkpoint=last"))
    assert_same_weights(again, twin)
    assert read(again)["calibration_temperature"] == read(twin)["calibration_temperature"]


def test_of_averaged_weights_and_of_the_best_epoch(tmp_path, flags_of):
    more = ["--validation_size=400", "--ema_decay=0.5", "--load_best_model_at_end", "--save_total_limit=9"]
    folder = train(flags_of(tmp_path / "run", *more))
    averaged = weights(folder / "checkpoint-21").keys()
    best = read(folder, "trainer_state.json")["best_global_step"]
    checkpoint = folder / f"checkpoint-{best}"
    (tmp_path / "best").mkdir()
    shutil.copy(checkpoint / "best.safetensors", tmp_path / "best" / "model.safetensors")
    assert weights(tmp_path / "best").keys() == averaged
    assert_divided(folder, tmp_path / "best", read(folder)["calibration_temperature"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--validation_size=100"], "this one fits its temperature on 100 of its own"),
        (["--temperature=2"], "--temperature and --calibration_run both say"),
        (["--calibration_run=nowhere"], "--calibration_run nowhere is no folder"),
        (["--class_weights=balanced"], "class weights None there, balanced here"),
        (["--learning_rate=0.05"], r"of another recipe \(learning_rate 0.03 there, 0.05 here\)"),
        (["--max_train_samples=400"], "max_train_samples 224 there, 400 here"),
        (["--max_train_steps=3"], r"max_train_steps None there, 3 here"),
        (
            [f"--teacher_name_or_path={SAMPLE.parents[1] / 'pretrained/slimresnet-cifar10'}"],
            r"teachers of 0 parameters there, of 4,754,218 here",
        ),
    ],
)
def test_what_a_twin_may_not_lend(twin, tmp_path, flags_of, more, said):
    flags = flags_of(tmp_path / "run", "--validation_size=0", f"--calibration_run={twin}", *more)
    with pytest.raises(RecipeError, match=said):
        train(flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "all_results.json").unlink(), "holds no all_results.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (
            lambda folder: (folder / "all_results.json").write_text('{"temperature": 2.0}'),
            "fitted no temperature on held-out images of its own",
        ),
        (
            lambda folder: (folder / "all_results.json").write_text(
                (folder / "all_results.json").read_text().replace(read(folder)["train_data_fingerprint"], "other")
            ),
            "the training images or their labels",
        ),
    ],
)
def test_twins_that_are_none(twin, tmp_path, flags_of, spoil, said):
    folder = shutil.copytree(twin, tmp_path / "twin")
    spoil(folder)
    with pytest.raises(RecipeError, match=said) as refused:
        train(flags_of(tmp_path / "run", "--validation_size=0", f"--calibration_run={folder}"))
    assert "--calibration_run" in str(refused.value) and "MODEL" not in str(refused.value)


def test_a_twin_that_saw_few_of_the_images_lends_nothing(twin, tmp_path, flags_of):
    """It would be too sure of them, and its temperature too high."""
    folder = shutil.copytree(twin, tmp_path / "twin")
    results = read(folder)
    (folder / "all_results.json").write_text(json.dumps(results | {"train_samples": 160}))
    with pytest.raises(RecipeError, match="160 training images there, 224 here"):
        train(flags_of(tmp_path / "run", "--validation_size=0", f"--calibration_run={folder}"))


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [1, 2, 3, 0]])
def test_no_temperature_where_none_is_best(labels):
    """All images right, or all wrong: confidence cannot be large, or small, enough."""
    assert fit_temperature(4 * torch.eye(4).repeat(20, 1), np.array(labels * 20)) is None
