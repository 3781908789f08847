"""Images that a run holds out or tests on, and that its start or a teacher was trained on: refused, or said."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, write_dataset
from training_runs import read, train

from slimresnet.data.loader import Loading
from slimresnet.data.opening import open_data
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.errors import SlimResNetError
from slimresnet.evaluation.rows import training_facts
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe
from slimresnet.training.seen import SeenHeldOut, find_seen

PICTURES = Recipe(dataset_name=str(REPOSITORY / "examples" / "pictures"))  # 60 images without splits
FORMAT = PixelFormat(8)


def opened(recipe):
    return open_data(recipe, Loading(torch.device("cpu")), FORMAT)


def seen_of(recipe, folder, *teachers):
    """What a run of the recipe finds out that starts from a folder."""
    start = SimpleNamespace(folder=folder) if folder else None
    return find_seen(recipe, opened(recipe), FORMAT, start, [SimpleNamespace(folder=each) for each in teachers])


@pytest.fixture
def run_of(tmp_path):
    """Gives the folder of a finished run, as far as it tells what was trained on; facts that are None are not there."""

    def write(recipe, name="run", **facts):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.yaml").write_text(recipe.to_yaml())
        data = opened(recipe)
        facts = training_facts(recipe, data) | {"test_fingerprint": data.test.fingerprint} | facts
        facts = {name: value for name, value in facts.items() if value is not None}
        (folder / "all_results.json").write_text(json.dumps(facts))
        return folder

    return write


def like(**settings):
    return dataclasses.replace(PICTURES, **settings)


@pytest.mark.parametrize(
    ("there", "here", "way_out"),
    [
        ({}, {"seed": 1}, "give --seed 42, as that run has it"),
        ({"test_size": 6}, {}, "give --test_size 6, as"),
        ({"seed": 3, "validation_size": 0}, {"test_size": 0.5}, "give --seed 3 --test_size auto --validation_size 0,"),
    ],
)
@pytest.mark.parametrize("is_teacher", [False, True])
def test_what_was_trained_on_test_images_is_refused(run_of, there, here, way_out, is_teacher):
    folder, here = run_of(like(**there)), like(**here)
    num_seen = len(np.intersect1d(opened(like(**there)).train_rows, opened(here).test_rows))
    assert num_seen
    flag = "--teacher_name_or_path" if is_teacher else "--model_name_or_path"
    tested = len(opened(here).test_rows)
    with pytest.raises(RecipeError) as refused:
        seen_of(here, *([None, folder] if is_teacher else [folder]))
    assert str(refused.value).startswith(f"{flag} {folder} was trained on {num_seen} of the {tested} images that ")
    assert way_out in str(refused.value)


def test_held_out_images_that_were_trained_on_are_counted(run_of):
    """A run of the same recipe saw none; neither did one of other data, or one that nothing is known of."""
    whole, same = run_of(like(validation_size=0)), run_of(PICTURES, "same")
    other = run_of(like(validation_size=0), "other", train_data_fingerprint="another")
    bare = run_of(like(validation_size=0), "bare")
    (bare / "recipe.yaml").unlink()
    assert seen_of(PICTURES, whole) == SeenHeldOut(5, 0) and seen_of(PICTURES, None, same, whole) == SeenHeldOut(0, 5)
    for folder in (same, other, bare, None):
        assert seen_of(PICTURES, folder, *([folder] if folder else [])) == SeenHeldOut()
    assert SeenHeldOut().facts() == {} and SeenHeldOut().describe() == []
    chain = run_of(PICTURES, "chain", **seen_of(PICTURES, whole).facts())  # which started from one that saw them
    assert seen_of(PICTURES, chain) == SeenHeldOut(5, 0)


def test_of_splits_that_are_not_here_and_of_earlier_versions_the_worst_is_believed(run_of, tmp_path):
    shown = [np.full((6, 6, 3), number, dtype=np.uint8) for number in range(60)]
    data = tmp_path / "data"
    write_dataset(data, "train", [*shown[:39], shown[0]], [number % 2 for number in range(40)], ["a", "b"])
    write_dataset(data, "test", [*shown[40:50], shown[1]], [number % 2 for number in range(11)], ["a", "b"])
    recipe = Recipe(dataset_name=str(data), validation_size=10)
    now = run_of(recipe)
    unknown = dict.fromkeys(("train_validation_size", "train_left_out_samples"))
    then = run_of(recipe, "then", **unknown)  # knew of no copies: other rows were held out
    foreign = run_of(recipe, "foreign", train_validation_size=9)
    assert seen_of(recipe, now) == SeenHeldOut() and seen_of(recipe, foreign) == SeenHeldOut(10, 0)
    assert 0 < seen_of(recipe, then).by_start < 10
    (data / "test.parquet").unlink()
    with pytest.raises(RecipeError, match=r"was trained on 8 of the 8 .* start from other weights"):
        seen_of(recipe, now)
    with pytest.raises(RecipeError, match=r"--teacher.* was trained on 8 of the 8 .* give another teacher"):
        seen_of(recipe, None, now)


def test_a_run_from_weights_that_saw_its_images_says_so_and_fits_nothing_on_them(flags, trained, tmp_path, capsys):
    """The weights start it and teach it: both are told, and neither where the images are those that they held out."""
    flags = [*flags, "--max_train_steps=1", f"--model_name_or_path={trained}", f"--teacher_name_or_path={trained}"]
    flags = [each for each in flags if not each.startswith("--config_name")]
    folder = train(flags, "--seed=1")
    said, results = capsys.readouterr().out, read(folder)
    count = results["train_started_from_saw_held_out"]
    assert 80 < count == results["train_teacher_saw_held_out"] <= 100
    for whose in ("what it starts from", "a teacher"):
        assert f"\nseen     {whose} was trained on {count} of the held-out images: " in said
    assert "not calibrated: held-out images were seen in training by" in said
    assert "calibration_temperature" not in results and results["eval_samples"] == 90
    card = " ".join((folder / "README.md").read_text(encoding="utf-8").split())
    assert f"The weights that it started from had been trained on {count} of these images: the validation" in card
    assert f"A teacher had been trained on {count} of these images: the validation figures may be too high." in card
    held_out = train(flags, f"--output_dir={tmp_path / 'other'}")
    assert (
        "seen     " not in capsys.readouterr().out and "had been trained on" not in (held_out / "README.md").read_text()
    )
    assert not [name for name in read(held_out) if "saw_held_out" in name]


def test_a_run_whose_files_are_damaged_is_no_start(run_of):
    folder = run_of(PICTURES)
    (folder / "all_results.json").write_text("{")
    with pytest.raises(SlimResNetError, match=r"all_results\.json is no JSON"):
        seen_of(PICTURES, folder)
