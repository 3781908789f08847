"""Runs of train.py on the sample with a tiny network: what they write, resume, keep and refuse."""

import functools
import os
import shutil

import numpy as np
import pytest
import torch
from conftest import SAMPLE, write_dataset
from huggingface_hub import ModelCard
from PIL import Image
from torch.nn import functional as F
from training_runs import (
    SECONDS,
    Validation,
    assert_accuracy,
    assert_same_weights,
    by_hand,
    read,
    snapshot,
    spoils_at,
    start,
    train,
    weights,
)
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from slimresnet.cli import train as train_script
from slimresnet.cli.train import parse_recipe
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.source import DatasetError
from slimresnet.recipe.checks import RecipeError
from slimresnet.run_folder.checkpoints import find_damage, list_checkpoints
from slimresnet.training.bookkeeping import DivergedError
from slimresnet.training.optim.schedule import schedule

AS_TRAINED = "--temperature=1"  # the head, which is divided at the end, is that of the checkpoint

FINISHED = {
    ".slimresnet",
    "README.md",
    "all_results.json",
    "config.json",
    "configuration_slimresnet.py",
    "eval_details.json",
    "figures",
    "model.safetensors",
    "modeling_slimresnet.py",
    "preprocessor_config.json",
    "recipe.yaml",
    "test_details.json",
    "trainer_state.json",
}


def test_a_finished_folder(flags, capsys, drawn):
    folder = train(flags, "--tta=flip")
    assert {file.name for file in folder.iterdir()} == FINISHED | {"checkpoint-14", "checkpoint-21"}
    results = read(folder)
    scores = {
        "accuracy", "accuracy_low", "accuracy_high", "top_5_accuracy", "loss", "expected_calibration_error",
        "balanced_accuracy", "macro_f1",
    }  # fmt: skip
    assert set(results) == {
        "epoch", "train_loss", "train_runtime", "train_samples", "train_samples_per_second", "train_device",
        "train_batch_size", "train_precision", "train_ended_by",
        "train_num_processes", "total_flos", "train_dataset", "train_dataset_is_local",
        "train_data_fingerprint", "train_validation_size", "train_left_out_samples",
        "calibration_temperature", "calibration_samples", "calibration_source",
        "test_times_scored",
        *(f"{prefix}_{score}{tta}" for prefix in ("eval", "test") for score in scores for tta in ("", "_tta")),
        *(f"{prefix}_{name}" for prefix in ("eval", "test")
          for name in ("samples", "tta", "expected_calibration_error_uncalibrated", "loss_uncalibrated", "dataset",
                       "split", "num_rows", "fingerprint", "precision", "smallest_class_samples",
                       "largest_class_samples")),
    }  # fmt: skip
    assert (results["epoch"], results["train_samples"], results["eval_samples"], results["test_samples"]) == (
        3,
        224,
        90,
        90,
    )
    state = read(folder, "trainer_state.json")
    assert (state["global_step"], state["max_steps"], state["num_train_epochs"]) == (21, 21, 3)
    assert [entry["epoch"] for entry in state["log_history"]] == [1, 2, 3]
    assert {"loss", "learning_rate", "eval_loss", "eval_accuracy", "step", "train_samples_per_second"} <= set(
        state["log_history"][0]
    )
    assert state["log_history"][-1]["loss"] == results["train_loss"]
    for score in ("balanced_accuracy", "macro_f1"):
        assert state["log_history"][-1][f"eval_{score}"] == pytest.approx(results[f"eval_{score}"], abs=0.02)
    assert results["eval_accuracy"] == state["log_history"][-1]["eval_accuracy"]
    assert results["train_samples_per_second"] * results["train_runtime"] == pytest.approx(21 * 32)
    recipe = parse_recipe([f"--config={folder / 'recipe.yaml'}"])
    assert recipe == parse_recipe([*flags, "--tta=flip"])  # what was asked
    assert (results["train_batch_size"], results["train_precision"]) == (32, "float32")
    with Image.open(folder / "figures" / "curves.png") as image:
        assert image.format == "PNG" and image.width > 600
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{results['test_accuracy']:.2%}" in card and "pipeline_tag: image-classification" in card
    output = capsys.readouterr().out
    assert str(folder) in output and "from_pretrained" in output
    assert output.count("epoch ") == 3


