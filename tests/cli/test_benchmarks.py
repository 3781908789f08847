"""The README's figures are those of the files, and the files those of the commands beside them."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from training_runs import read

from benchmarks import ablations, distillation, mutants, onednn_backward, training_step, write_readme
from benchmarks.measuring import FOLDER, take_turns
from benchmarks.write_readme import FILES, README
from slimresnet.recipe.settings import Recipe

COMMANDS = [
    ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
    for folder in ("", "benchmarks", "demo", "examples", "modeling_slimresnet", "slimresnet/cli")
    for file in sorted((REPOSITORY / folder).glob("*.py"))
    if "\nif __name__ ==" in file.read_text(encoding="utf-8")
]


def test_the_readme_quotes_the_files(capsys):
    write_readme.main(["--check"])
    assert "has the figures of the files" in capsys.readouterr().out


def test_check_finds_a_figure_that_is_not_of_the_files_and_changes_nothing(tmp_path, monkeypatch, capsys):
    text = README.read_text(encoding="utf-8")
    monkeypatch.setattr(write_readme, "README", tmp_path / "README.md")
    for outdated in (text.replace("95.97%", "96.97%"), text.replace("<!-- ablations: begin -->", "")):
        assert outdated != text
        write_readme.README.write_text(outdated)
        with pytest.raises(SystemExit, match=r"run python -m benchmarks\.write_readme|0 places between <!-- ablations"):
            write_readme.main(["--check"])
        assert write_readme.README.read_text() == outdated
    write_readme.README.write_text(text.replace("95.97%", "96.97%"))
    write_readme.main([])
    assert write_readme.README.read_text(encoding="utf-8") == text and "figures of results" in capsys.readouterr().out


def rows_of(title):
    """The cells of a table of the README, by the first of each row."""
    table = README.read_text(encoding="utf-8").split(f"<!-- {title}: begin -->")[1].split("\n\n")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_the_table_of_results_has_each_runs_own_figures():
    rows = {name.split("`")[1]: row for name, row in rows_of("results").items() if "`" in name}
    assert rows.keys() == {f"{name}.yaml" for name in write_readme.RUNS}
    for name, folder in write_readme.RUNS.items():
        figures, row = read(folder), rows[f"{name}.yaml"]
        assert row["test"] == f"{100 * figures['test_accuracy']:.2f}%"
        assert row["with TTA"] == f"{100 * figures['test_accuracy_tta']:.2f}% (flip_shift)"
        # As the weights are shipped, whatever temperature a run was given.
        assert row["calibration error"] == f"{100 * figures['test_expected_calibration_error']:.2f}%"
        shifted = figures.get("test_corruption_accuracy")
        assert row["corrupted"] == ("" if shifted is None else f"{100 * shifted:.2f}%")


def test_the_number_of_runs_with_test_scores_is_that_of_the_folders():
    results = [*FOLDER.glob("results/**/all_results.json"), write_readme.PRETRAINED / "all_results.json"]
    scored = sum("test_accuracy" in json.loads(file.read_text()) for file in results)
    shifted = sum("test_corruption_accuracy" in json.loads(file.read_text()) for file in results)
    assert f"\n{scored} runs of these tables carry test scores, {shifted} of them" in README.read_text(encoding="utf-8")
    tables = [rows_of(f"tried {name.name}") for name in write_readme.TRIED.iterdir()]
    tested = sum(bool(row["test"]) for table in tables for row in table.values())
    assert tested - len(tables) + len(write_readme.RUNS) == scored  # each has a row, a recipe's own one in two tables
    assert sum(map(len, tables)) - len(tables) + len(write_readme.RUNS) == len(results)


def test_corrupted_figures_stand_beside_what_they_are_of():
    old = {"test_corruption_accuracy": 0.7, "test_corruption_samples": 2000}
    new = old | {"test_corruption_samples": 10000, "test_corruption_precision": "bf16"}
    easier = "2,000 test images, with a fractal as frost, which is easier than the published photographs."
    assert write_readme.corrupted({"a": old, "b": {}, "c": old}) == [f"Corrupted: {easier}"]
    assert write_readme.corrupted({"a": old, "b": new | {"test_corruption_frost": "synthetic"}}) == [
        f"Corrupted, a: {easier}",
        "Corrupted, b: 10,000 test images in bf16, with synthetic frost.",
    ]
    [said] = write_readme.corrupted({"b": new | {"test_corruption_frost": "photographs"}})
    assert said.endswith("with the photographs of frost of CIFAR-10-C's authors.")


def test_augmentations_that_overlap_with_corruptions_are_named():
    said = [line for line in README.read_text(encoding="utf-8").splitlines() if "that do what corruptions do:" in line]
    assert said == [
        "Augmentations of `best_long.yaml` that do what corruptions do: brightness, contrast, color, sharpness."
    ]


def test_the_speed_of_several_devices_together_is_no_figure():
    assert not any("H100" in name for name in rows_of("training speed"))
    assert "train_samples_per_second" not in read(write_readme.PRETRAINED)
    lines = README.read_text(encoding="utf-8").splitlines()
    assert "images/s" not in next(line for line in lines if "config configuration/best_long.yaml`: " in line)


def test_the_rows_of_ablations_are_those_of_the_program():
    """Rows that were never run are missing; none is there under a name that changes something else by now."""
    rows = json.loads((FOLDER / "ablations.json").read_text())["rows"]
    assert {name: row["changes"] for name, row in rows.items()} == {
        name: changes for name, changes in ablations.ROWS.items() if name in rows
    }
    for changes in ablations.ROWS.values():
        settings = {name: value for name, value in (ablations.SHORT | changes).items() if name != "network"}
        Recipe(**settings)  # a row that waits for its run can be run


def test_the_rows_of_distillation_are_those_of_the_program():
    rows = json.loads((FOLDER / "distillation.json").read_text())["rows"]
    expected = {distillation.THE_TEACHER: distillation.TEACHER} | distillation.ROWS
    assert {name: row["changes"] for name, row in rows.items()} == expected
    table, teacher = rows_of("distillation"), distillation.THE_TEACHER
    for name, row in rows.items():
        found = [seed["validation accuracy"] for seed in row["seeds"].values()]
        assert table[name]["validation"] == f"{100 * sum(found) / len(found):.2f}%"
    assert (table[teacher]["points"], table[distillation.LABELS]["points"]) == ("", "")
    with_labels = rows["the teacher and the labels by halves, T 4"]["mean validation accuracy"]
    gained = 100 * (with_labels - rows[distillation.LABELS]["mean validation accuracy"])
    assert table["the teacher and the labels by halves, T 4"]["points"] == f"{gained:+.2f}"


def test_a_seed_has_a_teacher_of_its_own(monkeypatch, tmp_path):
    """What is trained, in which order, with which teacher; the teacher is not trained twice."""
    asked = []

    def run(changes, dataset_name, folder):
        asked.append((folder.name, changes.get("teacher_name_or_path"), changes["seed"]))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "all_results.json").write_text('{"train_runtime": 60.0}')
        return {"validation accuracy": 0.5, "validation loss": 1.0}

    monkeypatch.setattr(distillation, "run", run)
    monkeypatch.setattr(distillation, "RUNS", tmp_path)
    monkeypatch.setattr(distillation, "RESULT", tmp_path / "distillation.json")
    rows = ["labels alone", "the teacher alone, T 4", "the teacher alone, T 2"]
    monkeypatch.setattr(sys, "argv", ["distillation", "--seeds", "7", "8", "--rows", *rows])
    for _ in range(2):  # the second time nothing is left to do
        distillation.main()
    teachers = {seed: str(tmp_path / f"teacher-{seed}") for seed in (7, 8)}
    assert asked == [
        each
        for seed in (7, 8)
        for each in (
            ("student", None, seed), (f"teacher-{seed}", None, seed),
            ("student", teachers[seed], seed), ("student", teachers[seed], seed),
        )
    ]  # fmt: skip
    assert [*read(tmp_path, "distillation.json")["rows"]] == [distillation.THE_TEACHER, *rows]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_does_nothing_else(name, monkeypatch, capsys, tmp_path):
    module = importlib.import_module(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.setattr(Path, "write_text", None)  # by which all of these write
    with pytest.raises(SystemExit) as left:
        module.main()
    assert left.value.code == 0 and capsys.readouterr().out.startswith("usage: ") and not list(tmp_path.iterdir())


WITHOUT_BF16 = "_without_bf16"  # the same benchmark, on the other kind of processor


@pytest.mark.parametrize("name", FILES)
def test_ratios_are_of_the_speeds_beside_them(name):
    result = json.loads((FOLDER / f"{name}.json").read_text())
    assert result["command"].startswith(f"python -m benchmarks.{name.removesuffix(WITHOUT_BF16)}")
    for table in result["tables"].values():
        base = table["rows"][table["ratio_to"]]["images_per_second"]
        for row in table["rows"].values():
            assert row["ratio"] == pytest.approx(row["images_per_second"] / base, abs=0.006)
            assert row["lowest"] <= row["images_per_second"] <= row["highest"]


def test_every_module_has_tests_its_own_first():
    for module in mutants.modules():
        own, others = mutants.tests_of(module)
        assert own or others, module
        assert all((REPOSITORY / "tests" / file).is_file() for file in own + others), module
    assert mutants.OWN_TESTS.keys() <= {*mutants.modules()}
    own, others = mutants.tests_of("slimresnet/data/transforms/trivial_augment.py")
    assert own == ["data/test_trivial_augment.py"] and "data/test_inputs.py" in others


@pytest.mark.parametrize("has_bf16", [False, True])
def test_what_computes_in_bf16_is_a_contender_where_the_processor_has_it(has_bf16):
    """Elsewhere it is emulated, and takes minutes."""
    fast = {"channels_last": True, "bf16": has_bf16}
    best = "channels_last + bf16" if has_bf16 else "channels_last"
    names = training_step.step_contenders(best, fast, training_step.Stepper(**fast)).keys()
    assert {training_step.FIRST, "channels_last", "compiled", best, f"{best} + compiled", f"{best}, batch 32"} <= names
    assert any("bf16" in name for name in names) == has_bf16


def test_images_side_by_side_have_the_same_gradient_by_weights():
    convolution = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
    images, gradient = (torch.randn(32, channels, 8, 8) for channels in (3, 4))
    (convolution(images) * gradient).sum().backward()
    expected, convolution.weight.grad = convolution.weight.grad, None
    images, gradient = map(onednn_backward.side_by_side, (images, gradient))
    assert images.shape == (2, 3, 8, 16 * 9) and images.is_contiguous(memory_format=torch.channels_last)
    (convolution(images) * gradient).sum().backward()
    torch.testing.assert_close(convolution.weight.grad, expected, rtol=1e-4, atol=1e-4)


def test_contenders_take_turns():
    calls = []
    contenders = {name: lambda name=name: calls.append(name) or 10 for name in "AB"}
    result = take_turns(contenders, rounds=3)
    assert "".join(calls) == "AB" + "ABABAB"  # a first call that is not counted, then in turn
    assert all(row["lowest"] <= row["images_per_second"] <= row["highest"] for row in result.values())
