"""What a teacher is worth to a small network, on validation: python -m benchmarks.distillation

The student is SlimResNet at half its widths, 1.2 million parameters; the teacher is the default network, trained for
12 epochs on the same images. All see CIFAR-10 in 16×16 pixels, 20,000 images of it. A student trains for 15 epochs of
the recipe that benchmarks/ablations.py cuts short. The figures are those of 5,000 validation images after the last
epoch; the test split plays no part. Which images are held out depends on the seed, so that each seed has a teacher of
its own. Rows that the result has already are not run again.
"""

import argparse

from benchmarks.ablations import REPOSITORY, run
from benchmarks.measuring import FOLDER, take_in, write_rows
from slimresnet.run_folder.names import RESULTS_NAME
from slimresnet.run_folder.reading import read_json

RESULT = FOLDER / "distillation.json"
RUNS = REPOSITORY / "runs/distillation"

SHARED = {"max_train_samples": 20_000}
TEACHER = SHARED | {"num_train_epochs": 12, "label_smoothing_factor": 0.0}
STUDENT = SHARED | {"num_train_epochs": 15, "network": {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 128]}}
DISTILLED = {"label_smoothing_factor": 0.0, "distillation_alpha": 1.0}
THE_TEACHER, LABELS = "the teacher itself", "labels alone"
ROWS = {
    LABELS: {},
    "the teacher alone, T 4": DISTILLED | {"distillation_temperature": 4.0},
    "the teacher alone, T 2": DISTILLED | {"distillation_temperature": 2.0},
    "the teacher and the labels by halves, T 4": DISTILLED | {"distillation_alpha": 0.5},
    "the teacher alone, T 4, CutMix of half the images": DISTILLED | {"cutmix_prob": 0.5},
    "labels alone, CutMix of half the images": {"cutmix_prob": 0.5},
}


def train_and_score(changes: dict, seed: int, dataset_name: str, name: str) -> dict:
    """Trains in the folder of a name; returns what is reported of the run."""
    done = run(changes | {"seed": seed}, dataset_name, RUNS / name)
    figures = {figure: done[figure] for figure in ("validation accuracy", "validation loss")}
    return figures | {"minutes": round(read_json(RUNS / name / RESULTS_NAME)["train_runtime"] / 60, 1)}


def main() -> None:
    """Trains the teacher of a seed where there is none, then each row, and writes each as it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default="uoft-cs/cifar10", help="as train.py takes it")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help="some of them alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=(42, 43))
    arguments = parser.parse_args()
    rows = read_json(RESULT).get("rows", {})
    for seed in arguments.seeds:
        teacher = f"teacher-{seed}"
        for name in arguments.rows:
            changes = ROWS[name]
            if rows.get(name, {}).get("changes") != changes:
                rows[name] = {"changes": changes, "seeds": {}}
            if str(seed) in rows[name]["seeds"]:
                continue
            taught = {}
            if "distillation_alpha" in changes:
                if not (RUNS / teacher / RESULTS_NAME).is_file():
                    itself = rows.setdefault(THE_TEACHER, {"changes": TEACHER, "seeds": {}})
                    take_in(itself, seed, train_and_score(TEACHER, seed, arguments.dataset_name, teacher))
                taught = {"teacher_name_or_path": str(RUNS / teacher)}
            figures = train_and_score(STUDENT | changes | taught, seed, arguments.dataset_name, "student")
            take_in(rows[name], seed, figures)
            ordered = {each: rows[each] for each in (THE_TEACHER, *ROWS) if each in rows}
            write_rows(RESULT, "benchmarks.distillation", ordered)
            print(f"{name}, seed {seed}: {figures}", flush=True)


if __name__ == "__main__":
    main()
