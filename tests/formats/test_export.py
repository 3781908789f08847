"""Exported files say what the network says, in every program that runs them; what disagrees is refused."""

import functools
import io
import json
import os
import shutil
import sys
import zipfile
from unittest.mock import Mock

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from conftest import SAMPLE, write_dataset
from onnx import TensorProto, helper
from PIL import Image
from process_state import unchanged
from torch.nn import functional as F
from training_runs import evaluate_folder, run_script, snapshot, write_as_ours

from benchmarks.write_readme import PRETRAINED
from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.api import export as api
from slimresnet.api.predict import predict
from slimresnet.cli import export as export_script
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.source import DatasetError
from slimresnet.data.splits import stratified_split
from slimresnet.formats import onnx_float32, onnx_int8
from slimresnet.formats.agreement import GENERATED_IMAGES, TRAINING_IMAGES, agreement, generated_pixels
from slimresnet.formats.format import ExportError
from slimresnet.formats.graph import LogitsOfPixels, smallest_side
from slimresnet.formats.onnx_float32 import ONNX, ONNX_FILE, export_onnx
from slimresnet.formats.onnx_int8 import ONNX_INT8, QUANTIZED_ONNX_FILE, quantize_int8
from slimresnet.formats.registry import find_format
from slimresnet.formats.torch_export import TORCH_EXPORT_FILE, export_torch
from slimresnet.formats.trained import ModelError, fold_batchnorm, load_processing
from slimresnet.hub.files import collect
from slimresnet.recipe.reading import read_recipe
from slimresnet.run_folder.names import EXPORTS_NAME, RECIPE_NAME, RESULTS_NAME
from slimresnet.run_folder.writing import FolderError

INT8 = ("--quantize=int8", "--calibration_samples=48")


def export(folder, output_dir, *flags):
    api.export(**vars(export_script.parse([str(folder), f"--output_dir={output_dir}", *flags])))
    return output_dir


def open_file(file, backend):
    return find_format(backend).open_file(file)


