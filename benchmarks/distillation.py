"""What a teacher is worth to a small network, on validation: python -m benchmarks.distillation

The student is SlimResNet at half its widths, 1.2 million parameters; the teacher is the default network, trained for
12 epochs on the same images. All see CIFAR-10 in 16×16 pixels, 20,000 images of it. A student trains for 15 epochs of
fast.yaml without erasing and without a rate of its own for BatchNorm's biases. The figures are those of 5,000
validation images after the last epoch; the test split plays no part. Rows that the result has already are not run
again.
"""

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path

from benchmarks.measuring import FOLDER, machine
from modeling_slimresnet import SlimResNetConfig
from slimresnet.api.train import train
from slimresnet.cli.train import parse_recipe
from slimresnet.run_folder.names import RESULTS_NAME, TRAINER_STATE_NAME
from slimresnet.run_folder.reading import read_json
from slimresnet.run_folder.writing import write_json

REPOSITORY = FOLDER.parent
RESULT = FOLDER / "distillation.json"
RUNS = REPOSITORY / "runs/distillation"
TEACHER = RUNS / "teacher"

# Crops of 2 pixels are to 16 what 4 are to 32. 25,000 images are 20,000 to train on and 5,000 for validation.
SHORT = {
    "num_train_epochs": 15,
    "validation_size": 5000,
    "max_train_samples": 20000,
    "norm_bias_learning_rate": None,
    "progressive_resizing": None,
    "crop_padding": 2,
    "random_erasing_prob": 0.0,
    "streaming": False,
    "checkpointing_steps": "no",
    "max_eval_samples": None,
    "tta": "none",
}
DISTILLED = {"label_smoothing_factor": 0.0, "teacher_name_or_path": str(TEACHER.relative_to(REPOSITORY))}
STUDENT = {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 128]}
ROWS = {
    "labels alone": {},
    "the teacher alone, T 4": DISTILLED | {"distillation_temperature": 4.0},
    "the teacher alone, T 2": DISTILLED | {"distillation_temperature": 2.0},
    "the teacher and the labels by halves, T 4": DISTILLED | {"distillation_alpha": 0.5},
    "the teacher alone, T 4, CutMix of half the images": DISTILLED | {"cutmix_prob": 0.5},
    "labels alone, CutMix of half the images": {"cutmix_prob": 0.5},
}
SEEDS = (42, 43)


def run(changes: dict, network: dict, dataset_name: str, output_dir: Path) -> dict:
    """Trains; returns what is reported of the run."""
    fast = parse_recipe([f"--config={REPOSITORY / 'configuration/fast.yaml'}"])
    with tempfile.TemporaryDirectory() as folder:
        SlimResNetConfig(image_size=16, **network).save_pretrained(folder)
        settings = SHORT | {"dataset_name": dataset_name, "config_name": folder, "output_dir": str(output_dir)}
        train(dataclasses.replace(fast, **settings | changes, overwrite_output_dir=True))
    last = read_json(output_dir / TRAINER_STATE_NAME)["log_history"][-1]
    return {
        "validation accuracy": last["eval_accuracy"],
        "validation loss": last["eval_loss"],
        "minutes": round(read_json(output_dir / RESULTS_NAME)["train_runtime"] / 60, 1),
    }


def main() -> None:
    """Trains the teacher where there is none, then each row in each seed, and writes each as it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default="uoft-cs/cifar10", help="as train.py takes it")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help="some of them alone")
    arguments = parser.parse_args()
    result = {"rows": {}} | read_json(RESULT)
    if not (TEACHER / RESULTS_NAME).is_file():
        changes = {"num_train_epochs": 12, "label_smoothing_factor": 0.0}
        result["teacher"] = run(changes, {}, arguments.dataset_name, TEACHER)
    for seed in SEEDS:
        for name in arguments.rows:
            row = result["rows"].setdefault(name, {"changes": ROWS[name], "seeds": {}})
            if row["changes"] == ROWS[name] and str(seed) in row["seeds"]:
                continue
            done = run(ROWS[name] | {"seed": seed}, STUDENT, arguments.dataset_name, RUNS / "student")
            row["changes"] = ROWS[name]
            row["seeds"][str(seed)] = done
            accuracies = [each["validation accuracy"] for each in row["seeds"].values()]
            row["mean validation accuracy"] = round(statistics.mean(accuracies), 5)
            result |= {"command": "python -m benchmarks.distillation", "machine": machine()}
            write_json(RESULT, result)
            print(f"{name}, seed {seed}: {done}", flush=True)


if __name__ == "__main__":
    main()
