"""Which rows are trained on, chosen on and scored, and what their figures are called."""

import dataclasses
import json
import re
import shutil
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml
from conftest import SAMPLE, write_dataset
from datasets import load_dataset
from training_runs import evaluate_folder, read, snapshot

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.api.evaluation_files import write_evaluation
from slimresnet.api.predict import predict
from slimresnet.data.loader import Loading
from slimresnet.data.opening import open_data
from slimresnet.data.sources.dataset import shared_name
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.sources.source import DatasetError
from slimresnet.data.splits import stratified_split
from slimresnet.evaluation.merging import still_true
from slimresnet.evaluation.protocol import Evaluation
from slimresnet.evaluation.rows import (
    count_test,
    free_prefix,
    is_fact_of_training,
    open_rows,
    open_training_rows,
    rows_of_run,
    training_facts,
    unreserved,
)
from slimresnet.evaluation.tta import VIEWS
from slimresnet.formats.trained import ModelError
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.writing import FolderError
from slimresnet.training.choosing import score_finished

NAMES = ["zebra", "ant", "moth"]
SIZES = {"train": 60, "validation": 12, "test": 15}
CPU = Loading(torch.device("cpu"))


def write_splits(folder, **numbers):
    """Splits of flat pictures 9 wide and 6 high, a half of them moths; each picture says its split and its row."""
    for seed, (split, count) in enumerate(numbers.items()):
        images = [np.full((6, 9, 3), (seed, row, 0), dtype=np.uint8) for row in range(count)]
        labels = [2 if row % 2 else row // 2 % 2 for row in range(count)]
        write_dataset(folder, split, images, labels, NAMES)
    return str(folder)


@pytest.fixture
def recipe(tmp_path):
    return Recipe(dataset_name=write_splits(tmp_path / "pets", **SIZES), validation_size=20)


def rows_like(recipe, asked_for, results=None, **settings):
    return open_rows(asked_for, dataclasses.replace(recipe, **settings), recipe, results or {}, PixelFormat(8))


@pytest.fixture
def results(recipe):
    """What a run of the recipe records of its data."""
    data = open_data(recipe, CPU, PixelFormat(8))
    return recorded(recipe, data)


def recorded(recipe, data):
    """What a run records of its data: of what it is trained, validated and tested on."""
    return training_facts(recipe, data) | {
        name: value
        for rows in rows_of_run(recipe, data)
        if len(rows.rows)
        for name, value in rows.facts(rows.prefix).items()
    }


def pictures(split, rows):
    """The split and the row that each picture says it is of."""
    (pixels,) = split.images.read([rows])
    return {(int(image[0, 0, 0]), int(image[1, 0, 0])) for image in pixels}


# --- of a run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [True, False])
def test_rows_of_training_validation_and_test_have_nothing_in_common(recipe, streaming):
    data = open_data(dataclasses.replace(recipe, streaming=streaming), CPU, PixelFormat(8))
    trained, held_out = pictures(data.train, data.train_rows), pictures(data.train, data.validation_rows)
    assert len(trained) == 40 and len(held_out) == 20 and trained | held_out == {(0, row) for row in range(60)}
    assert pictures(data.test, data.test_rows) == {(2, row) for row in range(15)}
    for rows, expected in ((data.train_rows, [10, 10, 20]), (data.validation_rows, [5, 5, 10])):
        assert np.bincount(data.train.labels[rows]).tolist() == expected
    fewer = open_data(dataclasses.replace(recipe, max_train_samples=7, max_eval_samples=4), CPU, PixelFormat(8))
    assert (len(fewer.train_rows), len(fewer.validation_rows), len(fewer.test_rows)) == (7, 4, 4)
    assert set(fewer.train_rows) < set(data.train_rows) and set(fewer.validation_rows) < set(data.validation_rows)


@pytest.mark.parametrize("split", ["train", "train+test", "test + train", "train[:10%]", "all"])
def test_what_is_trained_on_is_no_test(split):
    with pytest.raises(RecipeError, match=f"--test_split {split.replace('[', '.').replace('+', '.')}"):
        Recipe(test_split=split)
    Recipe(test_split="trained")  # a name like any other


def test_a_copy_of_the_training_split_is_no_test(recipe, tmp_path):
    for split in ("train", "test"):
        shutil.copyfile(tmp_path / "pets/train.parquet", tmp_path / f"{split}.parquet")
    shutil.rmtree(tmp_path / "pets")
    with pytest.raises(RecipeError, match=r"--test_split test of .* holds the very images of the training split"):
        open_data(dataclasses.replace(recipe, dataset_name=str(tmp_path)), CPU, PixelFormat(8))


@pytest.mark.parametrize("streaming", [True, False])
def test_what_the_data_does_not_have_is_cut_from_the_training_split(tmp_path, streaming):
    """Test first: how much is held out changes no test image."""
    recipe = Recipe(dataset_name=write_splits(tmp_path, train=60), streaming=streaming)
    data = open_data(recipe, CPU, PixelFormat(8))
    parts = (data.train_rows, data.validation_rows, data.test_rows)
    assert list(map(len, parts)) == [43, 5, 12] and sorted(np.concatenate(parts)) == list(range(60))
    assert np.bincount(data.test.labels[data.test_rows]).tolist() == [3, 3, 6]
    for changes in ({"validation_size": 0}, {"validation_size": 0.5}, {"max_train_samples": 9}):
        other = open_data(dataclasses.replace(recipe, **changes), CPU, PixelFormat(8))
        assert (other.test_rows == data.test_rows).all() and not set(other.train_rows) & set(data.test_rows)
    assert len(open_data(dataclasses.replace(recipe, test_size=0.1), CPU, PixelFormat(8)).test_rows) == 6
    other = open_data(dataclasses.replace(recipe, seed=1), CPU, PixelFormat(8))
    assert (other.test_rows != data.test_rows).any()


def test_a_test_split_of_the_datas_own_is_used_and_a_mistyped_name_is_no_cut(recipe):
    with pytest.raises(
        RecipeError, match=r"--test_size 9 cuts test images .* tested on a split of its own, test: leave"
    ):
        open_data(dataclasses.replace(recipe, test_size=9), CPU, PixelFormat(8))
    with pytest.raises(RecipeError, match="--test_size 0 leaves nothing to score"):
        dataclasses.replace(recipe, test_size=0)
    with pytest.raises(DatasetError, match="no split 'tset', only train, validation, test"):
        open_data(dataclasses.replace(recipe, test_split="tset"), CPU, PixelFormat(8))


def test_the_datas_own_validation_split_is_used_unless_a_size_is_given(recipe):
    data = open_data(dataclasses.replace(recipe, validation_size="auto"), CPU, PixelFormat(8))
    assert pictures(data.validation, data.validation_rows) == {(1, row) for row in range(12)}
    assert len(data.train_rows) == 60 and data.spare_split is None and data.sizes == {"validation_size": 12}
    for size in (0, 20):
        other = open_data(dataclasses.replace(recipe, validation_size=size), CPU, PixelFormat(8))
        assert other.validation is other.train and other.spare_split == "validation"
    for spelt in ("validation", "val", "Valid", "dev"):  # what is tested on chooses nothing, however it is spelt
        tested = dataclasses.replace(recipe, test_split=spelt, validation_size="auto")
        tested = open_data(tested, CPU, PixelFormat(8))
        assert (len(tested.validation_rows), len(tested.test_rows), tested.spare_split) == (6, 12, None)


def test_training_images_that_are_in_another_split_are_left_out(tmp_path):
    shown = [np.full((6, 6, 3), number, dtype=np.uint8) for number in range(70)]
    write_dataset(tmp_path, "train", [*shown[:60], shown[7]], [number % 3 for number in range(60)] + [0], NAMES)
    write_dataset(tmp_path, "validation", shown[55:65], [0] * 10, NAMES)
    write_dataset(tmp_path, "test", [*shown[65:], shown[3], shown[3]], [1] * 7, NAMES)
    recipe = Recipe(dataset_name=str(tmp_path))
    data = open_data(recipe, CPU, PixelFormat(6))
    assert set(data.train_rows) == set(range(61)) - {3, *range(55, 60)} and data.divided.num_in_others == 6
    assert (len(data.validation_rows), len(data.test_rows)) == (10, 7)  # whole, as they are published
    facts = recorded(recipe, data)
    assert (facts["train_left_out_samples"], facts["train_validation_size"]) == (6, 10)
    cut = dataclasses.replace(recipe, validation_size=0.2)
    data = open_data(cut, CPU, PixelFormat(6))
    assert data.divided.num_in_others == 1 and data.copies == "1 left out, 1 copies"
    assert not {3} & {*data.train_rows, *data.validation_rows}
    assert ({7, 60} <= {*data.train_rows}) != ({7, 60} <= {*data.validation_rows})
    # A run of an earlier version knew of no copies: what it held out is found as it was then.
    now, then = recorded(cut, data), recorded(cut, data)
    then = {name: value for name, value in then.items() if name not in training_facts(cut, data) or "finger" in name}
    _, earlier = stratified_split(data.train.labels, 0.2, cut.seed)
    assert (open_rows("held_out", cut, cut, now, PixelFormat(6)).rows == data.validation_rows).all()
    assert (open_rows("held_out", cut, cut, then, PixelFormat(6)).rows == earlier).all()
    write_dataset(tmp_path, "test", [*shown[65:], shown[4]], [1] * 6, NAMES)  # so that others would be left out
    with pytest.raises(RecipeError, match="not known to be its data"):
        open_rows("held_out", cut, cut, now, PixelFormat(6))


def test_validation_images_that_are_tested_on_are_left_out_and_found_again(tmp_path):
    """A run of an earlier version kept them."""
    shown = [np.full((6, 6, 3), number, dtype=np.uint8) for number in range(90)]
    write_dataset(tmp_path, "train", shown[:60], [number % 3 for number in range(60)], NAMES)
    write_dataset(tmp_path, "validation", shown[60:72], [number % 3 for number in range(12)], NAMES)
    write_dataset(tmp_path, "test", [*shown[75:], shown[61], shown[64]], [0] * 17, NAMES)
    recipe = Recipe(dataset_name=str(tmp_path))
    data = open_data(recipe, CPU, PixelFormat(6))
    kept = [row for row in range(12) if row not in (1, 4)]
    assert data.validation_rows.tolist() == kept and (len(data.train_rows), len(data.test_rows)) == (60, 17)
    now = recorded(recipe, data)
    assert (now["train_validation_left_out_samples"], now["train_validation_size"]) == (2, 10)
    then = {name: value for name, value in now.items() if "left_out" not in name} | {"train_validation_size": 12}
    for results, rows in ((now, kept), ({}, kept), (then, [*range(12)])):
        for asked_for in ("held_out", "validation", "val"):
            if results or asked_for != "val":
                found = rows_like(recipe, asked_for, results)
                assert found.are_held_out and found.rows.tolist() == rows
    write_dataset(tmp_path, "test", [*shown[75:], shown[61]], [0] * 16, NAMES)
    with pytest.raises(RecipeError, match=r"the run chose on, and .* not known to be its data"):
        rows_like(recipe, "held_out", now)
    write_dataset(tmp_path, "test", shown[60:72], [number % 3 for number in range(11)] + [0], NAMES)
    now = recorded(recipe, open_data(recipe, CPU, PixelFormat(6)))
    with pytest.raises(RecipeError, match="its validation split are all in its test split"):
        rows_like(recipe, "held_out", now | {"eval_fingerprint": recorded(recipe, data)["eval_fingerprint"]})


def test_each_class_keeps_an_image_and_one_of_one_image_stops_no_run(tmp_path):
    write_dataset(
        tmp_path, "train", [np.full((6, 6, 3), row, np.uint8) for row in range(20)], [0] * 17 + [1, 1, 2], NAMES
    )
    data = open_data(Recipe(dataset_name=str(tmp_path), validation_size=0.2), CPU, PixelFormat(6))
    assert set(data.train.labels[data.train_rows]) == {0, 1, 2} and len(data.test_rows) == 4
    with pytest.raises(DatasetError, match="--validation_size 18 cannot be cut from 16 training images"):
        open_data(Recipe(dataset_name=str(tmp_path), validation_size=18), CPU, PixelFormat(6))
    write_dataset(tmp_path, "train", [np.full((6, 6, 3), row, np.uint8) for row in range(3)], [0, 1, 2], NAMES)
    with pytest.raises(DatasetError, match=r"no test images can be cut .* no class has two pictures"):
        open_data(Recipe(dataset_name=str(tmp_path)), CPU, PixelFormat(6))


# --- what --split means ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked_for", "prefix", "split", "count"),
    [
        (None, "test", "test", 15),
        ("test", "test", "test", 15),
        ("validation", "validation", "validation", 12),
        ("held_out", "eval", "train", 20),
        ("train", "train_split", "train", 40),
    ],
)
@pytest.mark.parametrize("recorded", [True, False])
def test_splits_of_the_runs_own_data(recipe, results, asked_for, prefix, split, count, recorded):
    """As the fingerprints say or, for a run that has none, its recipe."""
    rows = rows_like(recipe, asked_for, results if recorded else {})
    assert (rows.prefix, rows.dataset, rows.split_name, len(rows.rows)) == (prefix, "pets", split, count)
    assert rows.are_held_out == (asked_for == "held_out")
    assert pictures(rows.split, rows.rows) <= {(list(SIZES).index(split), row) for row in range(SIZES[split])}
    if asked_for == "held_out":
        assert (rows.rows == open_data(recipe, CPU, PixelFormat(8)).validation_rows).all()


