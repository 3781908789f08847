"""Whatever stands in a recipe or on the command line: a run that can begin, or one sentence that says why not."""

import contextlib
import dataclasses
import io
import math

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from training_runs import train

from slimresnet.cli.train import parse_recipe
from slimresnet.data.sources.source import DatasetError
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.plan import batch_sizes
from slimresnet.recipe.settings import SETTINGS, Recipe, check_range
from slimresnet.run_folder.checkpoints import CheckpointError
from slimresnet.training.bookkeeping import DivergedError
from slimresnet.training.optim.schedule import schedule

NAMES = [each.name for each in dataclasses.fields(Recipe)]

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(
        ["auto", "no", "yes", "bf16", "cosine", "reflect", "24:0.5", "1e-3", "-1", "last", "0x10", "é", "--seed", "="]
    )
)  # fmt: skip
values = scalars | st.lists(scalars, max_size=4) | st.dictionaries(st.text(max_size=4), scalars, max_size=2)


def parsed_or_refused(arguments):
    """The recipe, or None where it was refused in one line."""
    try:
        recipe = parse_recipe(arguments)
        batch_sizes(recipe, num_processes=2)
    except RecipeError as error:
        assert str(error) and "\n" not in str(error)
        return None
    rates = [recipe.learning_rate * schedule(recipe, step, 100) for step in range(100)]
    assert all(0 <= rate <= recipe.learning_rate for rate in rates)
    return recipe


@settings(max_examples=250)
@given(recipe=st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=12), values, min_size=1, max_size=4))
def test_recipe_files_of_any_content(tmp_path, recipe):
    """Known and unknown keys, with values of any type and nesting; what is accepted comes back as it was resolved."""
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    accepted = parsed_or_refused([f"--config={file}"])
    if accepted is not None:
        assert recipe.keys() <= set(NAMES)
        file.write_text(accepted.to_yaml(), encoding="utf-8")
        again = parse_recipe([f"--config={file}"])
        assert again == accepted


@settings(max_examples=200)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@example(content=b"!!python/object/apply:os.system [exit 1]")
@example(content=b"learning_rate: &a [*a]")
@example(content=b"learning_rate: 0.1\nlearning_rate: 0.2")
def test_recipe_files_of_any_bytes(tmp_path, content):
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    parsed_or_refused([f"--config={file}"])


@settings(max_examples=300)
@given(st.lists(st.sampled_from([f"--{name}" for name in NAMES]) | scalars.map(str), max_size=5))
def test_command_lines_of_any_words(arguments):
    parsed_or_refused(arguments)


wild = st.sampled_from([0, 0.5, 1, 2, 3, 7, 31, 33, 1e-9, 1e9, 1e300])
numbers = [each.name for each in dataclasses.fields(Recipe) if each.type in (int, float, int | None)]
lists = ["image_mean", "image_std", "gaussian_blur_sigma", "random_erasing_area", "lr_milestones"]


def is_affordable(name, value):
    """Not a matter of the recipe: what would only take long, or need more processes than a test may start."""
    limits = {"num_train_epochs": 3, "dataloader_num_workers": 0, "max_train_steps": 7}
    return value <= limits.get(name, 1e300)


@pytest.mark.slow
@settings(max_examples=15)
@given(data=st.data())
def test_recipes_of_wild_numbers_train_or_are_refused(flags, data):
    """In range by themselves, they may still be impossible together, or with this network and these data."""
    names = data.draw(st.lists(st.sampled_from(numbers + lists), min_size=1, max_size=3, unique=True))
    more = []
    for name in names:
        drawn = data.draw(st.lists(wild, min_size=2, max_size=3) if name in lists else wild)
        if name not in lists and not is_affordable(name, drawn):
            continue
        integral = Recipe.__annotations__[name] in (int, int | None)
        texts = [str(int(value) if integral else value) for value in (drawn if name in lists else [drawn])]
        more += [f"--{name}", *texts]
    flags = [flag for flag in flags if "num_train_epochs" not in flag]
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            train([*flags, "--num_train_epochs=1", "--max_eval_samples=20", "--checkpointing_steps=no",
                   "--overwrite_output_dir", *more])  # fmt: skip
        except (RecipeError, DatasetError, CheckpointError, DivergedError) as error:
            assert "\n" not in str(error) and "--" in str(error)


@pytest.mark.parametrize("text", ["seed: 42\n  momentum: 0.9", "learning_rate: [[0.1]]", "\ttab: 1", "{", "'"])
def test_wrong_nesting(tmp_path, text):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    assert parsed_or_refused([f"--config={file}"]) is None


