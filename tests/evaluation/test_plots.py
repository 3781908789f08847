"""Pictures: of any names that classes can have, and never in the way of what a run has to save."""

import runpy

import matplotlib
import numpy as np
import pytest
import torch
from conftest import write_dataset
from PIL import Image
from training_runs import read, train

from slimresnet.data.sources.dataset import open_split
from slimresnet.evaluation import plots
from slimresnet.evaluation.plots import draw, plot_curves, plot_training_samples, split_pictures
from slimresnet.evaluation.scores import report_split
from slimresnet.run_folder.checkpoints import list_checkpoints

NAMES = [
    "$1_$2", "a_b^c", "\\frac", "$", "猫", "مرحبا", "é" * 60, "\U0001f600", " ", "%s {0}", "a\tb", "&<b>", "_", "# x",
]  # fmt: skip


@pytest.fixture
def split(tmp_path):
    images = list(np.random.default_rng(0).integers(0, 256, (2 * len(NAMES), 8, 8, 3), dtype=np.uint8))
    write_dataset(tmp_path / "data", "test", images, list(range(len(NAMES))) * 2, NAMES)
    return open_split(str(tmp_path / "data"), "test", image_size=8)


def pictures(split):
    logits = torch.randn(len(split.labels), len(NAMES))
    _, details = report_split("test", {"original": logits}, split.labels, policy="none", temperature=1.5)
    return split_pictures("test", split, np.arange(len(split.labels)), logits, details)


def test_names_of_classes_are_text_and_not_mathematics(split, tmp_path, drawn, capsys):
    made = pictures(split)
    pixels, labels = torch.zeros(len(NAMES), 3, 8, 8, dtype=torch.uint8), torch.eye(len(NAMES)).flip(0) * 0.7 + 0.02
    made["training_samples.png"] = lambda path: plot_training_samples(pixels, pixels, labels, NAMES, path)
    draw(made, tmp_path)
    assert not capsys.readouterr().err
    assert len(made) == 5 and all(Image.open(tmp_path / name).size > (300, 300) for name in made)


def test_drawing_leaves_the_callers_backend_alone(tmp_path, drawn, monkeypatch):
    """In a notebook it is one that shows plots inline."""
    monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")
    module = runpy.run_path(plots.__file__)
    module["plot_curves"]([{"epoch": 1, "loss": 1.0}], tmp_path / "curves.png")
    assert matplotlib.get_backend() == "svg" and Image.open(tmp_path / "curves.png").format == "PNG"


def test_a_picture_that_cannot_be_drawn_is_left_out_with_a_warning_and_the_others_are_not(tmp_path, drawn, capsys):
    def fail_halfway(path):
        path.write_bytes(b"half")
        raise MemoryError

    made = {
        "first.png": fail_halfway,
        "second.png": lambda path: plot_curves([{"epoch": 1, "loss": 1.0}], path),
        "third.png": lambda path: plot_curves([], path),
    }
    draw(made, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["second.png"]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "picture first.png could not be drawn, and is left out: MemoryError"
    assert len(said) == 2 and said[1].startswith("picture third.png could not be drawn")


def test_a_run_is_saved_before_its_pictures_and_without_them(flags, tmp_path, monkeypatch, capsys):
    """Whether drawing fails or the process ends in it."""
    found = []

    def refuse(canvas, path):
        found.append(read(tmp_path / "run"))
        raise ValueError("no\nfont")

    monkeypatch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg.print_png", refuse)
    folder = train(flags, "--max_train_steps=1")
    said = capsys.readouterr()
    assert said.err.count("could not be drawn, and is left out: no font") == 7 and "saved to" in said.out
    assert found == [read(folder)] * 7 and (folder / "model.safetensors").exists()
    assert "figures/" not in (folder / "README.md").read_text() and not (folder / "figures").exists()

    def die(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg.print_png", die)
    with pytest.raises(KeyboardInterrupt):
        train(flags, "--max_train_steps=2", "--overwrite_output_dir")
    assert read(folder)["epoch"] == 2 / 7 and [each.name for each in list_checkpoints(folder)] == ["checkpoint-2"]


def test_pictures_that_there_is_no_room_for(flags, monkeypatch, capsys):
    monkeypatch.setattr(
        "slimresnet.api.train.draw", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    folder = train(flags, "--max_train_steps=1")
    assert "the run is saved, but without its pictures: " in capsys.readouterr().err
    assert (folder / "all_results.json").exists() and not (folder / ".slimresnet" / "change").exists()
