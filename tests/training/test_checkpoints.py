"""A checkpoint is whole or refused, of this run or refused, and never lost to a newer one that failed."""

import dataclasses
import json
import os
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import SAMPLE, tiny_run_flags, write_dataset
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from training_runs import SECONDS, assert_same_weights, read, snapshot, start, train

from modeling_slimresnet import SlimResNetConfig
from slimresnet.cli import train as train_script
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.checkpoints import (
    CheckpointError,
    find_checkpoint,
    find_damage,
    list_checkpoints,
    write_checksums,
)
from slimresnet.run_folder.names import CHECKSUMS_NAME, FINGERPRINT_NAME
from slimresnet.training.state.checkpoints import Checkpoints
from slimresnet.training.state.fingerprint import RunFingerprint

# Every setting, with a value that is not its default: what the weights depend on, …
DECISIVE = {
    "validation_size": 100, "test_size": 100, "max_train_samples": 100, "max_eval_samples": 100,
    "shuffle_buffer_size": 100,
    "image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.2, 0.1], "trivial_augment": True, "crop_padding": 2,
    "crop_padding_mode": "reflect", "horizontal_flip_prob": 0.4, "alternating_flip": True, "vertical_flip_prob": 0.1,
    "gaussian_blur_prob": 0.1, "gaussian_blur_sigma": [0.2, 1.0], "random_erasing_prob": 0.1,
    "random_erasing_area": [0.1, 0.3], "cutmix_prob": 0.1, "cutmix_alpha": 0.5, "label_smoothing_factor": 0.1,
    "num_light_augmentation_epochs": 1, "num_final_light_augmentation_epochs": 1, "progressive_resizing": ["24:0.5"],
    "trivial_augment_translation": 4, "mixup_prob": 0.1, "mixup_alpha": 0.5, "augmented_copies": 2,
    "stem_initialization": "whitening", "num_train_epochs": 7, "max_train_steps": 7, "total_train_batch_size": 64,
    "distillation_temperature": 2.0, "distillation_alpha": 0.5,
    "optim": "muon", "learning_rate": 0.2, "muon_learning_rate": 0.1, "muon_weight_decay": 0.1, "momentum": 0.8,
    "nesterov": True, "weight_decay": 0.1, "norm_bias_learning_rate": 0.3, "decay_norm_and_bias": False,
    "lr_scheduler_type": "linear", "lr_milestones": [0.3], "lr_gamma": 0.2, "warmup_steps": 5.0, "sam_rho": 0.1,
    "num_final_sam_epochs": 2, "ema_decay": 0.9, "ema_batchnorm": "recompute", "sync_batchnorm": True, "seed": 7,
    "load_best_model_at_end": True, "resize_mode": "pad", "balanced_sampling": True,
    "metric_for_best_model": "macro_f1", "early_stopping_patience": 2, "early_stopping_threshold": 0.1,
    "freeze": "stem", "trunk_learning_rate_factor": 0.1,
}  # fmt: skip
# … what only their last bits depend on, …
ROUNDING = {
    "per_device_train_batch_size": 64, "per_device_eval_batch_size": 64, "gradient_accumulation_steps": 2,
    "mixed_precision": "bf16", "channels_last": True, "torch_compile": True, "torch_compile_mode": "max-autotune",
    "fused_batchnorm": True, "cuda_graphs": True, "use_cpu": True, "deterministic": True,
}  # fmt: skip
# … and what they do not.
FREE = {
    "dataset_name": "elsewhere", "dataset_config_name": "plain", "dataset_revision": "main", "streaming": False,
    "image_column_name": "img", "label_column_name": "label", "test_split": "holdout", "dataloader_num_workers": 3,
    "config_name": "elsewhere", "image_size": 64, "num_channels": 1,
    "teacher_name_or_path": "elsewhere", "model_name_or_path": "elsewhere",
    "tta": "flip", "temperature": 2.0,
    "calibration_run": "elsewhere",
    "output_dir": "elsewhere", "overwrite_output_dir": True, "logging_steps": 3, "checkpointing_steps": "no",
    "save_total_limit": 5, "resume_from_checkpoint": "last", "push_to_hub": True,
    "hub_model_id": "user/name", "license": "mit", "report_to": ["tensorboard"], "class_weights": "balanced",
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory, tiny_config_dir):
    """The folder of a run that was interrupted behind its third checkpoint, and its flags."""
    folder = tmp_path_factory.mktemp("written") / "run"
    flags = [*tiny_run_flags(tiny_config_dir, folder), "--save_total_limit=10", "--ema_decay=0.9"]
    train(flags)
    leave_checkpoints_alone(folder)
    return folder, flags


