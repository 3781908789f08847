"""Training from Python: what it returns, and that it leaves nothing behind but the folder."""

import os
import random
import re
import signal
import sys
import threading

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from conftest import REPOSITORY
from training_runs import SECONDS, Told, assert_same_weights, read, start_two
from transformers import TrainerCallback

import modeling_slimresnet
import slimresnet
from modeling_slimresnet import SlimResNetForImageClassification
from slimresnet.api.evaluate import evaluate
from slimresnet.api.train import train
from slimresnet.cli.train import parse_recipe
from slimresnet.data.sources.source import DatasetError
from slimresnet.errors import SlimResNetError
from slimresnet.recipe.plan import BatchSizes, batch_sizes
from slimresnet.recipe.settings import Recipe

PICTURES = REPOSITORY / "examples" / "pictures"


@pytest.fixture
def recipe(flags):
    """Of a tiny run of three steps."""
    return parse_recipe([*flags, "--max_train_steps=3", "--tta=none"])


def state_of_process():
    return {
        "threads": torch.get_num_threads(),
        "environment": dict(os.environ),
        "random": random.getstate(),
        "NumPy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "torch": torch.get_rng_state().tolist(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cuDNN": [torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic],
        "accelerate": [dict(each._shared_state) for each in (AcceleratorState, GradientState, PartialState)],
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "folder": os.getcwd(),
    }