def test_the_figures_are_those_of_the_saved_model(flags):
    """Loaded as a stranger would, with its own image processor, it scores what the folder says."""
    folder = train(flags, "--max_eval_samples=1000", "--num_train_epochs=1")
    results = read(folder)
    assert results["test_samples"] == 500
    model, loading = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    processor = AutoImageProcessor.from_pretrained(folder)
    split = open_split(str(SAMPLE), "test", image_size=32)
    (pixels,) = split.images.read([np.arange(500)])
    inputs = processor([Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels], return_tensors="pt")
    labels = torch.from_numpy(split.labels)
    with torch.inference_mode():
        outputs = model(**inputs, labels=labels)
    assert_accuracy(results["test_accuracy"], outputs.logits, labels)
    assert outputs.loss.item() == pytest.approx(results["test_loss"], abs=1e-5)


COLOURS = {"wasp": (220, 200, 40), "ant": (120, 40, 30), "bee": (40, 90, 200)}  # in no order that sorting would give


def coloured_images(count, seed):
    """Images of which each has its class's colour under much noise, at labels that repeat 0, 1, 2."""
    rng = np.random.default_rng(seed)
    colours = [list(COLOURS.values())[index % 3] for index in range(count)]
    return [np.clip(rng.normal(colour, 60, (20, 24, 3)), 0, 255).astype(np.uint8) for colour in colours]


def test_it_learns_another_dataset_with_its_own_labels(flags, tmp_path):
    """Colours are so easily told apart that on every machine all is right after a few steps, names of classes too."""
    data = tmp_path / "data"
    for seed, (split, count) in enumerate({"train": 120, "test": 30}.items()):
        labels = [index % 3 for index in range(count)]
        write_dataset(data, split, coloured_images(count, seed), labels, list(COLOURS))
    folder = train(
        flags, f"--dataset_name={data}", "--validation_size=12", "--total_train_batch_size=32", "--num_train_epochs=8",
        "--tta=flip",
    )  # fmt: skip
    losses = [entry["loss"] for entry in read(folder, "trainer_state.json")["log_history"]]
    results = read(folder)
    assert losses[0] > 2 * losses[-1]
    assert results["test_accuracy"] == results["test_accuracy_tta"] == results["eval_accuracy"] == 1
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert model.config.id2label == dict(enumerate(COLOURS)) and model.classifier.out_features == 3
    classify = pipeline("image-classification", model=str(folder))
    for name, image in zip(COLOURS, coloured_images(3, seed=2), strict=True):
        assert classify(Image.fromarray(image))[0]["label"] == name
    result = ModelCard.load(folder / "README.md").data.eval_results[0]
    assert (result.dataset_name, result.dataset_split, result.metric_value) == ("data", "test", 1)


