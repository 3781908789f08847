"""What is wrong with a dataset, a folder or a name on the Hub: each cause has a sentence of its own, and the flag."""

import importlib
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets.config
import numpy as np
import pytest
import torch
from conftest import write_dataset
from huggingface_hub import constants
from PIL import Image

import slimresnet.cli
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.sources.folders import read_folder
from slimresnet.data.sources.prediction import open_images
from slimresnet.data.sources.source import DatasetError
from slimresnet.formats.trained import ModelError, find_folder

PICTURE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def write(folder, *names):
    """Pictures under these names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PICTURE).save(folder / name)


@pytest.fixture
def pets(tmp_path):
    """Two classes in two splits."""
    folder = tmp_path / "pets"
    write(
        folder, *(f"{split}/{label}/{n}.png" for split in ("train", "test") for label in ("cat", "dog") for n in "12")
    )
    return folder


def labels_of(folder, split="train", **settings):
    opened = open_split(str(folder), split, image_size=8, **settings)
    (pixels,) = opened.images.read([np.arange(len(opened.labels))])
    assert len(pixels) == len(opened.labels)
    return [opened.label_names[label] for label in opened.labels]


def refused(folder, split="train", **settings):
    """The message that refuses it: one line."""
    with pytest.raises(DatasetError) as error:
        labels_of(folder, split, **settings)
    assert "\n" not in str(error.value) and "get it anew" not in str(error.value)
    return str(error.value)


# --- folders that work -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["my data [v2]", "[", "what*is?this", "{a,b}", "é ü"])
def test_a_folder_may_be_called_anything(pets, name):
    named = pets.rename(pets.with_name(name))
    assert labels_of(named, "train") == labels_of(named, "test") == ["cat", "cat", "dog", "dog"]


def test_what_is_seen_is_the_same_under_either_search(pets):
    """Files, their order and their splits, since a fingerprint is of them."""
    write(pets, "train/cat/a/../10.png", "val/dog/3.png", "val/cat/3.png", "other/cat/1.png")
    expected = {split: open_split(str(pets), split, image_size=8).fingerprint for split in ("train", "validation")}
    named = pets.rename(pets.with_name("[v2]"))
    assert expected == {split: open_split(str(named), split, image_size=8).fingerprint for split in expected}


@pytest.mark.parametrize("linked", ["train/dog", "test", "train/cat", "."])
def test_links_to_folders_are_followed(pets, tmp_path, linked):
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(pets / linked, tmp_path / "elsewhere" / "kept")
    (pets / linked).symlink_to(moved, target_is_directory=True)
    assert labels_of(pets, "train") == labels_of(pets, "test") == ["cat", "cat", "dog", "dog"]


def test_a_link_upwards_has_an_end(pets):
    (pets / "train" / "again").symlink_to(pets, target_is_directory=True)
    (pets / "train" / "cat" / "here").symlink_to(pets / "train" / "cat", target_is_directory=True)
    assert labels_of(pets) == ["cat", "cat", "dog", "dog"]


def test_parquet_and_its_splits_in_a_folder_with_brackets(tmp_path):
    folder = tmp_path / "[1]"
    for split in ("train", "test"):
        write_dataset(folder, split, [PICTURE] * 3, [0, 1, 1], ["cat", "dog"])
    assert labels_of(folder, "test") == ["cat", "dog", "dog"]


# --- folders that do not ---------------------------------------------------------------------------------------------


def test_packed_splits(pets, tmp_path):
    for split in ("train", "test"):
        shutil.make_archive(str(tmp_path / "packed" / split), "gztar", pets / split)
    message = refused(tmp_path / "packed")
    assert "holds packed files (" in message and "unpack them" in message and "train/cat/1.png" in message


def test_a_packed_split_beside_another(pets):
    shutil.make_archive(str(pets / "train"), "gztar", pets / "train")
    shutil.rmtree(pets / "train")
    assert "no split 'train', only test. It holds packed files (train.tar.gz)" in refused(pets)
    assert labels_of(pets, "test") == ["cat", "cat", "dog", "dog"]


def test_a_packed_class(pets):
    shutil.make_archive(str(pets / "train" / "birds"), "gztar", pets / "train" / "dog")
    assert "holds packed files (train/birds.tar.gz)" in refused(pets)


def test_two_folders_for_one_split(pets):
    for name in ("Val", "valid"):
        shutil.copytree(pets / "test", pets / name)
    assert f"{pets} has several folders for split 'validation', Val, valid: leave one" in refused(pets)


def test_a_missing_split_lists_those_there(pets):
    (pets / "test").rename(pets / "val")
    message = refused(pets, "test")
    assert (
        "has no split 'test', only train, validation" in message and "--test_split" in message and "--split" in message
    )
    (pets / "train").rename(pets / "test")
    assert "has no split 'train', only validation, test: training reads the one called train" in refused(pets)
    assert "cannot be streamed" in refused(pets, "test[:10]")


def test_one_split_for_all(tmp_path):
    write(tmp_path, "cat/1.png", "dog/1.png")
    assert "has no split 'test', only train" in refused(tmp_path, "test")


def test_an_unlabelled_test_folder(pets):
    shutil.rmtree(pets / "test")
    write(pets, "test/1.png", "test/2.png")
    assert "the 2 images of split 'test'" in refused(pets, "test") and "(test/1.png)" in refused(pets, "test")
    assert labels_of(pets) == ["cat", "cat", "dog", "dog"]


@pytest.mark.parametrize("name", ["train/3.png", "3.png"])
def test_uneven_depth(pets, name):
    write(pets, name)
    if name == "3.png":  # of no split
        assert labels_of(pets) == ["cat", "cat", "dog", "dog"]
        return
    message = refused(pets)
    assert "lie at different depths" in message and name in message and "train/cat/1.png" in message


def test_one_class(pets):
    for split in ("train", "test"):
        shutil.rmtree(pets / split / "dog")
    assert "all 4 images" in refused(pets) and "one class, cat" in refused(pets)


def test_images_outnumbered(pets):
    for number in range(20):
        (pets / "train" / "cat" / f"{number}.json").write_text("{}")
    assert labels_of(pets) == ["cat", "cat", "dog", "dog"]


def test_a_class_without_images(pets):
    (pets / "train" / "bird").mkdir()
    assert "folder beside those of classes that holds no images, train/bird (empty): put images" in refused(pets)
    (pets / "train" / "bird" / "1.heic").touch()
    assert "train/bird (.heic 1): put images of a format that is read into it, or take it away" in refused(pets)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "is an empty folder"),
        (["a.docx", ".b", "c/d.docx"], "only others (.docx 2, hidden 1)"),
        (["a.txt", "b.txt"], "only others (.txt 2)"),
        (["a.csv"], "a.csv names no pictures: of its columns, text, none holds paths"),
    ],
)
def test_no_images(tmp_path, names, said):
    folder = tmp_path / "files"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("text\n1")
    assert said in refused(folder) and "train/cat/1.png" in refused(folder)


@pytest.mark.parametrize("cut", [60, 10])
@pytest.mark.parametrize("resident", [False, True])
def test_a_truncated_picture_is_named_by_its_file(pets, cut, resident):
    file = pets / "train" / "dog" / "1.jpg"
    Image.fromarray(PICTURE).save(file)
    file.write_bytes(file.read_bytes()[:cut])
    message = refused(pets, resident_on=torch.device("cpu") if resident else None)
    assert f"row 2 of split 'train' of {pets}, {file}, holds no image that can be decoded" in message


def test_configurations_are_chosen_among(pets):
    (pets / "README.md").write_text(
        "---\nconfigs:\n- config_name: small\n  data_files:\n  - split: train\n    path: train/**\n"
        "- config_name: large\n  data_files:\n  - split: train\n    path: test/**\n---\n"
    )
    assert "has 2 configurations, small, large: choose one with --dataset_config_name" in refused(pets)
    assert "--dataset_config_name smal is no configuration" in refused(pets, config_name="smal")
    assert labels_of(pets, config_name="large") == ["cat", "cat", "dog", "dog"]
    (pets / "README.md").write_text("# Pets\n")  # a README that says nothing of files
    assert labels_of(pets) == ["cat", "cat", "dog", "dog"]


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="file names are text there")
def test_names_that_are_no_text(pets):
    os.rename(pets / "train" / "cat" / "1.png", os.fsencode(pets / "train" / "cat") + b"/\xff.png")
    message = refused(pets)
    assert f"has a name that is no UTF-8 ({pets}/train/cat/\\xff.png): rename" in message and message.isprintable()
    write(pets, "train/cat/1.png")
    os.rename(pets / "test" / "cat", os.fsencode(pets / "test") + b"/\xe4")
    for split in ("train", "test"):
        assert "rename" in refused(pets, split) and refused(pets, split).isprintable()
    named = pets.rename(os.fsdecode(os.fsencode(pets) + b"\xff"))
    assert f"--dataset_name {pets}\\xff has a name that is no UTF-8" in refused(named)


def test_a_folder_that_cannot_be_looked_into(pets, monkeypatch):
    """Root may look into all."""
    look = os.scandir

    def scandir(path):
        if os.fspath(path) == str(pets / "train" / "dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert f"({pets / 'train' / 'dog'}: Permission denied)" in refused(pets)


@pytest.mark.parametrize("name", ["pets", "[pets]"])
def test_a_cache_that_cannot_be_written_to(tmp_path, monkeypatch, name):
    (tmp_path / "file").touch()
    folder = tmp_path / name
    write_dataset(folder, "train", [PICTURE] * 2, [0, 1], ["cat", "dog"])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    message = refused(folder)
    assert f"the cache of `datasets`, {tmp_path / 'file' / 'cache'}, cannot be written to (" in message
    assert "set HF_DATASETS_CACHE" in message and "is no folder" not in message


def test_a_file_and_a_name_that_is_nearly_right(pets):
    write(pets.parent, "one.png")
    assert "is a file: give the folder that holds it" in refused(pets.parent / "one.png")
    assert f"is not there (is {pets} meant?)" in refused(pets.parent / "petts")
    assert f"is not there (is {pets / 'train'} meant?)" in refused(pets / "trian" / "cat")
    assert "--dataset_name is empty" in refused("")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionResetError("reset by peer"), "since the connection broke (ConnectionResetError: reset by peer)"),
        (PermissionError(13, "Permission denied", "/a.png"), "cannot be read: /a.png: Permission denied."),
        (RuntimeError("a riddle"), "(RuntimeError: a riddle)"),
    ],
)
def test_what_breaks_while_rows_are_read(pets, monkeypatch, error, said):
    def broken(*_, **__):
        raise error
        yield

    monkeypatch.setattr("datasets.IterableDataset.iter", broken)
    with pytest.raises(DatasetError) as raised:
        open_split(str(pets), "train", image_size=8)
    assert said in str(raised.value) and f"split 'train' of {pets}" in str(raised.value)


# --- predict.py ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pest/1.png", "1.png", "none.pkl", "/no/such", "./pets2"])
def test_a_mistyped_picture(name):
    with pytest.raises(DatasetError) as error:
        open_images(name, PixelFormat(8))
    assert f"INPUT {name} is not there" in str(error.value) and "train on" not in str(error.value)


def test_a_nearly_right_picture(pets):
    with pytest.raises(DatasetError, match=r"is not there \(is .*/1\.png meant\?\)"):
        open_images(str(pets / "train" / "cat" / "1.pmg"), PixelFormat(8))


def test_a_mistyped_dataset_for_predict():
    with pytest.raises(DatasetError) as error:
        open_images("user/images", PixelFormat(8))
    assert "INPUT user/images is no folder here, and HF_HUB_OFFLINE is set" in str(error.value)
    assert "--dataset_name" not in str(error.value) and "train on" not in str(error.value)


def test_what_is_no_picture_is_passed_over_and_counted(tmp_path):
    folder = tmp_path / "pictures"
    write(folder, "a.png", "b/a.JPG", "z.png/inside.png", ".hidden.png", ".ipynb_checkpoints/a.png", "__MACOSX/c.png")
    for name in ("._a.png", "a.pdf", "b.pdf", "film.mp4", "film.mpg", "b/notes", ".c/x.parquet"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"junk")
    (folder / "empty.png").mkdir()
    images = open_images(str(folder), PixelFormat(8))
    assert images.passed_over == (
        f"passed over 12 entries of {folder}, which are no pictures (hidden 5, .pdf 2, without an ending 1, "
        ".mp4 1, .mpg 1, folders named like pictures 2)"
    )
    read = list(images.stream)
    assert [image.name for image in read] == ["a.png", "b/a.JPG", "z.png/inside.png"] and images.count == 3
    assert all(image.pixels is not None for image in read)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_pipes_and_links_to_nothing_are_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nothing.png")
    read = list(open_images(str(tmp_path), PixelFormat(8)).stream)
    assert [(image.name, image.reason) for image in read] == [
        (name, "it is no file, or a link to none") for name in ("a.png", "b.png")
    ]
    with pytest.raises(DatasetError, match="neither a file nor a folder"):
        open_images(str(tmp_path / "a.png"), PixelFormat(8))


def test_folders_are_read_in_the_order_of_their_paths(tmp_path):
    write(tmp_path, "a/b.png", "a.png", "a-b.png", "B.png")
    assert read_folder(tmp_path).names == ["B.png", "a/b.png", "a-b.png", "a.png"]


@pytest.mark.parametrize("count", [15, 40])
def test_links_that_multiply_are_named(tmp_path, count):
    """Each folder has two links to the next: 2¹⁵ ways to the last of 15, and no end of 40."""
    data = tmp_path / "data"
    write(data, "start/cat/a.png", "start/dog/b.png", *(f"all/{number}/c.png" for number in range(count)))
    for before, number in zip(["start", *(f"all/{number}" for number in range(count))], range(count), strict=False):
        for name in ("x", "y"):
            (data / before / name).symlink_to(data / "all" / str(number), target_is_directory=True)
    said = rf"{data} cannot be read \({data}/.*: links lead to this folder in more than 64 ways\)"
    with pytest.raises(DatasetError, match=f"--dataset_name {said}: give a folder that can"):
        open_split(str(data), "train", image_size=8)
    with pytest.raises(DatasetError, match=f"INPUT {said}"):
        open_images(str(data), PixelFormat(8))


def test_many_links_to_one_folder_are_read_and_none_to_what_is_around(tmp_path):
    data = tmp_path / "data"
    write(data, "train/cat/a.png")
    write(tmp_path, "beside.png")
    for number in range(30):
        (data / "train" / str(number)).symlink_to(data / "train" / "cat", target_is_directory=True)
    (data / "up").symlink_to(tmp_path, target_is_directory=True)
    folder = read_folder(data)
    assert folder.names == sorted(["train/cat/a.png", *(f"train/{number}/a.png" for number in range(30))])
    assert "up" in folder.subfolders


# --- the Hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def answering(monkeypatch, tmp_path):
    """Has the Hub answer every request alike."""
    servers = []

    def start(status, code=""):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("X-Error-Message", "the test says so")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        point_at(f"http://127.0.0.1:{server.server_port}")

    def point_at(url):
        for module, name in ((constants, "ENDPOINT"), (datasets.config, "HF_ENDPOINT")):
            monkeypatch.setattr(module, name, url)

    for module in (constants, datasets.config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between tries
    start.point_at = point_at
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, "RepoNotFound", "that you may read: correct the name"),
        (401, "RepoNotFound", "that you may read: correct the name"),
        (403, "GatedRepo", "only to those who ask"),
        (401, "GatedRepo", "only to those who ask"),
        (404, "RevisionNotFound", "no such revision"),
        (500, "", "the Hub failed"),
    ],
)
def test_what_the_hub_answers(answering, status, code, said):
    answering(status, code)
    message = refused("user/images")
    assert message.startswith("--dataset_name user/images is no folder here, and the Hub") and said in message
    with pytest.raises(ModelError) as error:
        find_folder("user/model")
    assert str(error.value).startswith("MODEL user/model is no folder here, and the Hub") and said in str(error.value)


def test_a_hub_that_is_not_there(answering):
    answering.point_at("http://127.0.0.1:9")
    said = "the Hub at http://127.0.0.1:9 cannot be reached"
    assert said in refused("user/images")
    with pytest.raises(ModelError, match=said):
        find_folder("user/model")


def test_a_hub_that_is_not_asked():
    assert "HF_HUB_OFFLINE is set" in refused("user/images") and "unset it" in refused("user/images")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        find_folder("user/model")


def test_a_name_that_the_hub_cannot_have():
    assert "it cannot be the name of a dataset on the Hub" in refused("user/my images!")
    with pytest.raises(ModelError, match="it cannot be the name of a model on the Hub"):
        find_folder("user/my model!")


def test_without_the_extras_a_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "accelerate" else name)
    with pytest.raises(SystemExit, match=r'^slimresnet: error: accelerate missing: pip install "slimresnet\[train\]"'):
        importlib.reload(slimresnet.cli)