def test_it_returns_what_it_wrote_and_the_network_that_it_scored(recipe):
    result = train(recipe)
    assert result.folder.is_dir() and result.results == read(result.folder)
    loaded = SlimResNetForImageClassification.from_pretrained(result.folder)
    assert not result.model.training
    for (name, value), other in zip(result.model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_the_process_is_as_it_was(recipe, tmp_path, monkeypatch):
    """From another folder, in a process with settings and an accelerate of its own; and again, with the same bits."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    asked = recipe.to_yaml()
    try:
        torch.set_num_threads(1)
        AcceleratorState._reset_state(reset_partial_state=True)
        mine = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=7)
        random.random(), np.random.rand(), torch.rand(1)
        before = state_of_process()
        first = train(parse_recipe(["--deterministic", *flags_of(recipe, tmp_path / "first")]))
        assert state_of_process() == before
        second = train(parse_recipe(["--deterministic", *flags_of(recipe, tmp_path / "second")]))
        assert state_of_process() == before
        assert (mine.mixed_precision, mine.gradient_accumulation_steps) == ("bf16", 7)
        assert_same_weights(first.folder, second.folder)
        with pytest.raises(SlimResNetError, match="holds a finished run"):
            train(parse_recipe(flags_of(recipe, tmp_path / "second")))
        assert state_of_process() == before and recipe.to_yaml() == asked
    finally:
        torch.set_num_threads(threads)
        AcceleratorState._reset_state(reset_partial_state=True)


def flags_of(recipe, output_dir):
    words = []
    for name, value in recipe.to_dict().items():
        if value != Recipe().to_dict()[name] and name != "output_dir":
            words += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
    return [*words, f"--output_dir={output_dir}"]


def test_in_a_thread_as_some_notebooks_have_it(recipe):
    """Where Python gives no signals."""
    done = []
    thread = threading.Thread(target=lambda: done.append(train(recipe)))
    thread.start()
    thread.join()
    assert done and (done[0].folder / "all_results.json").exists()


def test_callbacks_are_told_as_the_trainer_tells_them(recipe):
    told = []

    def note(event):
        return lambda state, **facts: told.append((event, state.global_step, sorted(facts)))

    events = [
        "on_init_end", "on_train_begin", "on_epoch_begin", "on_step_begin", "on_substep_end", "on_step_end",
        "on_log", "on_evaluate", "on_epoch_end", "on_save", "on_train_end",
    ]  # fmt: skip
    train(recipe, callbacks=[Told(**{event: note(event) for event in events})])
    steps = [
        entry
        for step in range(3)
        for entry in (
            ("on_step_begin", step, ["model"]),
            ("on_substep_end", step, ["inputs", "model"]),
            ("on_step_end", step + 1, ["model"]),
        )
    ]
    assert told == [
        ("on_init_end", 0, ["model"]),
        ("on_train_begin", 0, ["model"]),
        ("on_epoch_begin", 0, ["model"]),
        *steps,
        ("on_log", 3, ["logs", "model"]),
        ("on_evaluate", 3, ["metrics", "model"]),
        ("on_epoch_end", 3, ["logs", "model"]),
        ("on_save", 3, ["model"]),
        ("on_train_end", 3, ["model"]),
    ]


def test_a_callback_may_stop_training_at_the_end_of_an_epoch(flags):
    class Enough(Told):
        def on_evaluate(self, args, state, control, metrics, **_):
            control.should_training_stop = state.global_step == 14
            return control

    result = train(parse_recipe(flags), callbacks=[Enough()])
    assert result.results["epoch"] == 2 and len(read(result.folder, "trainer_state.json")["log_history"]) == 2
    whole = train(parse_recipe([*flags, f"--output_dir={result.folder}-whole", "--max_train_steps=21"]))
    assert result.results["total_flos"] * 21 == whole.results["total_flos"] * 14


def test_what_is_no_recipe_is_said_and_a_class_of_callbacks_will_do(recipe):
    with pytest.raises(SlimResNetError, match=r"train takes a Recipe, got dict: Recipe\("):
        train({"seed": 1})
    assert train(recipe, callbacks=[TrainerCallback]).results["epoch"] == 3 / 7
    assert slimresnet.__version__ == modeling_slimresnet.__version__


@pytest.mark.parametrize("event", ["on_init_end", "on_train_begin"])
def test_a_run_that_is_stopped_at_its_start_has_its_first_epoch(flags, event):
    """There is something to score then."""

    class Never(Told):
        pass

    def stop(self, args, state, control, **_):
        control.should_training_stop = True
        return control

    setattr(Never, event, stop)
    assert train(parse_recipe(flags), callbacks=[Never()]).results["epoch"] == 1


def test_a_share_of_the_batch_is_asked_again_as_the_whole(flags):
    result = train(parse_recipe([*flags, "--max_train_steps=1", "--total_train_batch_size=null",
                                 "--per_device_train_batch_size=16", "--gradient_accumulation_steps=2"]))  # fmt: skip
    again = parse_recipe([f"--config={result.folder / 'recipe.yaml'}"])
    assert (again.total_train_batch_size, again.per_device_train_batch_size) == (32, None)


def test_what_is_asked_again_elsewhere_is_found_out_anew(flags, tmp_path):
    """A run from another one's recipe chooses for itself, and says the same."""
    first = train(parse_recipe([*flags, "--num_train_epochs=1"]))
    config = first.folder / "recipe.yaml"
    assert "tta: auto" in config.read_text() and "temperature: null" in config.read_text()
    second = train(parse_recipe([f"--config={config}", f"--output_dir={tmp_path / 'second'}"]))
    assert_same_weights(first.folder, second.folder)
    facts = (
        "eval_chose",
        "test_tta",
        "calibration_temperature",
        "calibration_samples",
        "test_loss",
        "train_batch_size",
    )
    assert {name: first.results[name] for name in facts} == {name: second.results[name] for name in facts}


def test_the_learning_rate_of_every_group_is_logged(flags):
    more = ["--optim=muon", "--norm_bias_learning_rate=0.3", "--lr_scheduler_type=constant", "--max_train_steps=1"]
    result = train(parse_recipe([*flags, *more, "--learning_rate=0.1", "--muon_learning_rate=0.02"]))
    [entry] = read(result.folder, "trainer_state.json")["log_history"]
    rates = {name: value for name, value in entry.items() if name.startswith("learning_rate")}
    assert rates == {"learning_rate": 0.1, "learning_rate_muon": 0.02, "learning_rate_norm_bias": 0.3}


def test_the_package_says_what_it_has_and_what_it_needs(monkeypatch):
    assert {"Recipe", "train", "evaluate", "predict", "export", "push"} <= set(dir(slimresnet))
    with pytest.raises(AttributeError, match="has no attribute 'tune'"):
        _ = slimresnet.tune

    def missing(name):
        raise ModuleNotFoundError("No module named 'accelerate'", name="accelerate")

    monkeypatch.setattr(slimresnet, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match=r'slimresnet\.train needs the package accelerate: pip install "slim'):
        _ = slimresnet.train


def train_twice():
    """What a launched process may do: its group stays for the second run."""
    flags = sys.argv[1:]
    for name in ("first", "second"):
        train(parse_recipe([*flags, f"--output_dir={parse_recipe(flags).output_dir}-{name}"]))


def test_two_processes_train_twice(recipe, tmp_path):
    for process, log in start_two(flags_of(recipe, tmp_path / "run"), tmp_path, train_twice):
        process.join(SECONDS)
        assert process.exitcode == 0, log.read_text()
    assert_same_weights(tmp_path / "run-first", tmp_path / "run-second")


def test_a_folder_of_a_few_pictures_in_folders_of_classes_is_all_that_it_takes(tiny_config_dir, tmp_path, capsys):
    """What was understood is printed; the batch is all images; eval.py finds those of the test again."""
    flags = [
        f"--dataset_name={PICTURES}", f"--config_name={tiny_config_dir}", "--num_train_epochs=1", "--streaming=false",
        "--use_cpu", "--mixed_precision=no", "--tta=none", f"--output_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    result = train(parse_recipe(flags))
    said = capsys.readouterr().out
    assert f"{PICTURES}: 43 images to train on, 5 for validation, 12 to test on" in said
    assert re.search(r"^classes  circle \(1\d\), star \(1\d\), triangle \(1\d\)$", said, re.MULTILINE)
    cut = "validation: 5 cut from train, a tenth, seed 42; test: 12 cut from train, a fifth, seed 42"
    assert f"\nsplits   {cut}\n" in said and re.search(r"\npictures .* not square: \S+ to 32×32, in colour\n", said)
    assert "32 images a step = 32 × 1 processes × 1 accumulated, as 128 are more than there are" in said
    facts = {"train_samples": 43, "train_batch_size": 32, "train_validation_size": 5, "train_test_size": 12,
             "eval_samples": 5, "test_samples": 12, "train_left_out_samples": 0, "test_split": "train"}  # fmt: skip
    assert {name: result.results[name] for name in facts} == facts
    assert {"validation_size: auto", "test_size: auto"} <= {*(result.folder / "recipe.yaml").read_text().splitlines()}
    again = evaluate(result.folder, output_dir=result.folder).results
    assert (again["test_accuracy"], again["test_loss"]) == pytest.approx(
        (result.results["test_accuracy"], result.results["test_loss"])
    )
    assert read(result.folder)["test_times_scored"] == 2
    assert evaluate(result.folder, split="held_out").results["eval_loss"] == pytest.approx(result.results["eval_loss"])
    assert evaluate(result.folder, split="train").results["train_split_samples"] == 60
    with pytest.raises(DatasetError, match=r"43 training images are fewer than one batch of 64 .*lower the batch size"):
        train(parse_recipe([*flags, "--total_train_batch_size=64", f"--output_dir={tmp_path / 'other'}"]))


@pytest.mark.parametrize(
    ("asked", "num_images", "per_device", "total"),
    [({}, 1000, 64, 128), ({}, 127, 32, 64), ({}, 60, 16, 32), ({}, 2, 1, 2),
     ({"gradient_accumulation_steps": 4}, 60, 4, 32), ({"total_train_batch_size": 64}, 60, 32, 64),
     ({"per_device_train_batch_size": 50}, 60, 50, 100)],
)  # fmt: skip
def test_the_default_batch_is_as_large_as_there_are_images(asked, num_images, per_device, total):
    """On two processes, and the same on any other number; one that was asked for stays, and is refused."""
    recipe = Recipe(**asked)
    assert batch_sizes(recipe, 2, num_images) == BatchSizes(per_device, total)
