"""A recipe: file and flags, and what is said about a mistake in them."""

import dataclasses
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from conftest import REPOSITORY

from slimresnet.cli.train import build_parser, parse_recipe
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.plan import BatchSizes, batch_sizes
from slimresnet.recipe.reading import read_recipe, read_recipe_with
from slimresnet.recipe.settings import OF_ONE_START, SETTINGS, Recipe, setting_types

RECIPES = sorted((REPOSITORY / "configuration").glob("*.yaml"))
OPTIONAL = [each.name for each in dataclasses.fields(Recipe) if type(None) in get_args(each.type)]


def write(tmp_path, text):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return f"--config={file}"


def refused(arguments):
    """The message that refuses them: one line."""
    with pytest.raises(RecipeError) as error:
        parse_recipe(arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_flag_wins_over_the_file(tmp_path):
    config = write(tmp_path, "learning_rate: 3e-1\nnum_train_epochs: 7\nstreaming: false\n")
    for arguments in ([config, "--learning_rate", "0.2"], ["--learning_rate=0.2", config]):
        recipe = parse_recipe(arguments)
        assert (recipe.learning_rate, recipe.num_train_epochs, recipe.streaming) == (0.2, 7, False)
    assert parse_recipe([config]).learning_rate == 0.3
    assert parse_recipe([]) == Recipe()


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("mixed_precision: no", "mixed_precision", "no"),
        ("checkpointing_steps: no", "checkpointing_steps", "no"),
        ("checkpointing_steps: 50", "checkpointing_steps", "50"),
        ("nesterov: yes", "nesterov", True),
        ("channels_last: off", "channels_last", False),
        ("torch_compile: auto", "torch_compile", "auto"),
        ("progressive_resizing: ['16:0.3', '24:0.6']", "progressive_resizing", ("16:0.3", "24:0.6")),
        ("max_train_samples: null", "max_train_samples", None),
        ("image_mean: [0.5, 0.4, 0.3]", "image_mean", (0.5, 0.4, 0.3)),
        ("lr_milestones: 0.5", "lr_milestones", (0.5,)),
        ("weight_decay: 1e-3", "weight_decay", 0.001),
    ],
)
def test_yaml_values(tmp_path, text, name, value):
    assert getattr(parse_recipe([write(tmp_path, text)]), name) == value


@pytest.mark.parametrize("name", OPTIONAL)
def test_null_unsets_what_may_be_unset(tmp_path, name):
    config = write(
        tmp_path, "save_total_limit: null\nsam_rho: 0.1\nnum_final_sam_epochs: 6\nprogressive_resizing: ['24:0.3']\n"
    )
    assert getattr(parse_recipe([config, f"--{name}", "null"]), name) is None
    assert parse_recipe([config]).save_total_limit is None


def test_every_value_comes_back(tmp_path):
    flags = ["--lr_milestones", "0.3", "0.6", "--streaming", "false", "--mixed_precision", "no"]
    recipe = parse_recipe([*flags, "--save_total_limit", "null"])
    assert parse_recipe([write(tmp_path, recipe.to_yaml())]) == recipe


STARTS = {
    "calibration_run": "runs/twin",
    "overwrite_output_dir": "true",
    "resume_from_checkpoint": "last",
    "push_to_hub": "yes",
}


@pytest.mark.parametrize("name", OF_ONE_START)
def test_what_is_of_one_start_is_no_part_of_a_recipe(tmp_path, name):
    others = ["--hub_model_id=user/name", "--validation_size=0", "--momentum=0.7"]
    recipe = parse_recipe([f"--{name}={STARTS[name]}", *others])
    assert getattr(recipe, name) != getattr(Recipe(), name) and name not in recipe.to_yaml()
    assert parse_recipe([write(tmp_path, recipe.to_yaml())]).momentum == 0.7
    earlier = write(tmp_path, f"{name}: {STARTS[name]}\nmomentum: 0.7\n")  # as an earlier version wrote it
    assert f"recipe.yaml: {name} is of one start of a run" in refused([earlier])
    assert f"give --{name} beside --config" in refused([earlier])
    assert read_recipe(tmp_path) == dataclasses.replace(Recipe(), momentum=0.7)
    unset = write(tmp_path, f"{name}: {'null' if name in OPTIONAL else 'false'}\n")
    assert parse_recipe([unset]) == Recipe()


