"""`evaluate` as Python calls it: from any folder, again and again, and nothing else in the process changes."""

import inspect

import pytest
from accelerate import Accelerator
from process_state import unchanged
from training_runs import read, snapshot

from slimresnet.api.evaluate import evaluate
from slimresnet.api.export import export
from slimresnet.api.predict import predict
from slimresnet.cli import eval as script
from slimresnet.formats.trained import ModelError


def of_scores(results):
    return {name: value for name, value in results.items() if not name.endswith(("_runtime", "_per_second"))}


def test_it_is_called_again_from_another_folder_and_in_another_precision(trained, tmp_path, monkeypatch):
    mine = Accelerator(cpu=True, mixed_precision="no")
    files = snapshot(trained)
    with unchanged():
        first = evaluate(trained)
    monkeypatch.chdir(trained.parent)
    with unchanged():
        in_bf16 = evaluate(trained.name, mixed_precision="bf16")
        again = evaluate(str(trained), output_dir=tmp_path / "figures")
    assert in_bf16.results["test_precision"] == "bf16" and first.results["test_precision"] == "float32"
    assert of_scores(again.results) == of_scores(first.results) == of_scores(read(tmp_path / "figures"))
    assert first.details == again.details == {"test_details.json": read(tmp_path / "figures", "test_details.json")}
    assert first.results["test_accuracy"] == pytest.approx(read(trained)["test_accuracy"], abs=1e-5)
    assert snapshot(trained) == files
    assert mine.mixed_precision == Accelerator().mixed_precision == "no"


def test_after_a_mistake_the_process_is_as_before(trained):
    with unchanged(), pytest.raises(ModelError, match=r"MODEL .* has no onnx/model\.onnx"):
        evaluate(trained, backend="onnxruntime")
    assert evaluate(trained, max_eval_samples=20).results["test_samples"] == 20


def test_its_caller_sees_the_figures_before_they_are_written(trained, tmp_path):
    seen = []

    def look(found):
        assert not (tmp_path / "figures").exists()
        seen.append(found)

    assert evaluate(trained, max_eval_samples=20, output_dir=tmp_path / "figures", on_scored=look) is seen[0]


def test_flags_are_arguments_with_the_same_defaults():
    parameters = dict(inspect.signature(evaluate).parameters)
    del parameters["model"], parameters["on_scored"]
    flags = vars(script.parse(["model"]))
    assert flags.pop("model") == "model"
    assert flags == {name: parameter.default for name, parameter in parameters.items()}


def test_help_has_its_flags_in_groups(capsys):
    with pytest.raises(SystemExit):
        script.parse(["--help"])
    said = capsys.readouterr().out
    assert all(f"\n{title}:\n" in said for title in ("data", "scoring", "network", "output")) and "As for" not in said
    with pytest.raises(SystemExit):
        script.parse(["model", "--dataset=x"])
    assert "unknown flag --dataset: did you mean --dataset_name?" in capsys.readouterr().err


def test_what_is_no_folder_is_said_by_its_kind(trained):
    """A notebook may hand on the result of training, which has one."""
    for call in (evaluate, lambda model: export(model, output_dir="out"), lambda model: predict(model, "cat.png")):
        with pytest.raises(ModelError, match="MODEL must be a folder or a name on the Hub, got object"):
            call(object())
