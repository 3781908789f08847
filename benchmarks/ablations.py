"""What the settings of configuration/fast.yaml are worth, on validation: python -m benchmarks.ablations

The first row is fast.yaml cut short: 6 epochs on images of 16×16, without random erasing and without a rate of its own
for BatchNorm's biases, four minutes on two cores. Each other row is the same run with one thing changed. The row of
augmented copies has half the epochs, since each of its steps computes twice as much. The figures are those of the 5,000
validation images after the last epoch; the test split plays no part. Rows that `benchmarks/ablations.json` has already
are not run again. Its rows were run when the warm-up scaled the fall of the learning rate, and have the peaks that they
really reached; behind the warm-up the rate is the same, but for the row of the cosine.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

from benchmarks.measuring import FOLDER, machine
from modeling_slimresnet import SlimResNetConfig
from slimresnet.api.train import train
from slimresnet.cli.train import parse_recipe
from slimresnet.run_folder.names import TRAINER_STATE_NAME
from slimresnet.run_folder.reading import read_json
from slimresnet.run_folder.writing import write_json

REPOSITORY = FOLDER.parent
RESULT = FOLDER / "ablations.json"

# Crops of 2 pixels are to 16 what 4 are to 32.
SHORT = {
    "num_train_epochs": 6,
    "validation_size": 5000,
    "norm_bias_learning_rate": None,
    "progressive_resizing": None,
    "crop_padding": 2,
    "random_erasing_prob": 0.0,
    "streaming": False,
    "checkpointing_steps": "no",
    "tta": "none",
}

ROWS = {
    "fast.yaml, cut short": {},
    "another seed": {"seed": 43},
    "SGD alone, at 0.27": {"optim": "sgd", "learning_rate": 0.27},
    "Muon at 0.018, decay 0.05": {"muon_learning_rate": 0.018, "muon_weight_decay": 0.05},
    "Muon at 0.09, decay 0.04": {"muon_learning_rate": 0.09, "muon_weight_decay": 0.04},
    "cosine instead of linear, from 0.195": {
        "lr_scheduler_type": "cosine",
        "learning_rate": 0.195,
        "muon_learning_rate": 0.0488,
    },
    "batch of 128": {"total_train_batch_size": 128},
    "batch of 512": {"total_train_batch_size": 512},
    "no label smoothing": {"label_smoothing_factor": 0.0},
    "label smoothing of 0.2": {"label_smoothing_factor": 0.2},
    "momentum of 0.8": {"momentum": 0.8},
    "decay on BatchNorm and biases": {"decay_norm_and_bias": True},
    "every image mirrored in every other epoch": {"alternating_flip": True},
    "zeros around the crop, not the reflection": {"crop_padding_mode": "zero"},
    "averaged weights, decay 0.99": {"ema_decay": 0.99},
    "averaged weights, decay 0.99, BatchNorm recomputed": {"ema_decay": 0.99, "ema_batchnorm": "recompute"},
    "random erasing of half the images": {"random_erasing_prob": 0.5},
    "TrivialAugment": {"trivial_augment": True},
    "TrivialAugment, moving images by up to 4 pixels": {"trivial_augment": True, "trivial_augment_translation": 4},
    "CutMix of half the images": {"cutmix_prob": 0.5},
    "CutMix of half the images, but for the last 2 epochs": {
        "cutmix_prob": 0.5,
        "num_final_light_augmentation_epochs": 2,
    },
    "mixup of half the images": {"mixup_prob": 0.5},
    "CutMix of a third of the images, mixup of another": {"cutmix_prob": 1 / 3, "mixup_prob": 1 / 3},
    "two augmented copies, half the epochs: the same arithmetic": {"augmented_copies": 2, "num_train_epochs": 3},
    "sharpness-aware in the last 2 epochs, within 0.2": {"sam_rho": 0.2, "num_final_sam_epochs": 2},
    "BatchNorm's biases at eight times the rate": {"norm_bias_learning_rate": 1.44},
    "the stem starts by whitening patches": {"stem_initialization": "whitening"},
    "blocks start as the identity": {"network": {"zero_init_residual": True}},
}


def run(changes: dict, dataset_name: str, output_dir: Path) -> dict:
    """Trains a row in `output_dir`; returns what is reported of it."""
    fast = parse_recipe([f"--config={REPOSITORY / 'configuration/fast.yaml'}"])
    with tempfile.TemporaryDirectory() as folder:
        SlimResNetConfig(image_size=16, **changes.get("network", {})).save_pretrained(folder)
        settings = SHORT | {"dataset_name": dataset_name, "config_name": folder, "output_dir": str(output_dir)}
        settings |= {name: value for name, value in changes.items() if name != "network"}
        train(dataclasses.replace(fast, **settings, overwrite_output_dir=True))
    last = read_json(output_dir / TRAINER_STATE_NAME)["log_history"][-1]
    # Averaged weights, where there are some, are what would be kept.
    averaged = "_ema" if "eval_accuracy_ema" in last else ""
    return {
        "changes": changes,
        "validation accuracy": last[f"eval_accuracy{averaged}"],
        "validation loss": last[f"eval_loss{averaged}"],
        "training loss": last["loss"],
        "images per second": round(last["train_samples_per_second"], 1),
    }


def main() -> None:
    """Runs the rows that are missing, one after another, and writes each as it ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_name", default="uoft-cs/cifar10", help="as train.py takes it")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help="some of them alone")
    arguments = parser.parse_args()
    result = {"rows": {}} | read_json(RESULT)
    for name in arguments.rows:
        if result["rows"].get(name, {}).get("changes") == ROWS[name]:
            continue
        done = run(ROWS[name], arguments.dataset_name, REPOSITORY / "runs/ablations" / f"{list(ROWS).index(name):02}")
        rows = result["rows"] | {name: done}
        result = {
            "command": "python -m benchmarks.ablations",
            "machine": machine(),
            "rows": {name: rows[name] for name in ROWS if name in rows},
        }
        write_json(RESULT, result)
        print(f"{name}: {done['validation accuracy']:.2%} on validation")


if __name__ == "__main__":
    main()
