"""Answers below a threshold, and the threshold that a run's held-out images gave; embeddings of all images."""

import inspect
import json

import numpy as np
import pyarrow.parquet
import pytest
import torch
from conftest import NAMES
from test_predict import predict, reference
from transformers import AutoModel

from slimresnet.api import predict as api
from slimresnet.api import prediction_files
from slimresnet.cli import predict as predict_script
from slimresnet.data.task import SINGLE_LABEL
from slimresnet.errors import SlimResNetError
from slimresnet.evaluation.thresholds import choose_thresholds
from slimresnet.evaluation.tta import POLICIES, VIEWS
from slimresnet.formats.registry import find_format
from slimresnet.formats.trained import ModelError, load_processing
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.writing import FolderError


def state(folder, **results):
    """Results of a run: without a recipe beside them they count as another program's."""
    (folder / "all_results.json").write_text(json.dumps(results))
    (folder / "recipe.yaml").write_text(Recipe().to_yaml())


def test_below_the_threshold_the_class_is_unknown(untrained, pictures, pixels, tmp_path):
    expected = reference(untrained, pixels)
    best = expected.amax(dim=1)
    threshold = float(best.sort().values[5:7].mean())  # between two images: far from rounding
    got = api.predict(untrained, pictures, threshold=threshold)
    classes = torch.where(best >= threshold, expected.argmax(dim=1), -1)
    assert got.labels.tolist() == classes.tolist() and 0 < (got.labels == -1).sum() < 12
    names = [NAMES[label] if label >= 0 else "unknown" for label in classes]
    assert [each.label_name for each in got] == names
    flag = f"--threshold={threshold}"
    assert [row[1] for row in predict(untrained, pictures, tmp_path / "o.csv", flag)[1:]] == [*map(str, got.labels)]
    assert [row[1] for row in predict(untrained, pictures, tmp_path / "o.csv", flag, "--labels=names")[1:]] == names


@pytest.mark.parametrize(("precision", "needed"), [(0.9, 35), (0.95, 73), (0.99, 381)])
def test_too_few_held_out_images_are_told_with_the_number_that_would_do(untrained, pictures, precision, needed):
    """Scoring these again finds no threshold: nobody is sent to do it."""
    state(untrained, eval_samples=needed - 1)
    with pytest.raises(ModelError, match=f"held out {needed - 1} images, .* takes {needed} right .*--validation_size"):
        api.predict(untrained, pictures, target_precision=precision)
    right = torch.full((1, needed, 2), 0.0).index_fill_(2, torch.tensor([0]), 5.0)
    for count, found in ((needed - 1, False), (needed, True)):
        logits, labels = {"original": right[0, :count]}, np.zeros(count, np.int64)
        assert (f"{precision * 100:.0f}" in choose_thresholds(logits, labels, "none")) is found
    state(untrained, eval_samples=needed)
    with pytest.raises(ModelError, match=r"--split held_out"):
        api.predict(untrained, pictures, target_precision=precision)


def test_the_threshold_of_a_precision_is_the_runs(untrained, pictures, pixels):
    """That of the policy that is predicted with, and of the file that is run."""
    of_run = {"eval_threshold_95": 0.1, "eval_threshold_95_tta": 0.9, "eval_tta": "flip"}
    state(untrained, **of_run)
    assert (api.predict(untrained, pictures, target_precision=0.95).labels >= 0).all()
    assert (api.predict(untrained, pictures, target_precision=0.95, tta="flip").labels == -1).all()
    asked = {name: None for name in api.Asked.__dataclass_fields__} | {"model": "MODEL", "target_precision": 0.95}
    asked |= {"tta": "none", "backend": "onnxruntime"}
    assert api.Asked(**asked).find_threshold(untrained, find_format("onnxruntime"), SINGLE_LABEL) == 0.1
    quantized = find_format("onnxruntime", quantized=True)
    with pytest.raises(ModelError, match=r"--split held_out --output_dir MODEL --backend onnxruntime --quantized, or"):
        api.Asked(**asked | {"quantized": True}).find_threshold(untrained, quantized, SINGLE_LABEL)
    state(untrained, **of_run, train_teacher_saw_held_out=5)
    with pytest.raises(ModelError, match=r"held-out images were trained on before its run, .*; give a --threshold"):
        api.Asked(**asked | {"quantized": True}).find_threshold(untrained, quantized, SINGLE_LABEL)
    state(untrained, **of_run, eval_onnxruntime_int8_threshold_95=0.3)
    assert api.Asked(**asked | {"quantized": True}).find_threshold(untrained, quantized, SINGLE_LABEL) == 0.3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target_precision": 0.99}, "did not show a precision of 0.99 on its held-out images: name 0.9 or 0.95"),
        ({"target_precision": 0.95, "tta": "paper"}, "no thresholds for .*--output_dir MODEL --tta paper, or"),
        ({"target_precision": 0.8}, "--target_precision must be one of 0.9, 0.95, 0.99, got 0.8"),
        ({"threshold": 0.5, "target_precision": 0.9}, "--threshold and --target_precision both set the threshold"),
        ({"threshold": 1.5}, "--threshold must be a probability, between 0 and 1, got 1.5"),
        ({"threshold": float("nan")}, "--threshold must be a probability"),
        ({"embeddings": True, "backend": "onnxruntime"}, "--embeddings is for --backend torch, not for onnxruntime"),
        ({"embeddings": "."}, r"--embeddings \. is a folder: name a file, such as embeddings\.parquet"),
        ({"embeddings": "/dev/null"}, "--embeddings /dev/null is no file"),
        ({"embeddings": "-"}, "--embeddings - is no file"),
        ({"embeddings": "a", "output": "a"}, "--embeddings and --output both name a"),
    ],
)
def test_what_cannot_be_asked_for_is_named(untrained, pictures, monkeypatch, options, said):
    state(untrained, eval_threshold_90=0.1, eval_threshold_95=0.2, eval_tta="flip")
    monkeypatch.chdir(pictures)
    with pytest.raises(SlimResNetError, match=said) as refused:
        api.predict(untrained, pictures, **options)
    assert "\n" not in str(refused.value)


