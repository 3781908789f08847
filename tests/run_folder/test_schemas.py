"""JSON files of a run that hold other types than these tools rely on: one sentence with file, name and value."""

import json
import shutil

import pytest
from conftest import REPOSITORY
from training_runs import evaluate_folder

from slimresnet.evaluation import tta
from slimresnet.formats.trained import ModelError, load_processing
from slimresnet.hub.files import collect
from slimresnet.hub_errors import HubError
from slimresnet.run_folder import schemas
from slimresnet.run_folder.changes import change
from slimresnet.run_folder.reading import read_json
from slimresnet.run_folder.schemas import find_fault
from slimresnet.run_folder.writing import FolderError

EXPORT = {"pixel_values": "uint8", "bytes": 9, "same_class": 1.0, "checked_images": 20}
WRONG = [
    *(
        (
            "all_results.json",
            {"calibration_temperature": each},
            "calibration_temperature must be a number from 0.01 to 100, got",
        )
        for each in ("warm", 0, -1.0, 0.009, 101, True)
    ),
    (
        "all_results.json",
        {"calibration_source": "a guess"},
        "calibration_source must be one of held_out, twin, recipe, got",
    ),
    ("all_results.json", {"calibration_source": ["twin"]}, "calibration_source must be one of"),
    ("all_results.json", {"test_tta": "wild"}, "test_tta must be one of none, flip, flip_shift, paper, got 'wild'"),
    ("all_results.json", {"eval_tta": ["flip"]}, "eval_tta must be one of"),
    ("all_results.json", {"test_accuracy": "high"}, "test_accuracy must be a number, got 'high'"),
    ("all_results.json", {"test_accuracy_low_tta": None}, "test_accuracy_low_tta must be a number, got None"),
    ("all_results.json", {"test_loss": True}, "test_loss must be a number, got True"),
    ("all_results.json", {"test_times_scored": "two"}, "test_times_scored must be a whole number"),
    ("all_results.json", {"test_samples": -1}, "test_samples must be a whole number, 0 or more, got -1"),
    ("all_results.json", {"calibration_samples": 1.5}, "calibration_samples must be a whole number"),
    ("all_results.json", {"train_started_from_saw_held_out": -1}, "saw_held_out must be a whole number"),
    ("all_results.json", {"train_teacher_saw_held_out": "5"}, "saw_held_out must be a whole number"),
    ("all_results.json", {"train_validation_left_out_samples": "2"}, "left_out_samples must be a whole number"),
    ("all_results.json", {"eval_chose": 3}, "eval_chose must be text, got 3"),
    ("all_results.json", {"train_dataset": ["x"]}, "train_dataset must be text, got ['x']"),
    ("all_results.json", {"train_dataset_is_local": "yes"}, "train_dataset_is_local must be true or false"),
    ("all_results.json", {"test_fingerprint": 3}, "test_fingerprint must be text"),
    ("all_results.json", {"train_runtime": "long" * 99}, "train_runtime must be a number, got 'longlong"),
    ("exports.json", {"a": 3, "b": 4}, "a must be an object of names and values, got 3"),
    ("exports.json", {"model.pt2": {"bytes": "many"}}, "model.pt2: bytes must be a whole number"),
    ("exports.json", {"model.pt2": {"same_class": [1]}}, "model.pt2: same_class must be a number, got [1]"),
    ("exports.json", {"model.pt2": {"smallest_side": "8"}}, "smallest_side must be a whole number, or null, got '8'"),
    ("exports.json", {"onnx/model.onnx": {}}, "onnx/model.onnx: pixel_values is missing"),
    ("exports.json", {"a": EXPORT, "b": {**EXPORT, "same_class": None}}, "b: same_class must be a number, got None"),
    ("exports.json", {"a": {**EXPORT, "bytes": 10**400}}, "a: bytes must be a whole number, 0 or more, got 1000"),
    ("all_results.json", {"test_accuracy": -(10**400)}, "test_accuracy must be a number, got -1000"),
    ("test_corruptions.json", {"none": 3}, "none must be an object of names and values, got 3"),
    ("test_corruptions.json", {"none": {"fog": ["a"]}}, "none: fog must be a list of numbers, got ['a']"),
    ("test_details.json", {"reliability": "none"}, "reliability must be a list of bins"),
    (
        "eval_details.json",
        {"reliability_uncalibrated": [{"share": 1}]},
        "reliability_uncalibrated must be a list of bins",
    ),
]