@pytest.mark.parametrize("is_recorded", [True, False])
def test_rows_that_were_cut_to_test_on_are_found_again_and_the_training_split_is_no_test(tmp_path, is_recorded):
    """Though both have the fingerprint of the training split."""
    recipe = Recipe(dataset_name=write_splits(tmp_path / "pets", train=60), max_eval_samples=10)
    data = open_data(recipe, CPU, PixelFormat(8))
    results = recorded(recipe, data) if is_recorded else {}
    for asked_for in (None, "test"):
        rows = rows_like(recipe, asked_for, results)
        assert (rows.prefix, rows.split_name) == ("test", "train") and (rows.rows == data.test_rows).all()
    for asked_for in ("held_out", "validation"):
        rows = rows_like(recipe, asked_for, results)
        assert rows.are_held_out and (rows.rows == data.validation_rows).all()
    rows = rows_like(recipe, "train", results)
    assert rows.are_trained_on and (rows.prefix, len(rows.rows)) == ("train_split", 10)
    rows = rows_like(recipe, "train", results, max_eval_samples=None)
    assert (rows.rows == data.divided.train).all()  # none that is tested on, which would be scored uncounted
    rows = open_training_rows(recipe, recipe, results, PixelFormat(8))
    assert rows.are_trained_on and (rows.rows == data.divided.train).all() and len(rows.rows) == 43
    other = write_splits(tmp_path / "others", train=30)
    with pytest.raises(RecipeError, match=r"--split test means the images that the run cut from .* \(train\)\."):
        rows_like(recipe, None, results, dataset_name=other)
    rows = open_training_rows(dataclasses.replace(recipe, dataset_name=other), recipe, results, PixelFormat(8))
    assert not rows.are_trained_on and len(rows.rows) == 30
    if is_recorded:  # a test split came later
        write_splits(tmp_path / "pets", train=60, test=15)
        assert rows_like(recipe, "test", results).prefix == "pets_test"
        with pytest.raises(RecipeError, match="not known to be its data"):
            rows_like(recipe, "held_out", results)


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_validation_split_that_was_chosen_on_is_held_out(recipe, tmp_path, is_recorded):
    recipe = dataclasses.replace(recipe, validation_size="auto")
    results = recorded(recipe, open_data(recipe, CPU, PixelFormat(8))) if is_recorded else {}
    for asked_for in ("validation", "held_out"):
        rows = rows_like(recipe, asked_for, results)
        assert rows.are_held_out and (rows.split_name, len(rows.rows)) == ("validation", 12)
    assert rows_like(recipe, "test", results).prefix == "test"
    other = write_splits(tmp_path / "others", train=31, validation=8, test=9)
    assert rows_like(recipe, "validation", results, dataset_name=other).prefix == "others_validation"
    with pytest.raises(
        RecipeError, match=r"--split held_out means the images that the run chose on, .* not known to be"
    ):
        rows_like(recipe, "held_out", results, dataset_name=other)


