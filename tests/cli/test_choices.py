"""The runs that choose: every row is a recipe that there is, and no run is scored on a test image."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SAMPLE, tiny_run_flags

from benchmarks import choices, write_readme
from slimresnet.cli.train import parse_recipe
from slimresnet.data.loader import Loading
from slimresnet.data.opening import open_data
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.training.network import load_network_config


@pytest.mark.parametrize("name", choices.ROWS)
def test_every_row_is_a_recipe(name, tmp_path):
    row = choices.ROWS[name]
    recipe = choices.recipe_of(name, 42, tmp_path, "somewhere")
    assert (recipe.validation_size, recipe.seed) == (10_000, 42)
    assert {key: getattr(recipe, key) for key in row.changes} == {
        key: tuple(value) if isinstance(value, list) else value for key, value in row.changes.items()
    }
    load_network_config(recipe)
    if row.teacher:  # of the same seed, and so of the same held-out images
        teacher = choices.recipe_of(row.teacher, 42, tmp_path, "somewhere")
        assert (recipe.teacher_name_or_path, recipe.seed) == (teacher.output_dir, teacher.seed)


def test_every_run_has_a_folder_of_its_own():
    folders = [choices.folder_of(name, seed, Path("runs")) for name in choices.ROWS for seed in (42, 43)]
    assert len({*folders}) == len(folders)


def test_the_copy_of_the_data_has_no_test_image(tmp_path):
    folder = Path(choices.without_test_images(str(SAMPLE), tmp_path))
    train, test = (open_split(str(folder), name, image_size=32) for name in ("train", "test"))
    [[first], [tested]] = ([*split.images.read([np.arange(100)])] for split in (train, test))
    assert len(test.labels) == 100 and (test.labels == train.labels[:100]).all() and tested.equal(first.flip(3))
    data = open_data(parse_recipe([f"--dataset_name={folder}"]), Loading(torch.device("cpu")), PixelFormat(32))
    assert data.divided.num_in_others == 0 and len(data.train_rows) + len(data.validation_rows) == len(train.labels)
    assert choices.without_test_images(str(SAMPLE), tmp_path) == str(folder)


@pytest.fixture
def tiny(tiny_config_dir, tmp_path, monkeypatch):
    """Calls the program on one row, a tiny run of two seeds; returns the written result."""
    monkeypatch.setattr(choices, "ROWS", {"tiny": choices.Row("fast", {})})

    def recipe_of(name, seed, runs, dataset_name, steps):
        flags = tiny_run_flags(tiny_config_dir, choices.folder_of(name, seed, runs))
        return parse_recipe([*flags, f"--dataset_name={dataset_name}", f"--seed={seed}", "--tta=flip"])

    monkeypatch.setattr(choices, "recipe_of", recipe_of)
    output = tmp_path / "choices.json"

    def call(*words):
        words = [f"--dataset_name={SAMPLE}", f"--runs={tmp_path / 'runs'}", f"--output={output}", *words]
        monkeypatch.setattr(sys, "argv", ["choices", *words])
        choices.main()
        return json.loads(output.read_text()) if output.exists() else None

    return call


def test_a_call_whose_time_is_up_goes_on_in_the_next_one_and_nothing_is_run_twice(tiny, monkeypatch, capsys):
    assert tiny("--seeds", "42", "--minutes=1e-9") is None
    assert "time is up before tiny, seed 42" in capsys.readouterr().out
    monkeypatch.setattr(choices._Deadline, "is_past", property(lambda self: hasattr(self, "step")))
    count = choices._Deadline.on_step_end

    def at_the_third_step(self, args, state, control, **facts):
        if state.global_step == 3:
            self.step = 3
        count(self, args, state, control, **facts)

    monkeypatch.setattr(choices._Deadline, "on_step_end", at_the_third_step)
    assert tiny("--seeds", "42", "--minutes=9") is None
    assert "time is up within tiny, seed 42" in capsys.readouterr().out
    result = tiny("--seeds", "42", "43")
    assert "at step 3 of 21" in capsys.readouterr().out
    seeds = result["rows"]["tiny"]["seeds"]
    assert list(seeds) == ["42", "43"] and not any("test" in key for key in seeds["42"])
    found = [each["validation accuracy"] for each in seeds.values()]
    assert result["rows"]["tiny"]["mean validation accuracy"] == pytest.approx(sum(found) / 2, abs=1e-5)
    monkeypatch.setattr(choices, "train", None)
    assert tiny("--seeds", "42", "43")["rows"] == result["rows"]


def test_a_student_without_its_teacher_says_what_to_run_first(tiny, monkeypatch):
    monkeypatch.setattr(choices, "ROWS", {"tiny": choices.Row("fast", {}, teacher="large one")})
    with pytest.raises(SystemExit, match="run --rows 'large one' --seeds 42 first"):
        tiny("--seeds", "42")


def test_the_table_has_what_was_run(tmp_path, monkeypatch):
    monkeypatch.setattr(write_readme, "FOLDER", tmp_path)
    assert "None of these runs has been made yet" in write_readme.choices()
    seed = {
        "validation accuracy": 0.965, "validation accuracy with TTA": 0.968, "calibration error": 0.007,
        "calibration error before": None, "petaFLOP": 12.0, "minutes of steps": 5.0,
        "images per second": 30000, "device": "GPU",
    }  # fmt: skip
    row = {"recipe": "best_long", "changes": {"cutmix_prob": 1.0}, "seeds": {"42": seed, "43": seed}, "spread": 0.001}
    row["mean validation accuracy"] = 0.965
    (tmp_path / "choices.json").write_text(json.dumps({"command": "python", "machine": {}, "rows": {"control": row}}))
    assert "| control | 2 | 96.50% | 0.10% | 96.80% |  | 0.70% | 12 | 5.0 |" in write_readme.choices()