def leave_checkpoints_alone(folder):
    for file in folder.iterdir():
        if not file.name.startswith("checkpoint-"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()


@pytest.fixture
def interrupted(written, tmp_path):
    """A copy of it to spoil."""
    shutil.copytree(written[0], tmp_path / "run", dirs_exist_ok=True)
    return tmp_path / "run", [*written[1], f"--output_dir={tmp_path / 'run'}"]


def silent(sentence):
    """For what `find_checkpoint` says of checkpoints that it passes over."""


def test_every_file_has_its_checksum_in_the_format_of_sha256sum(written):
    checkpoint = written[0] / "checkpoint-21"
    assert find_damage(checkpoint) is None
    listed = {line.split("  ")[1] for line in (checkpoint / CHECKSUMS_NAME).read_text().splitlines()}
    assert listed == {file.name for file in checkpoint.iterdir()} - {CHECKSUMS_NAME}
    assert {"model.safetensors", "optimizer.bin", "run.json", "trainer_state.json"} < listed
    subprocess.run(["sha256sum", "--check", "--strict", CHECKSUMS_NAME], cwd=checkpoint, check=True)


def test_a_list_of_checksums_without_its_last_byte_is_damaged(interrupted):
    file = interrupted[0] / "checkpoint-21" / CHECKSUMS_NAME
    file.write_bytes(file.read_bytes()[:-1])
    assert find_damage(file.parent) == f"{CHECKSUMS_NAME} is missing or damaged"


@settings(max_examples=150)
@given(data=st.data())
def test_whatever_is_damaged_is_refused_by_name_and_last_falls_back(written, data):
    """Bytes flipped, files cut short, emptied, removed, renamed or added: in any file, at any place."""
    with tempfile.TemporaryDirectory() as name:
        output_dir = Path(shutil.copytree(written[0], Path(name) / "run"))
        checkpoint = output_dir / "checkpoint-21"
        file = data.draw(st.sampled_from(sorted(checkpoint.iterdir())))
        content = bytearray(file.read_bytes())
        kind = data.draw(st.sampled_from(["flip", "cut", "remove", "rename", "add"]))
        if kind == "flip":
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
            file.write_bytes(content)
        elif kind == "cut":
            file.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        elif kind == "remove":
            file.unlink()
        elif kind == "rename":
            file.rename(file.with_name("renamed"))
        else:
            (checkpoint / "foreign").write_bytes(b"")
        with pytest.raises(CheckpointError, match="checkpoint-21") as refused:
            find_checkpoint(str(checkpoint), output_dir, silent)
        assert "\n" not in str(refused.value)
        said = []
        assert find_checkpoint("last", output_dir, said.append) == output_dir / "checkpoint-14"
        assert len(said) == 1 and "checkpoint-21" in said[0]


@pytest.mark.slow
def test_the_run_goes_on_from_the_newest_whole_one(interrupted, written, tmp_path, capsys):
    folder, flags = interrupted
    whole = train([*written[1], f"--output_dir={tmp_path / 'whole'}"])
    for step in (14, 21):
        (folder / f"checkpoint-{step}" / "optimizer.bin").write_bytes(b"")
    train(flags, "--resume_from_checkpoint=last", "--save_total_limit=1")
    output = capsys.readouterr().out
    assert f"resumed from {folder / 'checkpoint-7'} at step 7 of 21" in output
    assert output.count("is passed over, it is damaged: optimizer.bin: not as written") == 2
    assert_same_weights(folder, whole)
    assert list_checkpoints(folder) == [folder / "checkpoint-21"] and find_damage(folder / "checkpoint-21") is None


@pytest.mark.processes
def test_a_damaged_later_one_does_not_push_out_a_whole_one(interrupted, tmp_path):
    """With one to keep, the newest by its number is not the one to keep: it is the one that was just written."""
    folder, flags = interrupted
    (folder / "checkpoint-21" / "optimizer.bin").write_bytes(b"")
    shutil.rmtree(folder / "checkpoint-14")
    more = ["--resume_from_checkpoint=last", "--save_total_limit=1", "--checkpointing_steps=1"]
    process = start(train_and_die_behind_step_9, [*flags, *more], tmp_path / "log")
    process.join(SECONDS)
    assert process.exitcode == 9, (tmp_path / "log").read_text()
    assert find_checkpoint("last", folder, silent) == folder / "checkpoint-9"


def train_and_die_behind_step_9():
    """As a process that is killed once this step's checkpoint is written."""
    save = Checkpoints.save

    def save_and_die(self, state):
        save(self, state)
        if state.global_step == 9:
            os._exit(9)

    Checkpoints.save = save_and_die
    train_script.main()


def test_no_whole_checkpoint_left(interrupted):
    folder, flags = interrupted
    for checkpoint in list_checkpoints(folder):
        (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"none of the 3 checkpoints in .* is whole"):
        train(flags, "--resume_from_checkpoint=last")
    assert len(list_checkpoints(folder)) == 3


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--learning_rate=0.2", "learning_rate 0.1 there, 0.2 here"),
        ("--num_train_epochs=4", "num_train_epochs 3 there, 4 here"),
        ("--seed=1", "seed 42 there, 1 here"),
        ("--cutmix_prob=0.6", "cutmix_prob 0.5 there, 0.6 here"),
        ("--ema_decay=0", "ema_decay 0.9 there, 0.0 here"),
    ],
)
def test_a_checkpoint_of_another_recipe_is_refused_with_the_differing_keys(interrupted, flag, said):
    folder, flags = interrupted
    before = snapshot(folder)
    with pytest.raises(CheckpointError, match=f"different run: {said}") as refused:
        train(flags, flag, "--resume_from_checkpoint=last")
    assert "momentum" not in str(refused.value)
    assert snapshot(folder) == before


