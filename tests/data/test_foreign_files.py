"""Files of strangers are data: whatever lies in a checkpoint or a model's folder, none of our tools runs it."""

import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path
from unittest.mock import patch

import pyarrow
import pyarrow.parquet
import pytest
import torch
from accelerate import Accelerator
from conftest import SAMPLE, tiny_run_flags
from datasets import ClassLabel, Features, load_dataset_builder
from datasets import Image as ImageFeature
from datasets.data_files import DataFilesDict, DataFilesList
from PIL import Image
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from training_runs import assert_same_weights, read, train

from modeling_slimresnet.__main__ import main as print_table
from slimresnet.api.evaluate import evaluate
from slimresnet.api.export import export
from slimresnet.api.predict import predict
from slimresnet.data.sources.arrays import open_arrays
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.decoding import PixelFormat, read_bytes
from slimresnet.data.sources.prediction import open_images
from slimresnet.data.sources.source import DatasetError
from slimresnet.formats.trained import ModelError, load_model
from slimresnet.hub.files import collect
from slimresnet.hub_errors import HubError
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.checkpoints import CheckpointError, list_checkpoints, write_checksums
from slimresnet.run_folder.names import CHECKSUMS_NAME
from slimresnet.training.network import load_network_config
from slimresnet.training.state.checkpoints import Checkpoints
from slimresnet.training.state.progress import Progress
from slimresnet.training.state.state import TrainingState


class Payload:
    """What an unpickler that trusts its file runs: it makes a folder, the marker."""

    def __init__(self, marker: Path):
        self._marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self._marker),)


@pytest.fixture(params=["pickle", "torch"])
def write_payload(request, tmp_path):
    """Writes a file that marks `tmp_path / "marker"` where it is unpickled."""
    marker = tmp_path / "marker"

    def write(file: Path) -> None:
        if request.param == "torch":
            torch.save({"state": Payload(marker)}, file)
        else:
            file.write_bytes(pickle.dumps(Payload(marker), 2))

    yield write
    assert not marker.exists()


def test_the_payload_would_fire(tmp_path):
    torch.save(Payload(tmp_path / "one"), tmp_path / "file")
    torch.load(tmp_path / "file", weights_only=False)
    pickle.loads(pickle.dumps(Payload(tmp_path / "two")))
    assert (tmp_path / "one").is_dir() and (tmp_path / "two").is_dir()


@pytest.fixture(scope="module")
def written(tmp_path_factory, tiny_config_dir):
    """A checkpoint of an averaged run that keeps its best weights, its flags, and the whole run to compare with."""
    folder = tmp_path_factory.mktemp("written") / "run"
    flags = [*tiny_run_flags(tiny_config_dir, folder), "--ema_decay=0.9", "--load_best_model_at_end"]
    train(flags)
    return folder / "checkpoint-14", flags, folder


def resume(written, checkpoint, tmp_path):
    checkpoint.joinpath(CHECKSUMS_NAME).unlink()
    write_checksums(checkpoint)
    return train(written[1], f"--output_dir={tmp_path / 'resumed'}", f"--resume_from_checkpoint={checkpoint}")


READ = {
    "model.safetensors", "averaged.safetensors", "best.safetensors", "optimizer.bin", "progress.json", "run.json",
    "custom_checkpoint_0.pkl",  # of earlier versions, which had accelerate write it
}  # fmt: skip
UNREAD = {  # what accelerate would look for, and what is there for people
    "custom_checkpoint_1.pkl", "random_states_0.pkl", "scaler.pt", "scheduler.bin", "sampler.bin", "dl_state_dict.bin",
    "pytorch_model.bin", "trainer_state.json",
}  # fmt: skip


def test_nothing_in_a_checkpoint_is_run(written, tmp_path, write_payload):
    assert {file.name for file in written[0].iterdir()} <= READ | UNREAD | {CHECKSUMS_NAME}
    for name in READ:
        checkpoint = Path(shutil.copytree(written[0], tmp_path / "checkpoint-14"))
        write_payload(checkpoint / name)
        with pytest.raises(
            CheckpointError, match=r"checkpoint-14 cannot be (loaded|told to be of this run)"
        ) as refused:
            resume(written, checkpoint, tmp_path)
        assert "\n" not in str(refused.value)
        shutil.rmtree(checkpoint)
    checkpoint = Path(shutil.copytree(written[0], tmp_path / "checkpoint-14"))
    for name in UNREAD:
        write_payload(checkpoint / name)
    assert_same_weights(resume(written, checkpoint, tmp_path), written[2])


