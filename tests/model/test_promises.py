"""What transformers promises of its own models (ModelTesterMixin, BackboneTesterMixin and ConfigTester in its tests),
as far as it concerns a convolutional network; the rest is in test_modeling.py, test_losses.py and test_sharing.py."""

import importlib
import inspect
import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.backbone_utils import BackboneType

from modeling_slimresnet import (
    SlimResNetBackbone,
    SlimResNetConfig,
    SlimResNetForImageClassification,
    SlimResNetModel,
)

MODEL_CLASSES = [SlimResNetModel, SlimResNetForImageClassification, SlimResNetBackbone]
TINY = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "strides": [1, 2], "image_size": 16}


@pytest.fixture(params=MODEL_CLASSES)
def model(request, tiny_config):
    """Each of the three, in evaluation mode, with other statistics than a new network has."""
    model = request.param(tiny_config).eval()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model


def first_output(model, images):
    """What a tuple begins with: the hidden state, the logits, the last of the feature maps."""
    output = model(images)[0]
    return output[-1] if isinstance(output, tuple) else output


def assert_same_state(loaded, model):
    assert list(loaded.state_dict()) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_made_of_a_config_and_weights_without_a_file(model):
    loaded = type(model).from_pretrained(None, config=model.config, state_dict=model.state_dict())
    assert_same_state(loaded, model)


def test_a_file_holds_each_tensor_once_under_its_name(model, tmp_path):
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert sorted(saved) == sorted(model.state_dict())
    assert len({value.data_ptr() for value in model.state_dict().values()}) == len(saved)
    assert not model.can_generate() and not (tmp_path / "generation_config.json").exists()