def test_the_split_that_a_run_tests_on_is_called_test_whatever_its_name(recipe):
    """And the split called test is then another one."""
    run = dataclasses.replace(recipe, test_split="validation")
    assert rows_like(run, None).prefix == rows_like(run, "validation").prefix == "test"
    assert rows_like(run, "validation").split_name == "validation"
    assert rows_like(run, "test").prefix == "test_split"


def test_validation_means_the_held_out_rows_where_no_split_has_the_name(tmp_path):
    recipe = Recipe(dataset_name=write_splits(tmp_path, train=60, test=15), validation_size=20)
    held_out = rows_like(recipe, "held_out")
    assert held_out.are_held_out and (rows_like(recipe, "validation").rows == held_out.rows).all()
    with pytest.raises(RecipeError, match=r"--split validation: .* without one \(--validation_size 0\)"):
        rows_like(dataclasses.replace(recipe, validation_size=0), "validation")


def test_a_split_called_held_out_is_asked_about(tmp_path):
    write_splits(tmp_path, train=60, held_out=9, test=15)
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n"
    card += "".join(f"  - split: {name}\n    path: {name}.parquet\n" for name in ("train", "held_out", "test"))
    (tmp_path / "README.md").write_text(f"{card}---\n")
    with pytest.raises(RecipeError, match="--split held_out is a split of"):
        rows_like(Recipe(dataset_name=str(tmp_path), validation_size=20), "held_out")