def test_all_differing_keys_are_listed(interrupted):
    with pytest.raises(CheckpointError, match=r"momentum .*; nesterov .*; weight_decay"):
        train(interrupted[1], "--momentum=0.8", "--nesterov", "--weight_decay=0", "--resume_from_checkpoint=last")


def test_a_checkpoint_of_another_network_is_refused(interrupted, tmp_path):
    """Weights of the same shapes would load without a word."""
    config = json.loads((Path(_flag(interrupted[1], "config_name")) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    with pytest.raises(CheckpointError, match="hidden_act relu there, gelu here"):
        train(interrupted[1], f"--config_name={tmp_path}", "--resume_from_checkpoint=last")


@pytest.fixture
def resumes_on(written, tmp_path):
    """Tries to go on with other pictures in the place of some of a split's; gives what is said."""
    rows = {split: load_dataset(str(SAMPLE), split=split).with_format("arrow")[:] for split in ("train", "test")}
    images = {split: [image["bytes"] for image in table["img"].to_pylist()] for split, table in rows.items()}
    names = load_dataset(str(SAMPLE), split="train").features["label"].names

    def resume(split, changed):
        for each, contents in images.items():
            pictures = contents.copy()
            if each == split:
                for row in changed:
                    pictures[row] = pictures[row + 1]
            write_dataset(tmp_path / "data", each, pictures, rows[each]["label"].to_pylist(), names)
        flags = [f"--dataset_name={tmp_path / 'data'}", f"--output_dir={tmp_path / 'run'}", "--num_train_epochs=3"]
        train(written[1], *flags, f"--resume_from_checkpoint={written[0] / 'checkpoint-21'}")

    return resume


@pytest.mark.parametrize(("split", "called"), [("train", "training"), ("test", "test")])
def test_a_checkpoint_of_other_pictures_with_the_same_labels_is_refused(resumes_on, tmp_path, split, called):
    """One of them is enough, whether it was drawn for training, for validation or for neither."""
    for row in (5, 401):
        with pytest.raises(CheckpointError, match=f"different run: the {called} images or their labels"):
            resumes_on(split, [row])
    assert not list(tmp_path.glob("run/checkpoint-*"))


def test_a_checkpoint_of_a_version_that_knew_less_of_the_data_is_refused(interrupted):
    folder, flags = interrupted
    run = read(folder / "checkpoint-21", FINGERPRINT_NAME)
    for content in (run | {"data": "a digest of labels"}, {"recipe": run["recipe"]}):
        (folder / "checkpoint-21" / FINGERPRINT_NAME).write_text(json.dumps(content))
        (folder / "checkpoint-21" / CHECKSUMS_NAME).unlink()
        write_checksums(folder / "checkpoint-21")
        with pytest.raises(CheckpointError, match=r"checkpoint-21 .*run\.json was written by another version"):
            train(flags, "--resume_from_checkpoint=last")


@pytest.mark.slow
def test_where_things_are_may_change(interrupted, written, tmp_path):
    """Another folder, another source of the same images, other intervals: the same weights."""
    folder, flags = interrupted
    whole = train([*written[1], f"--output_dir={tmp_path / 'whole'}"])
    shutil.rmtree(folder / "checkpoint-21")
    moved = Path(shutil.move(folder, tmp_path / "moved"))
    data = shutil.copytree(_flag(flags, "dataset_name"), tmp_path / "data")
    train(flags, f"--output_dir={moved}", f"--dataset_name={data}", "--streaming=true", "--logging_steps=3",
          "--checkpointing_steps=2", "--resume_from_checkpoint=last")  # fmt: skip
    assert_same_weights(moved, whole)


def test_a_checkpoint_has_the_size_of_batches_that_its_machine_chose(interrupted):
    """So that a run that goes on elsewhere says of it that last bits may differ."""
    assert read(interrupted[0] / "checkpoint-14", "run.json")["recipe"]["per_device_eval_batch_size"] == 128


def test_another_machine_is_said(interrupted, capsys):
    shutil.rmtree(interrupted[0] / "checkpoint-21")
    train(interrupted[1], "--channels_last=false", "--resume_from_checkpoint=last")
    output = capsys.readouterr().out
    assert "channels_last True there, False here" in output and "last bits" in output


def test_the_results_name_each_kind_of_machine_that_the_run_was_on(interrupted):
    folder, flags = interrupted
    shutil.rmtree(folder / "checkpoint-21")
    run = read(folder / "checkpoint-14", "run.json")
    run["machine"]["device"] = "NVIDIA H100"
    (folder / "checkpoint-14/run.json").write_text(json.dumps(run))
    (folder / "checkpoint-14" / CHECKSUMS_NAME).unlink()
    write_checksums(folder / "checkpoint-14")
    for _ in range(2):  # the second time as if interrupted behind its last step
        train(flags, "--resume_from_checkpoint=last")
        assert read(folder)["train_device"] == f"NVIDIA H100, then {run['machine']['processor']}"
        assert "train_samples_per_second" not in read(folder)  # of neither
        leave_checkpoints_alone(folder)


def identity(tmp_path, found=None, **settings):
    """Of a run with the default recipe but for these settings, as a checkpoint gives it back; `found` of its data."""
    splits = {name: SimpleNamespace(fingerprint=name) for name in ("train", "validation", "test")}
    accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=1)
    # Of settings alone: some need another beside them to be a recipe.
    plan = SimpleNamespace(settings=Recipe().to_dict() | settings)
    data = SimpleNamespace(**splits, **(dict(sizes={}, validates_on_own=False, copies=None) | (found or {})))
    made = RunFingerprint.of(plan, SlimResNetConfig(), data, None, [], accelerator)
    made.save(tmp_path)
    assert RunFingerprint.load(tmp_path) == made
    return made


def test_every_setting_is_decisive_or_not_on_purpose(tmp_path):
    assert DECISIVE.keys() | ROUNDING.keys() | FREE.keys() == {each.name for each in dataclasses.fields(Recipe)}
    here = identity(tmp_path)
    for name, value in (DECISIVE | ROUNDING | FREE).items():
        there = identity(tmp_path, **{name: value})
        [*differences], [*machine] = here.differences(there), here.machine_differences(there)
        here_is = "squash" if name == "resize_mode" else Recipe().to_dict()[name]
        said = [f"{name} {value} there, {here_is} here"]
        assert (differences, machine) == (said * (name in DECISIVE), said * (name in ROUNDING)), name


def test_a_setting_that_an_earlier_version_did_not_have_was_what_its_default_is(tmp_path):
    """So a run goes on under a later version, unless it makes use of what is new."""
    here, there = identity(tmp_path), identity(tmp_path)
    for name in ("fused_batchnorm", "mixup_prob", "augmented_copies", "ema_batchnorm", "test_size"):
        del there.recipe[name]
    assert not here.machine_differences(there) and not here.differences(there)
    mixed = identity(tmp_path, mixup_prob=0.5)
    assert mixed.differences(there) == ["mixup_prob 0.0 there, 0.5 here"]


def test_a_size_that_was_left_open_is_the_number_that_it_came_to(tmp_path):
    """So a checkpoint from when 5,000 was the default goes on where `auto` comes to 5,000."""
    numbers = identity(tmp_path, validation_size=5000)
    del numbers.recipe["test_size"]
    assert not identity(tmp_path, {"sizes": {"validation_size": 5000}}).differences(numbers)
    fewer = identity(tmp_path, {"sizes": {"validation_size": 4000}})
    assert fewer.differences(numbers) == ["validation_size 5000 there, 4000 here"]
    cut = identity(tmp_path, {"sizes": {"validation_size": 5000, "test_size": 7}})
    assert cut.differences(numbers) == ["test_size auto there, 7 here"]


@pytest.mark.parametrize(
    ("found", "split"),
    [({"validates_on_own": True}, "validation"), ({"copies": "2 left out, 0 copies"}, "distinct training")],
)
def test_what_earlier_versions_did_otherwise_is_another_run(tmp_path, found, split):
    """A validation split of the data's own, and copies of pictures, decide on rows; neither had a say before."""
    here, there = identity(tmp_path, found), identity(tmp_path)
    assert not here.differences(identity(tmp_path, found))
    for one, other in ((here, there), (there, here)):
        [said] = one.differences(other)
        assert said.startswith(f"the {split} images or their labels")


def test_a_checkpoint_of_a_version_that_trained_on_copies_says_so(tmp_path):
    here, there = identity(tmp_path, {"copies": "2 left out, 0 copies"}), identity(tmp_path)
    del there.recipe["test_size"], there.recipe["resize_mode"]
    [said] = here.differences(there)
    assert said == "copies of pictures, which the version that wrote it trained on: go on with that version"


def test_squash_is_what_no_resize_mode_is(tmp_path):
    assert not identity(tmp_path, resize_mode="squash").differences(identity(tmp_path))


def test_files_are_on_the_disk_before_a_checkpoint_has_its_name(flags, tmp_path, monkeypatch):
    """A power cut between the two would leave a checkpoint of empty files."""
    events = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda file: (events.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file))[1])
    monkeypatch.setattr(Path, "rename", lambda path, to: (events.append((str(path), str(to))), rename(path, to))[1])
    folder = train(flags, "--max_train_steps=1")
    unfinished, finished = str(folder / ".slimresnet/unfinished/checkpoint-1"), str(folder / "checkpoint-1")
    at = events.index((unfinished, finished))
    names = [file.name for file in (folder / "checkpoint-1").iterdir()]
    assert {f"{unfinished}/{name}" for name in names} | {unfinished} <= set(events[:at])
    assert events[at + 1] == str(folder)  # then the list of names


