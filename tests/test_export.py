"""Exported files say what the network says, in every program that runs them; what disagrees is refused."""

import json
import shutil
import sys

import numpy as np
import onnx
import pytest
import torch
from conftest import REPOSITORY, SAMPLE, run_python, tiny_run_flags
from training_runs import snapshot, train

import eval as eval_script
import export as export_script
import predict as predict_script
from cifar10.reading import open_split
from cifar10.splitting import stratified_split
from evaluation.backends import (
    EXPORTS_NAME,
    ONNX_FILE,
    QUANTIZED_ONNX_FILE,
    TORCH_EXPORT_FILE,
    open_network,
)
from evaluation.trained import ModelError
from exporting.checking import agreement
from exporting.graphs import ExportError
from sharing.hub import collect
from training.output_dir import read_recipe


def export(folder, output_dir, *flags):
    export_script.run(export_script.parse([str(folder), f"--output_dir={output_dir}", *flags]))
    return output_dir


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_config_dir):
    """A tiny run that has learned enough for few images to lie between two classes, where rounding decides."""
    flags = tiny_run_flags(tiny_config_dir, tmp_path_factory.mktemp("trained") / "run")
    return train(flags, "--max_train_samples=2000", "--num_train_epochs=4", "--cutmix_prob=0")


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """A tiny run in every form; not to be written into."""
    folder = tmp_path_factory.mktemp("exported") / "all"
    export(trained, folder, "--quantize=int8")
    return export(trained, folder, "--format=torch_export")


@pytest.fixture(scope="module")
def pixels():
    """130 images of the sample, uint8."""
    return next(open_split(str(SAMPLE), "test", image_size=32).images.read([np.arange(130)]))


@torch.inference_mode()
def logits(folder, pixels, backend, **flags):
    network, normalize = open_network(folder, backend, **flags)
    return network(pixel_values=normalize(pixels)).logits


@pytest.mark.parametrize("backend", ["torch_export", "onnxruntime", "openvino"])
@pytest.mark.parametrize("count", [1, 3, 130])
def test_every_form_gives_the_networks_logits_for_any_number_of_images(exported, pixels, backend, count):
    expected = logits(exported, pixels[:count], "torch")
    assert torch.allclose(logits(exported, pixels[:count], backend), expected, atol=1e-4)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_int8_gives_the_same_classes_from_a_third_of_the_bytes(exported, pixels, backend):
    expected = logits(exported, pixels, "torch")
    quantized = logits(exported, pixels, backend, quantized=True)
    assert (quantized.argmax(dim=1) == expected.argmax(dim=1)).double().mean() > 0.95
    assert 0 < (quantized - expected).abs().max() < 0.1 * expected.abs().max()
    assert (exported / QUANTIZED_ONNX_FILE).stat().st_size < 0.6 * (exported / ONNX_FILE).stat().st_size