def test_a_copy_is_the_runs_own_data_and_what_was_put_in_its_place_is_not(recipe, results, tmp_path):
    copy = str(shutil.copytree(recipe.dataset_name, tmp_path / "Copy of 2026"))
    for asked_for, prefix in ((None, "test"), ("held_out", "eval"), ("train", "train_split")):
        assert rows_like(recipe, asked_for, results, dataset_name=copy).prefix == prefix
    write_splits(tmp_path / "pets", train=62, test=14)
    assert rows_like(recipe, None, results).prefix == "pets_test"
    assert rows_like(recipe, "train", results).prefix == "pets_train"
    with pytest.raises(RecipeError, match=r"--split held_out means .* is not known to be its data"):
        rows_like(recipe, "held_out", results)


@pytest.mark.parametrize("recorded", [True, False])
def test_other_data_has_its_name_before_its_figures(recipe, results, tmp_path, recorded):
    other = write_splits(tmp_path / "CIFAR-10.1 v6", train=30, test=9)
    results = results if recorded else {}
    for asked_for, prefix in ((None, "cifar_10_1_v6_test"), ("train", "cifar_10_1_v6_train")):
        rows = rows_like(recipe, asked_for, results, dataset_name=other)
        assert (rows.prefix, rows.dataset, len(rows.rows)) == (prefix, "CIFAR-10.1 v6", 30 if asked_for else 9)
    with pytest.raises(RecipeError, match=r"not known to be its data: name one of the splits there \(train, test\)"):
        rows_like(recipe, "validation", results, dataset_name=other)


