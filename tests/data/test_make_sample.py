"""The sample is made again by one command: the first images of each class, their files as they are."""

import sys

import numpy as np
from conftest import SAMPLE
from datasets import Image, load_dataset

from examples.make_sample import main
from slimresnet.data.sources.diagnosis import SAMPLE_FOLDER


def encoded(folder, split):
    rows = load_dataset(str(folder), split=split).cast_column("img", Image(decode=False))
    return [row["bytes"] for row in rows["img"]], np.array(rows["label"])


def make(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["make_sample", f"--dataset_name={SAMPLE}", *flags])
    main()


def test_the_first_images_of_each_class_are_taken_as_they_are(tmp_path, monkeypatch, capsys):
    make(monkeypatch, f"--output_dir={tmp_path / 'made'}", "--num_train=30", "--num_test=20")
    said = capsys.readouterr().out
    for split, per_class in (("train", 3), ("test", 2)):
        (images, labels), (all_images, all_labels) = encoded(tmp_path / "made", split), encoded(SAMPLE, split)
        firsts = np.sort(np.concatenate([np.flatnonzero(all_labels == label)[:per_class] for label in range(10)]))
        assert images == [all_images[row] for row in firsts] and (labels == all_labels[firsts]).all()
        assert f"{split}-00000-of-00001.parquet: {10 * per_class} images" in said


def test_the_sample_that_ships_is_what_it_makes_of_itself(tmp_path, monkeypatch):
    """At its own place, from the folder that it is called in."""
    monkeypatch.chdir(tmp_path)
    make(monkeypatch)
    for split in ("train", "test"):
        made, shipped = encoded(tmp_path / SAMPLE_FOLDER, split), encoded(SAMPLE, split)
        assert made[0] == shipped[0] and (made[1] == shipped[1]).all()
