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
from conftest import tiny_run_flags
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from training_runs import train

from modeling_slimresnet import SlimResNetConfig
from slimresnet.data.sources import archives
from slimresnet.data.sources.dataset import open_split, split_names
from slimresnet.data.sources.decoding import PixelFormat
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
        records = [{"file_name": name, label: of_class} for name, _, of_class in rows(split)]
        put_table(folder / split / f"metadata{suffix}", records)
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
    names = [opened.label_names[label] for label in opened.labels]
    return sorted((name, image.numpy().tobytes()) for name, image in zip(names, pixels, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_the_same_images_and_labels(tmp_path, layout):
    name = str(LAYOUTS[layout](tmp_path / "pets"))
    assert split_names(name) == ["train", "validation", "test"]
    for split, labels in SPLITS.items():
        opened = open_split(name, split, image_size=8)
        assert opened.label_names == NAMES
        images = [pixels_of(split, row).transpose(2, 0, 1).tobytes() for row in range(len(labels))]
        assert ordered(opened) == sorted(zip([NAMES[label] for label in labels], images, strict=True))
    assert len(open_split(name, "train+test", image_size=8).labels) == 10
    predicted = [image.pixels.tobytes() for image in open_images(name, PixelFormat(8), split="test").stream]
    of_splits = SPLITS if layout == "one CSV with splits" else ["test"]  # may be a list of predictions
    expected = [pixels_of(split, row).tobytes() for split in of_splits for row in range(len(SPLITS[split]))]
    assert sorted(predicted) == sorted(expected)


# --- without splits, and labels of other types -----------------------------------------------------------------------


def pictures(folder, *names):
    for row, name in enumerate(names):
        put(folder / name, encoded("train", row % 6))
    return folder


def classes(name, split="train", **settings):
    opened = open_split(str(name), split, image_size=8, **settings)
    [pixels] = opened.images.read([np.arange(len(opened.labels))])
    assert len(pixels) == len(opened.labels)
    return [opened.label_names[label] for label in opened.labels]


def refused(*arguments, **settings):
    """The message that refuses it: one line."""
    with pytest.raises(DatasetError) as error:
        classes(*arguments, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["cats/1.png", "dogs/2.JPEG"], ["cats", "dogs"]),
        (["pets/cats/1.png", "pets/dogs/2.png"], ["cats", "dogs"]),
        (["a/cats/1.png", "b/dogs/2.png"], ["cats", "dogs"]),
        (["cats/1.png", "cats/kittens/2.png", "dogs/3.png"], ["cats", "cats", "dogs"]),
        (["cats/1.png", "test_tubes/2.png", "training_shoes/3.png"], ["cats", "test_tubes", "training_shoes"]),
        (["dev-kits/test 1.png", "train-stations/val_1.png"], ["dev-kits", "train-stations"]),
    ],
)
def test_folders_of_classes_without_splits_are_training_images(tmp_path, names, expected):
    assert classes(pictures(tmp_path, *names)) == expected and split_names(str(tmp_path)) == ["train"]
    message = refused(tmp_path, "test")
    assert "has no split 'test', only train: name that with --split" in message and "--test_size" in message


def test_splits_of_other_names_keep_them(tmp_path):
    """Folders with other classes are passed over: they would number all classes anew."""
    pictures(tmp_path, *(f"{split}/{label}/1.png" for split in ("Train", "hold-out") for label in ("cats", "dogs")))
    pictures(tmp_path, "unsorted/yaks/1.png")
    assert split_names(str(tmp_path)) == ["train", "hold-out"]
    assert classes(tmp_path, "hold-out") == classes(tmp_path) == ["cats", "dogs"]
    assert "only train, hold-out: name one of them with --test_split" in refused(tmp_path, "test")


