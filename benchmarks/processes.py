"""One process against two on the same recipe: the samples, the draws, the weights: python -m benchmarks.processes

Both take 20 optimiser steps of 128 images, on one process or on two with 64 each. What the model is given is recorded,
sample by sample, as are the weights at the end: once with BatchNorm frozen, where the processes do the same sums in
another order, and once as it is, where each process has the statistics of its own 64 images.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from benchmarks.measuring import FOLDER, machine
from benchmarks.scaling import LAUNCH_FILES
from modeling_slimresnet import SlimResNetConfig
from slimresnet.api.train import train
from slimresnet.cli.train import parse_recipe
from slimresnet.data.sources.diagnosis import SAMPLE_FOLDER
from slimresnet.run_folder.reading import read_json
from slimresnet.run_folder.writing import write_json

STEPS = 20


class Recorder(TrainerCallback):
    """
    Records a checksum of each sample that the network is given, by its place among all samples of the run.

    Args:
        frozen: BatchNorm is in evaluation mode, and stays so.
    """

    def __init__(self, frozen: bool):
        self.seen: list[tuple[int, int]] = []
        self._frozen = frozen

    def on_init_end(self, args, state, control, model, **_):
        for module in model.modules():
            if self._frozen and isinstance(module, nn.BatchNorm2d):
                module.eval()
                module.train = lambda mode=True, module=module: module

    def on_substep_end(self, args, state, control, inputs, **_):
        accelerator = PartialState()
        batch = len(inputs["labels"])
        first = (state.global_step * accelerator.num_processes + accelerator.process_index) * batch
        for offset, (pixels, label) in enumerate(zip(inputs["pixel_values"], inputs["labels"], strict=True)):
            content = pixels.numpy().tobytes() + label.numpy().tobytes()
            self.seen.append((first + offset, zlib.crc32(content)))


def record(frozen: bool, seen_dir: Path, flags: list[str]) -> None:
    """What a launched process does: it trains, with its inputs recorded and, if so wished, BatchNorm frozen."""
    recorder = Recorder(frozen)
    train(parse_recipe(flags), callbacks=[recorder])
    (seen_dir / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(recorder.seen, allow_nan=False))


def launch(processes: int, frozen: bool, folder: Path, flags: list[str]) -> tuple[dict, dict, list]:
    """One run; returns its results, its weights, and a checksum of each sample that the model was given, by place."""
    output_dir = folder / f"{processes}-{'frozen' if frozen else 'local'}"
    seen_dir = folder / f"{output_dir.name}-seen"
    seen_dir.mkdir()
    command = [
        sys.executable, "-m", "accelerate.commands.launch", f"--config_file={LAUNCH_FILES[processes]}", "-m",
        "benchmarks.processes", "--record", "frozen" if frozen else "local", "--seen", seen_dir, *flags,
        f"--output_dir={output_dir}",
    ]  # fmt: skip
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if process.returncode:
        sys.exit(process.stderr)
    results = read_json(output_dir / "all_results.json")
    seen = sorted(entry for file in seen_dir.iterdir() for entry in json.loads(file.read_text()))
    return results, load_file(output_dir / "model.safetensors"), seen


def compare(frozen: bool, folder: Path, flags: list[str]) -> dict:
    """A row: whether the samples agree, the mean losses, and how far the weights are apart."""
    (one, weights, seen), (two, other_weights, other_seen) = (
        launch(processes, frozen, folder, flags) for processes in (1, 2)
    )
    names = [name for name, value in weights.items() if value.is_floating_point() and "running" not in name]
    trained = torch.cat([weights[name].flatten() for name in names])
    apart = torch.cat([other_weights[name].flatten() for name in names]) - trained
    return {
        "samples given to the model": len(seen),
        "the same sample, augmentation and label at every place": seen == other_seen,
        "mean loss, 1 process": one["train_loss"],
        "mean loss, 2 processes": two["train_loss"],
        "weights, largest difference": apart.abs().max().item(),
        "weights, relative difference (norms)": (apart.norm() / trained.norm()).item(),
    }


def main() -> None:
    """Measures and writes `benchmarks/processes.json`, or the file that is named. Other flags are train.py's."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--record", choices=["frozen", "local"], help="used by the processes that it launches")
    parser.add_argument("--seen", type=Path, help="the same")
    parser.add_argument("--output", type=Path, default=FOLDER / "processes.json")
    arguments, flags = parser.parse_known_args()
    if arguments.record:
        record(arguments.record == "frozen", arguments.seen, flags)
        return
    # Frozen BatchNorm normalises nothing: blocks that begin as the identity keep the numbers small.
    config = SlimResNetConfig(zero_init_residual=True)
    defaults = [
        "--config=configuration/paper.yaml", f"--dataset_name={SAMPLE_FOLDER}", f"--max_train_steps={STEPS}",
        "--total_train_batch_size=128", "--learning_rate=0.01", "--validation_size=0", "--max_eval_samples=64",
        "--streaming=false", "--mixed_precision=no", "--checkpointing_steps=no", "--use_cpu",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        config.save_pretrained(name)
        defaults.append(f"--config_name={name}")
        rows = {
            title: compare(frozen, Path(name), [*defaults, *flags])
            for title, frozen in (("BatchNorm frozen", True), ("BatchNorm local", False))
        }
    command = " ".join(["python -m benchmarks.processes", *flags])
    write_json(arguments.output, {"command": command, "machine": machine(), "steps": STEPS, "rows": rows})
    print(arguments.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
