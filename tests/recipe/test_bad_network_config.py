"""A config.json edited by hand: a network that can be built and run, or one line that names the file."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.reading import shipped_networks
from slimresnet.recipe.settings import Recipe
from slimresnet.training.network import load_network_config

SMALL = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "strides": [1, 2], "image_size": 8}
FIELDS = [*SlimResNetConfig().to_dict(), "num_labels"]
PYTHON = ["object has no", "is not iterable", "unhashable", "cannot be interpreted", "not supported between"]

scalars = (
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats(-2, 9) | st.text(max_size=6)
    | st.sampled_from(["relu", "gelu", "kaiming_normal", "slimresnet", "resnet", "stage1", "float32"])
)  # fmt: skip
values = (
    scalars
    | st.lists(scalars, max_size=3)
    | st.lists(st.integers(1, 4), min_size=2, max_size=2)
    | st.dictionaries(st.text(max_size=3) | st.integers(-1, 3).map(str), scalars, max_size=3)
)


def config_or_refused(file):
    """What it makes of the file, or None where it refused it in one line; what it takes has to work."""
    try:
        config = load_network_config(Recipe(config_name=str(file)))
    except RecipeError as error:
        assert "\n" not in str(error) and f"--config_name {file} cannot be used: " in str(error)
        assert not any(words in str(error) for words in PYTHON)
        return None
    model = SlimResNetForImageClassification(config).eval()
    with torch.inference_mode():
        logits = model(torch.zeros(1, 3, config.image_size, config.image_size)).logits
    assert logits.shape == (1, config.num_labels)
    assert SlimResNetConfig.from_dict(json.loads(config.to_json_string())).to_dict() == config.to_dict()
    return config


@settings(max_examples=400)
@given(edits=st.dictionaries(st.sampled_from(FIELDS), values, min_size=1, max_size=3), removed=st.sampled_from(FIELDS))
def test_any_edit_of_any_field(tmp_path, edits, removed):
    content = SlimResNetConfig(**SMALL).to_dict() | edits
    content.pop(removed, None)
    if not {"embedding_size", "hidden_sizes", "image_size"} <= content.keys():
        return  # the default network: fine, and too large to build this often
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content))
    config_or_refused(file)


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_files(tmp_path, data):
    content = bytearray(json.dumps(SlimResNetConfig(**SMALL).to_dict()).encode())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        place = data.draw(st.integers(0, len(content) - 1))
        flipped = content[place] ^ data.draw(st.integers(1, 255))
        if chr(content[place]).isdigit() and chr(flipped).isdigit():
            return  # another network, maybe a large one
        content[place] = flipped
    file = tmp_path / "config.json"
    file.write_bytes(content)
    config_or_refused(file)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"depths": [1]}, "depths"),
        ({"depths": "[1, 1]"}, "depths"),
        ({"hidden_sizes": [4, 0]}, "hidden_sizes"),
        ({"strides": [1, True]}, "strides"),
        ({"image_size": "8"}, "image_size"),
        ({"num_channels": 0}, "num_channels"),
        ({"hidden_act": "rulu"}, "hidden_act"),
        ({"hidden_act": ["relu"]}, "hidden_act"),
        ({"initializer": None}, "initializer"),
        ({"zero_init_residual": 1}, "zero_init_residual"),
        ({"problem_type": "regression"}, "problem_type must be single_label_classification"),
        ({"problem_type": None}, "problem_type must be single_label_classification"),
        ({"out_features": ["stage9"]}, "out_features"),
        ({"id2label": ["a", "b"]}, "id2label"),
        ({"id2label": {"first": "a"}}, "id2label"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label"),
        ({"model_type": "resnet"}, "slimresnet"),
        ({"id2label": 3}, "id2label"),
        ({"id2label": {}}, "id2label"),
        ({"id2label": {"0": "a", "1": ["b"]}}, "id2label"),
        ({"id2label": {"0": "a", "1": None}}, "id2label"),
        ({"id2label": {"0": "a", "1": "b"}, "num_labels": 3}, "num_labels is 3, but id2label names 2"),
        ({"num_labels": 0}, "num_labels"),
        ({"num_labels": "3"}, "num_labels"),
        ({"num_channels": 2}, "num_channels must be 3 for RGB images or 1 for grey ones, got 2"),
        ({"num_channels": 4}, "num_channels must be 3"),
        ({"out_indices": ["a"]}, "out_indices"),
        ({"out_indices": [1.0]}, "out_indices"),
        ({"out_features": [["stage1"]]}, "out_features"),
        ({"image_size": 10**30}, "image_size must be in 1 … 8192"),
        ({"embedding_size": 8193}, "embedding_size must be in 1 … 8192"),
        ({"hidden_sizes": [4, 10**9]}, "every entry of hidden_sizes"),
        ({"depths": [1, 10**9]}, "every entry of depths"),
        ({"strides": [1, 2**31 - 1]}, "every entry of strides"),  # PyTorch ended the process with SIGFPE
        ({"hiden_sizes": [4, 8]}, "no field hiden_sizes: correct or remove it"),
        ({"to_dict": 3, "quantization_config": {}}, "no field quantization_config, to_dict"),
    ],
)
def test_the_field_is_named(tmp_path, edit, said):
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {"model_type": "slimresnet"} | edit))
    with pytest.raises(RecipeError, match=said) as error:
        load_network_config(Recipe(config_name=str(tmp_path)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "null", '"depths"', "[{}]", "[" * 9999, "{", "{}", '{"depths": [1, 1]', "\x00"]
)
def test_no_mapping(tmp_path, text):
    file = tmp_path / "config.json"
    file.write_text(text)
    assert config_or_refused(file) is None


def test_no_file(tmp_path):
    assert config_or_refused(tmp_path) is None
    assert config_or_refused(tmp_path / "config.json") is None
    assert config_or_refused("nobody/nothing") is None


def test_no_name():
    with pytest.raises(RecipeError, match="--config_name cannot be used"):
        load_network_config(Recipe(config_name=""))


@pytest.mark.parametrize(
    "edit", [{"return_dict": False}, {"dtype": "flot32"}, {"auto_map": 3}, {"label2id": [1]}, {"stage_names": []}]
)
def test_fields_that_training_decides_are_passed_over(tmp_path, edit):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(SlimResNetConfig(**SMALL).to_dict() | edit))
    assert config_or_refused(file).to_dict() == SlimResNetConfig(**SMALL).to_dict()


def test_a_saved_network_is_taken_whole(tmp_path):
    config = SlimResNetConfig(**SMALL, out_features=["stage1"], hidden_act="gelu", id2label={0: "no", 1: "yes"})
    SlimResNetForImageClassification(config).save_pretrained(tmp_path)
    loaded = load_network_config(Recipe(config_name=str(tmp_path)))
    for field in ("hidden_sizes", "depths", "strides", "hidden_act", "id2label", "label2id", "out_indices"):
        assert getattr(loaded, field) == getattr(config, field)


def test_the_networks_that_ship_go_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("wide", "wide.json"):
        config = load_network_config(Recipe(config_name=name))
        assert (config.hidden_sizes, config.embedding_size) == ([64, 128, 256, 512], 64)
        assert config.depths == SlimResNetConfig().depths
    (tmp_path / "wide").mkdir()  # such as the folder of a run that is yet to begin
    assert load_network_config(Recipe(config_name="wide")).embedding_size == 64
    SlimResNetConfig(**SMALL).save_pretrained(tmp_path / "wide")
    assert load_network_config(Recipe(config_name="wide")).hidden_sizes == [4, 8]


def test_every_network_that_ships_can_be_built():
    for file in shipped_networks().values():
        assert config_or_refused(file) is not None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wdie", r"did you mean wide\?"),
        ("zebra", "give a config.json, its folder, or one of wide."),
        ("z.json", "one of"),
    ],
)
def test_an_unknown_name_is_not_looked_for_on_the_hub(name, said, monkeypatch):
    monkeypatch.setattr(SlimResNetConfig, "get_config_dict", None)
    with pytest.raises(RecipeError, match=f"--config_name {name} cannot be used: it is not there: .*{said}"):
        load_network_config(Recipe(config_name=name))