def test_another_column_or_revision_is_other_data_unless_its_content_is_known(recipe, results):
    for setting in ({"image_column_name": "img"}, {"label_column_name": "label"}, {"dataset_config_name": "default"}):
        assert rows_like(recipe, None, **setting).prefix == "pets_test"
        assert rows_like(recipe, None, results, **setting).prefix == "test"


def test_of_a_model_without_a_recipe_nothing_is_known(recipe):
    assert open_rows(None, recipe, None, {}, PixelFormat(8)).prefix == "pets_test"
    with pytest.raises(RecipeError, match="not known to be its data"):
        open_rows("held_out", recipe, None, {}, PixelFormat(8))


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["train"], "train_split"),
        (["train_loss"], "train_loss_split"),
        (["eval"], "eval_split"),
        (["Test"], "test_split"),
        (["test+validation"], "test_validation_split"),
        (["trained"], "trained"),
        (["holdout.v2"], "holdout_v2"),
        (["train", "test"], "train_test_split"),
        (["…", "test"], "data_test"),
        (["cifar10-c", "test"], "cifar10_c_test"),
    ],
)
def test_no_other_rows_take_the_names_of_a_runs_own(names, prefix):
    assert free_prefix(*names) == prefix
    assert not is_fact_of_training(f"{prefix}_loss")