@pytest.mark.processes
@pytest.mark.slow
def test_stream_and_memory_end_in_the_same_weights(flags, tmp_path):
    flags += ["--num_train_epochs=2", "--max_train_samples=96"]
    memory = train(flags)
    for workers in (0, 2):
        folder = tmp_path / f"{workers} workers"
        streamed = train(flags, "--streaming=true", f"--dataloader_num_workers={workers}", f"--output_dir={folder}")
        assert_same_weights(streamed, memory)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [["--ema_decay=0.5", "--load_best_model_at_end"], ["--optim=muon", "--lr_scheduler_type=linear", "--nesterov"]],
    ids=["averaged", "muon"],
)
def test_resuming_from_any_checkpoint_ends_in_the_same_weights(flags, tmp_path, monkeypatch, kind):
    flags += [*kind, "--max_train_samples=96", "--checkpointing_steps=2", "--save_total_limit=100"]

    def run(*more, first_epoch=0):
        accuracies = [0.5, 0.7, 0.6][first_epoch:]  # the best is in the past of the last checkpoint, not of the first
        return train(flags, *more, callbacks=[Validation(raw=accuracies, averaged=accuracies)])

    whole = run()
    checkpoints = list_checkpoints(whole)
    assert [checkpoint.name for checkpoint in checkpoints] == [f"checkpoint-{step}" for step in (2, 4, 6, 8)]
    for checkpoint, epoch in ((checkpoints[0], 0), (checkpoints[3], 2)):
        resumed = run(
            f"--resume_from_checkpoint={checkpoint}", f"--output_dir={tmp_path / checkpoint.name}", first_epoch=epoch
        )
        assert_same_weights(resumed, whole)
        state, expected = (read(folder, "trainer_state.json") for folder in (resumed, whole))
        for entry in (*state["log_history"], *expected["log_history"]):
            for timing in ("train_samples_per_second", "data_time"):
                del entry[timing]
        assert state == expected and expected["best_global_step"] == 6


def test_checkpoints_beyond_the_limit_are_removed_the_oldest_first(flags):
    folder = train(flags, "--num_train_epochs=4", "--save_total_limit=3", "--max_train_samples=64")
    assert [checkpoint.name for checkpoint in list_checkpoints(folder)] == [
        "checkpoint-4",
        "checkpoint-6",
        "checkpoint-8",
    ]


def test_no_checkpoints(flags):
    assert not list_checkpoints(train(flags, "--checkpointing_steps=no", "--max_train_steps=2"))


def test_the_best_epoch_is_kept(flags, monkeypatch):
    """The first of equals; each epoch is a step, so that its weights are those of a checkpoint."""
    flags += ["--max_train_samples=32", "--num_train_epochs=4", "--save_total_limit=100", "--load_best_model_at_end"]
    flags += [AS_TRAINED]
    folder = train(flags, callbacks=[Validation(raw=[0.2, 0.4, 0.4, 0.3])])
    state = read(folder, "trainer_state.json")
    assert [entry["eval_accuracy"] for entry in state["log_history"]] == [0.2, 0.4, 0.4, 0.3]
    assert (state["best_global_step"], state["best_metric"]) == (2, 0.4)
    assert_same_weights(folder, folder / "checkpoint-2")
    assert not torch.equal(weights(folder)["classifier.weight"], weights(folder / "checkpoint-4")["classifier.weight"])


def test_without_being_told_so_the_last_epoch_is_kept(flags, monkeypatch):
    validation = Validation(raw=[0.4, 0.2])
    folder = train(flags, "--max_train_samples=32", "--num_train_epochs=2", AS_TRAINED, callbacks=[validation])
    assert_same_weights(folder, folder / "checkpoint-2")
    assert read(folder, "trainer_state.json")["best_global_step"] == 1


@pytest.mark.parametrize("best", [2, None])
def test_the_average_is_exponential_and_what_is_chosen_among_and_kept(flags, monkeypatch, best):
    """By the averaged weights the second epoch is the best one, by those that are trained the third."""
    flags += [
        "--max_train_samples=32",
        "--num_train_epochs=3",
        "--save_total_limit=100",
        "--ema_decay=0.75",
        AS_TRAINED,
    ]
    raw, averaged = [0.3, 0.2, 0.9], [0.5, 0.6, 0.4]
    validation = Validation(raw=raw, averaged=averaged)
    folder = train(flags, *(["--load_best_model_at_end"] if best else []), callbacks=[validation])
    state = read(folder, "trainer_state.json")
    for name, accuracies in (("eval_accuracy", raw), ("eval_accuracy_ema", averaged)):
        assert [entry[name] for entry in state["log_history"]] == accuracies
    assert {"eval_loss", "eval_loss_ema"} <= state["log_history"][0].keys()
    assert (state["best_global_step"], state["best_metric"]) == (2, 0.6)
    steps = [weights(folder / f"checkpoint-{step}") for step in (1, 2, 3)][:best]
    expected = steps[0]  # the first update copies
    for values in steps[1:]:
        expected = {name: 0.75 * expected[name] + 0.25 * value for name, value in values.items()}
    kept = weights(folder)
    names = [name for name in kept if kept[name].is_floating_point()]  # the statistics of BatchNorm too
    assert any("running_var" in name for name in names)
    torch.testing.assert_close({name: kept[name] for name in names}, {name: expected[name] for name in names})


