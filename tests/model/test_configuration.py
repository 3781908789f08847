"""What a config holds, refuses and saves."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from modeling_slimresnet import SlimResNetConfig

AUTO_MAP = {
    "AutoConfig": "configuration_slimresnet.SlimResNetConfig",
    "AutoModel": "modeling_slimresnet.SlimResNetModel",
    "AutoModelForImageClassification": "modeling_slimresnet.SlimResNetForImageClassification",
    "AutoBackbone": "modeling_slimresnet.SlimResNetBackbone",
}


def test_defaults_are_the_reports_network():
    config = SlimResNetConfig()
    assert config.model_type == "slimresnet"
    assert (config.embedding_size, config.num_channels, config.image_size) == (32, 3, 32)
    assert (config.depths, config.hidden_sizes, config.strides) == ([4, 4, 4, 3], [32, 64, 128, 256], [1, 2, 2, 2])
    assert config.num_labels == 10
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert config.id2label == dict(enumerate(names)) and config.label2id["truck"] == 9
    assert config.problem_type == "single_label_classification"
    assert config.stage_names == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert config.out_features == ["stage4"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("depths", [4, 4]),
        ("hidden_sizes", [32, 64, 128]),
        ("strides", [1, 2, 2, 2, 2]),
        ("depths", [4, 4, 0, 3]),
        ("hidden_sizes", [0, 64, 128, 256]),
        ("strides", [1, 0, 2, 2]),
        ("strides", [1, 2, 2, "2"]),
        ("embedding_size", 0),
        ("num_channels", 0),
        ("num_channels", "3"),
        ("image_size", -32),
        ("image_size", 32.5),
        ("hidden_act", "rulu"),
        ("initializer", "zeros"),
        ("zero_init_residual", "yes"),
        ("problem_type", "ranking"),
        ("id2label", {0: "no", 2: "yes"}),
        ("id2label", {}),
        ("num_labels", 0),
        ("num_labels", True),
        ("out_features", ["stage5"]),
    ],
)
def test_impossible_values_are_refused_by_name(field, value):
    with pytest.raises((StrictDataclassError, ValueError), match=field):
        SlimResNetConfig(**{field: value})


def test_empty_stages_are_refused():
    with pytest.raises(StrictDataclassError, match="depths"):
        SlimResNetConfig(depths=[], hidden_sizes=[], strides=[])


def test_stage_names_follow_the_depths_whatever_a_file_says():
    config = SlimResNetConfig(depths=[1, 1], hidden_sizes=[8, 8], strides=[1, 2], stage_names=["stem", "other"])
    assert config.stage_names == ["stem", "stage1", "stage2"]


def test_changing_a_field_to_an_impossible_value_cannot_be_saved(tmp_path):
    config = SlimResNetConfig()
    config.strides = [1, 2]
    with pytest.raises(StrictDataclassError, match="strides"):
        config.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_labels():
    assert SlimResNetConfig(num_labels=3).id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    labels = {0: "no", 1: "perhaps", 2: "yes"}
    for config in (SlimResNetConfig(num_labels=None, id2label=labels), SlimResNetConfig(id2label=labels)):
        assert config.num_labels == 3 and config.id2label == labels
    assert SlimResNetConfig(num_labels=None).id2label == SlimResNetConfig().id2label
    config = SlimResNetConfig(id2label={0: "no", 1: "yes"})
    assert config.num_labels == 2 and config.label2id == {"no": 0, "yes": 1}


NO_YES = {0: "no", 1: "yes"}


def saved(tmp_path, **fields):
    SlimResNetConfig(**fields).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("made", "labels"),
    [
        (lambda folder: SlimResNetConfig.from_pretrained(saved(folder), id2label=NO_YES), NO_YES),
        (lambda folder: SlimResNetConfig.from_pretrained(saved(folder), id2label={"1": "yes", "0": "no"}), NO_YES),
        (
            # as run_image_classification.py of transformers says them
            lambda folder: SlimResNetConfig.from_pretrained(
                saved(folder), num_labels=2, label2id={"no": "0", "yes": "1"}, id2label={"0": "no", "1": "yes"}
            ),
            NO_YES,
        ),
        (lambda folder: SlimResNetConfig.from_pretrained(saved(folder), num_labels=1), {0: "LABEL_0"}),
        (lambda folder: SlimResNetConfig.from_pretrained(saved(folder, id2label=NO_YES)), NO_YES),
        (lambda folder: SlimResNetConfig.from_pretrained(saved(folder, num_labels=2)), {0: "LABEL_0", 1: "LABEL_1"}),
        (lambda folder: SlimResNetConfig(label2id={"no": 0, "yes": 1}), NO_YES),
        (lambda folder: SlimResNetConfig(**{**SlimResNetConfig().to_dict(), "id2label": NO_YES}), NO_YES),
    ],
)
def test_label2id_follows_id2label(tmp_path, made, labels):
    config = made(tmp_path)
    assert config.id2label == labels and config.num_labels == len(labels)
    assert {label: int(index) for label, index in config.label2id.items()} == {
        label: index for index, label in labels.items()
    }


def test_label2id_follows_an_assignment():
    config = SlimResNetConfig()
    config.id2label = {0: "b", 1: "a", 2: "c"}
    assert config.num_labels == 3 and config.label2id == {"b": 0, "a": 1, "c": 2}
    config.num_labels = 2
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1}
    with pytest.raises(ValueError, match="id2label must map the class numbers"):
        config.id2label = {1: "a", 2: "b"}
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"}


def test_saved_config_holds_every_auto_class_and_the_labels(tmp_path):
    config = SlimResNetConfig(hidden_act="gelu", out_features=["stage1", "stage3"], depths=(1, 1, 1, 1))
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["auto_map"] == AUTO_MAP
    assert saved["id2label"]["0"] == "airplane"
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, SlimResNetConfig)
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert loaded.out_indices == [1, 3]
