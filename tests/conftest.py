"""Shared by all tests: no network, and a network small enough to train in a second."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of huggingface_hub: a missing folder must fail at once
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # before any import of torch: processes share the cores, and none may spin

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before any import of Triton: its kernels run on CPUs so

from datasets import ClassLabel, Dataset, Features, Image
from hypothesis import HealthCheck, settings
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image as PILImage
from safetensors.torch import load_file, save_file
from transformers import ViTImageProcessorPil

import modeling_slimresnet
import slimresnet.data.sources.decoding
from slimresnet.data.images import open_picture

# The same examples each time, on machines of any speed.
settings.register_profile(
    "repository",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("repository")


def pytest_collection_modifyitems(config, items):
    """
    The two workers of pytest-xdist begin with a half each: in both, modules with slow tests come first, about as many.

    What is left towards the end, and is taken over by the worker that is done first, are then quick tests.
    """
    if not hasattr(config, "workerinput"):
        return
    modules = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    slow = {path: sum(item.get_closest_marker("slow") is not None for item in modules[path]) for path in modules}
    halves, loads = ([], []), [0, 0]
    for path in sorted(modules, key=slow.get, reverse=True):
        half = loads.index(min(loads)) if slow[path] else min((0, 1), key=lambda half: len(halves[half]))
        halves[half].extend(modules[path])
        loads[half] += slow[path]
    items[:] = [item for half in sorted(halves, key=len, reverse=True) for item in half]


REPOSITORY = Path(__file__).parent.parent
SAMPLE = REPOSITORY / "examples" / "cifar10_sample"

_DRAW = FigureCanvasAgg.print_png
_open_once = functools.lru_cache(maxsize=4096)(open_picture)


@pytest.fixture(scope="session", autouse=True)
def cheap_runs():
    """Three quarters of a tiny run are its pictures, which are blank here, and the sample, which is decoded once."""
    blank = PILImage.new("RGB", (1, 1))
    with (
        patch.object(FigureCanvasAgg, "print_png", lambda canvas, path: blank.save(path)),
        patch.object(slimresnet.data.sources.decoding, "open_picture", _open_once),
    ):
        yield


@pytest.fixture
def drawn(monkeypatch):
    """In this test pictures are drawn."""
    monkeypatch.setattr(FigureCanvasAgg, "print_png", _DRAW)


@pytest.fixture
def tiny_config():
    """A network of two stages, for tests that hold for any."""
    return modeling_slimresnet.SlimResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], strides=[1, 2], image_size=16
    )


def _save_config(folder: Path, **settings) -> Path:
    config = modeling_slimresnet.SlimResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], strides=[2, 2], **settings
    )
    config.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_config_dir(tmp_path_factory):
    """The same as a folder for `--config_name`, for images of 32×32."""
    return _save_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def smooth_config_dir(tmp_path_factory):
    """Where a sum is made in two ways: at the kink of a ReLU, rounding decides over the gradient of a flat area."""
    return _save_config(tmp_path_factory.mktemp("smooth"), hidden_act="gelu")


def tiny_run_flags(config_dir: Path, output_dir: Path) -> list[str]:
    """Of train.py: 224 images of the sample, 7 steps an epoch, 3 epochs."""
    return [
        f"--dataset_name={SAMPLE}",
        f"--config_name={config_dir}",
        f"--output_dir={output_dir}",
        "--max_train_samples=224",
        "--validation_size=100",
        "--max_eval_samples=90",
        "--total_train_batch_size=32",
        "--num_train_epochs=3",
        "--streaming=false",
        "--cutmix_prob=0.5",
        "--random_erasing_prob=0.5",
        "--use_cpu",
        "--mixed_precision=no",
    ]


@pytest.fixture
def flags(tiny_config_dir, tmp_path):
    """Of a tiny run into `tmp_path / "run"`."""
    return tiny_run_flags(tiny_config_dir, tmp_path / "run")


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_config_dir):
    """The folder of a finished tiny run; copy it before writing into it."""
    from training_runs import train  # imports all that train.py imports, which most tests can do without

    return train(tiny_run_flags(tiny_config_dir, tmp_path_factory.mktemp("trained") / "run"))


NAMES = [f"{letter}-class" for letter in "jihgfedcba"]  # none stands where sorting would put it


@pytest.fixture
def untrained(tmp_path):
    """The folder of a network with weights as drawn: enough to predict with, and no run."""
    folder = tmp_path / "untrained"
    config = modeling_slimresnet.SlimResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], strides=[2, 2], id2label=dict(enumerate(NAMES)),
    )  # fmt: skip
    modeling_slimresnet.SlimResNetForImageClassification(config).eval().save_pretrained(folder)
    ViTImageProcessorPil(
        size={"height": 32, "width": 32}, image_mean=[0.5, 0.4, 0.3], image_std=[0.3, 0.2, 0.1]
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pixels():
    """Twelve images of the sample, uint8 `[12, 3, 32, 32]`."""
    from slimresnet.data.sources.dataset import open_split

    return next(open_split(str(SAMPLE), "test", image_size=32).images.read([np.arange(12)]))


@pytest.fixture
def pictures(tmp_path, pixels):
    """The same as a folder of PNG files."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for number, image in enumerate(pixels):
        name = f"more/{number:02}.png" if number > 8 else f"{number:02}.png"
        PILImage.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name)
    return folder


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Changes the weights of a folder in place."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


_VARIANCE = "slimresnet.embedder.normalization.running_var"
BREAKING = {
    "NaN in a variance": lambda tensors: tensors[_VARIANCE][:1].fill_(torch.nan),
    "an infinite bias": lambda tensors: tensors["classifier.bias"][-1:].fill_(torch.inf),
    "a variance below zero": lambda tensors: tensors[_VARIANCE].fill_(-1),  # finite, with logits that are NaN
}
"""Edits of the weights that leave no logit a number."""


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers."""
    torch.manual_seed(0)


def write_dataset(folder: Path, split: str, images: list, labels: list, names: list[str], **columns) -> None:
    """Writes a Parquet split; an image is an array, a PIL image or the bytes of a file."""
    encoded = [
        {"bytes": image, "path": None}
        if isinstance(image, bytes)
        else PILImage.fromarray(image)
        if isinstance(image, np.ndarray)
        else image
        for image in images
    ]
    features = Features(
        {"img": Image(), "label": ClassLabel(names=names)} | {name: kind for name, (kind, _) in columns.items()}
    )
    data = {"img": encoded, "label": labels} | {name: values for name, (_, values) in columns.items()}
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(data, features=features).to_parquet(folder / f"{split}.parquet")


def run_python(*arguments, cwd=REPOSITORY, timeout=300, **environment) -> subprocess.CompletedProcess:
    """Runs Python in a fresh process; returns what it printed and its exit code."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
