"""The runs that choose the long recipe and the fast one, on validation: python -m benchmarks.choices --rows control

A row is a shipped recipe with changes, trained in several seeds on 40,000 images and scored on the 10,000 others. For a
GPU, in pieces: `--minutes 9` stops at a step behind a checkpoint when the time is up, and the same command goes on.
Each seed is written as it ends; what the result has already is not run again. `--steps 2 --output FILE` rehearses all.

No run sees a test image. `train` scores a test split at its end, so the runs open a copy of the data whose test split
is a hundred of the training images, mirrored: as they are, `train` would leave them out of training. Their score means
nothing, and is not written. Which images are held out depends on the seed. So the teacher of a student is that of its
own seed: another one has trained on images that the student is scored on.
"""

import argparse
import dataclasses
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Image, load_dataset
from PIL.ImageOps import mirror
from transformers import TrainerCallback

from benchmarks.measuring import FOLDER, take_in, write_rows
from slimresnet.api.train import train
from slimresnet.cli.train import parse_recipe
from slimresnet.errors import InterruptedRun
from slimresnet.recipe.reading import read_recipe
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.checkpoints import checkpoint_folders
from slimresnet.run_folder.names import RESULTS_NAME
from slimresnet.run_folder.reading import read_json

RESULT = FOLDER / "choices.json"
HELD_OUT = 10_000
NUM_TEST_IMAGES = 100  # of the copy; they are training images
HOW_TO_GO_ON = "repeat the command to go on"


class Row(NamedTuple):
    """
    A recipe to compare.

    Attributes:
        recipe: name of the shipped recipe.
        changes: settings that differ from it.
        seeds: of its runs, unless the command names others.
        teacher: the row whose run of the same seed it learns from.
    """

    recipe: str
    changes: dict[str, Any]
    seeds: tuple[int, ...] = (42, 43)
    teacher: str | None = None


PLAIN = {"random_erasing_prob": 0.0, "label_smoothing_factor": 0.0}
# The recipe of the long control: sharpness-aware steps in the last 15 %, small images in the first 15 % only.
CONTROL_400 = PLAIN | {
    "num_train_epochs": 400,
    "num_final_light_augmentation_epochs": 20,
    "num_final_sam_epochs": 60,
    "progressive_resizing": ["24:0.15"],
}
CUTMIX, MIXUP = {"cutmix_prob": 1.0}, {"cutmix_prob": 0.0, "mixup_prob": 1.0}
# Every image is mixed up to the end: its label comes from the teacher, so that it fits the mixed image, and light last
# epochs are not needed. The teacher ended at 32 pixels, and knows less of smaller images.
STUDENT = PLAIN | {
    "distillation_alpha": 1.0,
    "num_final_light_augmentation_epochs": 0,
    "progressive_resizing": None,
}
PILOT = STUDENT | {"num_train_epochs": 60, "num_final_sam_epochs": 4}
# Temperature and mixing are those that the pilots are to confirm.
STUDENT_500 = STUDENT | CUTMIX | {
    "distillation_temperature": 4.0,
    "num_train_epochs": 500,
    "num_final_sam_epochs": 30,
    "ema_decay": 0.999,
}  # fmt: skip