@pytest.fixture(scope="module", autouse=True)
def few_checks():
    """On fewer images than a user's exports are checked on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "CHECK_SAMPLES", 64)
        patch.setattr(api, "CHECK_BATCH", 16)
        yield


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """
    A tiny run in every form; not to be written into.

    What a few steps of training come to differs with the processor, and lies between two classes for many images: how
    well int8 does is asked of the shipped weights alone.
    """
    folder = tmp_path_factory.mktemp("exported") / "all"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_int8, "SMALLEST_SHARE", 0)
        export(trained, folder, *INT8)
    return export(trained, folder, "--format=torch_export")


def test_called_from_python_it_returns_the_facts_and_leaves_the_process_as_it_was(
    trained, tmp_path, monkeypatch, capsys
):
    """Again and again, from any folder."""
    monkeypatch.setattr(onnx_int8, "SMALLEST_SHARE", 0)
    monkeypatch.chdir(tmp_path)
    api.export(trained, output_dir="out")  # first imports are allowed to set things
    for _ in range(2):
        capsys.readouterr()
        with unchanged():
            facts = api.export(
                str(trained), output_dir="out", quantize="int8", calibration_samples=48, overwrite_output_dir=True
            )
        assert json.loads((tmp_path / "out" / EXPORTS_NAME).read_text()) == facts
        assert list(facts) == [ONNX_FILE, QUANTIZED_ONNX_FILE]
        assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == list(facts)
        assert facts[QUANTIZED_ONNX_FILE]["calibration_images"] == 48 and facts[ONNX_FILE]["opset"] == 20


def test_a_place_for_temporary_files_that_is_full_is_named(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "TemporaryDirectory", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(FolderError, match=r"cannot be written \(No space left on device\): make room"):
        export(trained, tmp_path / "out")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """160 training images of the sample and 130 test images."""
    folder = tmp_path_factory.mktemp("dataset")
    for name, count in (("train", 160), ("test", 130)):
        split = open_split(str(SAMPLE), name, image_size=32)
        [pixels] = split.images.read([np.arange(count)])
        images = list(pixels.permute(0, 2, 3, 1).numpy())
        write_dataset(folder, name, images, split.labels[:count].tolist(), split.label_names)
    return folder


@pytest.fixture(scope="module")
def shipped(dataset, tmp_path_factory):
    """The shipped weights with their int8 file, as if trained on `dataset` and not scored yet."""
    folder = tmp_path_factory.mktemp("shipped") / "run"
    shutil.copytree(PRETRAINED, folder, ignore=shutil.ignore_patterns("figures", "test_*", RESULTS_NAME))
    recipe = (folder / RECIPE_NAME).read_text()
    assert "uoft-cs/cifar10" in recipe
    (folder / RECIPE_NAME).write_text(recipe.replace("uoft-cs/cifar10", str(dataset)))
    return export(folder, folder, *INT8)


@pytest.fixture(scope="module")
def pixels(dataset):
    """The test images, uint8."""
    return next(open_split(str(dataset), "test", image_size=32).images.read([np.arange(130)]))


def resized(pixels, height, width):
    return F.interpolate(pixels.float(), (height, width), mode="bilinear").round().to(torch.uint8)


def open_network(folder, backend, *, quantized=False, trust_remote_code=False):
    return find_format(backend, quantized=quantized).open_network(folder, trust_remote_code=trust_remote_code)


opened = functools.cache(functools.partial(open_network, trust_remote_code=True))


@torch.inference_mode()
def logits(folder, pixels, backend, **flags):
    network, normalize, _ = opened(folder, backend, **flags)
    return network(pixel_values=normalize(pixels)).logits


@pytest.mark.parametrize("backend", ["torch_export", "onnxruntime", "openvino"])
@pytest.mark.parametrize("count", [1, 3, 130])
def test_every_form_gives_the_networks_logits_for_any_number_of_images(exported, pixels, backend, count):
    expected = logits(exported, pixels[:count], "torch")
    assert torch.allclose(logits(exported, pixels[:count], backend), expected, atol=1e-4)


@pytest.mark.parametrize("backend", ["torch_export", "onnxruntime", "openvino"])
@pytest.mark.parametrize("height, width", [(9, 9), (24, 24), (40, 40), (32, 48), (33, 47)])
def test_every_form_takes_other_heights_and_widths(exported, pixels, backend, height, width):
    others = resized(pixels[:3], height, width)
    expected = logits(exported, others, "torch")
    assert torch.allclose(logits(exported, others, backend), expected, atol=1e-4)
    assert not torch.allclose(expected, logits(exported, pixels[:3], "torch"), atol=1e-3)


def unclear(expected):
    """Which images lie between two classes, where int8 may take the other: few of the shipped weights'."""
    highest, second = expected.topk(2).values.T
    return highest - second < 0.1 * expected.abs().max()


def assert_same_but_for_int8(quantized, expected):
    assert unclear(expected).double().mean() < 0.2
    assert ((quantized.argmax(dim=1) == expected.argmax(dim=1)) | unclear(expected)).all()
    assert 0 < (quantized - expected).abs().max() < 0.1 * expected.abs().max()
    assert (quantized - expected).mean(dim=0).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("height, width", [(24, 24), (32, 32), (40, 40), (32, 48)])
def test_int8_gives_the_same_classes_from_a_third_of_the_bytes(shipped, pixels, backend, height, width):
    images = pixels if height == width == 32 else resized(pixels[:40], height, width)
    assert_same_but_for_int8(logits(shipped, images, backend, quantized=True), logits(shipped, images, "torch"))
    assert (shipped / QUANTIZED_ONNX_FILE).stat().st_size < 0.35 * (shipped / ONNX_FILE).stat().st_size


@pytest.mark.parametrize("strides, image_size, smallest", [([3, 5], 23, 16), ([2, 2], 5, 5), ([1], 2, 2)])
def test_from_the_product_of_the_strides_on_any_size_will_do(tmp_path, strides, image_size, smallest):
    config = SlimResNetConfig(
        embedding_size=4, hidden_sizes=[4] * len(strides), depths=[1] * len(strides), strides=strides,
        image_size=image_size,
    )  # fmt: skip
    assert smallest_side(config) == smallest
    network = SlimResNetForImageClassification(config).eval()
    module = LogitsOfPixels(network)
    example = torch.randn(2, 3, image_size, image_size)
    export_torch(module, example, tmp_path / "model.pt2")
    export_onnx(module, example, tmp_path / "model.onnx", 20)
    for size in ((smallest, smallest), (smallest + 1, smallest), (image_size, 3 * image_size)):
        others = torch.randn(3, 3, *size)
        with torch.inference_mode():
            expected = module(others)
            for name, backend in (("model.pt2", "torch_export"), ("model.onnx", "onnxruntime")):
                assert torch.allclose(open_file(tmp_path / name, backend)(others), expected, atol=1e-5)