def test_settings_put_in_later_are_held_against_their_ranges(tmp_path):
    (tmp_path / "recipe.yaml").write_text(parse_recipe(["--momentum=0.7", "--channels_last"]).to_yaml())
    recipe = read_recipe_with(tmp_path, max_eval_samples=30, dataset_revision=None)
    assert (recipe.max_eval_samples, recipe.momentum, recipe.channels_last) == (30, 0.7, True)
    with pytest.raises(RecipeError, match="--max_eval_samples must be at least 1, got -400"):
        read_recipe_with(tmp_path, max_eval_samples=-400)
    with pytest.raises(RecipeError, match="--test_split train"):
        read_recipe_with(tmp_path, test_split="train")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse_and_say_what_to_expect(path):
    settings = yaml.safe_load(path.read_text())
    recipe = parse_recipe([f"--config={path}"])
    batch_sizes(recipe, num_processes=2)
    assert {name: value for name, value in yaml.safe_load(recipe.to_yaml()).items() if name in settings} == settings
    header = path.read_text().split("\n\n")[0] + path.read_text()
    for word in ("# Command:", "# Runtime:", "# Score:"):
        assert word in header


def test_the_reports_recipes():
    assert {"paper", "paper_hybrid", "quickstart"} <= {path.stem for path in RECIPES}
    paper = parse_recipe([f"--config={REPOSITORY / 'configuration' / 'paper.yaml'}"])
    assert (paper.learning_rate, paper.num_train_epochs, paper.lr_scheduler_type) == (0.1, 100, "cosine")
    assert (paper.crop_padding, paper.vertical_flip_prob, paper.gaussian_blur_prob) == (2, 0.05, 0.3)
    assert paper.cutmix_prob > 0 and paper.cutmix_alpha == 1.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--learning_rat", "0.1"], "did you mean --learning_rate?"),
        (["--learnin-rate=0.1"], "did you mean --learning_rate?"),
        (["--qqq", "1"], "unknown flag --qqq"),
        (["fast.yaml"], "unexpected argument fast.yaml"),
        (["--learning_rate", "fast"], "--learning_rate"),
        (["--num_train_epochs", "2.5"], "--num_train_epochs"),
        (["--lr_scheduler_type", "cosinus"], "--lr_scheduler_type"),
        (["--streaming", "maybe"], "--streaming"),
        (["--learning_rate"], "--learning_rate"),
        (["--learning_rate", "-0.1"], "--learning_rate must be at least 0"),
        (["--learning_rate", "inf"], "--learning_rate must be finite, got inf"),
        (["--weight_decay", "nan"], "--weight_decay must be at least 0, got nan"),
        (["--learning_rate", "nan"], "--learning_rate must be"),
        (["--num_train_epochs", "0"], "--num_train_epochs must be at least 1"),
        (["--num_train_epochs", "null"], "--num_train_epochs"),
        (["--horizontal_flip_prob", "1.5"], "--horizontal_flip_prob must be between 0 and 1"),
        (["--validation_size=-1"], "--validation_size must be at least 0"),
        (["--seed=-1"], "--seed"),
        (["--gaussian_blur_sigma", "1.5", "0.1"], "--gaussian_blur_sigma takes two numbers"),
        (["--gaussian_blur_sigma", "0", "1"], "--gaussian_blur_sigma must be"),
        (["--image_mean", "0.5", "0.4"], "--image_mean takes three numbers, one a channel, or one for grey images"),
        (["--num_channels", "2"], "--num_channels must be 3 for colours or 1 for grey"),
        (["--image_size", "8"], "--image_size must be between 16 and 256"),
        (["--resize_mode", "fit"], "--resize_mode must be one of squash, crop, pad"),
        (["--nesterov", "--momentum", "0"], "--nesterov"),
        (["--load_best_model_at_end", "--validation_size", "0"], "--validation_size"),
        (["--checkpointing_steps", "often"], "--checkpointing_steps"),
        (["--test_split", "train"], "--test_split train would test on images that are trained on"),
        (["--test_split", "test+train[:10%]"], "--test_split test+train[:10%] would test"),
        (["--test_split", "all"], "--test_split all would test"),
        (["--warmup_steps", "2.5"], "--warmup_steps"),
        (["--torch_compile", "perhaps"], "--torch_compile must be true, false or auto"),
        (["--progressive_resizing", "24"], "--progressive_resizing takes PIXELS:SHARE"),
        (["--progressive_resizing", "24:0.7", "28:0.5"], "--progressive_resizing needs"),
        (["--progressive_resizing", "24:1.5"], "--progressive_resizing needs"),
        (["--progressive_resizing", "0:0.5"], "--progressive_resizing needs"),
        (["--config", "/no/such/recipe.yaml"], "/no/such/recipe.yaml"),
    ],
)
def test_a_wrong_flag_is_named(arguments, said):
    assert said in refused(arguments)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rte: 0.1", "did you mean learning_rate?"),
        ("optimizer:\n  learning_rate: 0.1", "unknown recipe key optimizer"),
        ("learning_rate:\n  peak: 0.1", "learning_rate must be a value"),
        ("learning_rate: fast", "--learning_rate"),
        ("image_mean: []", "image_mean"),
        ("- learning_rate", "mapping"),
        ("", "mapping"),
        ("a: b: c", "no YAML"),
        ("num_train_epochs: 2.5", "--num_train_epochs"),
        ("3: 4", "unknown recipe key 3"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, said):
    assert said in refused([write(tmp_path, text)])