def batch_augmentation(epochs: int) -> dict[str, Any]:
    """Four copies of each image a step: an epoch is the arithmetic of four. Shares of epochs are the control's."""
    shares = {"num_final_light_augmentation_epochs": epochs // 20, "num_final_sam_epochs": 8 * epochs // 100}
    return PLAIN | shares | {"augmented_copies": 4, "num_train_epochs": epochs}


LONG_ROWS = {
    "control": Row("best_long", PLAIN),
    "control, 400 epochs": Row("best_long", CONTROL_400),
    "control with erasing": Row("best_long", {"label_smoothing_factor": 0.0}),
    # Half an image's width may be out of sight with the paper's 32 pixels, and all of it.
    "control, moved by 10 pixels at most": Row("best_long", PLAIN | {"trivial_augment_translation": 10}),
    "teacher": Row("teacher", {}),
    **{
        f"student, 60 epochs, T {temperature}, {name}": Row(
            "best_long", PILOT | mixing | {"distillation_temperature": temperature}, teacher="teacher"
        )
        for temperature in (2.0, 4.0)
        for name, mixing in (("CutMix", CUTMIX), ("mixup", MIXUP))
    },
    "student, 500 epochs": Row("best_long", STUDENT_500, teacher="teacher"),
    "student, 500 epochs, BatchNorm recomputed": Row(
        "best_long", STUDENT_500 | {"ema_batchnorm": "recompute"}, teacher="teacher"
    ),
    "batch augmentation, arithmetic of control": Row("best_long", batch_augmentation(50)),
    "batch augmentation, arithmetic of 400 epochs": Row("best_long", batch_augmentation(100)),
}

# Muon's pairs of rate and decay: fast.yaml's, and best.yaml's, which was ahead in runs of six epochs (ablations.py).
MUON = {rate: {"muon_learning_rate": rate, "muon_weight_decay": decay} for rate, decay in ((0.045, 0.02), (0.09, 0.04))}
# In six epochs erasing cost two points and CutMix too, less where it ended early. These rows ask what more epochs make
# of that.
MIXING = {
    "erasing": {},
    "neither": {"random_erasing_prob": 0.0},
    **{
        f"CutMix but for the last {end} epochs": {
            "random_erasing_prob": 0.0,
            "cutmix_prob": 0.5,
            "num_final_light_augmentation_epochs": end,
        }
        for end in (2, 6)
    },
}
# Of 24 epochs a quarter at 24 pixels, as it is, or none: what the small images cost. The rows of 16 epochs have images
# of full size and no CutMix: CutMix needs longer runs.
RESIZING = {"small first": {}, "full size": {"progressive_resizing": None}}
FAST_SEEDS = (42, 43, 44)
FAST_ROWS = {
    f"fast, {epochs} epochs, Muon {rate}, {mixing}, {size}": Row(
        "fast", muon | MIXING[mixing] | RESIZING[size] | {"num_train_epochs": epochs}, FAST_SEEDS
    )
    for epochs, mixings, sizes in ((24, list(MIXING), list(RESIZING)), (16, ["erasing", "neither"], ["full size"]))
    for rate, muon in MUON.items()
    for mixing in mixings
    for size in sizes
}
ROWS = LONG_ROWS | FAST_ROWS


class _Deadline(TrainerCallback):
    """Asks the run to stop as a machine does that is taken away: at the next step, behind a checkpoint."""

    def __init__(self, minutes: float):
        self._end, self.has_asked = time.monotonic() + 60 * minutes, False

    @property
    def is_past(self) -> bool:
        return time.monotonic() > self._end

    def on_step_end(self, args, state, control, **_):
        if self.is_past and not self.has_asked:  # a second signal would end the process at once
            self.has_asked = True
            signal.raise_signal(signal.SIGTERM)


def without_test_images(dataset_name: str, folder: Path) -> str:
    """A folder with the training split of a dataset, and mirrored training images in the place of its test split."""
    copy = folder / Path(dataset_name).resolve().name
    if not copy.is_dir():
        rows = load_dataset(dataset_name, split="train")
        unfinished = copy.with_name(f"{copy.name}.unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(unfinished / "train.parquet")
        [column] = [name for name, feature in rows.features.items() if isinstance(feature, Image)]
        tested = rows.select(range(NUM_TEST_IMAGES)).map(lambda row: {column: mirror(row[column])})
        tested.to_parquet(unfinished / "test.parquet")
        unfinished.rename(copy)
    return str(copy)


def folder_of(name: str, seed: int, runs: Path) -> Path:
    """Where a row's run is: its name as one word, and the seed."""
    return runs / f"{'_'.join(name.replace(',', '').lower().split())}-{seed}"


def recipe_of(name: str, seed: int, runs: Path, dataset_name: str, steps: int | None = None) -> Recipe:
    """The recipe of a row's run; `steps` cut it short, for a rehearsal."""
    row, folder = ROWS[name], folder_of(name, seed, runs)
    settings: dict[str, Any] = {
        "seed": seed,
        "validation_size": HELD_OUT,
        "streaming": False,
        "checkpointing_steps": "2000",  # a run that is cut off without a signal loses a minute
    }
    if row.teacher:
        settings["teacher_name_or_path"] = str(folder_of(row.teacher, seed, runs))
    if steps:
        settings |= {"max_train_steps": steps, "validation_size": 100, "checkpointing_steps": "1"}
    words = [f"--config={row.recipe}", f"--dataset_name={dataset_name}", f"--output_dir={folder}"]
    return dataclasses.replace(parse_recipe(words), **row.changes | settings)


def is_finished(recipe: Recipe) -> bool:
    """Whether the folder of a recipe holds the finished run of this recipe."""
    folder = Path(recipe.output_dir)
    return (folder / RESULTS_NAME).is_file() and read_recipe(folder) == recipe


def results_of(recipe: Recipe, deadline: _Deadline | None) -> dict:
    """Trains, or goes on, or finds the run finished; returns its results."""
    folder = Path(recipe.output_dir)
    if is_finished(recipe):
        return read_json(folder / RESULTS_NAME)
    if (folder / RESULTS_NAME).is_file():
        sys.exit(f"choices: {folder} holds the run of another recipe: remove it, or name another folder by --runs.")
    resume = "last" if checkpoint_folders(folder) else None
    callbacks = [deadline] if deadline else []
    return train(dataclasses.replace(recipe, resume_from_checkpoint=resume), callbacks).results


def figures_of(results: dict) -> dict:
    """What is reported of a run: figures of validation, and what they cost. None where a run has no such figure."""
    speed = results.get("train_samples_per_second")  # none of several devices together
    return {
        "validation accuracy": results["eval_accuracy"],
        "validation accuracy with TTA": results.get("eval_accuracy_tta"),
        "TTA": results["eval_tta"],
        "validation loss": results["eval_loss"],
        "calibration error": results["eval_expected_calibration_error"],
        "calibration error before": results.get("eval_expected_calibration_error_uncalibrated"),
        "temperature": results.get("calibration_temperature"),
        "epochs": results["epoch"],
        "petaFLOP": round(results["total_flos"] / 1e15, 3),
        "minutes of steps": round(results["train_runtime"] / 60, 2),
        "images per second": None if speed is None else round(speed),
        "device": results["train_device"],
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default="uoft-cs/cifar10", help="a dataset or a folder, all 50,000 images")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help="some of them alone")
    parser.add_argument("--list", action="store_true", help="print the names of the rows, and do nothing else")
    parser.add_argument("--seeds", type=int, nargs="+", help="by default each row's own: two, and three of fast.yaml")
    parser.add_argument(
        "--minutes",
        type=float,
        help=f"time to stop after, behind a checkpoint, besides the minute that the end of a run takes; {HOW_TO_GO_ON}",
    )
    parser.add_argument("--steps", type=int, help="of a run, to rehearse")
    parser.add_argument("--runs", type=Path, default=Path("runs/choices"), help="folder of the runs and of the data")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.steps and arguments.output == RESULT:
        parser.error("--steps is a rehearsal: name another file by --output.")
    if arguments.steps:
        arguments.runs /= "rehearsal"
    return arguments


def main() -> None:
    """Runs what is missing, a seed of all rows after the other, and writes each as it ends."""
    arguments = parse()
    if arguments.list:
        print("\n".join(ROWS))
        return
    deadline = _Deadline(arguments.minutes) if arguments.minutes else None
    dataset_name = without_test_images(arguments.dataset_name, arguments.runs / "data")
    rows = read_json(arguments.output).get("rows", {})
    seeds = arguments.seeds or sorted({seed for name in arguments.rows for seed in ROWS[name].seeds})
    for seed in seeds:
        for name in arguments.rows:
            row = ROWS[name]
            asked = {"recipe": row.recipe, "changes": row.changes}
            if {key: rows.get(name, {}).get(key) for key in asked} != asked:
                rows[name] = asked | {"seeds": {}}
            if str(seed) in rows[name]["seeds"] or not (arguments.seeds or seed in row.seeds):
                continue
            if deadline and deadline.is_past:
                print(f"time is up before {name}, seed {seed}: {HOW_TO_GO_ON}")
                return
            of_run = (seed, arguments.runs, dataset_name, arguments.steps)
            if row.teacher and not is_finished(recipe_of(row.teacher, *of_run)):
                sys.exit(f"choices: {name} learns from a run that is not finished: run --rows {row.teacher!r} "
                         f"--seeds {seed} first.")  # fmt: skip
            recipe = recipe_of(name, *of_run)
            try:
                figures = figures_of(results_of(recipe, deadline))
            except InterruptedRun as stopped:
                if not (deadline and deadline.has_asked):
                    raise
                print(f"time is up within {name}, seed {seed} ({stopped}): {HOW_TO_GO_ON}")
                return
            take_in(rows[name], seed, figures)
            write_rows(arguments.output, "benchmarks.choices", {each: rows[each] for each in ROWS if each in rows})
            print(f"{name}, seed {seed}: {figures}", flush=True)


if __name__ == "__main__":
    main()
