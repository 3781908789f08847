"""How fast each form of a trained network answers on a CPU, and how well: python -m benchmarks.inference MODEL

Forms take turns, one image at a time and 128, on one thread and on two. Then each, in a process of its own, scores the
whole test split, which gives its accuracy and its peak memory.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar

from benchmarks.measuring import FOLDER, report, take_turns
from modeling_slimresnet import SlimResNetConfig
from slimresnet.api.export import export
from slimresnet.data.loader import Loading
from slimresnet.data.sources.dataset import open_split
from slimresnet.evaluation.logits import predict_logits
from slimresnet.evaluation.scores import measure
from slimresnet.formats.format import ExportedFormat, ForeignNetwork
from slimresnet.formats.registry import find_format
from slimresnet.formats.trained import fold_batchnorm, load_model, load_processing
from slimresnet.recipe.hardware import has_bf16
from slimresnet.recipe.reading import read_recipe

THREADS = (1, 2)
BATCHES = {"one image at a time": 1, "128 images at a time": 128}
EXPORTS = FOLDER.parent / "runs/inference"


def in_torch(folder: Path, *, fold=False, channels_last=False, bf16=False, compiled=False) -> nn.Module:
    """The network in PyTorch; with nothing named as `from_pretrained` gives it, and as the report ran it."""
    model = load_model(folder).eval()
    model = fold_batchnorm(model) if fold else model
    model = model.to(memory_format=torch.channels_last) if channels_last else model
    called = torch.compile(model) if compiled else model

    def run(pixel_values: Tensor) -> Tensor:
        if channels_last:
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return called(pixel_values=pixel_values).logits.float()

    return ForeignNetwork(run, model.config)


def in_format(folder: Path, format: ExportedFormat) -> nn.Module:
    """The network of an exported file."""
    return ForeignNetwork(format.open_file(EXPORTS / format.file), SlimResNetConfig.from_pretrained(folder))


def exported_format(backend: str, *, quantized: bool = False) -> ExportedFormat:
    """The format that a program runs."""
    format = find_format(backend, quantized=quantized)
    assert isinstance(format, ExportedFormat)
    return format


EXPORTED = {
    "ONNX Runtime, float32": exported_format("onnxruntime"),
    "ONNX Runtime, int8": exported_format("onnxruntime", quantized=True),
    "OpenVINO, float32": exported_format("openvino"),
    "OpenVINO, int8": exported_format("openvino", quantized=True),
}


FORMS: dict[str, Callable[[Path], nn.Module]] = {
    "PyTorch, eager, float32": in_torch,
    "PyTorch, channels_last": partial(in_torch, channels_last=True),
    "PyTorch, BatchNorm folded": partial(in_torch, fold=True),
    "PyTorch, folded, channels_last": partial(in_torch, fold=True, channels_last=True),
    "PyTorch, compiled": partial(in_torch, compiled=True),
    "PyTorch, folded, channels_last, bf16": partial(in_torch, fold=True, channels_last=True, bf16=True),
    **{form: partial(in_format, format=format) for form, format in EXPORTED.items()},
}
if not has_bf16("cpu"):
    del FORMS["PyTorch, folded, channels_last, bf16"]  # emulated: nobody would run it


def file_of(form: str, folder: Path) -> Path:
    """What has to be shipped for a form."""
    return EXPORTS / EXPORTED[form].file if form in EXPORTED else folder / "model.safetensors"


@torch.inference_mode()
def answer(network: nn.Module, pixel_values: Tensor, repeats: int) -> int:
    """Runs a form so many times; returns how many images it saw."""
    for _ in range(repeats):
        network(pixel_values=pixel_values)
    return repeats * len(pixel_values)


def score(form: str, folder: Path, dataset_name: str) -> dict[str, float]:
    """Accuracy of a form on the test split, by class too, and the peak memory of this process in bytes."""
    split = open_split(dataset_name, "test", image_size=32)
    logits = predict_logits(
        FORMS[form](folder),
        split,
        np.arange(len(split.labels)),
        Loading(torch.device("cpu")),
        batch_size=128,
        normalize=load_processing(folder).normalize,
    )["original"]
    recall = measure("per_class", logits, split.labels)["recall"]  # which is the accuracy on a class's images
    return {
        "test_accuracy": measure("classification", logits, split.labels)["accuracy"],
        "test_accuracy_by_class": dict(zip(split.label_names, recall, strict=True)),
        "peak_memory_bytes": peak_memory(),
    }


def scored_apart(form: str, folder: Path, dataset_name: str) -> dict[str, float]:
    """`score` in a process of its own, and the size of the form's file in bytes."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.inference",
        folder,
        f"--dataset_name={dataset_name}",
        f"--score={form}",
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(process.stdout.splitlines()[-1]) | {"file_bytes": file_of(form, folder).stat().st_size}


def peak_memory() -> int:
    """Most bytes that this process has held. (What `getrusage` gives holds for the process that started it too.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return 1024 * int(kilobytes)


def main() -> None:
    """Measures and writes `benchmarks/inference.json`."""
    disable_progress_bar()  # transformers': loading takes no time
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="A folder that train.py wrote.")
    parser.add_argument(
        "--dataset_name", help="A dataset on the Hub, or a folder; by default what the model was trained on."
    )
    parser.add_argument("--rounds", type=int, default=5, help="Turns of each form; by default 5.")
    parser.add_argument("--score", choices=FORMS, help=argparse.SUPPRESS)  # what the child processes are told
    arguments = parser.parse_args()
    dataset_name = arguments.dataset_name or read_recipe(arguments.model).dataset_name
    if arguments.score:
        print(json.dumps(score(arguments.score, arguments.model, dataset_name), allow_nan=False))
        return

    export(arguments.model, output_dir=EXPORTS, quantize="int8", overwrite_output_dir=True, dataset_name=dataset_name)
    split = open_split(dataset_name, "test", image_size=32)
    tables = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        networks = {form: build(arguments.model) for form, build in FORMS.items()}
        for title, size in BATCHES.items():
            [pixels] = split.images.read([np.arange(size)])
            pixel_values = load_processing(arguments.model).normalize(pixels)
            repeats = 64 if size == 1 else 2
            contenders = {form: partial(answer, network, pixel_values, repeats) for form, network in networks.items()}
            plural = "s" if threads > 1 else ""
            turns = take_turns(contenders, arguments.rounds)
            tables[f"{title}, {threads} thread{plural}"] = (next(iter(FORMS)), turns)
    notes = {form: scored_apart(form, arguments.model, dataset_name) for form in FORMS}
    report("inference", f"python -m benchmarks.inference {arguments.model}", tables, notes, ("onnxruntime", "openvino"))


if __name__ == "__main__":
    main()
