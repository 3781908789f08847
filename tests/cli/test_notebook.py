"""The notebook of examples/: its cells run from top to bottom, and it ships as a whole run left it."""

import csv
import json
import os
import re
import shutil
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
from conftest import REPOSITORY
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from training_runs import SECONDS, read, start

NOTEBOOK = REPOSITORY / "examples" / "own_pictures.ipynb"
RUNS = Path("runs", "own_pictures")


def code_cells():
    return [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def run_cells(folder):
    """Runs the cells as a kernel does that starts in `folder`, and leaves there what the last ones know."""
    os.chdir(folder)
    names = {"__name__": "__main__"}
    blank = Image.new("RGB", (1, 1))
    with patch.object(FigureCanvasAgg, "print_png", lambda canvas, path: blank.save(path)):
        for number, cell in enumerate(code_cells(), start=1):
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    known = {
        "from nothing": names["is_right"](names["guesses"]).mean(),
        "fine-tuned": names["is_right"](names["answers"]).mean(),
        "neighbours": names["same"],
    }
    (folder / "known.json").write_text(json.dumps({name: float(value) for name, value in known.items()}))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A folder laid out as the repository is, behind a run of the notebook in its `examples`; and what that printed."""
    root = tmp_path_factory.mktemp("notebook")
    shutil.copytree(REPOSITORY / "examples", root / "examples", ignore=shutil.ignore_patterns("cifar10_sample"))
    (root / "pretrained").symlink_to(REPOSITORY / "pretrained")
    log = root / "log"
    process = start(partial(run_cells, root / "examples"), [], log)
    process.join(SECONDS)
    assert process.exitcode == 0, log.read_text()
    return root, log.read_text()


pytestmark = [pytest.mark.slow, pytest.mark.processes]


def test_both_runs_are_finished_and_scored_on_twelve_pictures(ran):
    root, _ = ran
    nothing, tuned = (read(root / RUNS / name) for name in ("from_nothing", "fine_tuned"))
    for results in (nothing, tuned):
        assert (results["train_samples"], results["test_samples"]) == (48, 12)
        assert results["test_accuracy_low"] <= results["test_accuracy"] <= results["test_accuracy_high"]
    assert tuned["train_started_from"] == "slimresnet-cifar10" and tuned["train_head_is_new"]
    assert "train_started_from" not in nothing


def test_weights_that_know_something_are_better_on_pictures_that_are_new(ran):
    """By far: a guess is right once in three."""
    known = read(ran[0] / "examples", "known.json")
    assert known["fine-tuned"] > 0.7 > 0.6 > known["from nothing"]
    assert known["neighbours"] > 0.6


def test_the_table_has_a_row_for_each_new_picture(ran):
    with (ran[0] / RUNS / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["ID", "Labels", "circle", "star", "triangle"] and len(rows) == 120
    assert {row["ID"] for row in rows} == {
        f"{name}/{number:02}.png" for name in ("circle", "star", "triangle") for number in range(40)
    }
    for row in rows:
        assert row["Labels"] == max(("circle", "star", "triangle"), key=lambda name: float(row[name]))


def test_what_is_printed_tells_of_each_step(ran):
    _, said = ran
    assert said.count("of 12 test pictures right") == 2 and said.count("of 120 new pictures right") == 2
    assert "embeddings: (120, 256)" in said and "model.safetensors" in said
    assert "stem and stages kept, a new head for 3 classes (it had 10)" in said


def test_all_that_is_written_lies_in_one_folder(ran):
    root, _ = ran
    assert {path.name for path in root.iterdir()} == {"examples", "pretrained", "log", "runs"}
    assert [path.name for path in (root / "runs").iterdir()] == [RUNS.name]


def test_it_ships_as_a_kernel_left_it_that_ran_every_cell_once():
    assert [cell["execution_count"] for cell in code_cells()] == [*range(1, len(code_cells()) + 1)]
    outputs = [output for cell in code_cells() for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "execute_result"}
    assert {output["name"] for output in outputs if "name" in output} == {"stdout"}  # no warning either
    said = "".join(line for output in outputs for line in output.get("text", ()))
    assert said.count("of 12 test pictures right") == 2 and said.count("of 120 new pictures right") == 2
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2


def test_it_is_small_and_names_no_machine():
    text = NOTEBOOK.read_text("utf-8")
    assert len(text) < 300_000
    # A path from the root that begins behind a blank or a quotation mark: only that of the reader.
    assert set(re.findall(r"""(?<=[\s"'(])/\w+/\w+""", text)) == {"/home/you"}
    assert str(REPOSITORY) not in text and str(Path.home()) not in text