def test_names_of_files_that_are_free_stay_as_they_are():
    for name in ("CIFAR-10-C", "cifar10.1_v6", "saturate"):
        assert unreserved(name) == name
    assert unreserved("test") == "test_split"


def test_facts_of_training_are_known():
    facts = ["epoch", "train_loss", "train_samples", "train_runtime", "train_dataset", "train_device", "total_flos"]
    assert all(map(is_fact_of_training, facts))
    assert not any(map(is_fact_of_training, ["test_loss", "eval_samples", "epochs_accuracy", "calibration_samples"]))


def test_where_local_data_lies_is_nobodys_business(tmp_path, monkeypatch):
    (tmp_path / "secret" / "pets").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "secret" / "pets")
    for name in (tmp_path / "secret" / "pets", ".", "../pets/"):
        assert shared_name(str(name)) == "pets"
    assert shared_name("uoft-cs/cifar10") == "uoft-cs/cifar10"


# --- what a run records ---------------------------------------------------------------------------------------------


def scored(recipe, **settings):
    """`score_finished` with a network that sees nothing."""
    data = open_data(dataclasses.replace(recipe, **settings), CPU, PixelFormat(8))
    recipe = dataclasses.replace(recipe, **settings)

    def predict(network, split, rows, views):
        return {view: torch.randn(len(rows), 3) for view in VIEWS if view in views}

    return score_finished(recipe, data, SlimResNetForImageClassification(SlimResNetConfig()), predict).results


@pytest.mark.parametrize(
    ("settings", "chose"),
    [
        ({}, "tta"),
        ({"load_best_model_at_end": True}, "epoch, tta"),
        ({"load_best_model_at_end": True, "tta": "flip"}, "epoch"),
        ({"tta": "none", "temperature": 2.0}, None),
        ({"validation_size": 0}, None),
    ],
)
def test_what_was_chosen_on_the_held_out_rows_is_recorded(recipe, settings, chose, monkeypatch):
    monkeypatch.setattr("slimresnet.training.choosing.LEAST_IMAGES", 20)
    results = scored(recipe, **settings)
    assert results.get("eval_chose") == chose and results["test_times_scored"] == 1
    expected = {"test": "test", "eval": "train"} if settings.get("validation_size") != 0 else {"test": "test"}
    assert {
        prefix: results.get(f"{prefix}_split") for prefix in ("test", "eval") if f"{prefix}_dataset" in results
    } == (expected)
    assert {results[f"{prefix}_dataset"] for prefix in expected} == {"pets"}


def test_no_policy_is_chosen_on_few_images(recipe):
    results = scored(recipe)
    assert results["eval_samples"] == 20 and results["test_tta"] == "none" and "eval_chose" not in results


def test_a_finished_run_records_its_data(trained):
    results = read(trained)
    assert (results["train_dataset"], results["train_dataset_is_local"]) == ("cifar10_sample", True)
    assert results["train_data_fingerprint"] == results["eval_fingerprint"] != results["test_fingerprint"]
    assert (results["eval_dataset"], results["eval_split"], results["test_split"]) == (
        "cifar10_sample",
        "train",
        "test",
    )
    assert results["eval_chose"] == "tta" and results["test_times_scored"] == 1


def test_only_test_rows_count_where_a_count_was_kept():
    rows = SimpleNamespace(prefix="test")
    assert count_test(rows, {"test_times_scored": 3}) == {"test_times_scored": 4}
    assert count_test(rows, {}) == count_test(SimpleNamespace(prefix="eval"), {"test_times_scored": 3}) == {}


# --- eval.py --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def other(tmp_path):
    """A dataset of the same classes, with 30 images to test on."""
    rows = load_dataset(str(SAMPLE), split="test")
    for split, some in (("train", range(40)), ("test", range(40, 70))):
        write_dataset(tmp_path / "new", split, rows[some]["img"], rows[some]["label"], rows.features["label"].names)
    return tmp_path / "new"