def test_a_network_that_ends_in_a_single_pixel_keeps_its_size(tmp_path):
    config = SlimResNetConfig(embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1], strides=[2, 2], image_size=4)
    assert smallest_side(config) is None
    module = LogitsOfPixels(SlimResNetForImageClassification(config).eval())
    images = torch.randn(3, 3, 4, 4)
    export_torch(module, images[:2].clone(), tmp_path / "model.pt2")
    export_onnx(module, images[:2], tmp_path / "model.onnx", 20)
    with torch.inference_mode():
        for name, backend in (("model.pt2", "torch_export"), ("model.onnx", "onnxruntime")):
            assert torch.allclose(open_file(tmp_path / name, backend)(images), module(images), atol=1e-5)


def test_batchnorm_is_folded_and_weights_are_quantised_by_channel(exported):
    graph = onnx.load(exported / ONNX_FILE).graph
    operators = {node.op_type for node in graph.node} - {"Shape", "Concat"}  # older releases of onnxscript leave these
    assert operators == {"Conv", "Relu", "Add", "ReduceMean", "Reshape", "Gemm"}
    assert [entry.name for entry in graph.input] == ["pixel_values"]
    assert [entry.name for entry in graph.output] == ["logits"]
    assert [bool(dim.dim_param) for dim in graph.input[0].type.tensor_type.shape.dim] == [True, False, True, True]
    quantized = onnx.load(exported / QUANTIZED_ONNX_FILE).graph
    tensors = {tensor.name: tensor for tensor in quantized.initializer}
    dequantized = {node.output[0]: node for node in quantized.node if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in quantized.node if node.op_type == "Conv"]
    assert len(convolutions) == len([node for node in graph.node if node.op_type == "Conv"])
    stem, *others = convolutions
    (head,) = [node for node in quantized.node if node.op_type == "Gemm"]
    assert not {*stem.input, *head.input} & dequantized.keys() and head.output[0] == "logits"
    for node in others:
        assert node.input[0] in dequantized
        weight, scale, _ = (tensors[name] for name in dequantized[node.input[1]].input)
        assert weight.data_type == onnx.TensorProto.INT8
        assert list(scale.dims) == [weight.dims[0]]
        # Two products with activations of 0–255 then fit into 16 bits, where processors without VNNI add them.
        assert np.abs(onnx.numpy_helper.to_array(weight).astype(int)).max() <= 64


def test_one_bright_image_does_not_widen_the_ranges(tmp_path, tiny_config):
    module = LogitsOfPixels(fold_batchnorm(SlimResNetForImageClassification(tiny_config)))
    images = torch.randn(64, 3, 16, 16)
    export_onnx(module, images[:2], tmp_path / "model.onnx", 20)
    scales = []
    for brightness in (1, 1000):
        images[5] *= brightness
        quantize_int8(tmp_path / "model.onnx", tmp_path / "int8.onnx", images.numpy())
        graph = onnx.load(tmp_path / "int8.onnx").graph
        tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        scales.append(max(tensors[node.input[1]].max() for node in graph.node if node.op_type == "QuantizeLinear"))
    assert 1 < scales[1] / scales[0] < 300


def test_an_older_opset_is_written_where_one_is_asked_for(trained, tmp_path):
    folder = export(trained, tmp_path / "out", "--opset=18")
    (opset,) = [entry.version for entry in onnx.load(folder / ONNX_FILE).opset_import if not entry.domain]
    assert opset == 18 == json.loads((folder / EXPORTS_NAME).read_text())[ONNX_FILE]["opset"]