def test_a_file_without_any_tensor_of_ours_is_missing_all(model, tmp_path):
    model.save_pretrained(tmp_path)
    save_file({"tensor": torch.tensor([1, 2])}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"] == set(model.state_dict()) and report["unexpected_keys"] == {"tensor"}
    assert all(value.isfinite().all() for value in loaded.state_dict().values())


def test_weights_survive_torch_save(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    loaded = type(model)(model.config)
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert_same_state(loaded, model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, "float32", "auto"])
def test_loaded_in_any_precision(model, dtype, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=dtype)
    expected = dtype if isinstance(dtype, torch.dtype) else torch.float32
    assert {value.dtype for value in loaded.state_dict().values()} == {expected, torch.int64}  # batches are counted
    assert all(parameter.is_contiguous() for parameter in loaded.parameters())
    assert first_output(loaded, torch.zeros(1, 3, 16, 16, dtype=expected)).dtype == expected


def test_layers_may_lie_on_the_disk(model, tmp_path):
    model.save_pretrained(tmp_path)
    children = [name for name, _ in model.named_children()]
    places = dict(zip(children, ["cpu", "disk", "cpu"], strict=False))
    loaded = type(model).from_pretrained(tmp_path, device_map=places, offload_folder=tmp_path / "offloaded")
    assert any(parameter.is_meta for parameter in loaded.parameters())
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(first_output(loaded, images), first_output(model, images))


def test_a_block_is_never_split(model):
    """Its shortcut adds tensors that have to be on one device."""
    blocks = {type(module).__name__ for module in model.modules() if hasattr(module, "shortcut")}
    assert blocks == set(model._no_split_modules)


def test_the_base_and_the_head_open_each_others_folders(tiny_config, tmp_path):
    base, head = SlimResNetModel(tiny_config), SlimResNetForImageClassification(tiny_config)
    assert head.base_model is head.slimresnet and head.base_model_prefix == "slimresnet"
    base.save_pretrained(tmp_path / "base")
    loaded, report = SlimResNetForImageClassification.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert report["missing_keys"] == {"classifier.weight", "classifier.bias"} and not report["unexpected_keys"]
    assert_same_state(loaded.slimresnet, base)
    head.save_pretrained(tmp_path / "head")
    loaded, report = SlimResNetModel.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert not report["missing_keys"] and report["unexpected_keys"] == {"classifier.weight", "classifier.bias"}
    assert_same_state(loaded, head.slimresnet)


def test_the_images_are_the_main_input(model):
    parameters = list(inspect.signature(model.forward).parameters)
    assert parameters[0] == model.main_input_name == "pixel_values"


def test_the_stem_is_what_quantisers_and_adapters_take_for_embeddings(model):
    """`from_pretrained(quantization_config=TorchAoConfig(…))` asks for it."""
    stem = model.base_model.embedder
    assert model.get_input_embeddings() is stem and stem.convolution.in_channels == 3
    assert model.get_output_embeddings() is None
    model.requires_grad_(False)
    model.enable_input_require_grads()
    assert first_output(model, torch.zeros(1, 3, 16, 16)).requires_grad
    model.disable_input_require_grads()
    assert not first_output(model, torch.zeros(1, 3, 16, 16)).requires_grad
    other = nn.Identity()
    model.set_input_embeddings(other)
    assert model.get_input_embeddings() is other


def test_activation_checkpointing_is_refused(model):
    """A block that runs twice would count its batch twice in the statistics of BatchNorm."""
    with pytest.raises(ValueError, match="does not support"):
        model.activation_checkpointing_enable()


def test_hidden_states_are_given_on_demand(model):
    images = torch.randn(2, 3, 16, 16)
    assert model(images).hidden_states is None
    states = model(images, output_hidden_states=True).hidden_states
    assert [tuple(state.shape) for state in states] == [(2, 8, 16, 16), (2, 8, 16, 16), (2, 16, 8, 8)]
    model.config.output_hidden_states = True
    torch.testing.assert_close(model(images).hidden_states, states)
    assert model(images, output_hidden_states=False).hidden_states is None


def test_a_config_as_text_and_as_a_file(tmp_path):
    config = SlimResNetConfig(**TINY, out_indices=[0, 2], num_labels=5)
    text = json.loads(config.to_json_string())
    assert {field: text[field] for field in TINY} == TINY
    config.to_json_file(tmp_path / "config.json")
    assert SlimResNetConfig.from_json_file(tmp_path / "config.json").to_dict() == config.to_dict()
    config.save_pretrained(tmp_path / "sub" / "folder")
    for found in (
        SlimResNetConfig.from_pretrained(tmp_path / "sub" / "folder"),
        SlimResNetConfig.from_pretrained(tmp_path / "sub", subfolder="folder"),
    ):
        assert found.to_dict() == config.to_dict()
    with pytest.raises(OSError):
        SlimResNetConfig.from_pretrained(tmp_path / "other")


def test_a_config_keeps_what_every_config_of_transformers_takes(tmp_path):
    common = {
        "return_dict": False,
        "output_hidden_states": True,
        "output_attentions": True,
        "chunk_size_feed_forward": 5,
        "architectures": ["BertModel"],
        "id2label": {0: "label"},
        "label2id": {"label": "0"},
        "problem_type": "regression",
    }
    config = SlimResNetConfig(**common, dtype="float16")
    assert {field: getattr(config, field) for field in common} == common and config.dtype == torch.float16


def test_no_config_warns(caplog):
    with caplog.at_level(logging.WARNING):
        SlimResNetConfig()
        SlimResNetConfig(**TINY)
    assert not caplog.records


def test_out_features_and_out_indices_follow_each_other():
    for given in ({}, {"out_features": None, "out_indices": None}):
        config = SlimResNetConfig(**given)
        assert (config.out_features, config.out_indices) == (["stage4"], [4])
    assert SlimResNetConfig(out_features=["stage1", "stage3"]).out_indices == [1, 3]
    assert SlimResNetConfig(out_indices=[0, 2]).out_features == ["stem", "stage2"]
    both = SlimResNetConfig(out_features=["stem", "stage1"], out_indices=[0, 1])
    assert (both.out_features, both.out_indices) == (["stem", "stage1"], [0, 1])
    with pytest.raises(ValueError, match="same stages"):
        SlimResNetConfig(out_features=["stage1", "stage2"], out_indices=[0, 2])
    both.out_features = None
    assert (both.out_features, both.out_indices) == (["stage4"], [4])


@pytest.mark.parametrize("out_indices", [[0], [2], [0, 1, 2], [-2, -1], None])
def test_a_backbone_describes_the_maps_that_it_gives(tiny_config, out_indices):
    tiny_config.embedding_size, tiny_config.out_indices = 6, out_indices
    backbone = SlimResNetBackbone(tiny_config).eval()
    outputs = backbone(torch.randn(2, 3, 16, 16), output_hidden_states=True)
    indices = [2] if out_indices is None else [index % 3 for index in out_indices]
    assert isinstance(outputs.feature_maps, tuple) and outputs.attentions is None
    for features, index in zip(outputs.feature_maps, indices, strict=True):
        assert torch.equal(features, outputs.hidden_states[index])
    assert backbone.channels == [features.shape[1] for features in outputs.feature_maps]
    assert backbone.num_features == [6, 8, 16] == list(backbone.out_feature_channels.values())
    assert backbone.stage_names == ["stem", "stage1", "stage2"] == list(backbone.out_feature_channels)
    assert backbone.out_features == [backbone.stage_names[index] for index in indices]
    assert backbone.backbone_type is BackboneType.TRANSFORMERS and not backbone.has_attentions
    filtered = backbone.forward_with_filtered_kwargs(torch.zeros(1, 3, 16, 16), output_attentions=True)
    assert len(filtered.feature_maps) == len(indices)


def test_what_a_star_import_brings_is_there():
    for name in ("modeling", "configuration"):
        module = importlib.import_module(f"modeling_slimresnet.{name}_slimresnet")
        assert all(hasattr(module, each) for each in module.__all__)
