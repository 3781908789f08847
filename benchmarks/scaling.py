"""Images/s and loss of train.py on one process and on two: python -m benchmarks.scaling

Beside it, on paper, what the input pipeline must deliver to a GPU.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measuring import FOLDER, report
from slimresnet.data.sources.diagnosis import SAMPLE_FOLDER
from slimresnet.run_folder.reading import read_json

LAUNCH_FILES = {1: "configuration/accelerate/cpu.yaml", 2: "configuration/accelerate/multi_cpu.yaml"}
FLOP_PER_IMAGE = 3 * 2 * 271.4e6  # forward and backward of 271.4 million multiply-adds at 32×32
H100_PEAK = 989e12  # bf16 with dense matrices, FLOP/s: NVIDIA H100 SXM data sheet
ASSUMED_SHARE = 0.4


def train(processes: int, dataset_name: str, steps: int, output_dir: Path) -> dict:
    """One run of train.py; returns its `all_results.json`."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", f"--config_file={LAUNCH_FILES[processes]}", "train.py",
        "--config=configuration/paper.yaml", f"--dataset_name={dataset_name}", f"--max_train_steps={steps}",
        "--validation_size=0", "--max_eval_samples=128", "--streaming=false", "--checkpointing_steps=no",
        "--torch_compile=false", f"--output_dir={output_dir}",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return read_json(output_dir / "all_results.json")


def main() -> None:
    """Measures and writes `benchmarks/scaling.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_name", default=SAMPLE_FOLDER)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15)
    arguments = parser.parse_args()
    runs: dict[int, list[dict]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(arguments.rounds):
            for processes, results in runs.items():
                output_dir = Path(folder, f"{processes}-{turn}")
                results.append(train(processes, arguments.dataset_name, arguments.steps, output_dir))
    rows = {}
    for processes, results in runs.items():
        speeds = sorted(result["train_samples_per_second"] for result in results)
        rows[f"{processes} process{'es' if processes > 1 else ''}"] = {
            "images_per_second": round(speeds[len(speeds) // 2], 1),
            "lowest": round(speeds[0], 1),
            "highest": round(speeds[-1], 1),
            "mean_loss": round(results[0]["train_loss"], 4),
        }
    need = ASSUMED_SHARE * H100_PEAK / FLOP_PER_IMAGE
    pipeline = read_json(FOLDER / "input_pipeline.json")["tables"]
    measured = {
        title: {row: values["images_per_second"] for row, values in table["rows"].items() if row.startswith("ours")}
        for title, table in pipeline.items()
        if any(row.startswith("ours") for row in table["rows"])
    }
    notes = {
        "what the input pipeline must deliver, on paper": {
            "assumed": f"{ASSUMED_SHARE:.0%} of {H100_PEAK / 1e12:.0f} TFLOP/s at {FLOP_PER_IMAGE / 1e9:.2f} GFLOP",
            "1 H100, images/s": round(need),
            "8 H100, images/s": round(8 * need),
        },
        "what it was measured to deliver on one core, images/s": measured,
        "so": "On a GPU the images are resident and augmented by the GPU itself (--streaming false), a few passes over "
        "bytes, not by cores; a stream of PNGs would need cores in proportion to decoding.",
        "loss": f"The same {arguments.steps} batches; BatchNorm takes its statistics of each process's half.",
    }
    report(
        "scaling", f"python -m benchmarks.scaling --dataset_name {arguments.dataset_name}",
        {"train.py, 128 images a step in all": ("1 process", rows)}, notes,
    )  # fmt: skip


if __name__ == "__main__":
    main()