@pytest.mark.parametrize("flags", [INT8, ["--format=torch_export"]])
def test_a_graph_of_uint8_pixels_normalises_them_itself(trained, exported, pixels, tmp_path, monkeypatch, flags):
    monkeypatch.setattr(onnx_int8, "SMALLEST_SHARE", 0)
    folder = export(trained, tmp_path / "uint8", "--uint8_pixels", *flags)
    backend = "torch_export" if "--format=torch_export" in flags else "onnxruntime"
    network, normalize, _ = open_network(folder, backend, trust_remote_code=True)
    assert normalize(pixels) is pixels
    for images in (pixels, resized(pixels[:20], 32, 48)):
        assert torch.allclose(network(pixel_values=images).logits, logits(exported, images, "torch"), atol=1e-4)
    if backend == "onnxruntime":
        by_floats = logits(exported, pixels, "onnxruntime", quantized=True)
        by_pixels = logits(folder, pixels, "onnxruntime", quantized=True)
        assert (by_pixels - by_floats).abs().max() < 0.1 * by_floats.abs().max()
    facts = json.loads((folder / EXPORTS_NAME).read_text())
    assert {entry["pixel_values"] for entry in facts.values()} == {"uint8"}


def test_ranges_come_from_training_images_and_checks_from_others(trained, tmp_path, monkeypatch):
    ranges, checks, sizes = [], {}, {}

    def quantize(source, target, pixel_values):
        ranges.extend(image.tobytes() for image in pixel_values)
        shutil.copyfile(source, target)

    def compare(form, module, file, batches, images, given_from):
        name = form.file
        checks[name] = [image.numpy().tobytes() for batch in batches for image in batch], images
        sizes[name] = [tuple(batch.shape[2:]) for batch in batches]
        return real_compare(form, module, file, batches, images)

    real_compare = api.compare
    monkeypatch.setattr(onnx_int8, "quantize_int8", quantize)
    monkeypatch.setattr(api, "compare", compare)
    folder = export(trained, tmp_path / "out", "--quantize=int8", "--calibration_samples=5000")
    checked, of = checks[QUANTIZED_ONNX_FILE]
    assert len(checked) == 64 and of == TRAINING_IMAGES and checks[ONNX_FILE][1] == GENERATED_IMAGES

    split, recipe = open_split(str(SAMPLE), "train", image_size=32), read_recipe(trained)
    rows, validation = stratified_split(split.labels, recipe.validation_size, recipe.seed)
    [images] = split.images.read([rows])
    expected = [image.numpy().tobytes() for image in load_processing(trained).normalize(images)]
    assert len(validation) and sorted(ranges + checked) == sorted(expected)  # each once: no image in both
    assert checked != expected[: len(checked)]  # but at random: a dataset may be sorted by class
    assert not set(checks[ONNX_FILE][0]) & set(expected)
    assert sizes[ONNX_FILE] == [(32, 32), (24, 24), (32, 48)]

    facts = json.loads((folder / EXPORTS_NAME).read_text())
    assert facts[QUANTIZED_ONNX_FILE]["calibration_images"] == len(rows) - 64
    card = (folder / "README.md").read_text()
    for name, (images, of) in checks.items():
        assert facts[name]["checked_on"] == of and facts[name]["checked_images"] == len(images)
        assert facts[name]["bytes"] == (folder / name).stat().st_size
        assert f"100.00% of {len(images)} {of} |" in card


def test_few_training_images_are_shared_by_ranges_and_checks_and_one_is_refused(shipped, tmp_path):
    names = open_split(str(SAMPLE), "train", image_size=32).label_names
    for count in (1, 5):
        images = [np.full((32, 32, 3), 9 * number, np.uint8) for number in range(count)]
        write_dataset(tmp_path / f"{count}", "train", images, [0] * count, names)
    checked, calibration, source = api.training_images(shipped, 1024, dataset_name=str(tmp_path / "5"))
    assert source == "images of 5"  # not those that it was trained on
    assert (len(checked), len(calibration)) == (2, 3)
    assert len(set(torch.cat([checked, calibration])[:, 0, 0, 0].tolist())) == 5
    with pytest.raises(ExportError, match=r"--quantize int8 needs training images .* has 1: .*--dataset_name"):
        api.training_images(shipped, 1024, dataset_name=str(tmp_path / "1"))