def test_no_score_changes_a_fact_or_a_figure_of_other_rows(folder, other):
    before = read(folder)
    evaluate_folder(folder, "--split=train", "--max_eval_samples=40", f"--output_dir={folder}")
    evaluate_folder(folder, f"--dataset_name={other}", f"--output_dir={folder}")
    after = read(folder)
    assert {name: after[name] for name in before} == before
    assert (after["train_split_samples"], after["train_split_split"]) == (40, "train")
    assert after["train_split_fingerprint"] == before["train_data_fingerprint"]
    assert (after["new_test_samples"], after["new_test_dataset"], after["new_test_split"]) == (30, "new", "test")
    assert {name.split("_")[0] for name in after.keys() - before.keys()} == {"train", "new"}


def test_the_runs_own_test_rows_are_counted_and_are_so_in_a_copy(folder, tmp_path):
    copy = shutil.copytree(SAMPLE, tmp_path / "copy")
    evaluate_folder(folder, f"--dataset_name={copy}", "--per_device_eval_batch_size=50", f"--output_dir={folder}")
    assert read(folder)["test_times_scored"] == 2
    assert read(folder)["test_dataset"] == read(folder)["train_dataset"] == "cifar10_sample"
    assert f"| test | {read(folder)['test_samples']:,} |" in (folder / "README.md").read_text(encoding="utf-8")
    evaluate_folder(folder, "--split=held_out", f"--output_dir={folder}")
    evaluate_folder(folder, f"--output_dir={tmp_path / 'elsewhere'}")
    assert read(folder)["test_times_scored"] == 2
    assert "test_times_scored" not in read(tmp_path / "elsewhere")


def test_scores_that_the_same_rows_have_no_more_do_not_stay_behind():
    """An earlier version gave top-5 accuracy to three classes; a head that is not divided has nothing before that."""
    stale = {f"test_{name}": 1.0 for name in ("top_5_accuracy", "top_5_accuracy_tta", "loss_tta")}
    stale["test_expected_calibration_error_uncalibrated"] = 0.1
    other = {"test_onnxruntime_top_5_accuracy": 1.0, "test_corruption_accuracy": 0.5, "eval_top_5_accuracy": 1.0}
    results = {"test_fingerprint": "a", "test_accuracy": 0.8, "test_loss": 0.6}
    assert still_true({"test_fingerprint": "a"} | stale | other, results) == other


def test_figures_of_other_data_with_the_same_name_do_not_stay_behind():
    before = {"new_test_fingerprint": "a", "new_test_accuracy": 1, "new_test_corruption_accuracy": 1, "test_loss": 2}
    assert still_true(before, {"new_test_fingerprint": "a", "new_test_loss": 3}).keys() == before.keys() - {
        "new_test_fingerprint"
    }
    assert still_true(before, {"new_test_fingerprint": "b", "new_test_loss": 3}) == {"test_loss": 2}
    policies = {"test_loss_tta": 1, "test_loss": 2, "eval_loss_tta": 3}
    assert still_true(policies, {"test_loss": 4}) == {"eval_loss_tta": 3}


def test_a_folder_from_before_heads_were_divided_is_scored_as_it_is(folder):
    """Its temperature is in no weights: what it made leaves with the next score, and the card says "not calibrated"."""
    after_scaling = {"expected_calibration_error_scaled": 0.01, "onnxruntime_expected_calibration_error_scaled": 0.02}
    results = {
        name: value for name, value in read(folder).items() if not re.search("^calibration_|_uncalibrated", name)
    }
    results |= {"temperature": 1.5, "temperature_samples": 90, "eval_chose": "tta, temperature"}
    results |= {f"{prefix}_{name}": value for prefix in ("eval", "test") for name, value in after_scaling.items()}
    (folder / "all_results.json").write_text(json.dumps(results))
    details = read(folder, "test_details.json")
    (folder / "test_details.json").write_text(json.dumps(details | {"reliability_scaled": details["reliability"]}))
    evaluate_folder(folder, f"--output_dir={folder}")
    after = read(folder)
    scaled = [name for name in after if name.endswith("_scaled")]
    assert scaled == [f"eval_{name}" for name in after_scaling]  # which were not scored now
    assert after["test_loss"] == pytest.approx(results["test_loss"], abs=1e-5)
    assert not [name for name in after if name.startswith("calibration_") or name.endswith("_uncalibrated")]
    assert "reliability" in read(folder, "test_details.json") and "reliability_scaled" not in read(
        folder, "test_details.json"
    )
    card = " ".join((folder / "README.md").read_text(encoding="utf-8").split())
    assert "The network is not calibrated: its probabilities are those of training" in card and "1.500" not in card
    assert f"On the test images its calibration error is {after['test_expected_calibration_error']:.2%}. " in card
    assert "the temperature" not in card and "before calibration" not in card
    evaluate_folder(folder, "--split=held_out", f"--output_dir={folder}")
    assert not [name for name in read(folder) if name.endswith("_scaled")]