@pytest.mark.parametrize(
    ("name", "content", "said"), WRONG, ids=[f"{name} {content}"[:40] for name, content, _ in WRONG]
)
def test_a_wrong_type_is_named(tmp_path, name, content, said):
    file = tmp_path / name
    file.write_text(json.dumps(content))
    with pytest.raises(FolderError) as error:
        read_json(file)
    assert str(file) in str(error.value) and said in str(error.value) and len(str(error.value)) < 400


def test_a_policy_is_one_that_there_is():
    assert tuple(tta.POLICIES) == schemas.POLICIES


def test_the_files_of_all_runs_that_are_kept_are_right():
    files = [*REPOSITORY.glob("pretrained/**/*.json"), *REPOSITORY.glob("benchmarks/results/**/*.json")]
    assert len(files) > 20
    for file in files:
        assert find_fault(file.name, json.loads(file.read_text())) is None, file


@pytest.mark.parametrize("name", EXPORT)
def test_a_fact_of_an_export_that_is_missing_is_named(name):
    facts = {key: value for key, value in EXPORT.items() if key != name}
    assert find_fault("exports.json", {"a": EXPORT, "b": facts}) == f"b: {name} is missing"
    assert find_fault("exports.json", {"a": EXPORT}) is None


def test_what_others_put_there_is_free(tmp_path):
    assert find_fault("all_results.json", {"mine": [1], "comment": None, "a_tta_b": 3}) is None
    assert find_fault("mine.json", {"calibration_temperature": "warm"}) is None
    assert find_fault("all_results.json", {"test_loss": 1, "test_samples": 90.0, "test_tta": "none"}) is None


def test_nesting_without_an_end_is_no_json(tmp_path):
    file = tmp_path / "exports.json"
    file.write_text('{"a":' * 100_000)
    with pytest.raises(FolderError, match="is no JSON"):
        read_json(file)


def test_scoring_and_pushing_say_it(trained, tmp_path):
    """Before anything is scored, and where the card is written."""
    folder = shutil.copytree(trained, tmp_path / "run")
    with change(folder) as made:  # as a file of the run's: no card is written from others
        (made.files / "exports.json").write_text('{"onnx/model.onnx": 3}')
    with pytest.raises(HubError, match=r"exports\.json: onnx/model\.onnx must be an object of names and values, got 3"):
        collect(folder, "user/name")
    with pytest.raises(FolderError, match=r"exports\.json: onnx/model\.onnx must be"):
        evaluate_folder(folder, f"--output_dir={folder}")
    results = json.loads((folder / "all_results.json").read_text())
    (folder / "all_results.json").write_text(json.dumps(results | {"calibration_temperature": "warm"}))
    with pytest.raises(FolderError, match=r"calibration_temperature must be a number from 0\.01 to 100, got 'warm'"):
        evaluate_folder(folder)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"image_mean": "text"}, "image_mean must hold numbers, got 'text'"),
        ({"image_mean": [0.5, "0.4", 0.3]}, "image_mean must hold numbers"),
        ({"image_std": None}, "image_std must hold numbers, got None"),
        ({"rescale_factor": "1/255"}, "rescale_factor must hold numbers, got '1/255'"),
    ],
)
def test_a_preprocessor_of_text(untrained, edit, said):
    file = untrained / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | edit))
    with pytest.raises(ModelError) as error:
        load_processing(untrained)
    assert said in str(error.value) and "preprocessor_config.json" in str(error.value)