def test_a_float_export_needs_no_dataset(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    recipe = (folder / RECIPE_NAME).read_text().splitlines()
    (folder / RECIPE_NAME).write_text("\n".join(["dataset_name: gone/elsewhere", *recipe[1:]]))
    export(folder, tmp_path / "onnx")
    export(folder, tmp_path / "onnx", "--format=torch_export", "--uint8_pixels")
    facts = json.loads((tmp_path / "onnx" / EXPORTS_NAME).read_text())
    assert {name: entry["pixel_values"] for name, entry in facts.items()} == {
        ONNX_FILE: "float32",
        TORCH_EXPORT_FILE: "uint8",
    }
    assert {entry["checked_on"] for entry in facts.values()} == {GENERATED_IMAGES}
    assert {entry["smallest_side"] for entry in facts.values()} == {5}
    with pytest.raises(DatasetError, match=r"gone/elsewhere"):
        export(folder, tmp_path / "int8", "--quantize=int8")
    assert not (tmp_path / "int8").exists()


def test_generated_images_are_the_same_each_time_and_of_two_kinds():
    images = generated_pixels(64, 24, 40)
    assert images.dtype == torch.uint8 and images.shape == (64, 3, 24, 40)
    assert torch.equal(images, generated_pixels(64, 24, 40))
    assert (images.min(), images.max()) == (0, 255) and len({image.numpy().tobytes() for image in images}) == 64
    steps = images.float().diff(dim=3).abs().mean(dim=(1, 2, 3))
    assert steps[:32].min() > 4 * steps[32:].max()


@pytest.mark.slow
def test_a_new_file_is_not_credited_with_the_scores_of_the_one_that_it_replaces(trained, tmp_path):
    """In the run's own folder and in another, where what was scored there stays, too."""
    for folder in (shutil.copytree(trained, tmp_path / "run"), export(trained, tmp_path / "other")):
        results = json.loads((folder / RESULTS_NAME).read_text()) | {"test_times_scored": 9}
        scores = [f"test_{name}" for name in ("onnxruntime", "onnxruntime_int8", "openvino", "torch_export")]
        figures = {f"{name}_{figure}": 0.5 for name in scores for figure in ("accuracy", "corruption_accuracy_tta")}
        (folder / RESULTS_NAME).write_text(json.dumps(results | figures))
        files = [f"{name}_details.json" for name in scores] + [f"figures/{name}_classes.png" for name in scores]
        write_as_ours(folder, *files)
        (folder / "my_onnxruntime_details.json").write_text("mine")
        export(trained, folder, "--overwrite_output_dir") if folder.name == "other" else export(folder, folder)
        stale = ("test_onnxruntime_", "test_openvino_")
        kept = {name: 0.5 for name in figures if not name.startswith(stale) or "_int8_" in name}
        assert len(kept) == 4 and json.loads((folder / RESULTS_NAME).read_text()) == results | kept
        assert [(folder / file).exists() for file in files] == 2 * [False, True, False, True]
        assert (folder / "my_onnxruntime_details.json").read_text() == "mine"


def test_a_copy_elsewhere_is_not_credited_with_the_scores_of_the_models_own_files(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    results = json.loads((folder / RESULTS_NAME).read_text())
    (folder / RESULTS_NAME).write_text(json.dumps(results | {"test_onnxruntime_accuracy": 0.5}))
    (folder / "test_onnxruntime_details.json").write_text("{}")
    other = export(folder, tmp_path / "other", "--format=torch_export")
    assert json.loads((other / RESULTS_NAME).read_text()) == results
    assert not (other / "test_onnxruntime_details.json").exists() and (other / "test_details.json").exists()
    assert (folder / "test_onnxruntime_details.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--backend=onnxruntime"],
        ["--backend=openvino", "--quantized"],
        ["--backend=torch_export", "--trust_remote_code"],
    ],
)
def test_eval_and_predict_run_every_form(exported, shipped, dataset, tmp_path, flags, pixels):
    quantized = "--quantized" in flags
    folder = shutil.copytree(shipped if quantized else exported, tmp_path / "copy")
    if quantized:
        evaluate_folder(folder, f"--output_dir={folder}")
    before = json.loads((folder / RESULTS_NAME).read_text())
    card = (folder / "README.md").read_text()
    evaluate_folder(folder, f"--output_dir={folder}", "--tta=flip", *flags)
    after = json.loads((folder / RESULTS_NAME).read_text())
    counts = [results.pop("test_times_scored", None) for results in (before, after)]
    assert counts[1] == (None if quantized else counts[0] + 1)  # the shipped weights have no count
    assert before.items() <= after.items()
    expected = logits(folder, pixels, "torch")
    between = unclear(expected) if quantized else torch.zeros(len(pixels), dtype=torch.bool)
    named = [flag for flag in flags if flag != "--trust_remote_code"]
    prefix = f"test_{'_'.join(named).replace('--backend=', '').replace('--quantized', 'int8')}"
    may_differ = between.double().mean().item()
    assert after[f"{prefix}_accuracy"] == pytest.approx(before["test_accuracy"], abs=may_differ)
    assert after[f"{prefix}_samples"] == before["test_samples"]
    renewed = (folder / "README.md").read_text()
    assert f"{after[f'{prefix}_accuracy']:.2%} ({flags[0].removeprefix('--backend=')})" in renewed
    assert renewed != card

    output = tmp_path / "classes.csv"
    api_flags = {"backend": flags[0].removeprefix("--backend="), "quantized": quantized}
    predict(folder, dataset, output=output, trust_remote_code="--trust_remote_code" in flags, **api_flags)
    classes = torch.from_numpy(np.loadtxt(output, delimiter=",", skiprows=1, dtype=int)[: len(pixels), 1])
    assert ((classes == expected.argmax(dim=1)) | between).all()