SHARES = [
    "image_mean", "horizontal_flip_prob", "vertical_flip_prob", "gaussian_blur_prob", "random_erasing_prob",
    "random_erasing_area", "cutmix_prob", "mixup_prob", "label_smoothing_factor", "momentum", "lr_milestones",
    "lr_gamma", "ema_decay", "distillation_alpha", "trunk_learning_rate_factor",
]  # fmt: skip
COUNTS = [
    "max_train_samples", "max_eval_samples", "shuffle_buffer_size", "num_train_epochs", "max_train_steps",
    "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
    "total_train_batch_size", "num_final_sam_epochs", "logging_steps", "save_total_limit",
]  # fmt: skip
FROM_0 = [
    "validation_size", "dataloader_num_workers", "crop_padding", "num_light_augmentation_epochs",
    "num_final_light_augmentation_epochs", "warmup_steps",
]  # fmt: skip
RATES = [
    "learning_rate", "norm_bias_learning_rate", "muon_learning_rate", "muon_weight_decay", "weight_decay", "sam_rho",
]  # fmt: skip
ABOVE_0 = ["gaussian_blur_sigma", "cutmix_alpha", "mixup_alpha", "distillation_temperature"]
BOUNDS = {
    **dict.fromkeys(SHARES, (0, 1)),
    **dict.fromkeys(COUNTS, (1, None)),
    **dict.fromkeys(FROM_0, (0, None)),
    **dict.fromkeys(RATES, (0, 1e30)),
    **dict.fromkeys(ABOVE_0, (0.01, None)),
    "image_std": (1e-6, 1),
    "temperature": (0.01, 100),
    "trivial_augment_translation": (0, 1024),
    "augmented_copies": (1, 64),
    "seed": (0, 2**32 - 1),  # NumPy's
}


def test_every_range_ends_where_it_says():
    assert {name for name, setting in SETTINGS.items() if setting.low is not None} == BOUNDS.keys()
    for name, (low, high) in BOUNDS.items():
        check_range(name, low)
        check_range(name, 10**9 if high is None else high)
        for beyond in (low - 1e-7, math.inf if high is None else max(high + 1e-3, high * (1 + 1e-6))):
            with pytest.raises(RecipeError, match=f"--{name} must be"):
                check_range(name, beyond)


@pytest.mark.parametrize("text", ["9" * 5000, "-1", "0", "1.5", "²", "nan"])
def test_steps_that_are_no_number(text):
    with pytest.raises(RecipeError, match="--checkpointing_steps must be epoch, no, or a number of steps"):
        parse_recipe([f"--checkpointing_steps={text}"])


@pytest.mark.parametrize("name", RATES)
def test_the_largest_rates_diverge_without_a_traceback(flags, name):
    flags = [*flags, "--num_train_epochs=1", "--max_eval_samples=20", "--checkpointing_steps=no", "--optim=muon"]
    with contextlib.suppress(DivergedError):  # a step may be too small for it
        train(flags, f"--{name}=1e30", "--max_train_steps=2")
    with pytest.raises(RecipeError, match=f"--{name} must be at most 1e\\+30, got 1e\\+308"):
        parse_recipe([f"--{name}=1e308"])


@pytest.mark.parametrize(
    "name",
    [
        "output_dir",
        "dataset_name",
        "config_name",
        "resume_from_checkpoint",
        "teacher_name_or_path",
        "model_name_or_path",
    ],
)
def test_names_of_folders_are_text(name):
    """safetensors opens no others, so that a run would be written and never read."""
    with pytest.raises(RecipeError, match=rf"--{name} runs/\\xff is no UTF-8"):
        parse_recipe([f"--{name}=runs/\udcff"])


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_no_number_of_a_recipe_may_be_infinite(tmp_path, value):
    """On the command line, and as YAML writes it."""
    for name in (each.name for each in dataclasses.fields(Recipe) if "float" in str(each.type)):
        count = {"image_mean": 3, "image_std": 3, "gaussian_blur_sigma": 2, "random_erasing_area": 2}.get(name, 1)
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump({name: [value] * count if count > 1 else value}))
        for arguments in ([f"--config={file}"], [f"--{name}", *[str(value)] * count]):
            with pytest.raises(RecipeError, match=rf"--{name} must be|--{name} takes|argument --{name}: expected"):
                parse_recipe(arguments)