@pytest.mark.parametrize(("asked", "folder"), [("valid", "validation"), ("validation", "Val"), ("val", "dev")])
def test_a_split_is_asked_for_in_any_spelling(tmp_path, asked, folder):
    pictures(tmp_path, *(f"{split}/{label}/1.png" for split in ("train", folder) for label in ("cats", "dogs")))
    assert classes(tmp_path, asked) == ["cats", "dogs"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"train": [10, 9, 10], "test": [9]}, ["9", "10"]),
        ({"train": [0, 2, 1], "test": [1]}, ["0", "1", "2"]),
        ({"train": [-1, 300, 7], "test": [7]}, ["-1", "7", "300"]),
        ({"train": [True, False, True], "test": [False]}, ["false", "true"]),
        ({"train": ["b", "NA", "null"], "test": ["b"]}, ["NA", "b", "null"]),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_labels_of_any_type_are_numbered_alike_in_all_splits(tmp_path, values, expected, suffix):
    for split, labels in values.items():
        pictures(tmp_path, *(f"images/{split}{row}.png" for row in range(len(labels))))
        records = [{"image": f"images/{split}{row}.png", "target": label} for row, label in enumerate(labels)]
        put_table(tmp_path / f"{split}{suffix}", records)
    for split, labels in values.items():
        opened = open_split(str(tmp_path), split, image_size=8)
        assert opened.label_names == expected
        texts = [str(label).lower() if isinstance(label, bool) else str(label) for label in labels]
        assert [expected[label] for label in opened.labels] == texts


def test_a_column_is_chosen_by_its_flag(tmp_path):
    image = encoded("train", 0)
    table = {"photo": [image] * 2, "mask": [image] * 2, "breed": ["a", "b"], "place": ["x", "y"]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "train.parquet")
    assert "2 possible image columns: name one with --image_column_name. It holds photo (binary)" in refused(tmp_path)
    message = refused(tmp_path, image_column="mask")
    assert "2 possible label columns: name one with --label_column_name" in message and "breed (string)" in message
    assert classes(tmp_path, image_column="mask", label_column="place") == ["x", "y"]
    assert "--label_column_name mask is no ClassLabel column" in refused(
        tmp_path, image_column="mask", label_column="mask"
    )


def test_one_file_is_a_dataset(tmp_path):
    parquet(tmp_path / "tables", "bytes")
    put_table(tmp_path / "pictures.csv", [{"file": f"a/{row}.png", "label": row % 2} for row in range(3)])
    pictures(tmp_path / "a", "0.png", "1.png", "2.png", "not_listed.png")
    shards(tmp_path / "shards")
    assert classes(tmp_path / "tables/test-00000-of-00001.parquet", "test") == ["emu", "cat", "dog", "dog"]
    assert classes(tmp_path / "pictures.csv") == ["0", "1", "0"]
    assert len(classes(tmp_path / "shards/train-000000.tar")) == 6
    assert len(classes(saved_to_disk(tmp_path / "saved") / "train")) == 6
    images = open_images(str(tmp_path / "pictures.csv"), PixelFormat(8), split="train")
    assert [(image.name, image.reason) for image in images.stream] == [(f"a/{row}.png", "") for row in range(3)]


# --- archives and lists of strangers ---------------------------------------------------------------------------------


def test_a_packed_class_or_split_beside_others(tmp_path):
    pictures(tmp_path, "train/cats/1.png", "train/dogs/2.png", "more/3.png", "test/cats/4.png")
    shutil.make_archive(str(tmp_path / "train/birds"), "zip", tmp_path / "more")
    shutil.make_archive(str(tmp_path / "train/dogs"), "zip", tmp_path / "train/dogs")  # unpacked, and left there
    shutil.rmtree(tmp_path / "more")
    assert classes(tmp_path) == ["birds", "cats", "dogs"]
    shutil.make_archive(str(tmp_path / "train/backup"), "zip", tmp_path / "train")
    assert f"{tmp_path} holds folders in train/backup.zip beside images that are not packed" in refused(tmp_path)


def test_members_of_an_archive_stay_in_it(tmp_path, monkeypatch):
    """Names that lead out of it are names alone: nothing is unpacked."""
    file = tmp_path / "data" / "pets.zip"
    file.parent.mkdir()
    monkeypatch.chdir(file.parent)
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("cats/1.png", "dogs/2.png", "../dogs/3.png", "/dogs/4.png", "__MACOSX/dogs/._1.png"):
            archive.writestr(name, encoded("train", 0))
    assert classes(file) == ["cats", "dogs", "dogs"]
    assert [each.name for each in file.parent.iterdir()] == ["pets.zip"] and [*tmp_path.iterdir()] == [file.parent]


