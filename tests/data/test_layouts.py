"""Any folder, table or archive that pictures come in: each gives the same pixels, labels and names of classes."""

import csv
import io
import json
import shutil
import tarfile
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from conftest import REPOSITORY
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from slimresnet.data.sources.archives import LARGEST_MEMBER
from slimresnet.data.sources.dataset import open_split, split_names
from slimresnet.data.sources.prediction import open_images
from slimresnet.data.sources.source import DatasetError

NAMES = ["cat", "dog", "emu"]
SPLITS = {"train": [0, 1, 2, 0, 1, 2], "validation": [1, 2], "test": [2, 0, 1, 1]}  # no cat in validation


def pixels_of(split, row):
    seed = [*SPLITS].index(split) * 100 + row
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def encoded(split, row, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels_of(split, row)).save(stream, kind)
    return stream.getvalue()


def rows(split):
    """Name of a file, bytes and class of each row of a split."""
    return [(f"{row}.png", encoded(split, row), NAMES[label]) for row, label in enumerate(SPLITS[split])]


def put(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def put_table(file, records):
    """A list in the format that its name ends with."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix in (".csv", ".tsv"):
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(records[0]), delimiter="\t" if file.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(records)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif file.suffix == ".json":
        file.write_text(json.dumps(records))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), file)


# --- one function a layout; each writes all splits below a folder and returns what --dataset_name is ------------------


def class_folders(folder, spellings=("train", "validation", "test"), inside="{split}/{label}/{name}", suffix=".png"):
    for spelling, split in zip(spellings, SPLITS, strict=True):
        for name, content, label in rows(split):
            put(folder / inside.format(split=spelling, label=label, name=name.replace(".png", suffix)), content)
    return folder


def mixed_formats(folder):
    """BMP and TIFF keep all pixels too; notes lie among the pictures."""
    for split in SPLITS:
        for row, (name, _, label) in enumerate(rows(split)):
            kind = ("PNG", "BMP", "TIFF", "WEBP")[row % 3]
            put(folder / split / label / name.replace(".png", f".{kind}"), encoded(split, row, kind))
            put(folder / split / label / "notes.txt", b"notes")
    put(folder / "labels.csv", b"ID,Labels\ntrain/cat/0.PNG,dog\n")  # such as predictions
    return folder


def packed(folder, whole, around=""):
    """ZIP files of the folder: one for all, or one for each split."""
    class_folders(folder / "loose" / around if around else folder / "loose")
    (folder / "zips").mkdir()
    if whole:
        return shutil.make_archive(str(folder / "zips" / "pets"), "zip", folder / "loose")
    for split in SPLITS:
        shutil.make_archive(str(folder / "zips" / split), "zip", folder / "loose" / split)
    return folder / "zips"


def metadata(folder, suffix, label="label"):
    for split in SPLITS:
        for name, content, _ in rows(split):
            put(folder / split / name, content)
        put_table(
            folder / split / f"metadata{suffix}", [{"file_name": name, label: of_class} for name, _, of_class in rows(split)]
        )
    return folder


def one_list(folder, name="metadata.csv", column="file_name", prefix="", **more):
    records = []
    for split in SPLITS:
        for file, content, label in rows(split):
            put(folder / prefix / split / file, content)
            records.append({column: f"{prefix}{split}/{file}", "label": label} | {k: v[split] for k, v in more.items()})
    put_table(folder / name, records)
    return folder


def list_with_splits(folder):
    """All pictures in one folder, named without it, and a column that says the split."""
    records = []
    for split, spelling in zip(SPLITS, ("Train", "val", "TEST"), strict=True):
        for name, content, label in rows(split):
            put(folder / "images" / f"{split}_{name}", content)
            records.append({"id": len(records), "filename": f"{split}_{name}", "split": spelling, "class": label})
    put_table(folder / "labels.csv", records)
    return folder


def list_of_a_split(folder, suffix):
    for split in SPLITS:
        for name, content, _ in rows(split):
            put(folder / "images" / split / name, content)
        put_table(
            folder / f"{split}_1{suffix}",
            [{"image": f"images/{split}/{name}", "label": label} for name, _, label in rows(split)],
        )
    return folder


def parquet(folder, kind, file="{split}-00000-of-00001.parquet"):
    """Tables that hold the images, as bytes, as a struct, or as `datasets` types them."""
    for split in SPLITS:
        images = [{"bytes": content, "path": name} if kind != "bytes" else content for name, content, _ in rows(split)]
        labels = [label if kind != "typed" else NAMES.index(label) for _, _, label in rows(split)]
        to = folder / file.format(split=split)
        to.parent.mkdir(parents=True, exist_ok=True)
        if kind == "typed":
            features = Features({"image": ImageFeature(), "label": ClassLabel(names=NAMES)})
            Dataset.from_dict({"image": images, "label": labels}, features=features).to_parquet(to)
        else:
            pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": labels}), to)
    return folder


def saved_to_disk(folder, text=False):
    features = Features({"image": ImageFeature(), "label": Value("string") if text else ClassLabel(names=NAMES)})
    parts = {
        split: Dataset.from_dict(
            {
                "image": [{"bytes": content, "path": None} for _, content, _ in rows(split)],
                "label": [label if text else NAMES.index(label) for *_, label in rows(split)],
            },
            features=features,
        )
        for split in SPLITS
    }
    DatasetDict(parts).save_to_disk(folder)
    (folder / "train" / "cache-0123456789abcdef.arrow").write_bytes(b"what map leaves")
    return folder


def shards(folder, label="json", file="{split}-000000.tar"):
    for split in SPLITS:
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / file.format(split=split), "w") as tar:
            for row, (_, content, of_class) in enumerate(rows(split)):
                beside = {"json": json.dumps({"label": of_class, "width": 8}), "txt": of_class}[label].encode()
                for suffix, data in (("png", content), (label, beside)):
                    member = tarfile.TarInfo(f"{row:04}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return folder


LAYOUTS = {
    "class folders": class_folders,
    "Train Val Test": lambda folder: class_folders(folder, ("Train", "Val", "Test")),
    "TRAINING valid Testing": lambda folder: class_folders(folder, ("TRAINING", "valid", "Testing")),
    "train dev eval": lambda folder: class_folders(folder, ("train", "dev", "eval")),
    "train_images …": lambda folder: class_folders(folder, ("train_images", "val_images", "test_images")),
    "train2017 …": lambda folder: class_folders(folder, ("train2017", "val2017", "test2017")),
    "splits below one folder": lambda folder: class_folders(folder, inside="pets/{split}/{label}/{name}"),
    "nested": lambda folder: class_folders(folder, inside="{split}/animals/{label}/{name}"),
    "deeper": lambda folder: class_folders(folder, inside="data/v2/{split}/by class/{label}/{name}"),
    "splits in classes": lambda folder: class_folders(folder, inside="{label}/{split}/{name}"),
    "capital suffixes": lambda folder: class_folders(folder, suffix=".PNG"),
    "mixed formats": mixed_formats,
    "zip": lambda folder: packed(folder, whole=True),
    "zip with a folder around all": lambda folder: packed(folder, whole=True, around="pets"),
    "zip of each split": lambda folder: packed(folder, whole=False),
    "metadata.csv": lambda folder: metadata(folder, ".csv"),
    "metadata.jsonl": lambda folder: metadata(folder, ".jsonl", label="species"),
    "metadata.parquet": lambda folder: metadata(folder, ".parquet"),
    "one metadata.csv": one_list,
    "one metadata.jsonl": lambda folder: one_list(folder, "metadata.jsonl"),
    "one CSV": lambda folder: one_list(folder, "labels.csv", "image_path", "images/"),
    "one CSV with splits": list_with_splits,
    "CSV of each split": lambda folder: list_of_a_split(folder, ".csv"),
    "TSV of each split": lambda folder: list_of_a_split(folder, ".tsv"),
    "JSON of each split": lambda folder: list_of_a_split(folder, ".json"),
    "JSONL of each split": lambda folder: list_of_a_split(folder, ".jsonl"),
    "Parquet of paths": lambda folder: list_of_a_split(folder, ".parquet"),
    "Parquet of bytes": lambda folder: parquet(folder, "bytes"),
    "Parquet of structs": lambda folder: parquet(folder, "struct", "data/{split}_1.PARQUET"),
    "typed Parquet": lambda folder: parquet(folder, "typed", "{split}/part.parquet"),
    "save_to_disk": saved_to_disk,
    "save_to_disk, text": lambda folder: saved_to_disk(folder, text=True),
    "webdataset, json": shards,
    "webdataset, txt": lambda folder: shards(folder, "txt", "pets-{split}.tar"),
}


def ordered(opened):
    """Pixels and names of classes, in an order that no layout changes."""
    [pixels] = opened.images.read([np.arange(len(opened.labels))])
    named = [(opened.label_names[label], image.numpy().tobytes()) for label, image in zip(opened.labels, pixels, strict=True)]
    return sorted(named)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_the_same_images_and_labels(tmp_path, layout):
    name = str(LAYOUTS[layout](tmp_path / "pets"))
    assert split_names(name) == ["train", "validation", "test"]
    for split, labels in SPLITS.items():
        opened = open_split(name, split, image_size=8)
        assert opened.label_names == NAMES
        expected = [(NAMES[label], pixels_of(split, row).transpose(2, 0, 1).tobytes()) for row, label in enumerate(labels)]
        assert ordered(opened) == sorted(expected)
    assert len(open_split(name, "train+test", image_size=8).labels) == 10
    predicted = [image.pixels.tobytes() for image in open_images(name, 8, split="test").stream]
    of_splits = SPLITS if layout == "one CSV with splits" else ["test"]  # may be a list of predictions
    expected = [pixels_of(split, row).tobytes() for split in of_splits for row in range(len(SPLITS[split]))]
    assert sorted(predicted) == sorted(expected)