def test_batchnorm_is_folded_and_weights_are_quantised_by_channel(exported):
    graph = onnx.load(exported / ONNX_FILE).graph
    operators = {node.op_type for node in graph.node} - {"Shape", "Concat"}  # older releases of onnxscript leave these
    assert operators == {"Conv", "Relu", "Add", "ReduceMean", "Reshape", "Gemm"}
    assert [entry.name for entry in graph.input] == ["pixel_values"]
    assert [entry.name for entry in graph.output] == ["logits"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param
    quantized = onnx.load(exported / QUANTIZED_ONNX_FILE).graph
    tensors = {tensor.name: tensor for tensor in quantized.initializer}
    dequantized = {node.output[0]: node for node in quantized.node if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in quantized.node if node.op_type == "Conv"]
    assert len(convolutions) == len([node for node in graph.node if node.op_type == "Conv"])
    for node in convolutions:
        assert node.input[0] in dequantized
        weight, scale, _ = (tensors[name] for name in dequantized[node.input[1]].input)
        assert weight.data_type == onnx.TensorProto.INT8
        assert list(scale.dims) == [weight.dims[0]]
        # Two products with activations of 0–255 then fit into 16 bits, where processors without VNNI add them.
        assert np.abs(onnx.numpy_helper.to_array(weight).astype(int)).max() <= 64


@pytest.mark.parametrize("flags", [["--quantize=int8"], ["--format=torch_export"]])
def test_a_graph_of_uint8_pixels_normalises_them_itself(trained, exported, pixels, tmp_path, flags):
    folder = export(trained, tmp_path / "uint8", "--uint8_pixels", *flags)
    backend = "torch_export" if "--format=torch_export" in flags else "onnxruntime"
    network, normalize = open_network(folder, backend)
    assert normalize(pixels) is pixels
    assert torch.allclose(network(pixel_values=pixels).logits, logits(exported, pixels, "torch"), atol=1e-4)
    if backend == "onnxruntime":
        by_floats = logits(exported, pixels, "onnxruntime", quantized=True)
        assert torch.allclose(logits(folder, pixels, backend, quantized=True), by_floats, atol=0.05)


def test_calibration_and_checks_see_training_images_alone(trained):
    arguments = export_script.parse([str(trained), "--output_dir=unused"])
    seen = export_script.read_pixels(arguments, trained, 32, 5000)
    split, recipe = open_split(str(SAMPLE), "train", image_size=32), read_recipe(trained)
    rows, validation = stratified_split(split.labels, recipe.validation_size, recipe.seed)
    assert len(validation) and len(seen) == len(rows)
    [expected] = split.images.read([rows])
    assert sorted(map(bytes, seen.numpy())) == sorted(map(bytes, expected.numpy()))


@pytest.mark.parametrize(
    "flags", [["--backend=onnxruntime"], ["--backend=openvino", "--quantized"], ["--backend=torch_export"]]
)
def test_eval_and_predict_run_every_form(exported, tmp_path, flags, pixels):
    folder = shutil.copytree(exported, tmp_path / "copy")
    before = json.loads((folder / "all_results.json").read_text())
    card = (folder / "README.md").read_text()
    eval_script.run(eval_script.parse([str(folder), f"--output_dir={folder}", "--tta=flip", *flags]))
    after = json.loads((folder / "all_results.json").read_text())
    assert after.pop("test_times_scored") == before.pop("test_times_scored") + 1
    assert before.items() <= after.items()
    prefix = f"test_{'_'.join(flags).replace('--backend=', '').replace('--quantized', 'int8')}"
    tolerance = 0.1 if "--quantized" in flags else 0  # a network of 21 steps has many ties
    assert after[f"{prefix}_accuracy"] == pytest.approx(before["test_accuracy"], abs=tolerance)
    assert after[f"{prefix}_samples"] == before["test_samples"]
    renewed = (folder / "README.md").read_text()
    assert f"{after[f'{prefix}_accuracy']:.2%} ({flags[0].removeprefix('--backend=')})" in renewed
    assert renewed != card

    output = tmp_path / "classes.csv"
    predict_script.run(predict_script.parse([str(folder), str(SAMPLE), f"--output={output}", *flags]))
    classes = np.loadtxt(output, delimiter=",", skiprows=1, dtype=int)[: len(pixels), 1]
    expected = logits(exported, pixels, "torch").argmax(dim=1).numpy()
    assert (classes == expected).mean() >= (0.95 if "--quantized" in flags else 1)


def test_the_exported_folder_is_the_finished_one_and_more_and_can_be_shared(trained, exported):
    original, files = snapshot(trained), {file.relative_to(exported): file for file in exported.rglob("*")}
    for file, content in original.items():
        if "checkpoint" not in str(file) and file.name != "README.md":
            assert files[file.relative_to(trained)].read_bytes() == content
    shared = collect(exported, "user/name")
    assert {ONNX_FILE, QUANTIZED_ONNX_FILE, TORCH_EXPORT_FILE, EXPORTS_NAME, "model.safetensors"} <= shared.keys()
    assert "onnx/model_quantized.onnx" in (exported / "README.md").read_text()


def test_a_trained_folder_takes_exports_itself(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    export(folder, folder)
    assert json.loads((folder / EXPORTS_NAME).read_text())[ONNX_FILE]["same_class"] == 1
    with pytest.raises(ExportError, match=r"holds onnx/model\.onnx.*--overwrite_output_dir"):
        export(folder, folder)
    (folder / "README.md").write_text("my own words")
    export(folder, folder, "--overwrite_output_dir")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "README.md").write_text("others")
    export(folder, copy)
    assert (folder / "README.md").read_text() == "my own words" and (copy / "README.md").read_text() == "others"
    assert not list(copy.rglob("*.unfinished"))


def test_what_disagrees_is_refused_and_nothing_written(trained, tmp_path, monkeypatch):
    def broken(source, target, batches):
        graph = onnx.load(source)
        (head,) = [tensor for tensor in graph.graph.initializer if tensor.name.endswith("classifier.weight")]
        values = onnx.numpy_helper.to_array(head)
        head.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy(), head.name))
        onnx.save(graph, target)

    monkeypatch.setattr(export_script, "quantize_int8", broken)
    with pytest.raises(ExportError, match=r"model_quantized\.onnx disagrees.*--calibration_samples"):
        export(trained, tmp_path / "out", "--quantize=int8")
    assert not (tmp_path / "out").exists()