def pooled(folder, pixels, policy="none"):
    """Embeddings by hand, with transformers' own class."""
    model, normalize = AutoModel.from_pretrained(folder).eval(), load_processing(folder).normalize
    with torch.inference_mode():
        return sum(w * model(normalize(VIEWS[view](pixels))).pooler_output for view, w in POLICIES[policy].items())


@pytest.mark.parametrize("policy", ["none", "flip"])
def test_embeddings_are_the_pooled_features(untrained, pictures, pixels, tmp_path, monkeypatch, policy):
    monkeypatch.setattr(prediction_files, "_ROWS_IN_A_GROUP", 5)
    file, expected = tmp_path / "e.parquet", pooled(untrained, pixels, policy).numpy()
    flags = [f"--embeddings={file}", f"--tta={policy}", "--per_device_eval_batch_size=3"]
    rows = predict(untrained, pictures, tmp_path / "o.csv", *flags)
    assert rows == predict(untrained, pictures, tmp_path / "without.csv", *flags[1:])
    table = pyarrow.parquet.read_table(file)
    assert table.schema.field("embedding").type == pyarrow.list_(pyarrow.float32(), 16)
    found = np.array(table["embedding"].to_pylist())
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    assert [table["name"].to_pylist(), [*map(str, table["label"].to_pylist())]] == [
        [*each] for each in zip(*rows[1:], strict=True)
    ]
    assert table["label_name"].to_pylist() == [NAMES[label] for label in table["label"].to_pylist()]
    groups = pyarrow.parquet.ParquetFile(file).metadata
    assert [groups.row_group(group).num_rows for group in range(groups.num_row_groups)] == [6, 6]
    got = api.predict(untrained, pictures, embeddings=True, tta=policy)
    assert got.embeddings.dtype == np.float32 and got.embeddings.shape == (12, 16)
    np.testing.assert_allclose(got.embeddings, expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(got[3].embedding, got.embeddings[3])
    np.testing.assert_allclose(table["probability"].to_numpy(), got.probabilities.max(axis=1), atol=1e-6)
    without = api.predict(untrained, pictures, embeddings=tmp_path / "again.parquet", tta=policy)
    assert without.embeddings is None and without[0].embedding is None
    assert pyarrow.parquet.read_table(tmp_path / "again.parquet").num_rows == 12


def test_an_earlier_file_of_embeddings_stays_until_the_new_one_is_complete(untrained, pictures, tmp_path, monkeypatch):
    file = tmp_path / "e.parquet"
    file.write_text("earlier")
    (pictures / "more" / "11.png").write_bytes(b"no image")
    with pytest.raises(SlimResNetError, match="cannot be decoded"):
        api.predict(untrained, pictures, embeddings=file, per_device_eval_batch_size=2)
    assert file.read_text() == "earlier" and not list(tmp_path.glob(".*"))
    with monkeypatch.context() as patched:
        full = OSError(28, "No space left on device")
        patched.setattr(pyarrow.parquet.ParquetWriter, "write_table", lambda *_, **__: (_ for _ in ()).throw(full))
        with pytest.raises(FolderError, match=r"e\.parquet cannot be written \(No space left"):
            api.predict(untrained, pictures / "00.png", embeddings=file)
    assert file.read_text() == "earlier" and not list(tmp_path.glob(".*"))
    none = api.predict(untrained, pictures / "more" / "11.png", embeddings=file, skip_errors=True)
    assert len(none) == 0 and pyarrow.parquet.read_table(file).num_rows == 0
    assert api.predict(untrained, pictures / "more" / "11.png", embeddings=True, skip_errors=True).embeddings.shape == (
        0, 16,
    )  # fmt: skip


def test_flags_are_arguments_with_the_same_defaults():
    parameters = inspect.signature(api.predict).parameters
    flags = vars(predict_script.parse(["m", "i"]))
    defaults = {name: parameter.default for name, parameter in parameters.items() if name not in ("model", "input")}
    assert flags == {"model": "m", "input": ["i"]} | defaults
    assert list(parameters) == list(api.Asked.__dataclass_fields__)