def test_an_archive_that_is_none_or_too_large_is_a_sentence(tmp_path, monkeypatch):
    file = tmp_path / "pets.zip"
    file.write_bytes(b"no archive")
    assert f"{file} cannot be read (it is no ZIP file (" in refused(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cats/1.png", encoded("train", 0))
        archive.writestr("dogs/1.png", bytes(10_000))
    assert f"row 1 of split 'train' of {file}, zip://dogs/1.png::{file}, holds no image" in refused(file)
    monkeypatch.setattr(archives, "LARGEST_MEMBER", 9_999)
    assert "row 1 of split 'train'" in refused(file) and "more than 9,999 bytes, unpacked" in refused(file)
    content = bytearray(file.read_bytes())
    for start in (b"PK\x03\x04", b"PK\x01\x02"):  # as if it had a password
        at = content.find(start) + (6 if start[2] == 3 else 8)
        content[at] |= 1
    file.write_bytes(content)
    assert "cats/1.png in it has a password" in refused(file)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(
    "path",
    ["../secret.png", "{0}/secret.png", "a/../../secret.png", "file://{0}/secret.png", "~/secret.png", "none.png"],
)
def test_a_list_names_no_picture_outside_of_its_folder(tmp_path, path, alone):
    pictures(tmp_path, "secret.png", "data/a/1.png", "data/a/2.png")
    path = path.format(tmp_path)
    put_table(tmp_path / "data/l.csv", [{"path": "a/1.png", "label": "x"}, {"path": path, "label": "y"}])
    message = refused(tmp_path / "data/l.csv" if alone else tmp_path / "data")
    assert f"row 1 of l.csv names an image file, {path}, that is not in the folder" in message
    put_table(
        tmp_path / "data/l.csv", [{"path": "a/1.png", "label": "x"}, {"path": f"{tmp_path}/data/a/2.png", "label": "y"}]
    )
    assert classes(tmp_path / "data") == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "l.csv cannot be read (EmptyDataError: "),
        ("file,label\n", "l.csv has no rows"),
        ("1.png,a\n2.png,b\n", "the first line of l.csv is a row, 1.png: put a line of the names of columns above it"),
        ("id,label\n1,a\n2,b\n", "l.csv names no pictures: of its columns, id, label, none holds paths"),
        ("file,label\n1.png,a\n2.png,b\n3.png,\n4.png,\n", "row 2 of split 'train'"),
        ("file,label\n1.png,1\n2.png,\n3.png,2\n", "row 1 of split 'train'"),
        ("file,label\n1.png,a\n1.png,b\n", "1.png is twice in split 'train'"),
        ("file,label\n1.png,0.5\n2.png,1\n", "no ClassLabel column, nor one of text or whole numbers"),
        ("file,label\n1.png,a\n2.png,a\n", "names 1 classes: two are needed"),
    ],
)
def test_what_is_wrong_with_a_list(tmp_path, text, said):
    pictures(tmp_path, "1.png", "2.png", "3.png", "4.png")
    (tmp_path / "l.csv").write_text(text)
    assert said in refused(tmp_path)


def test_pictures_of_kaggle(tmp_path):
    """Lists name pictures by the ends of their paths; the test list has no labels, and predict.py needs none."""
    pictures(tmp_path, "train_images/1.png", "train_images/2.png", "test_images/3.png")
    assert "the 2 images of split 'train'" in refused(tmp_path)
    put_table(tmp_path / "train.csv", [{"id_code": "1.png", "label": 4}, {"id_code": "2.png", "label": 0}])
    put_table(tmp_path / "test.csv", [{"id_code": "3.png"}])
    put_table(tmp_path / "sample_submission.csv", [{"id_code": "3.png", "label": 1}])
    assert classes(tmp_path) == ["4", "0"]
    assert "no ClassLabel column, nor one of text or whole numbers" in refused(tmp_path, "test")
    assert [image.name for image in open_images(str(tmp_path), PixelFormat(8), split="test").stream] == [
        "test_images/3.png"
    ]


