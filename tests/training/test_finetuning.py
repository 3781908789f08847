"""Training that starts from trained weights: what is kept to the bit, what is new, what is frozen, what is refused."""

import json
import shutil

import pytest
import torch
from conftest import REPOSITORY, SAMPLE, tiny_run_flags, write_dataset
from datasets import load_dataset
from safetensors.torch import load_file
from training_runs import Told, assert_same_weights, read, snapshot, train, train_on_two, weights
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.errors import SlimResNetError
from slimresnet.evaluation.flops import multiply_adds
from slimresnet.hub.card_text import render_model_card
from slimresnet.hub.shared_recipe import shared_recipe
from slimresnet.recipe.settings import Recipe
from slimresnet.training.freezing import frozen_parts
from slimresnet.training.optim.optimizer import build_optimizer
from slimresnet.training.optim.schedule import learning_rates
from slimresnet.training.pretrained import open_pretrained

MOVES = ["--learning_rate=0.05", "--weight_decay=0.01", "--num_train_epochs=1", "--temperature=1"]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A dataset of three of the sample's classes, in another order than theirs."""
    folder = tmp_path_factory.mktemp("few")
    for split, count in (("train", 160), ("test", 60)):
        rows = load_dataset(str(SAMPLE), split=split)
        names = rows.features["label"].names
        rows = [row for row in rows if row["label"] in (7, 2, 5)][:count]
        labels = [[7, 2, 5].index(row["label"]) for row in rows]
        write_dataset(folder, split, [row["img"] for row in rows], labels, [names[label] for label in (7, 2, 5)])
    return folder


@pytest.fixture
def start(trained):
    """Flag of a run that starts from the tiny trained network."""
    return f"--model_name_or_path={trained}"


@pytest.fixture
def flags(tiny_config_dir, tmp_path):
    """Of a tiny run without a network of its own."""
    return [each for each in tiny_run_flags(tiny_config_dir, tmp_path / "run") if not each.startswith("--config_name")]


def of_few(few, *more):
    return [f"--dataset_name={few}", "--validation_size=30", "--max_train_samples=96", *more]


def first_weights(kept):
    return Told(on_train_begin=lambda state, model, **_: kept.update(
        {name: value.clone() for name, value in model.state_dict().items()}
    ))  # fmt: skip


def test_the_same_classes_go_on_with_all_weights(flags, start, trained, capsys):
    begun = {}
    train(flags, start, *MOVES, "--max_train_steps=1", callbacks=[first_weights(begun)])
    assert "from run: all weights kept\n" in capsys.readouterr().out
    assert begun.keys() == weights(trained).keys()
    assert all(torch.equal(begun[name], value) for name, value in weights(trained).items())


def test_other_classes_get_a_new_head_and_the_trunk_to_the_bit(flags, start, few, trained, capsys):
    begun = {}
    folder = train(flags, *of_few(few), start, *MOVES, "--max_train_steps=1", callbacks=[first_weights(begun)])
    assert "stem and stages kept, a new head for 3 classes (it had 10)" in capsys.readouterr().out
    there = weights(trained)
    assert all(torch.equal(begun[name], there[name]) for name in there if not name.startswith("classifier"))
    assert begun["classifier.weight"].shape == (3, 32)
    assert read(folder)["train_head_is_new"] and read(folder)["train_started_from"] == "run"
    assert read(folder, "config.json")["id2label"] == {"0": "horse", "1": "bird", "2": "dog"}


def test_a_head_of_the_same_classes_follows_their_order(tmp_path, trained):
    pretrained = open_pretrained(Recipe(model_name_or_path=str(trained)), tmp_path)
    names = [*pretrained.network.config.id2label.values()]
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    config = pretrained.new_config()
    config.id2label = {number: names[label] for number, label in enumerate(order)}
    model = SlimResNetForImageClassification(config).eval()
    pretrained.load_into(model, [names[label] for label in order])
    pixel_values = torch.randn(4, 3, 32, 32)
    expected = pretrained.network(pixel_values).logits[:, order]
    assert torch.allclose(model(pixel_values).logits, expected, atol=1e-5)
    assert pretrained.describe([names[label] for label in order]).endswith("its head in the order of these classes")


@pytest.mark.parametrize(
    ("freeze", "trained_parts"),
    [
        ("trunk", ["classifier"]),
        ("stage2", ["classifier"]),
        ("stage1", ["classifier", "slimresnet.encoder.stages.1"]),
        ("stem", ["classifier", "slimresnet.encoder.stages.1", "slimresnet.encoder.stages.0"]),
    ],
)
def test_frozen_parts_stay_as_they_are_to_the_bit(flags, start, few, trained, freeze, trained_parts):
    """Their BatchNorm statistics too; with decay, momentum, averaged weights and a sharpness-aware step."""
    more = ["--max_train_steps=2", "--ema_decay=0.5", "--sam_rho=0.05", f"--freeze={freeze}"]
    folder = train(flags, *of_few(few), start, *MOVES, *more)
    there = weights(trained)
    for name, value in weights(folder).items():
        moves = name.startswith(tuple(trained_parts))
        assert moves != (value.shape == there[name].shape and torch.equal(value, there[name])), name