def test_how_much_may_differ():
    expected = torch.randn(512, 10)
    assert agreement("x", expected, expected, "float32")["largest_difference"] == 0
    assert agreement("x", expected + 1e-4, expected, "float32")["same_class"] == 1
    assert agreement("x", expected * 1.1, expected, "int8")["same_class"] == 1
    for wrong, precision in (
        (expected * 1.1, "float32"),
        (expected.flip(0), "int8"),
        (expected * torch.nan, "int8"),
    ):
        with pytest.raises(ExportError, match=r"x disagrees"):
            agreement("x", wrong, expected, precision)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--opset=5"], r"--opset must be between 18.* and \d+.*, got 5"),
        (["--opset=99"], r"--opset must be between 18.* and \d+.*, got 99"),
        (["--format=torch_export", "--quantize=int8"], r"--quantize is for --format onnx, not for torch_export"),
        (["--calibration_samples=0"], r"--calibration_samples must be at least 1, got 0"),
    ],
)
def test_bad_flags(trained, tmp_path, flags, message):
    with pytest.raises(ExportError, match=message):
        export(trained, tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_bad_folders(trained, exported, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"--output_dir .*file is a file: name a folder"):
        export(trained, tmp_path / "file")
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"another")
    with pytest.raises(ExportError, match=r"holds another model than"):
        export(trained, other)
    with pytest.raises(ModelError, match=r"holds no config.json"):
        export(tmp_path / "other", tmp_path / "out")
    with pytest.raises(ModelError, match=r"has no onnx/model_quantized\.onnx.*--format onnx --quantize int8"):
        open_network(trained, "onnxruntime", quantized=True)
    with pytest.raises(ModelError, match=r"has no model\.pt2.*--format torch_export"):
        open_network(trained, "torch_export")
    with pytest.raises(ModelError, match=r"--quantized is for --backend onnxruntime and openvino, not for torch"):
        open_network(exported, "torch", quantized=True)


@pytest.mark.parametrize("backend", ["torch_export", "onnxruntime", "openvino"])
def test_a_damaged_file_is_named(exported, tmp_path, backend):
    folder = shutil.copytree(exported, tmp_path / "copy")
    for name in (ONNX_FILE, TORCH_EXPORT_FILE):
        (folder / name).write_bytes(b"no graph")
    with pytest.raises(ModelError, match=rf"(model\.onnx|model\.pt2) cannot be loaded by {backend}"):
        open_network(folder, backend)


@pytest.mark.parametrize("package", ["onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(trained, exported, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises((ExportError, ModelError), match=rf"needs a package: pip install {package}\."):
        export(trained, tmp_path / "out", "--quantize=int8")
    assert not (tmp_path / "out").exists()
    if package == "onnxruntime":
        with pytest.raises(ModelError, match=r"--backend onnxruntime needs a package: pip install onnxruntime\."):
            open_network(exported, package)


def test_a_mistake_is_told_in_one_sentence(tmp_path):
    process = run_python("export.py", tmp_path, f"--output_dir={tmp_path / 'out'}", cwd=REPOSITORY)
    assert process.returncode == 1
    assert process.stderr.startswith("export.py: error: MODEL") and process.stderr.count("\n") == 1