def test_the_exported_folder_is_the_finished_one_and_more_and_can_be_shared(trained, exported):
    original, files = snapshot(trained), {file.relative_to(exported): file for file in exported.rglob("*")}
    for file, content in original.items():
        if "checkpoint" not in str(file) and file.name not in ("README.md", "record.json"):
            assert files[file.relative_to(trained)].read_bytes() == content
    shared = collect(exported, "user/name")
    assert {ONNX_FILE, QUANTIZED_ONNX_FILE, TORCH_EXPORT_FILE, EXPORTS_NAME, "model.safetensors"} <= shared.keys()
    assert "onnx/model_quantized.onnx" in (exported / "README.md").read_text()


@pytest.mark.slow
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


def scale_head(source, target, factor):
    graph = onnx.load(source)
    for tensor in graph.graph.initializer:
        if "classifier" in tensor.name:
            tensor.CopyFrom(onnx.numpy_helper.from_array(factor * onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(graph, target)


def test_int8_of_other_classes_is_refused_and_nothing_written(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_int8, "quantize_int8", lambda source, target, _: scale_head(source, target, -1))
    with pytest.raises(ExportError, match=r"model_quantized\.onnx disagrees.*--calibration_samples"):
        export(trained, tmp_path / "out", "--quantize=int8")
    assert not (tmp_path / "out").exists()


def test_float32_of_the_same_classes_with_other_logits_is_refused(trained, tmp_path, monkeypatch):
    def export_other(module, pixel_values, file, opset):
        export_onnx(module, pixel_values, file, opset)
        scale_head(file, file, np.float32(1.001))

    monkeypatch.setattr(onnx_float32, "export_onnx", export_other)
    with pytest.raises(ExportError, match=r"model\.onnx disagrees.*versions of the export packages"):
        export(trained, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_how_much_may_differ_goes_by_the_size_of_the_logits():
    expected = torch.randn(512, 10)
    for size in (1e-4, 1.0, 65536.0, 1e30):
        network = expected * size
        for rounded in (network, network * (1 + 2**-23), network + 1e-5 * size):
            facts = agreement(ONNX, rounded, network, GENERATED_IMAGES)
            assert facts["same_class"] > 0.99 and facts["largest_difference"] < 1e-4 * facts["largest_logit"]
        for wrong in (network * 1.001, network + 1e-3 * size, network.bfloat16().float(), network.flip(0)):
            with pytest.raises(
                ExportError, match=r"^onnx/model.onnx disagrees.*512 generated images.*other versions of the export"
            ):
                agreement(ONNX, wrong, network, GENERATED_IMAGES)
        assert agreement(ONNX_INT8, network * 1.1, network, TRAINING_IMAGES)["same_class"] == 1
        for wrong in (network.flip(0), -network, network.roll(1, dims=1)):
            with pytest.raises(
                ExportError, match=r"^onnx/model_quantized.onnx disagrees.*512 training images.*--calibration_samples"
            ) as error:
                agreement(ONNX_INT8, wrong, network + 1000 * size, TRAINING_IMAGES)
            assert "versions" not in str(error.value)


def test_a_tie_within_rounding_is_no_disagreement():
    expected = torch.tensor([[3.0, 3.0 - 1e-6, -5.0]]).repeat(100, 1)
    swapped = expected[:, [1, 0, 2]]
    assert agreement(ONNX, swapped, expected, GENERATED_IMAGES)["same_class"] == 0
    expected[:, 1] = 2.95
    assert agreement(ONNX_INT8, expected[:, [1, 0, 2]], expected, TRAINING_IMAGES)["same_class"] == 0
    expected[:, 1] = 2
    few = torch.cat([expected[:4, [1, 0, 2]], expected[4:]])
    assert agreement(ONNX_INT8, few, expected, TRAINING_IMAGES)["same_class"] == 0.96
    many = torch.cat([expected[:6, [1, 0, 2]], expected[6:]])
    with pytest.raises(ExportError, match=r"another class for 6\.00% of 100"):
        agreement(ONNX_INT8, many, expected, TRAINING_IMAGES)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("form", [ONNX, ONNX_INT8])
def test_logits_that_are_not_finite_have_a_sentence_of_their_own(broken, form):
    expected = torch.randn(20, 10)
    wrong = expected.clone()
    wrong[:3, 4] = broken
    with pytest.raises(
        ExportError, match=r"^onnx/model.*\.onnx gives logits that are NaN or infinite on 3 of 20 generated images"
    ):
        agreement(form, wrong, expected, GENERATED_IMAGES)


@pytest.mark.parametrize("size", [1e-4, 1e6])
def test_a_network_with_logits_of_any_size_is_exported(trained, tmp_path, size):
    folder = shutil.copytree(trained, tmp_path / "run")
    network = SlimResNetForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        network.classifier.weight.mul_(size)
        network.classifier.bias.mul_(size)
    network.save_pretrained(folder)
    facts = json.loads((export(folder, folder) / EXPORTS_NAME).read_text())[ONNX_FILE]
    assert (facts["largest_logit"] > 65536) == (size > 1)
    assert facts["largest_difference"] < 1e-5 * facts["largest_logit"]


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
    with pytest.raises(FolderError, match=r"--output_dir .*typo/out lies in .*typo, which does not exist"):
        export(trained, tmp_path / "typo" / "out")
    mine = shutil.copytree(exported, tmp_path / "mine")
    (mine / TORCH_EXPORT_FILE).write_text("mine")
    for _ in range(2):
        with pytest.raises(
            ExportError, match=r"holds model\.pt2, and has no record that this program .* move them away"
        ):
            export(trained, mine, "--format=torch_export", "--overwrite_output_dir")
        shutil.rmtree(mine / ".slimresnet", ignore_errors=True)  # as of an earlier version
    assert (mine / TORCH_EXPORT_FILE).read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"another")
    with pytest.raises(ModelError, match=r"holds another model than"):
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
        open_network(folder, backend, trust_remote_code=True)


class Payload:
    """Makes a folder, the marker, where it is unpickled."""

    def __init__(self, marker):
        self._marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self._marker,)


@pytest.fixture
def booby_trapped(exported, tmp_path):
    """A folder whose `model.pt2` makes `tmp_path / "marker"` in the place of its first tensor."""
    folder = shutil.copytree(exported, tmp_path / "copy")
    stream = io.BytesIO()
    torch.save(Payload(tmp_path / "marker"), stream)
    before, after = zipfile.ZipFile(exported / TORCH_EXPORT_FILE), zipfile.ZipFile(folder / TORCH_EXPORT_FILE, "w")
    with before, after:
        for name in before.namelist():
            content = stream.getvalue() if "/weights/weight_" in name else before.read(name)
            after.writestr(name, content.replace(b'"use_pickle": false', b'"use_pickle": true'))
    return folder


def test_a_file_of_pickles_is_opened_on_trust_alone(booby_trapped, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("slimresnet.formats.trained.snapshot_download", lambda name: str(booby_trapped))
    picture = tmp_path / "picture.png"
    Image.new("RGB", (32, 32)).save(picture)
    refusal = r"--backend torch_export runs code that model\.pt2 of MODEL .* may hold"
    for model in (str(booby_trapped), "user/from-the-hub"):
        with pytest.raises(ModelError, match=refusal):
            evaluate_folder(model, f"--dataset_name={dataset}", "--backend=torch_export")
        with pytest.raises(ModelError, match=refusal):
            predict(model, picture, output=tmp_path / "o.csv", backend="torch_export")
    assert not (tmp_path / "marker").exists()
    with pytest.raises(ModelError, match="cannot be loaded by torch_export"):
        open_network(booby_trapped, "torch_export", trust_remote_code=True)
    assert (tmp_path / "marker").exists()  # so this is what the flag keeps away


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("place", ["../../secret.bin", "{}/secret.bin", "link.bin", "linked/secret.bin"])
def test_a_graph_reads_no_file_outside_of_its_folder(tmp_path, backend, place):
    """Weights may lie beside a graph, by a path that it names."""
    secret, file = tmp_path / "secret.bin", tmp_path / "model" / "onnx" / "model.onnx"
    file.parent.mkdir(parents=True)
    secret.write_bytes(np.ones(4, np.float32).tobytes())
    (file.parent / "beside.bin").write_bytes(secret.read_bytes())
    (file.parent / "link.bin").symlink_to(secret)
    (file.parent / "linked").symlink_to(tmp_path)
    onnx.save(graph_with_weights_at("beside.bin"), file)
    assert open_file(file, backend)(torch.zeros(1, 4)).tolist() == [[1, 1, 1, 1]]
    file.write_bytes(graph_with_weights_at(place.format(tmp_path)).SerializeToString())
    with pytest.raises(ModelError, match=rf"model\.onnx cannot be loaded by {backend}"):
        open_file(file, backend)


def graph_with_weights_at(place):
    """It adds four numbers, which lie elsewhere."""
    weights = helper.make_tensor("weights", TensorProto.FLOAT, [4], bytes(16), raw=True)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in {"location": place, "offset": "0", "length": "16"}.items():
        weights.external_data.add(key=key, value=value)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("pixel_values", "logits")]
    node = helper.make_node("Add", ["pixel_values", "weights"], ["logits"])
    graph = helper.make_graph([node], "graph", ends[:1], ends[1:], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_facts_that_do_not_say_what_a_file_takes_are_named(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    facts = json.loads((folder / EXPORTS_NAME).read_text())
    facts[ONNX_FILE]["pixel_values"] = "int8"
    (folder / EXPORTS_NAME).write_text(json.dumps(facts))
    with pytest.raises(ModelError, match=r"exports\.json does not say whether onnx/model\.onnx takes.*--overwrite"):
        open_network(folder, "onnxruntime")


@pytest.mark.parametrize(
    "package, opens, threads",
    [
        (onnxruntime, "InferenceSession", lambda options: options.intra_op_num_threads),
        (openvino, "compile_model", lambda options: options["INFERENCE_NUM_THREADS"]),
    ],
)
def test_a_backend_has_as_many_threads_as_pytorch_and_its_precision(exported, monkeypatch, package, opens, threads):
    really_open, seen = getattr(package, opens), []

    def spy(*arguments, **more):
        seen.append(threads(arguments[-1]))
        if package is openvino:  # it would take bf16 where the processor has it
            assert arguments[-1]["INFERENCE_PRECISION_HINT"] == "f32"
        return really_open(*arguments, **more)

    monkeypatch.setattr(package, opens, spy)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    open_network(exported, package.__name__)
    assert seen == [3]


@pytest.mark.parametrize("package", ["onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(trained, exported, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises((ExportError, ModelError), match=rf"needs a package: pip install {package}\."):
        export(trained, tmp_path / "out", "--quantize=int8")
    assert not (tmp_path / "out").exists()
    if package == "onnxruntime":
        with pytest.raises(ModelError, match=r"--backend onnxruntime needs a package: pip install onnxruntime\."):
            open_network(exported, package)


@pytest.mark.processes
def test_a_mistake_is_told_in_one_sentence(tmp_path):
    process = run_script("export.py", tmp_path, f"--output_dir={tmp_path / 'out'}", folder=tmp_path)
    assert process.returncode == 1
    assert process.stderr.startswith("export.py: error: MODEL") and process.stderr.count("\n") == 1