def test_averaged_weights_are_scored(flags):
    """In validation as at the end; after two steps they are far from those that are trained."""
    folder = train(flags, "--ema_decay=0.8", "--max_train_steps=2", AS_TRAINED)
    entry = read(folder, "trainer_state.json")["log_history"][-1]
    assert read(folder)["eval_loss"] == pytest.approx(entry["eval_loss_ema"], abs=1e-6)
    assert abs(entry["eval_loss"] - entry["eval_loss_ema"]) > 1e-5


def test_max_train_steps_shortens_the_run_and_its_schedule(flags):
    folder = train(flags, "--max_train_steps=10")
    state = read(folder, "trainer_state.json")
    assert (state["global_step"], state["max_steps"], state["num_train_epochs"]) == (10, 10, 2)
    assert state["log_history"][-1]["learning_rate"] < 0.1 * 0.1
    first, second = (entry["loss"] for entry in state["log_history"])  # means over 7 steps and 3
    assert 0.7 < second / first < 1.3


def test_the_loop_against_a_plain_one_with_accumulation(flags, smooth_config_dir):
    """Ten lines of PyTorch that do by hand what the recipe says end in the same weights."""
    flags += ["--max_train_steps=3", "--gradient_accumulation_steps=2", "--total_train_batch_size=64", "--nesterov"]
    flags += ["--cutmix_prob=0", "--random_erasing_prob=0", "--crop_padding=0"]
    flags += ["--horizontal_flip_prob=0", "--label_smoothing_factor=0.1", "--warmup_steps=1", "--channels_last=false"]
    flags += ["--seed=7", f"--config_name={smooth_config_dir}", AS_TRAINED]
    folder = train(flags)
    recipe = parse_recipe(flags)
    model, batches = by_hand(recipe, smooth_config_dir, batch_size=32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    losses = []
    for step in range(3):
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * schedule(recipe, step, 3)
        for _ in range(2):
            pixel_values, labels = next(batches)
            loss = F.cross_entropy(model(pixel_values).logits, labels, label_smoothing=0.1)
            (loss / 2).backward()
            losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(weights(folder), dict(model.state_dict()), rtol=1e-4, atol=1e-5)
    (entry,) = read(folder, "trainer_state.json")["log_history"]
    assert (entry["step"], entry["epoch"]) == (3, 1.0)  # 224 // 64 steps an epoch
    assert entry["loss"] == pytest.approx(sum(losses) / 6, abs=1e-5)


@pytest.mark.slow
def test_light_epochs_reach_a_run(flags, tmp_path):
    """What they are is a test of the inputs; here all epochs are light, and in the other run nothing else is there."""
    flags += ["--max_train_samples=64", "--num_train_epochs=2", "--random_erasing_prob=1", "--trivial_augment"]
    light = train(flags, "--num_light_augmentation_epochs=1", "--num_final_light_augmentation_epochs=1")
    plain = train(
        flags, "--cutmix_prob=0", "--random_erasing_prob=0", "--trivial_augment=false", f"--output_dir={tmp_path / 'p'}"
    )
    assert_same_weights(light, plain)


def test_no_validation(flags):
    folder = train(flags, "--validation_size=0", "--max_train_steps=1")
    assert not any(name.startswith("eval_") for name in read(folder))
    assert read(folder)["test_samples"] == 90


def test_bf16_keeps_float32_weights(flags):
    folder = train(flags, "--mixed_precision=bf16", "--max_train_steps=2")
    assert {value.dtype for value in weights(folder).values()} == {torch.float32, torch.int64}
    assert read(folder)["train_precision"] == "bf16"


def test_compiled_and_eager_runs_save_the_same_names(flags, tmp_path, monkeypatch):
    flags += ["--max_train_steps=2"]
    eager = train(flags)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    compiled = train(flags, "--torch_compile", f"--output_dir={tmp_path / 'compiled'}")
    assert {file.name for file in compiled.iterdir()} == {file.name for file in eager.iterdir()}
    assert_same_weights(compiled, eager)


def test_tracker(flags):
    folder = train(flags, "--report_to=tensorboard", "--num_train_epochs=1", "--logging_steps=1")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (folder / "slimresnet").glob("events*")
    accumulator = EventAccumulator(str(events)).Reload()
    assert len(accumulator.Scalars("loss")) >= 7
    assert accumulator.Scalars("eval_accuracy")[-1].step == 7
    assert accumulator.Scalars("test_accuracy")[-1].value == pytest.approx(read(folder)["test_accuracy"])


@pytest.mark.processes
@pytest.mark.parametrize("broken", ["an image", "the loss", "validation"])
def test_a_run_that_breaks_ends_with_its_workers(flags, tmp_path, broken):
    """A worker that still waited for work would keep the program from its end, and for ever."""
    images = list(np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8))
    images[50] = b"broken" if broken == "an image" else images[50]
    write_dataset(tmp_path / "data", "train", images, [0, 1] * 32, ["a", "b"])
    images[10] = b"broken" if broken == "validation" else images[10]
    write_dataset(tmp_path / "data", "test", images[:20], [0, 1] * 10, ["a", "b"])
    more = ["--dataset_name", tmp_path / "data", "--streaming=true", "--dataloader_num_workers=2",
            "--total_train_batch_size=8", "--max_train_samples=64", "--validation_size=0", "--num_train_epochs=1",
            "--logging_steps=1"]  # fmt: skip
    more += ["--learning_rate=1e30"] if broken == "the loss" else []
    process = start(train_script.main, [*flags, *more], tmp_path / "log")
    process.join(SECONDS)
    output = (tmp_path / "log").read_text()
    assert process.exitcode == 1, output
    assert ("lower --learning_rate" if broken == "the loss" else "holds no image that can be decoded") in output