@pytest.mark.parametrize(
    ("flags", "num_processes", "per_device", "total"),
    [
        ([], 1, 128, 128),
        ([], 2, 64, 128),
        (["--total_train_batch_size", "96", "--gradient_accumulation_steps", "3"], 2, 16, 96),
        (["--per_device_train_batch_size", "50"], 3, 50, 150),
        (["--per_device_train_batch_size", "32", "--total_train_batch_size", "64"], 2, 32, 64),
    ],
)
def test_batch_sizes(flags, num_processes, per_device, total):
    assert batch_sizes(parse_recipe(flags), num_processes) == BatchSizes(per_device, total)


@pytest.mark.parametrize(
    ("flags", "num_processes"),
    [
        ([], 3),
        (["--gradient_accumulation_steps", "3"], 1),
        (["--per_device_train_batch_size", "32", "--total_train_batch_size", "128"], 2),
    ],
)
def test_a_batch_that_does_not_divide(flags, num_processes):
    with pytest.raises(RecipeError, match="--total_train_batch_size 128"):
        batch_sizes(parse_recipe(flags), num_processes)


@pytest.mark.parametrize(
    ("name", "num_processes"), [("cpu", 1), ("multi_cpu", 2), ("single_gpu", 1), ("multi_gpu", 8), ("multi_node", 16)]
)
def test_launch_files_are_accelerates(name, num_processes):
    config = load_config_from_file(str(REPOSITORY / "configuration" / "accelerate" / f"{name}.yaml"))
    assert config.num_processes == num_processes
    assert (config.mixed_precision == "bf16") == ("cpu" not in name)


def test_every_flag_has_help():
    for name, setting in SETTINGS.items():
        assert setting.help.endswith("."), name


def test_a_recipe_never_changes():
    recipe = Recipe(lr_milestones=[0.3], learning_rate=1)
    assert (recipe.lr_milestones, recipe.learning_rate) == ((0.3,), 1.0) and isinstance(recipe.learning_rate, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.learning_rate = 2.0
    with pytest.raises(TypeError):
        recipe.lr_milestones[0] = 0.1
    numpy = Recipe(seed=np.int64(3), learning_rate=np.float32(0.5), output_dir=Path("runs") / "x")
    assert (type(numpy.seed), numpy.learning_rate, numpy.output_dir) == (int, 0.5, "runs/x")
    assert len({recipe, Recipe(lr_milestones=(0.3,), learning_rate=1.0)}) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optim": "adam"}, "--optim must be one of sgd, muon, got adam"),
        ({"channels_last": "false"}, "--channels_last must be true, false or auto, got 'false'"),
        ({"streaming": 1}, "--streaming must be true or false, got 1"),
        ({"num_train_epochs": 2.0}, "--num_train_epochs must be a whole number, got 2.0"),
        ({"num_train_epochs": True}, "--num_train_epochs must be a whole number, got True"),
        ({"learning_rate": "0.1"}, "--learning_rate must be a number, got '0.1'"),
        ({"learning_rate": None}, "--learning_rate must be a number, got None"),
        ({"learning_rate": 10**400}, "--learning_rate must be finite"),
        ({"lr_milestones": 0.5}, "--lr_milestones must be a list of values, got 0.5"),
        ({"lr_milestones": ["0.5"]}, "--lr_milestones must be a number, got '0.5'"),
        ({"lr_milestones": []}, "--lr_milestones must be a list of values"),
        ({"checkpointing_steps": 50}, "--checkpointing_steps must be text, got 50"),
        ({"momentum": 1.5}, "--momentum must be between 0 and 1, got 1.5"),
        ({"output_dir": None}, "--output_dir must be text, got None"),
    ],
)
def test_python_gets_the_same_checks_as_yaml(settings, said):
    with pytest.raises(RecipeError) as error:
        Recipe(**settings)
    assert said in str(error.value)


