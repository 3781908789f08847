"""What larger batches cost fast.yaml in accuracy, and save in time: python -m benchmarks.batch_sizes

For each size of batch, all learning rates of fast.yaml by some factors, each in several seeds. The figures are those of
5,000 validation images after the last epoch; the test split plays no part. Seeds that the result has already are not
run again. `--steps 3 --output FILE` rehearses all of it.
"""

import argparse
import dataclasses
from pathlib import Path

from benchmarks.measuring import FOLDER, take_in, write_rows
from slimresnet.api.train import train
from slimresnet.cli.train import parse_recipe
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.names import TRAINER_STATE_NAME
from slimresnet.run_folder.reading import read_json

RESULT = FOLDER / "batch_sizes.json"
RATES = ("learning_rate", "muon_learning_rate", "norm_bias_learning_rate")
# Factors of the rates, which were tuned for 256 images: the square root of the ratio of the batches, the ratio itself,
# and for 1,024 images one between.
FACTORS = {256: (1.0,), 512: (1.41, 2.0), 1024: (2.0, 2.83, 4.0)}
SEEDS = (42, 43, 44)


def recipe_of(base: Recipe, batch: int, factor: float, seed: int) -> Recipe:
    """fast.yaml with another batch and rates, 5,000 validation images held out."""
    rates = {name: getattr(base, name) * factor for name in RATES}
    return dataclasses.replace(
        base,
        **rates,
        total_train_batch_size=batch,
        seed=seed,
        validation_size=5000,
        tta="none",
        checkpointing_steps="no",
        overwrite_output_dir=True,
    )


def run(recipe: Recipe) -> dict:
    """Trains; returns what is reported of the run."""
    result = train(recipe)
    last = read_json(result.folder / TRAINER_STATE_NAME)["log_history"][-1]
    return {
        "validation accuracy": last["eval_accuracy"],
        "validation loss": last["eval_loss"],
        "seconds of steps": round(result.results["train_runtime"], 1),
        "images per second, last epoch": round(last["train_samples_per_second"]),
        "share waiting for data, last epoch": round(last["data_time"], 4),
    }


def main() -> None:
    """Runs the rows that are missing, a seed of all of them after the other, and writes each as it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default="uoft-cs/cifar10", help="as train.py takes it")
    parser.add_argument("--batch_sizes", type=int, nargs="+", choices=FACTORS, default=list(FACTORS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--fused_batchnorm", action="store_true")
    parser.add_argument("--steps", type=int, help="of a run, to rehearse; by default all of fast.yaml's 24 epochs")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.steps and arguments.output == RESULT:
        parser.error("--steps is a rehearsal: name another file by --output.")
    words = ["--config", "fast", "--dataset_name", arguments.dataset_name, "--output_dir", "runs/batch_sizes"]
    base = dataclasses.replace(
        parse_recipe(words),
        max_train_steps=arguments.steps,
        max_eval_samples=100 if arguments.steps else None,
        fused_batchnorm=True if arguments.fused_batchnorm else "auto",
    )
    rows = read_json(arguments.output).get("rows", {})
    form = ", fused" if arguments.fused_batchnorm else ""
    contenders = [(batch, factor) for batch in arguments.batch_sizes for factor in FACTORS[batch]]
    for seed in arguments.seeds:
        for batch, factor in contenders:
            row = rows.setdefault(f"{batch} images, rates × {factor}{form}", {"seeds": {}})
            if str(seed) in row["seeds"]:
                continue
            take_in(row, seed, run(recipe_of(base, batch, factor, seed)))
            write_rows(arguments.output, "benchmarks.batch_sizes", rows)
            print(f"{batch} images, rates × {factor}, seed {seed}: {row['seeds'][str(seed)]}", flush=True)


if __name__ == "__main__":
    main()