def test_a_list_of_predictions_beside_pictures_is_none_of_labels(tmp_path):
    pictures(tmp_path, "cats/1.png", "dogs/2.png")
    put_table(
        tmp_path / "predictions.csv", [{"ID": "cats/1.png", "Labels": "dogs"}, {"ID": "dogs/2.png", "Labels": "x"}]
    )
    assert classes(tmp_path) == ["cats", "dogs"]
    assert [image.name for image in open_images(str(tmp_path), PixelFormat(8)).stream] == ["cats/1.png", "dogs/2.png"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("cats/1.png", "cats", "train"), ("dogs/2.png", "dogs", "test")], "other splits (column split)"),
        ([("cats/1.png", "dogs"), ("dogs/2.png", "cats")], "other labels (column label)"),
        ([("cats/1.png", "tabby"), ("cats/3.png", "tiger"), ("dogs/2.png", "pug")], "other labels (column label)"),
        ([("cats/1.png", 0), ("dogs/2.png", 0)], "other labels (column label)"),
        ([("cats/1.png", "cats", "train"), ("dogs/2.png", "dogs", "train")], None),
        ([("cats/1.png", 1), ("cats/3.png", 1), ("dogs/2.png", 0)], None),
        ([("cats/1.png", "Cat"), ("dogs/2.png", "")], None),
        ([("elsewhere/1.png", "dogs", "test"), ("elsewhere/2.png", "cats", "test")], None),
    ],
)
@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
def test_a_list_that_says_otherwise_than_folders_of_classes_is_not_passed_over(tmp_path, name, rows, said):
    pictures(tmp_path, "cats/1.png", "dogs/2.png", "cats/3.png")
    columns = ("file_name", "label", "split")[: len(rows[0])]
    put_table(tmp_path / name, [dict(zip(columns, row, strict=True)) for row in rows])
    if said is None:
        assert classes(tmp_path) == ["cats", "cats", "dogs"]
        return
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path / name} gives pictures {said} than their folders: name it metadata")
    assert f"name it metadata{(tmp_path / name).suffix} if it is right" in message


def test_a_list_beside_folders_of_splits_is_held_against_them(tmp_path):
    pictures(tmp_path, *(f"{split}/{label}/1.png" for split in ("train", "test") for label in ("cats", "dogs")))
    records = [
        {"filepaths": f"{split}/{label}/1.png", "labels": label, "split": split}
        for split in ("train", "test") for label in ("cats", "dogs")
    ]  # fmt: skip
    put_table(tmp_path / "pets.csv", records)
    assert classes(tmp_path, "test") == ["cats", "dogs"]
    put_table(tmp_path / "pets.csv", [record | {"split": "valid"} for record in records])
    assert "pets.csv gives pictures other splits (column split)" in refused(tmp_path, "test")
    assert classes(tmp_path / "pets.csv", "validation") == ["cats", "dogs"] * 2  # as the sentence says
    (tmp_path / "pets.csv").rename(tmp_path / "metadata.csv")
    assert classes(tmp_path, "validation") == ["cats", "dogs"] * 2


def test_predictions_of_an_archive_have_the_names_of_its_pictures(tmp_path):
    pictures(tmp_path / "in", "b.png", "a/c.png")
    file = shutil.make_archive(str(tmp_path / "plain"), "zip", tmp_path / "in")
    assert [(image.name, image.reason) for image in open_images(file, PixelFormat(8)).stream] == [
        ("a/c.png", ""),
        ("b.png", ""),
    ]
    named = [
        image.name
        for image in open_images(packed(tmp_path, whole=True, around="p"), PixelFormat(8), split="validation").stream
    ]
    assert named == ["p/validation/dog/0.png", "p/validation/emu/1.png"]


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["zip with a folder around all", "webdataset, json"])
def test_training_reads_it(tmp_path, tiny_config_dir, layout):
    """Two steps, from a stream, and the same labels in what is saved."""
    name = str(LAYOUTS[layout](tmp_path / "pets"))
    flags = tiny_run_flags(tiny_config_dir, tmp_path / "run")
    more = [
        f"--dataset_name={name}", "--streaming=true", "--dataloader_num_workers=1", "--validation_size=0",
        "--total_train_batch_size=3", "--num_train_epochs=1", "--max_train_samples=6",
    ]  # fmt: skip
    folder = train(flags, *more)
    assert SlimResNetConfig.from_pretrained(folder).id2label == dict(enumerate(NAMES))
    assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == 2