def test_a_score_in_bf16_says_so(folder):
    evaluate_folder(folder, "--mixed_precision=bf16", f"--output_dir={folder}")
    assert (read(folder)["test_precision"], read(folder)["eval_precision"]) == ("bf16", "float32")
    assert "The test figures are of a network in bf16." in (folder / "README.md").read_text(encoding="utf-8")


def test_an_output_dir_that_cannot_be_is_refused_before_anything_is_scored(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("slimresnet.api.evaluate.start_accelerator", None)
    (tmp_path / "file").write_text("kept")
    refused = {
        "file": (RecipeError, "cannot be written to"),
        "file/within": (FolderError, "lies in .*, which is no folder: make"),
        "typo/within": (FolderError, "lies in .*, which does not exist: make that folder, or correct the path"),
    }
    for place, (error, said) in refused.items():
        with pytest.raises(error, match=rf"--output_dir .*{place} {said}"):
            evaluate_folder(folder, f"--output_dir={tmp_path / place}")
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(folder / "config.json", bare)
    with pytest.raises(ModelError, match="holds another model than"):
        evaluate_folder(bare, f"--output_dir={folder}")
    assert (tmp_path / "file").read_text() == "kept"


def test_figures_that_cannot_be_written_are_printed(folder, monkeypatch, capsys):
    full = Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr("slimresnet.api.evaluation_files.write_json", full)
    with pytest.raises(FolderError, match=r"run cannot be written \(No space left on device\): make room"):
        evaluate_folder(folder, "--max_eval_samples=20", f"--output_dir={folder}")
    assert "test_accuracy = " in capsys.readouterr().out


def test_a_score_that_bears_the_name_of_a_fact_is_not_written(folder):
    before = snapshot(folder)
    with pytest.raises(AssertionError, match="fact of training"):
        write_evaluation(folder, None, Evaluation({"train_loss": 0.1}, {}))
    assert snapshot(folder) == before


def test_a_folder_of_another_model_gets_no_figures(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    model = SlimResNetForImageClassification.from_pretrained(other)
    model.classifier.bias.data += 1
    model.save_pretrained(other)
    before = snapshot(other)
    with pytest.raises(ModelError, match=r"--output_dir .* holds another model than"):
        evaluate_folder(folder, f"--output_dir={other}")
    assert snapshot(other) == before


@pytest.mark.parametrize("flag", ["--max_eval_samples=-400", "--max_eval_samples=0", "--per_device_eval_batch_size=0"])
def test_the_ranges_of_settings_hold_in_every_program(trained, tmp_path, flag):
    name = flag.split("=")[0]
    with pytest.raises(RecipeError, match=f"{name} must be at least 1"):
        evaluate_folder(trained, flag)
    if "batch_size" in flag:
        with pytest.raises(RecipeError, match=f"{name} must be at least 1"):
            predict(trained, "images", output=tmp_path / "o.csv", per_device_eval_batch_size=0)


def test_a_batch_of_training_that_would_not_divide_is_nothing_to_scoring(folder, capsys):
    settings = yaml.safe_load((folder / "recipe.yaml").read_text())
    settings |= {"gradient_accumulation_steps": 3, "total_train_batch_size": 97}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    evaluate_folder(folder, "--max_eval_samples=20")
    assert "test_samples = 20" in capsys.readouterr().out