@pytest.mark.parametrize("machine", [None, {}, {"device": 3, "processor": "x"}])
def test_a_checkpoint_that_does_not_say_what_it_is_of_is_refused(written, tmp_path, machine):
    checkpoint = Path(shutil.copytree(written[0], tmp_path / "checkpoint-14"))
    run = read(checkpoint, "run.json") | {"machine": machine}
    (checkpoint / "run.json").unlink()
    if machine is not None:
        (checkpoint / "run.json").write_text(json.dumps(run))
    with pytest.raises(CheckpointError, match=r"checkpoint-14 cannot be told to be of this run \("):
        resume(written, checkpoint, tmp_path)


def test_a_checkpoint_whose_very_folder_cannot_be_made_is_a_sentence(state, tmp_path):
    checkpoints = Checkpoints(None, state, tmp_path / "replacement", None, keep=None)
    error = checkpoints._write_error(tmp_path / "replacement/unfinished/checkpoint-1", OSError("no room"))
    assert "no checkpoint could be written to" in str(error) and "are free there" in str(error)


@pytest.fixture
def state():
    """Of a small network behind a step, with all that a state may have."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    progress = Progress(steps_per_epoch=5, max_steps=10)
    progress.best_weights = {"weight": torch.ones(1)}
    return TrainingState(model, optimizer, progress, averaged, torch.amp.GradScaler("cpu"))


def test_nothing_in_the_state_of_a_loss_scaler_is_run(state, tmp_path, write_payload):
    state.save(tmp_path)
    state.load(tmp_path)
    for name in {file.name for file in tmp_path.iterdir()}:
        content = (tmp_path / name).read_bytes()
        write_payload(tmp_path / name)
        with pytest.raises(Exception, match=r"."):
            state.load(tmp_path)
        (tmp_path / name).write_bytes(content)
    assert (tmp_path / "scaler.pt").is_file()


@pytest.mark.parametrize("edit", [{"global_step": "7"}, {"load_state_dict": 1}, {"log_history": None}])
def test_a_progress_of_another_kind_is_refused(edit):
    progress = Progress(steps_per_epoch=5, max_steps=10)
    with pytest.raises(ValueError, match=f"does not say where the run stood: {next(iter(edit))}"):
        progress.load_state_dict(progress.state_dict() | edit)
    assert progress.global_step == 0


def test_a_checkpoint_of_an_earlier_version_goes_on(written, tmp_path):
    """Its states are pickles of tensors and numbers, which are read without running them."""
    checkpoint = Path(shutil.copytree(written[0], tmp_path / "checkpoint-14"))
    progress = read(checkpoint, "progress.json") | {"best_weights": load_file(checkpoint / "best.safetensors")}
    torch.save(progress, checkpoint / "custom_checkpoint_0.pkl")
    torch.save(load_file(checkpoint / "averaged.safetensors"), checkpoint / "custom_checkpoint_1.pkl")
    for name in ("progress.json", "best.safetensors", "averaged.safetensors"):
        (checkpoint / name).unlink()
    assert_same_weights(resume(written, checkpoint, tmp_path), written[2])


def test_other_accumulation_takes_whole_steps_from_a_checkpoint_on(written, tmp_path, monkeypatch):
    """accelerate's own count of batches, which it keeps in a checkpoint, is of the accumulation that was."""
    folder = train(written[1], f"--output_dir={tmp_path / 'odd'}", "--max_train_steps=9", "--checkpointing_steps=7")
    [checkpoint] = list_checkpoints(folder)
    done = []
    step, backward = torch.optim.SGD.step, Accelerator.backward
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *rest: (done.append("step"), step(self, *rest))[1])
    monkeypatch.setattr(Accelerator, "backward", lambda self, loss: (done.append("batch"), backward(self, loss))[1])
    train(written[1], f"--output_dir={tmp_path / 'resumed'}", "--max_train_steps=9",
          "--gradient_accumulation_steps=2", "--per_device_train_batch_size=16",
          f"--resume_from_checkpoint={checkpoint}")  # fmt: skip
    assert done == ["batch", "batch", "step"] * 2