# --- what is refused -----------------------------------------------------------------------------------------------


def test_a_finished_run_is_not_written_over(flags, trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    before = snapshot(folder)
    for more in ([], ["--resume_from_checkpoint=last"], [f"--resume_from_checkpoint={folder / 'checkpoint-14'}"]):
        with pytest.raises(RecipeError, match=r"holds a finished run.*--overwrite_output_dir"):
            train(flags, *more)
    assert snapshot(folder) == before
    train(flags, "--overwrite_output_dir", "--max_train_steps=2", "--seed=2")
    assert read(folder)["epoch"] == 2 / 7
    assert [checkpoint.name for checkpoint in list_checkpoints(folder)] == ["checkpoint-2"]


def test_checkpoints_of_an_interrupted_run_are_not_written_over(flags, trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained / "checkpoint-14", folder / "checkpoint-14")
    before = snapshot(folder)
    with pytest.raises(RecipeError, match="--resume_from_checkpoint last"):
        train(flags)
    assert snapshot(folder) == before


def test_a_folder_of_other_things_keeps_them(flags, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "README.md").write_text("mine")
    with pytest.raises(RecipeError, match=r"README\.md"):
        train(flags)
    (tmp_path / "run" / "README.md").rename(tmp_path / "run" / "train.log")
    folder = train(flags, "--max_train_steps=1")
    assert (folder / "train.log").read_text() == "mine"


def test_a_file_in_the_place_of_the_folder(flags, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RecipeError, match="is a file"):
        train(flags)


def test_a_mistake_in_the_data_leaves_no_folder(flags, tmp_path):
    with pytest.raises(DatasetError, match="--dataset_name nobody/nothing"):
        train(flags, "--dataset_name=nobody/nothing")
    with pytest.raises(DatasetError, match=r"img \(Image\)"):
        train(flags, "--image_column_name=picture")
    with pytest.raises(DatasetError, match="--validation_size 5000"):
        train(flags, "--validation_size=5000")
    with pytest.raises(DatasetError, match="fewer than one batch of 512"):
        train(flags, "--total_train_batch_size=512")
    with pytest.raises(RecipeError, match="--config_name"):
        train(flags, "--config_name=/no/such/folder")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number(flags, trained, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(trained / "checkpoint-14", folder / "checkpoint-14")
    before = snapshot(folder)

    rate = parse_recipe(flags).learning_rate * schedule(parse_recipe(flags), 16, 21)
    with pytest.raises(DivergedError, match=rf"the loss of step 17 is nan at a learning rate of {rate:.4g}: lower"):
        train(flags, "--resume_from_checkpoint=last", callbacks=[spoils_at(16, "on_step_begin")])
    assert snapshot(folder) == before


@pytest.mark.parametrize("more", [["--validation_size=0"], ["--ema_decay=0.9", "--load_best_model_at_end"]])
def test_a_last_step_that_breaks_the_weights(flags, tmp_path, more):
    """Its loss is that of the weights before, and finite."""
    folder = tmp_path / "run"
    with pytest.raises(DivergedError, match=r"weights are NaN or infinite after step 14 at .*lower --learning_rate"):
        train(flags, "--num_train_epochs=2", *more, callbacks=[spoils_at(14, "on_step_end")])
    assert sorted(each.name for each in folder.iterdir()) == [".slimresnet", "checkpoint-7"]
    assert find_damage(folder / "checkpoint-7") is None


def test_broken_weights_do_not_push_a_checkpoint_out(flags, tmp_path):
    with pytest.raises(DivergedError, match="weights are NaN or infinite after step 3"):
        train(flags, "--checkpointing_steps=1", "--save_total_limit=1", callbacks=[spoils_at(3, "on_step_end")])
    assert list_checkpoints(tmp_path / "run") == [tmp_path / "run" / "checkpoint-2"]
    assert all(value.isfinite().all() for value in weights(tmp_path / "run" / "checkpoint-2").values())


@pytest.mark.parametrize("validation_size", [0, 100])
def test_weights_too_large_for_finite_logits(flags, tmp_path, validation_size):
    run = [*flags, "--learning_rate=1e30", "--max_train_steps=1", f"--validation_size={validation_size}"]
    with pytest.raises(DivergedError, match=r"after step 1 at a learning rate of 1e\+30: lower --learning_rate"):
        train(run)
    assert not {"README.md", "all_results.json", "model.safetensors"} & set(os.listdir(tmp_path / "run"))


def test_half_precision_on_a_cpu(flags):
    with pytest.raises(RecipeError, match="--mixed_precision fp16"):
        train(flags, "--mixed_precision=fp16")


def test_a_tracker_that_is_not_installed(flags):
    with pytest.raises(RecipeError, match="pip install trackio"):
        train(flags, "--report_to=trackio")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--learnig_rate=0.1"], "did you mean --learning_rate?"),
        (["--dataset_name=nobody/nothing"], "--dataset_name examples/cifar10_sample"),
    ],
)
def test_on_the_command_line_a_mistake_is_one_sentence(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train.py", f"--output_dir={tmp_path / 'run'}", "--use_cpu", *arguments])
    with pytest.raises(SystemExit) as left:
        train_script.main()
    assert left.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("train.py: error: ") and message.count("\n") == 1 and said in message
    assert not os.listdir(tmp_path)
