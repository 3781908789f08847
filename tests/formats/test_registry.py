"""Formats are found by their modules: a new one needs no other, from the command lines to the card and the Hub."""

import json
import re
import shutil
import sys
import tomllib

import pytest
from conftest import REPOSITORY, SAMPLE
from training_runs import evaluate_folder

import slimresnet.formats
from slimresnet.api.export import export
from slimresnet.api.predict import predict
from slimresnet.cli import export as export_script
from slimresnet.cli import predict as predict_script
from slimresnet.formats import registry
from slimresnet.formats.format import ExportError
from slimresnet.formats.onnx_float32 import ONNX_FILE
from slimresnet.formats.onnx_int8 import QUANTIZED_ONNX_FILE
from slimresnet.formats.torch_export import TORCH_EXPORT_FILE
from slimresnet.formats.trained import ModelError
from slimresnet.hub.files import collect
from slimresnet.run_folder.names import EXPORTS_NAME, RESULTS_NAME

MODULE = '''
"""The weights as NumPy's arrays, and the config as JSON among them."""

import json

import numpy as np
import torch

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.formats.agreement import check_rounding
from slimresnet.formats.format import ExportedFormat
from slimresnet.formats.trained import fold_batchnorm


def write(source, file):
    network = source.module.network
    arrays = {name: value.numpy() for name, value in network.state_dict().items()}
    np.savez(file, config=json.dumps(network.config.to_dict()), **arrays)
    return {}


def open_arrays(file):
    with np.load(file) as content:
        arrays = dict(content)
    config = SlimResNetConfig.from_dict(json.loads(str(arrays.pop("config"))))
    network = fold_batchnorm(SlimResNetForImageClassification(config))
    network.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    return lambda pixel_values: network(pixel_values=pixel_values).logits


FORMATS = (
    ExportedFormat(
        backend="arrays", file="model.npz", format="npz", open=open_arrays, packages=("numpy",), write=write,
        check=check_rounding,
    ),
)
'''


@pytest.fixture
def new_format(tmp_path, monkeypatch):
    """A module more in the folder listing of `slimresnet.formats`."""
    folder = tmp_path / "listing"
    folder.mkdir()
    (folder / "numpy_arrays.py").write_text(MODULE)
    monkeypatch.setattr(slimresnet.formats, "__path__", [*slimresnet.formats.__path__, str(folder)])
    registry.formats.cache_clear()
    yield
    sys.modules.pop("slimresnet.formats.numpy_arrays", None)
    registry.formats.cache_clear()


def test_a_new_format_is_one_module(new_format, trained, tmp_path, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    arguments = export_script.parse([str(run), "--format=npz", f"--output_dir={run}"])
    facts = export(**vars(arguments))
    assert json.loads((run / EXPORTS_NAME).read_text()) == facts and facts["model.npz"]["same_class"] == 1
    assert "model.npz: " in capsys.readouterr().out

    arguments = predict_script.parse([str(run), str(SAMPLE), f"--output={tmp_path / 'o.csv'}", "--backend=arrays"])
    assert [each.label for each in predict(**vars(arguments))] == predict(run, SAMPLE).labels.tolist()
    evaluate_folder(run, "--backend=arrays", f"--output_dir={run}")
    results = json.loads((run / RESULTS_NAME).read_text())
    assert results["test_arrays_accuracy"] == results["test_accuracy"]
    assert f"{results['test_accuracy']:.2%} (arrays)" in (run / "README.md").read_text()
    assert "model.npz" in collect(run, "user/name")

    export(run, output_dir=run, format="npz", overwrite_output_dir=True)
    assert "test_arrays_accuracy" not in json.loads((run / RESULTS_NAME).read_text())
    with pytest.raises(ExportError, match=r"--quantize is for --format onnx, not for npz"):
        export(run, output_dir=tmp_path / "out", format="npz", quantize="int8")
    with pytest.raises(ModelError, match=r"has no model\.npz.* python export\.py MODEL --format npz\."):
        predict(trained, SAMPLE, backend="arrays")


def test_the_command_lines_name_the_formats_there_are(new_format, capsys):
    for parse, flag, names in (
        (export_script.parse, "--format", ["npz", "onnx", "torch_export"]),
        (predict_script.parse, "--backend", ["torch", "arrays", "onnxruntime", "openvino", "torch_export"]),
    ):
        with pytest.raises(SystemExit):
            parse(["model", f"{flag}=x"])
        said = capsys.readouterr().err
        assert re.findall(r"'(\w+)'", said[said.index("choose from") :]) == names or ", ".join(names) in said


def test_figures_of_a_file_are_told_apart_by_their_names():
    files = {
        "test_onnxruntime_accuracy": ONNX_FILE,
        "figures/test_openvino_classes.png": ONNX_FILE,
        "eval_onnxruntime_int8_corruption_accuracy_tta": QUANTIZED_ONNX_FILE,
        "test_openvino_int8_details.json": QUANTIZED_ONNX_FILE,
        "test_torch_export_loss": TORCH_EXPORT_FILE,
        "test_accuracy": None,
        "my_onnxruntime": None,
        "test_torch_accuracy": None,
    }
    assert {figure: registry.scored_file(figure) for figure in files} == files
    assert registry.exported_files() == [ONNX_FILE, QUANTIZED_ONNX_FILE, TORCH_EXPORT_FILE]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"format": "tflite"}, "--format must be one of onnx, torch_export, got tflite."),
        ({"quantize": "int4"}, "--quantize must be one of int8, got int4."),
    ],
)
def test_what_is_no_format_is_named(trained, tmp_path, arguments, said):
    with pytest.raises(ExportError) as refused:
        export(trained, output_dir=tmp_path / "out", **arguments)
    assert str(refused.value) == said
    with pytest.raises(ModelError, match=r"--backend must be one of torch, onnxruntime, .*, got tensorrt"):
        predict(trained, SAMPLE, backend="tensorrt")


def test_every_package_of_a_format_comes_with_the_extra():
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extra = {re.split(r"[<>=\[]", requirement)[0] for requirement in settings["export"]}
    needed = {each for format in registry.exported_formats() for each in (*format.packages, *format.packages_to_write)}
    assert needed and needed <= extra
