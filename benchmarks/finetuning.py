"""What trained weights are worth on other classes with few images: python -m benchmarks.finetuning

configuration/finetune.yaml takes the weights of CIFAR-10 onto CIFAR-100, with 10, 50 and 500 images of each of the 100
classes, and the same recipe trains the same network from nothing on the same images. The images are drawn by the seed.
With --choose the candidates for the recipe are compared on 2,000 other training images; the test split plays no part.
Without it each row is scored once on the 10,000 test images. Rows that the result has already are not run again.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from datasets import Dataset, load_dataset

from benchmarks.ablations import REPOSITORY
from benchmarks.measuring import FOLDER, machine, take_in
from slimresnet.api.train import train
from slimresnet.cli.train import parse_recipe
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.reading import read_json
from slimresnet.run_folder.writing import write_json

RESULT = FOLDER / "finetuning.json"
RUNS = REPOSITORY / "runs/finetuning"
HELD_OUT = 20  # images a class, to choose on

NOTHING = {"model_name_or_path": None, "freeze": "none", "trunk_learning_rate_factor": 1.0}
CANDIDATES = {
    "from nothing, 0.03": NOTHING | {"learning_rate": 0.03},
    "from nothing, 0.1": NOTHING | {"learning_rate": 0.1},
    "0.01": {"learning_rate": 0.01},
    "0.03": {"learning_rate": 0.03},
    "0.1": {"learning_rate": 0.1},
    "0.1, a tenth of it for the trunk": {"learning_rate": 0.1, "trunk_learning_rate_factor": 0.1},
    "0.1, the trunk frozen": {"learning_rate": 0.1, "freeze": "trunk"},
    "0.03, frozen up to stage2": {"learning_rate": 0.03, "freeze": "stage2"},
    "0.03, TrivialAugment": {"learning_rate": 0.03, "trivial_augment": True},
    "0.03, label smoothing": {"learning_rate": 0.03, "label_smoothing_factor": 0.1},
    "0.03, CutMix": {"learning_rate": 0.03, "cutmix_prob": 0.5},
}
"""What the recipe was chosen among, by what differs from it."""
ROWS = {"from nothing": NOTHING, "from the weights of CIFAR-10": {}}
IMAGES = (10, 50, 500)  # of each class


def write_images(dataset_name: str, images_a_class: int, seed: int, choosing: bool) -> Path:
    """
    Writes the training images of a row as a dataset of its own; its test images are other training images in choosing.

    Args:
        dataset_name: CIFAR-100, as `load_dataset` takes it.
    """
    folder = RUNS / "data" / f"{images_a_class}-{seed}{'-choosing' * choosing}"
    if not folder.is_dir():
        rows = load_dataset(dataset_name, split="train").select_columns(["img", "fine_label"])
        order = np.random.default_rng(seed).permutation(len(rows))
        labels = np.array(rows["fine_label"])[order]
        of_class = [order[labels == label] for label in range(labels.max() + 1)]
        parts: dict[str, Dataset] = {"train": rows.select(np.concatenate([each[:images_a_class] for each in of_class]))}
        if choosing:
            parts["test"] = rows.select(np.concatenate([each[-HELD_OUT:] for each in of_class]))
        else:
            parts["test"] = load_dataset(dataset_name, split="test").select_columns(["img", "fine_label"])
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        for split, part in parts.items():
            part.to_parquet(unfinished / f"{split}.parquet")
        unfinished.rename(folder)
    return folder


def run(changes: dict, dataset: Path, seed: int, name: str) -> dict:
    """Trains a row; returns what is reported of it."""
    recipe = parse_recipe([f"--config={REPOSITORY / 'configuration/finetune.yaml'}"])
    settings = {"model_name_or_path": str(REPOSITORY / recipe.model_name_or_path)} | changes
    settings |= {"dataset_name": str(dataset), "seed": seed, "output_dir": str(RUNS / name)}
    settings |= {"validation_size": 0, "tta": "none", "checkpointing_steps": "no", "overwrite_output_dir": True}
    results = train(dataclasses.replace(recipe, **settings)).results
    return {
        "accuracy": results["test_accuracy"],
        "loss": results["test_loss"],
        "training loss": results["train_loss"],
        "minutes": round(results["train_runtime"] / 60, 1),
    }


def settings_of_recipe() -> dict:
    """What finetune.yaml has beside the defaults: figures of another one are run anew."""
    recipe = parse_recipe([f"--config={REPOSITORY / 'configuration/finetune.yaml'}"]).to_dict()
    return {name: value for name, value in recipe.items() if value != Recipe().to_dict()[name]}


def main() -> None:
    """Runs what is missing, one after another, and writes each as it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default="uoft-cs/cifar100", help="CIFAR-100, as load_dataset takes it")
    parser.add_argument("--images", type=int, nargs="+", choices=IMAGES, default=IMAGES, help="of each class")
    parser.add_argument("--seeds", type=int, nargs="+", default=(42, 43, 44))
    parser.add_argument("--choose", nargs="*", choices=CANDIDATES, help="compare candidates, these or all")
    arguments = parser.parse_args()
    choosing = arguments.choose is not None
    part, rows_to_run = "rows", ROWS
    if choosing:
        part, rows_to_run = "candidates", {name: CANDIDATES[name] for name in arguments.choose or CANDIDATES}
    result = {"candidates": {}, "rows": {}} | read_json(RESULT)
    for images in arguments.images:
        for seed in arguments.seeds:
            for name, changes in rows_to_run.items():
                settings = settings_of_recipe() | changes
                rows = result[part].setdefault(str(images), {})
                if rows.get(name, {}).get("changes") != settings:
                    rows[name] = {"changes": settings, "seeds": {}}
                if str(seed) in rows[name]["seeds"]:
                    continue
                dataset = write_images(arguments.dataset_name, images, seed, choosing)
                figures = run(changes, dataset, seed, f"{part}-{images}-{seed}-{list(rows_to_run).index(name)}")
                take_in(rows[name], seed, figures | {"machine": machine()["device"]}, "accuracy")
                written = {"command": "python -m benchmarks.finetuning", "machine": machine()}
                write_json(RESULT, written | {each: result[each] for each in ("candidates", "rows")})
                print(f"{images} images a class, {name}, seed {seed}: {figures}", flush=True)


if __name__ == "__main__":
    main()