def test_a_folder_that_is_no_checkpoint(flags, tmp_path):
    with pytest.raises(CheckpointError, match=r"--resume_from_checkpoint .* is no checkpoint"):
        train(flags, f"--resume_from_checkpoint={tmp_path}")


def train_with_a_limit_on_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (88_000, resource.RLIM_INFINITY))
    train_script.main()


@pytest.mark.processes
def test_a_full_disk_leaves_the_earlier_checkpoint_and_says_what_is_needed(interrupted, tmp_path):
    """A limit on the size of files stands for the disk: weights fit under it, the optimiser's file does not."""
    folder, flags = interrupted
    shutil.rmtree(folder / "checkpoint-21"), shutil.rmtree(folder / "checkpoint-14")
    before = snapshot(folder)
    process = start(train_with_a_limit_on_files, [*flags, "--resume_from_checkpoint=last"], tmp_path / "log")
    process.join(SECONDS)
    output = (tmp_path / "log").read_text()
    assert process.exitcode == 1 and "Traceback" not in output
    assert "no checkpoint could be written" in output and "it takes about 0.2 MB" in output
    assert snapshot(folder) == before
    train(flags, "--resume_from_checkpoint=last")
    assert read(folder)["epoch"] == 3


def test_a_run_that_cannot_write_its_results_can_go_on(flags, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    finished = train(flags, f"--output_dir={tmp_path / 'other'}")
    with monkeypatch.context() as patched:
        patched.setattr("slimresnet.api.train.write_json", full)
        with pytest.raises(Exception, match=r"could not be written to --output_dir .*No space left on device"):
            train(flags)
    folder = tmp_path / "run"
    assert {file.name for file in folder.iterdir()} == {".slimresnet", "checkpoint-14", "checkpoint-21"}
    train(flags, "--resume_from_checkpoint=last")
    assert_same_weights(folder, finished)


def _flag(flags, name):
    return [flag.split("=", 1)[1] for flag in flags if flag.startswith(f"--{name}=")][-1]