@pytest.fixture
def foreign(trained, tmp_path, monkeypatch):
    """A finished folder whose every name of code leads to a program that makes the marker; nobody answers questions."""
    folder = Path(shutil.copytree(trained, tmp_path / "model"))
    marker = tmp_path / "marker"
    program = f"import os\nos.mkdir({str(marker)!r})\n"
    for name in ("evil", "configuration_slimresnet", "modeling_slimresnet", "slimresnet", "__init__"):
        (folder / f"{name}.py").write_text(program)
    edit_json(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Evil"})
    classes = ("AutoConfig", "AutoModel", "AutoModelForImageClassification", "AutoImageProcessor")
    edit_json(folder / "config.json", auto_map=dict.fromkeys(classes, "evil.Evil"))
    for name in ("pytorch_model.bin", "model.pt2", "onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        torch.save(Payload(marker), folder / name)
    shards = {"metadata": {}, "weight_map": {"classifier.bias": "pytorch_model.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "evil", "peft_type": "LORA"}))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    yield folder
    assert not marker.exists()


def edit_json(file, **edits):
    file.write_text(json.dumps(json.loads(file.read_text()) | edits))


def tools(folder, tmp_path):
    """Each tool that takes a model's folder, by name."""
    output = tmp_path / "output"
    table = ["modeling_slimresnet", str(folder)]
    return {
        "eval": lambda: evaluate(folder, dataset_name=str(SAMPLE)),
        "predict": lambda: predict(folder, SAMPLE, output=f"{output}.csv"),
        "export": lambda: export(folder, output_dir=output),
        "push": lambda: collect(folder, "user/name", overwrite_card=True),
        "table": lambda: patch("sys.argv", table)(print_table)(),
        "train": lambda: load_network_config(Recipe(config_name=str(folder))),
    }


def test_no_code_of_a_models_folder_is_run(foreign, tmp_path):
    for tool in tools(foreign, tmp_path).values():
        tool()
    edit_json(foreign / "config.json", quantization_config={"quant_method": "evil"})  # packages have code too
    load_model(foreign)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_folder_that_is_only_to_be_had_as_code_is_refused(foreign, tmp_path, name):
    """Its network or its processor is of no kind that is known here, or its weights are a pickle."""
    if name == "config.json":
        edit_json(foreign / name, model_type="evil")
    elif name == "preprocessor_config.json":
        edit_json(foreign / name, image_processor_type="Evil")
    else:
        (foreign / name).unlink()
    for kind, tool in tools(foreign, tmp_path).items():
        if (kind in ("table", "train")) == (name == "config.json") or kind in ("eval", "predict", "export", "push"):
            with pytest.raises((ModelError, HubError, RecipeError, SystemExit)) as refused:
                tool()
            assert "\n" not in str(refused.value) and "trust_remote_code" not in str(refused.value)
            if name == "model.safetensors":
                assert "no model.safetensors" in str(refused.value)


def test_no_file_of_a_models_folder_is_unpickled(foreign, trained, tmp_path, write_payload):
    for name in ("config.json", "preprocessor_config.json", "model.safetensors", "recipe.yaml", "all_results.json"):
        content = (foreign / name).read_bytes()
        write_payload(foreign / name)
        for kind, tool in tools(foreign, tmp_path).items():
            if kind == "push" or (name in ("config.json", "model.safetensors") and kind not in ("table", "train")):
                with pytest.raises((ModelError, HubError, RecipeError)) as refused:
                    tool()
                assert "\n" not in str(refused.value)
        (foreign / name).write_bytes(content)


def write_foreign(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_no_file_of_a_dataset_is_run(tmp_path):
    marker = tmp_path / "marker"
    payload = pickle.dumps(Payload(marker), 2)
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    objects = b"\x93NUMPY\x01\x00\x76\x00" + header + pickle.dumps([Payload(marker)], 2)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for suffix in ("pyd", "pickle", "pkl", "pth", "npy"):
            member = tarfile.TarInfo(f"0.{suffix}")
            member.size = len(payload)
            tar.addfile(member, io.BytesIO(payload))
    call = f"!!python/object/apply:os.mkdir ['{marker}']"
    folders = {
        "pickle": {"train.pkl": payload, "train.pickle": payload},
        "program": {"program.py": f"import os; os.mkdir({str(marker)!r})".encode(), "train.csv": b"image\n1\n"},
        "tensors": {"train/a.pt": payload, "train/a.pth": payload},
        "archive": {"train.tar": archive.getvalue()},
        "yaml": {"README.md": f"---\nconfigs: {call}\n---\n".encode(), "train.csv": b"image\n1\n"},
    }
    for name, files in folders.items():
        folder = write_foreign(tmp_path / name, files)
        with pytest.raises(DatasetError):
            open_split(str(folder), "train", image_size=8)
        with pytest.raises(DatasetError):
            open_images(str(folder), PixelFormat(8))
    arrays = write_foreign(tmp_path / "arrays", {"fog.npy": objects, "labels.npy": objects})
    with pytest.raises(DatasetError, match="is no NumPy array"):
        open_arrays(arrays, PixelFormat(8), ["a", "b"])
    assert not marker.exists()


def test_a_row_names_no_file_outside_of_its_dataset(tmp_path, monkeypatch):
    """It would come into a figure, and with that to the Hub."""
    secret, data = tmp_path / "secret.png", tmp_path / "data"
    Image.new("RGB", (8, 8)).save(secret)
    data.mkdir()
    shutil.copy(secret, data / "own.png")
    for archive in (data / "own.zip", tmp_path / "secret.zip"):
        with zipfile.ZipFile(archive, "w") as file:
            file.write(secret, "in/it.png")
    (data / "own.png.gz").write_bytes(gzip.compress(secret.read_bytes()))
    features = Features({"img": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    monkeypatch.chdir(data)  # where any name that is relative would seem to lie inside
    monkeypatch.setenv("HOME", str(tmp_path))

    def write(place):
        image = pyarrow.array([{"bytes": None, "path": place}] * 2, features.arrow_schema.field("img").type)
        table = pyarrow.table([image, [0, 1]], schema=features.arrow_schema)
        pyarrow.parquet.write_table(table, data / "train.parquet")

    outside = [
        str(secret), f"file://{secret}", f"file:{secret}", "https://localhost:1/secret.png", f"{data}/../secret.png",
        "~/secret.png", "\0", f"{secret}::{data}/own.png", f"file://{secret}::{data}/own.png",
        f"https://localhost:1/secret.png::{data}/own.png", f"zip://in/it.png::{tmp_path}/secret.zip",
        f"{secret}::zip://in/it.png::{data}/own.zip", f"zip://in/it.png::{tmp_path}/secret.zip::{data}/own.zip",
        "simplecache::https://localhost:1/secret.png", f"simplecache::{data}/own.png", "zip://in/it.png",
    ]  # fmt: skip
    for place in outside:
        write(place)
        for read_it in (
            lambda: open_split(str(data), "train", image_size=8),
            lambda: next(open_images(str(data), PixelFormat(8), split="train").stream),
        ):
            with pytest.raises(DatasetError, match=r"row 0 of .* names an image file outside of the dataset, ") as said:
                read_it()
            assert place in str(said.value)
    inside = [str(data / "own.png"), "own.png", f"zip://in/it.png::{data}/own.zip", f"gzip://it::{data}/own.png.gz"]
    for place in inside:
        write(place)
        assert open_split(str(data), "train", image_size=8).labels.tolist() == [0, 1]
        assert [image.reason for image in open_images(str(data), PixelFormat(8), split="train").stream] == ["", ""]


@pytest.mark.parametrize("name", ["a/1.png::{}::x.png", "a/1.png::{}", "a/1.png::file://{}"])
def test_a_member_of_a_zip_file_is_read_from_that_file_alone(tmp_path, name):
    """fsspec takes `::` in a member's name for the way to another file."""
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    secret, data = tmp_path / "secret.zip", tmp_path / "data"
    data.mkdir()
    for archive, members in ((secret, ["a/1.png"]), (data / "all.zip", ["a/2.png", "b/1.png", name.format(secret)])):
        with zipfile.ZipFile(archive, "w") as file:
            for member in members:
                file.writestr(member, picture.getvalue())
    for source in (data, data / "all.zip"):
        for read_it in (
            lambda source=source: open_split(str(source), "train", image_size=8),
            lambda source=source: open_images(str(source), PixelFormat(8)),
        ):
            with pytest.raises(DatasetError) as said:
                read_it()
            assert f"all.zip cannot be read ({name.format(secret)} in it has :: in its name" in str(said.value)
    place = f"zip://{name.format(secret)}::{data / 'all.zip'}"
    with pytest.raises(ValueError, match="names no ZIP file"):  # were it listed after all
        read_bytes({"bytes": None, "path": place})


def test_a_zip_file_may_lie_in_a_folder_of_any_name(tmp_path):
    folder = tmp_path / "my::data"
    folder.mkdir()
    with zipfile.ZipFile(folder / "all.zip", "w") as file:
        for name in ("a/1.png", "b/1.png"):
            picture = io.BytesIO()
            Image.new("RGB", (8, 8)).save(picture, "PNG")
            file.writestr(name, picture.getvalue())
    assert open_split(str(folder / "all.zip"), "train", image_size=8).labels.tolist() == [0, 1]


@pytest.mark.parametrize("form", ["{}", "file://{}", "zip://in.png::{}", "{}::https://localhost:1/file"])
def test_a_dataset_of_the_hub_has_no_file_of_this_machine(tmp_path, monkeypatch, form):
    """Its README.md says which files it has, and `datasets` looks for them where it says."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    place = form.format(secret)
    builder = load_dataset_builder("imagefolder", data_files=DataFilesDict(train=DataFilesList([place], [])))
    monkeypatch.setattr("slimresnet.data.sources.builder.load_dataset_builder", lambda *_, **__: builder)
    for read_it, flag in (
        (lambda: open_split("user/images", "train", image_size=8), "--dataset_name"),
        (lambda: open_images("user/images", PixelFormat(8), split="train"), "INPUT"),
    ):
        with pytest.raises(DatasetError) as said:
            read_it()
        assert f"{flag} user/images is on the Hub, but its README.md names a file of this machine, {place}, under" in (
            str(said.value)
        )