def test_what_a_run_found_is_no_part_of_what_is_asked_of_the_next_one(tmp_path):
    """An earlier version wrote both into recipe.yaml: the results say what was found."""
    earlier = "tta: flip_shift\ntemperature: 1.03\nmixed_precision: bf16\nchannels_last: true\nmomentum: 0.7\n"
    config = write(tmp_path, earlier + "per_device_train_batch_size: 64\ntotal_train_batch_size: 64\n")
    assert parse_recipe([config]).temperature == 1.03  # a file of a person's, with no run beside it
    (tmp_path / "all_results.json").write_text('{"eval_chose": "tta, temperature"}')
    recipe = parse_recipe([config])
    assert (recipe.tta, recipe.temperature, recipe.mixed_precision, recipe.momentum) == ("auto", None, "auto", 0.7)
    assert recipe.channels_last == "auto" and batch_sizes(recipe, num_processes=2) == BatchSizes(32, 64)
    assert parse_recipe([config, "--tta=flip"]).tta == "flip"
    assert read_recipe(tmp_path).temperature == 1.03  # what the folder itself says stays readable
    (tmp_path / "all_results.json").write_text('{"eval_chose": "temperature", "train_precision": "bf16"}')
    recipe = parse_recipe([config])
    assert (recipe.tta, recipe.temperature, recipe.mixed_precision) == ("flip_shift", None, "bf16")


def test_a_shipped_recipe_goes_by_its_name(tmp_path, monkeypatch):
    fast = parse_recipe([f"--config={REPOSITORY / 'configuration' / 'fast.yaml'}"])
    monkeypatch.chdir(tmp_path)
    assert parse_recipe(["--config=fast"]) == parse_recipe(["--config", "fast.yaml"]) == fast != Recipe()
    assert "--config fats is not there: did you mean fast?" in refused(["--config=fats"])
    (tmp_path / "fast").mkdir()
    assert parse_recipe(["--config=fast"]) == fast
    (tmp_path / "fast").rmdir()
    assert "cannot be read" in refused([f"--config={'long' * 2000}"])
    (tmp_path / "fast").write_text("momentum: 0.3\n")
    assert parse_recipe(["--config=fast"]).momentum == 0.3


@pytest.mark.parametrize(
    ("flag", "meant"),
    [("--lr", "learning_rate"), ("--epochs", "num_train_epochs"), ("--confg", "config"), ("--wd", "weight_decay")],
)
def test_what_people_call_a_flag(flag, meant):
    assert f"unknown flag {flag}: did you mean --{meant}?" in refused([flag, "1"])


def test_help_has_each_flag_once_and_no_sentence_twice():
    text = build_parser().format_help()
    for name, setting in SETTINGS.items():
        assert len(re.findall(rf"^  --{name}(?!\w)", text, re.MULTILINE)) == 1, name
        assert f"{setting.group}:\n" in text
    assert len({setting.help for setting in SETTINGS.values()}) == len(SETTINGS)
    switches = {name for name, kind in setting_types().items() if kind.of is bool and getattr(Recipe, name) is True}
    assert {name for name, setting in SETTINGS.items() if setting.no_help} == switches
    for name in switches:
        assert getattr(parse_recipe([f"--no_{name}"]), name) is False


def test_dashes_stand_for_underscores():
    assert parse_recipe(["--learning-rate=0.3", "--num-train-epochs", "7"]).num_train_epochs == 7


def test_a_shipped_recipe_finds_the_weights_that_ship_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = Path(parse_recipe(["--config=finetune"]).model_name_or_path)
    assert found.is_absolute() and found == REPOSITORY / "pretrained" / "slimresnet-cifar10"
    (tmp_path / "own.yaml").write_text("model_name_or_path: ./pretrained/slimresnet-cifar10")
    assert parse_recipe(["--config=own.yaml"]).model_name_or_path == "./pretrained/slimresnet-cifar10"