def test_frozen_parts_with_muon_whose_matrices_are_all_frozen(flags, start, few, trained):
    folder = train(flags, *of_few(few), start, *MOVES, "--max_train_steps=1", "--optim=muon", "--freeze=trunk")
    kept = "slimresnet.encoder.stages.1.0.layer.0.convolution.weight"
    assert torch.equal(weights(folder)[kept], weights(trained)[kept])
    assert not torch.equal(weights(folder)["classifier.weight"], weights(trained)["classifier.weight"][:3])


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_freeze_alike(flags, start, few, trained, tmp_path):
    more = [*of_few(few), start, *MOVES, "--max_train_steps=2", "--freeze=stage1", "--trunk_learning_rate_factor=0.5"]
    folder = train_on_two([*flags, *more], tmp_path)
    alone = train([*flags, *more], f"--output_dir={tmp_path / 'alone'}")
    for name, value in weights(folder).items():
        if "stages.1" not in name and "classifier" not in name:
            assert torch.equal(value, weights(trained)[name]), name
        elif "running" not in name and "num_batches" not in name:  # statistics are those of the first one's share
            assert torch.allclose(value, weights(alone)[name], atol=0.05), name


@pytest.mark.parametrize("optim", ["sgd", "muon"])
@pytest.mark.parametrize("more", [{}, {"decay_norm_and_bias": False, "norm_bias_learning_rate": 0.8}])
def test_stem_and_stages_learn_at_a_share_of_the_rates(tiny_config, optim, more):
    recipe = Recipe(
        model_name_or_path="x", optim=optim, learning_rate=0.4, muon_learning_rate=0.2, trunk_learning_rate_factor=0.1,
        lr_scheduler_type="constant", **more,
    )  # fmt: skip
    model = SlimResNetForImageClassification(tiny_config)
    optimizer = build_optimizer(model, recipe)
    rates = {each: group["initial_lr"] for group in optimizer.param_groups for each in group["params"]}
    decays = {each: group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        is_kernel = "encoder" in name and parameter.ndim == 4
        own = 0.8 if more and name.endswith("normalization.bias") else 0.2 if is_kernel and optim == "muon" else 0.4
        assert rates[parameter] == pytest.approx(own if name.startswith("classifier") else own * 0.1), name
        if more and parameter.ndim == 1:
            assert decays[parameter] == 0
    logged = learning_rates(recipe, 0, 10)
    assert logged["learning_rate"] == 0.4 and logged["learning_rate_trunk"] == pytest.approx(0.04)
    assert logged.get("learning_rate_muon", 0.02) == pytest.approx(0.02)


def test_it_resumes_to_the_bit_and_from_other_weights_not_at_all(flags, start, few, trained, tmp_path):
    more = [*of_few(few), *MOVES, "--num_train_epochs=2", "--freeze=stem", "--trunk_learning_rate_factor=0.3"]
    whole = train(flags, *more, start, "--save_total_limit=9")
    moved = shutil.copytree(trained, tmp_path / "moved")
    resume = [f"--resume_from_checkpoint={whole / 'checkpoint-3'}", f"--output_dir={tmp_path / 'resumed'}"]
    assert_same_weights(train(flags, *more, *resume, f"--model_name_or_path={moved}"), whole)
    shutil.copy(whole / "model.safetensors", moved)
    shutil.copy(whole / "config.json", moved)
    with pytest.raises(SlimResNetError, match="weights of --model_name_or_path"):
        train(flags, *more, *resume, f"--model_name_or_path={moved}", "--overwrite_output_dir")


def test_the_normalisation_is_that_of_the_weights_unless_another_is_asked_for(flags, start, trained, tmp_path):
    moved = shutil.copytree(trained, tmp_path / "moved")
    size = {"height": 32, "width": 32}
    ViTImageProcessorPil(size=size, image_mean=[0.5, 0.4, 0.3], image_std=[0.3, 0.2, 0.1]).save_pretrained(moved)
    more = [f"--model_name_or_path={moved}", "--max_train_steps=1"]
    own = train(flags, *more)
    assert read(own, "preprocessor_config.json")["image_mean"] == [0.5, 0.4, 0.3]
    given = train(flags, *more, "--image_std", 0.25, 0.25, 0.25, f"--output_dir={tmp_path / 'given'}")
    assert read(given, "preprocessor_config.json")["image_std"] == [0.25, 0.25, 0.25]


def test_the_card_and_the_recipe_tell_where_the_weights_are_from(flags, start, few, trained, tmp_path):
    folder = train(flags, *of_few(few), start, *MOVES, "--max_train_steps=1", "--freeze=trunk")
    card = (folder / "README.md").read_text()
    assert (
        "from the weights of `run`, with a new head, stem and stages frozen." in card and "random weights" not in card
    )
    assert "`--model_name_or_path FOLDER` says where your copy of the weights" in card
    assert str(trained) not in card and shared_recipe(folder).model_name_or_path == "run"
    results = read(folder) | {"train_started_from": "user/other", "train_started_from_is_local": False}
    (folder / "all_results.json").write_text(json.dumps(results))
    assert "\nbase_model: user/other\n" in render_model_card(folder, "user/model")


def test_frozen_parts_cost_the_forward_pass_alone(flags, start, few, trained):
    folder = train(flags, *of_few(few), start, *MOVES, "--max_train_steps=2", "--freeze=stage1")
    config = SlimResNetConfig.from_pretrained(folder)
    whole = multiply_adds(config, 32)
    frozen = sum(multiply_adds(config, 32, part) for part in frozen_parts(config, "stage1"))
    assert 0 < frozen < whole
    assert read(folder)["total_flos"] == 2 * 32 * (2 * frozen + 6 * (whole - frozen))


def test_a_twin_starts_from_the_same_weights(flags, start, trained, tmp_path):
    flags += ["--max_train_steps=1", "--learning_rate=0.01", "--max_train_samples=64"]
    twin = train(flags, start)
    final = ["--validation_size=0", f"--calibration_run={twin}", f"--output_dir={tmp_path / 'final'}"]
    with pytest.raises(SlimResNetError, match="the weights that it started from"):
        train(flags, *final, f"--model_name_or_path={twin}")
    assert read(train(flags, *final, start))["calibration_source"] == "twin"


def test_weights_beside_a_config_are_not_used_and_the_run_says_so(flags, trained, capsys):
    train(flags, f"--config_name={trained}", "--max_train_steps=1")
    unused = f"drawn by seed 42; those of {trained} are not used, --model_name_or_path starts from them"
    assert unused in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--model_name_or_path="], "--model_name_or_path is empty"),
        (["--model_name_or_path=/no/such/folder"], "/no/such/folder is not there"),
        (["--model_name_or_path={folder}/run"], "is the --output_dir of this run"),
        (["--model_name_or_path={folder}/vit"], "its model_type is vit, not slimresnet"),
        (["--model_name_or_path={folder}/empty"], "holds no config.json: give a folder or a model on the Hub"),
        (["{start}", "--config_name=wide"], "--model_name_or_path brings its own network"),
        (["{start}", "--stem_initialization=whitening"], "would replace weights of --model_name_or_path"),
        (["{start}", "--freeze=stage9"], "--freeze must be one of none, stem, stage1, trunk, got stage9"),
        (
            ["{start}", "--freeze=trunk", "--ema_decay=0.9", "--ema_batchnorm=recompute"],
            "statistics that --freeze keeps",
        ),
        (["--freeze=trunk"], "--freeze needs a --model_name_or_path"),
        (["--trunk_learning_rate_factor=0.1"], "--trunk_learning_rate_factor needs a --model_name_or_path"),
    ],
)
def test_what_cannot_be_started_from(flags, start, tmp_path, more, sentence):
    (tmp_path / "empty").mkdir()
    vit = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=8)
    ViTForImageClassification(vit).save_pretrained(tmp_path / "vit")
    more = [each.format(folder=tmp_path, start=start) for each in more]
    with pytest.raises(SlimResNetError) as error:
        train(flags, *more)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_checkpoint_is_called_by_what_it_is(flags, trained, tmp_path):
    holding = tmp_path / "holding"
    shutil.copytree(trained / "checkpoint-21", holding / "checkpoint-21")
    trainers = tmp_path / "trainers"
    trainers.mkdir()
    (trainers / "trainer_state.json").write_text("{}")
    shipped = REPOSITORY / "pretrained" / "slimresnet-cifar10"
    before = snapshot(trained)
    for place, sentence in {
        shipped: f"is a trained model, and no checkpoint.* give --model_name_or_path {shipped}",
        holding: f"is no checkpoint, but holds 1 of them: give one, such as {holding / 'checkpoint-21'}",
        trainers: "is damaged",
        tmp_path / "nowhere": "is not there",
        shipped / "config.json": "is a file, and a checkpoint is a folder",
    }.items():
        with pytest.raises(SlimResNetError, match=f"--resume_from_checkpoint {place} {sentence}"):
            train(flags, f"--resume_from_checkpoint={place}")
    assert snapshot(trained) == before


def test_more_epochs_for_a_finished_run(flags, start, trained, tmp_path):
    """The sentence on a folder that holds a run says how; that run is left as it is."""
    before = snapshot(trained)
    with pytest.raises(SlimResNetError, match=f"with --model_name_or_path {trained} to train on from its weights"):
        train(flags, f"--output_dir={trained}")
    folder = train(flags, start, *MOVES)
    assert snapshot(trained) == before
    assert load_file(folder / "model.safetensors").keys() == weights(trained).keys()
