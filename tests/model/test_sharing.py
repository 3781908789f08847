"""A saved folder opens anywhere: by Auto class, by remote code in a fresh process, in a pipeline."""

import json

import numpy as np
import pytest
import torch
from conftest import run_python
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoBackbone,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    ViTImageProcessorPil,
    pipeline,
)
from transformers.backbone_utils import load_backbone

from modeling_slimresnet import SlimResNetBackbone, SlimResNetForImageClassification, SlimResNetModel

# Runs with only torch and transformers to help: neither the repository nor its package is on the path.
REMOTE = """
import json, sys
import torch
from transformers import AutoBackbone, AutoConfig, AutoModel, AutoModelForImageClassification, pipeline

folder, image = sys.argv[1:]
assert "modeling_slimresnet" not in sys.modules
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
pixel_values = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
report = {}
for auto_class in (AutoModel, AutoModelForImageClassification):
    model, loading = auto_class.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    report[type(model).__name__] = sorted(loading["missing_keys"])
report["backbone"] = type(AutoBackbone.from_config(config, trust_remote_code=True)).__name__
report["logits"] = model(pixel_values).logits.tolist()
report["module"] = type(model).__module__
report["pipeline"] = pipeline("image-classification", model=folder, trust_remote_code=True)(image)
model.save_pretrained(folder + "-again")
print(json.dumps(report))
"""


@pytest.fixture
def trained(tiny_config):
    """A classifier whose every tensor differs from what initialisation gives."""
    model = SlimResNetForImageClassification(tiny_config).eval()
    for value in model.state_dict().values():
        value.uniform_(0.1, 0.3) if value.is_floating_point() else value.fill_(7)
    return model


@pytest.fixture
def folder(trained, tmp_path):
    """Its folder, with an image processor, as training writes it."""
    path = tmp_path / "shared"
    trained.save_pretrained(path)
    ViTImageProcessorPil(size={"height": 16, "width": 16}, do_convert_rgb=True).save_pretrained(path)
    return path


def assert_same_weights(model, reference):
    state = model.state_dict()
    for name, value in reference.state_dict().items():
        assert torch.equal(state[name], value), name


def test_auto_classes_after_import(folder, trained):
    classifier, report = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert isinstance(classifier, SlimResNetForImageClassification) and not report["missing_keys"]
    assert_same_weights(classifier, trained)
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, SlimResNetModel) and not report["missing_keys"]
    assert_same_weights(model, trained.slimresnet)


def test_backbone_of_a_classifiers_folder(folder, trained):
    """`AutoBackbone.from_pretrained` of a folder asks the Hub first in transformers 5.23; these ways work."""
    backbone, report = SlimResNetBackbone.from_pretrained(folder, out_indices=[1, 2], output_loading_info=True)
    assert not report["missing_keys"] and backbone.channels == [8, 16]
    assert_same_weights(backbone.encoder, trained.slimresnet.encoder)
    for built in (AutoBackbone.from_config(backbone.config), load_backbone(backbone.config)):
        assert isinstance(built, SlimResNetBackbone) and built.out_features == ["stage1", "stage2"]


@pytest.mark.processes
def test_remote_code_in_a_process_that_never_saw_the_repository(folder, trained, tmp_path):
    script, image = tmp_path / "remote.py", tmp_path / "image.png"
    script.write_text(REMOTE)
    Image.fromarray(np.arange(40 * 30 * 3, dtype=np.uint8).reshape(40, 30, 3)).save(image)
    process = run_python("-I", script, folder, image, cwd=tmp_path, HF_MODULES_CACHE=str(tmp_path / "modules"))
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout.splitlines()[-1])
    assert report["SlimResNetModel"] == report["SlimResNetForImageClassification"] == []
    assert report["backbone"] == "SlimResNetBackbone"
    assert report["module"].startswith("transformers_modules.")
    pixel_values = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    torch.testing.assert_close(torch.tensor(report["logits"]), trained(pixel_values).logits)
    local = pipeline("image-classification", model=str(folder))(str(image))
    assert [entry["label"] for entry in report["pipeline"]] == [entry["label"] for entry in local]
    again = tmp_path / "shared-again"  # saved by the remote class: just as complete
    assert sorted(file.name for file in again.iterdir()) == sorted(
        ["config.json", "configuration_slimresnet.py", "model.safetensors", "modeling_slimresnet.py"]
    )
    assert set(json.loads((again / "config.json").read_text())["auto_map"]) == {
        "AutoConfig", "AutoModel", "AutoModelForImageClassification", "AutoBackbone"
    }  # fmt: skip


def test_saved_from_channels_last(trained, tmp_path):
    trained.to(memory_format=torch.channels_last).save_pretrained(tmp_path)
    assert_same_weights(AutoModelForImageClassification.from_pretrained(tmp_path), trained)


def test_saved_from_a_compiled_model(trained, tmp_path):
    names = list(trained.state_dict())
    torch.compile(trained, backend="eager").save_pretrained(tmp_path / "wrapped")
    trained.compile(backend="eager")
    trained(torch.zeros(1, 3, 16, 16))
    trained.save_pretrained(tmp_path / "in place")
    for folder in ("wrapped", "in place"):
        assert sorted(load_file(tmp_path / folder / "model.safetensors")) == sorted(names)
        assert_same_weights(AutoModelForImageClassification.from_pretrained(tmp_path / folder), trained)


def test_saved_and_loaded_in_bfloat16(trained, tmp_path):
    half = trained.to(torch.bfloat16)
    half.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert_same_weights(loaded, half)
    full = AutoModelForImageClassification.from_pretrained(tmp_path, dtype=torch.float32)
    assert full.dtype == torch.float32 and full(torch.zeros(1, 3, 16, 16)).logits.dtype == torch.float32


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK"])
@pytest.mark.parametrize("size", [(16, 16), (1, 1), (300, 50)])
def test_pipeline_takes_any_image(folder, tmp_path, mode, size):
    extension = "tiff" if mode == "CMYK" else "png"
    file = tmp_path / f"image.{extension}"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode).save(file)
    answers = pipeline("image-classification", model=str(folder), top_k=10)(str(file))
    assert len(answers) == 10 and answers[0]["label"] in trained_labels()
    assert sum(answer["score"] for answer in answers) == pytest.approx(1, abs=1e-4)


def trained_labels():
    return {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}


@pytest.mark.parametrize("mode", ["RGBA", "L", "P"])
def test_image_processor_makes_three_channels(folder, mode):
    processor = AutoImageProcessor.from_pretrained(folder)
    image = Image.new("RGB", (50, 20), "red").convert(mode)
    assert processor(image, return_tensors="pt").pixel_values.shape == (1, 3, 16, 16)
