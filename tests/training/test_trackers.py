"""Trackers as accelerate has them, against stand-ins with the interface of their packages."""

import os
import sys
from types import ModuleType, SimpleNamespace

import accelerate.tracking
import pytest
from accelerate.utils import LoggerType
from training_runs import Told, read, spoils_at, train

from slimresnet.cli.train import parse_recipe
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe
from slimresnet.training.bookkeeping import DivergedError

OURS = ("WANDB_DIR", "WANDB_NAME", "MLFLOW_TRACKING_URI", "COMET_OFFLINE_DIRECTORY", "SWANLAB_LOG_DIR")


@pytest.fixture
def told(monkeypatch):
    """What wandb and MLflow are told, in turn; both are there, and write where their packages would."""
    calls, logged = [], []

    def told_to(name):
        return lambda *values, **named: calls.append((name, values, named))

    def log(values, step):
        logged.append((step, values))

    def init(**named):
        calls.append(("init", named))
        return SimpleNamespace(log=log, finish=told_to("finish"))

    wandb, mlflow = ModuleType("wandb"), ModuleType("mlflow")
    wandb.init, wandb.config = init, SimpleNamespace(update=told_to("config"))
    mlflow.search_experiments = lambda filter_string: []
    mlflow.create_experiment = lambda **named: calls.append(("experiment", named)) or "1"
    mlflow.start_run = lambda **named: calls.append(("run", os.environ["MLFLOW_TRACKING_URI"], named))
    mlflow.log_params, mlflow.end_run = told_to("params"), told_to("end")
    mlflow.log_metrics = lambda values, step: logged.append(("mlflow", step, values))
    mlflow.utils = SimpleNamespace(validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100))
    available = [*accelerate.tracking.get_available_trackers(), LoggerType.WANDB, LoggerType.MLFLOW]
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", available)
    for module in (wandb, mlflow):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    return calls, logged


def names(calls):
    return [call[0] for call in calls]


def test_trackers_get_every_figure_and_write_into_the_output_folder(flags, told, monkeypatch, tmp_path):
    calls, logged = told
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = train(flags, "--report_to=wandb,mlflow", "--max_train_steps=2", "--logging_steps=1")
    assert calls[0] == ("init", {"project": "slimresnet", "dir": str(folder), "name": "run"})
    (experiment,) = [call[1] for call in calls if call[0] == "experiment"]
    assert experiment["artifact_location"] == (folder / "mlartifacts").as_uri()
    (run,) = [call for call in calls if call[0] == "run"]
    assert run[1] == f"sqlite:///{folder / 'mlflow.db'}" and run[2]["run_name"] == "run"
    (config,) = [call[1][0] for call in calls if call[0] == "config"]
    assert config["max_train_steps"] == "2" and config.keys() == vars(Recipe()).keys()
    assert names(calls)[-2:] == ["finish", "end"]
    of_wandb = [entry for entry in logged if entry[0] != "mlflow"]
    assert [step for step, _ in of_wandb] == [1, 2, 2, 2]
    last, tested = of_wandb[2][1], of_wandb[3][1]
    assert {"eval_accuracy", "eval_balanced_accuracy", "eval_macro_f1", "loss", "learning_rate"} <= last.keys()
    assert tested["test_macro_f1"] == read(folder)["test_macro_f1"]
    assert [(step, values) for _, step, values in (entry for entry in logged if entry[0] == "mlflow")] == of_wandb
    assert not list((tmp_path / "here").iterdir()) and not [name for name in OURS if name in os.environ]


def test_what_the_environment_says_goes_first(flags, told, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    train(flags, "--report_to", "wandb", "mlflow", "--max_train_steps=1")
    assert told[0][0] == ("init", {"project": "slimresnet", "name": "run"})
    assert "http://127.0.0.1:1" in [call[1] for call in told[0] if call[0] == "run"]


def interrupt(state, **_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "callback"),
    [(DivergedError, spoils_at(1, "on_step_end")), (KeyboardInterrupt, Told(on_step_end=interrupt))],
    ids=["diverged", "interrupted"],
)
def test_trackers_finish_however_a_run_ends(flags, told, error, callback):
    with pytest.raises(error):
        train(flags, "--report_to=wandb,mlflow", "--max_train_steps=1", callbacks=[callback])
    assert names(told[0])[-2:] == ["finish", "end"]


def test_a_tracker_that_does_not_start_is_one_sentence(flags, told, monkeypatch):
    """The one that did is finished."""

    def refuse(**_):
        raise RuntimeError("no API key\nfor the server")

    monkeypatch.setattr(sys.modules["mlflow"], "start_run", refuse)
    with pytest.raises(
        RecipeError, match=r"--report_to wandb,mlflow could not be started \(RuntimeError: no API key\)"
    ):
        train(flags, "--report_to=wandb,mlflow", "--max_train_steps=1")
    assert "finish" in names(told[0])


def test_names_of_trackers(flags):
    with pytest.raises(RecipeError, match=r"--report_to comet is no tracker .* give none, or some of aim, comet_ml, "):
        train(flags, "--report_to=tensorboard,comet")
    with pytest.raises(RecipeError, match=r"--report_to clearml needs a package: pip install clearml\."):
        train(flags, "--report_to", "tensorboard", "clearml")
    with pytest.raises(RecipeError, match="names none and trackers"):
        parse_recipe(["--report_to=none,wandb"])


def test_several_trackers_are_a_list_or_have_commas_between_them(tmp_path):
    file = tmp_path / "recipe.yaml"
    for text in ("[wandb, mlflow]", "wandb,mlflow", "[wandb, 'mlflow,aim']", "none"):
        file.write_text(f"report_to: {text}")
        found = parse_recipe([f"--config={file}"]).report_to
        assert found == {"none": ("none",), "[wandb, 'mlflow,aim']": ("wandb", "mlflow", "aim")}.get(
            text, ("wandb", "mlflow")
        )
    assert Recipe(report_to="wandb").report_to == ("wandb",) == Recipe(report_to=["wandb"]).report_to
    assert parse_recipe(["--report_to", "wandb,", "mlflow"]).report_to == ("wandb", "mlflow")
