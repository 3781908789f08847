"""Build the demo page: python -m demo.build MODEL --output_dir DIR [--dataset_name …]"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml
from PIL import Image
from transformers.utils.logging import disable_progress_bar

from slimresnet.api.export import export
from slimresnet.cli.flags import SYNONYMS, add_model
from slimresnet.cli.parser import Parser
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.task import task_of_network
from slimresnet.errors import SlimResNetError
from slimresnet.formats.format import ExportError
from slimresnet.formats.onnx_int8 import QUANTIZED_ONNX_FILE
from slimresnet.formats.trained import find_folder, label_names, load_config, load_processing
from slimresnet.recipe.reading import read_recipe
from slimresnet.run_folder.changes import change, recorded
from slimresnet.run_folder.console import tolerant_output
from slimresnet.run_folder.names import CARD_NAME, OWN_NAME, PAGE_NAME
from slimresnet.run_folder.ownership import own
from slimresnet.run_folder.writing import write_json

FOLDER = Path(__file__).parent
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
CARD = """---
{metadata}---

A small residual network for small images, in int8, in the browser. Nothing that is dropped there leaves it.
"""


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `words` stand for it in Python."""
    parser = Parser(description=__doc__, synonyms=SYNONYMS)
    add_model(parser)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset_name",
        help="A dataset on the Hub, or a folder. The int8 file takes its ranges from its training images, and the page "
        "shows test images of it; by default what the model was trained on.",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--output_dir", type=Path, required=True, help="A new folder for the page.")
    output.add_argument("--overwrite_output_dir", action="store_true", help="Replace the page that the folder holds.")
    return parser.parse_args(words)


def run(arguments: argparse.Namespace) -> None:
    """Builds the page in a folder of its own. Its files take their places in `output_dir` when it is complete."""
    output_dir = arguments.output_dir
    is_page = PAGE_NAME in recorded(output_dir)
    holds_something = output_dir.exists() and set(os.listdir(output_dir)) - {OWN_NAME}
    if holds_something and not (arguments.overwrite_output_dir and is_page):
        raise ExportError(
            f"--output_dir {output_dir} is there already: name another folder, or replace a page with "
            "--overwrite_output_dir."
        )
    folder = find_folder(arguments.model)
    config = load_config(folder)
    if task_of_network(config).is_multi_label:
        raise ExportError(f"MODEL {folder} gives an image several classes, and the page shows one: use predict.py.")
    dataset_name = arguments.dataset_name or read_recipe(folder).dataset_name
    with own(output_dir), change(output_dir) as made, TemporaryDirectory() as staging:
        page = made.files
        shutil.copytree(FOLDER / "page", page, dirs_exist_ok=True)
        copy_runtime(page / "onnxruntime")
        exported = Path(staging) / "exported"
        export(folder, output_dir=exported, quantize="int8", uint8_pixels=True, dataset_name=dataset_name)
        shutil.copyfile(exported / QUANTIZED_ONNX_FILE, page / "model.onnx")
        pixel_format = load_processing(folder).pixel_format
        labels = label_names(config)
        about = {
            "name": read_recipe(folder).hub_model_id or folder.resolve().name,
            "labels": labels,
            "image_size": config.image_size,
            "resize_mode": pixel_format.resize_mode,
            "samples": write_samples(page / "samples", dataset_name, labels, pixel_format),
        }
        (page / CARD_NAME).write_text(space_card(about["name"], read_recipe(folder).license), encoding="utf-8")
        # For push_to_hub.py: whatever else comes to lie in the folder stays there.
        files = [file.relative_to(page).as_posix() for file in page.rglob("*") if file.is_file()]
        write_json(page / PAGE_NAME, about | {"files": sorted([*files, PAGE_NAME])})
        made.remove(name for name in recorded(output_dir) if name not in files)
        size = sum(file.stat().st_size for file in page.rglob("*") if file.is_file())
    print(f"saved to {output_dir}, {size / 1e6:.1f} MB; look at it with")
    print(f"  python -m http.server --bind 127.0.0.1 --directory {output_dir}")


def space_card(name: str, license: str | None) -> str:
    """The page's README.md, which the Hub reads; `license` is that of the weights, if a recipe says it."""
    metadata = {"title": name, "sdk": "static"} | ({"license": license} if license else {})
    return CARD.format(metadata=yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True))


def copy_runtime(target: Path) -> None:
    """
    Copies onnxruntime-web, at the version of `package-lock.json`, which npm brings first.

    Raises:
        ExportError: npm is missing or fails.
    """
    if shutil.which("npm") is None:
        raise ExportError("the page needs onnxruntime-web, which npm brings: install Node.js.")
    npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    process = subprocess.run(npm, cwd=FOLDER, capture_output=True, text=True)
    if process.returncode:
        raise ExportError(f"npm could not bring onnxruntime-web: {process.stderr.strip()}")
    target.mkdir()
    for name in RUNTIME:
        shutil.copyfile(FOLDER / "node_modules/onnxruntime-web/dist" / name, target / name)


def write_samples(
    target: Path, dataset_name: str, labels: list[str], pixel_format: PixelFormat
) -> list[dict[str, str]]:
    """
    The first test image of each class, at most ten, as PNG files in colours, of the network's size.

    Returns:
        What the page has to know of each: `file` and `label`.
    """
    image_size, resize_mode = pixel_format.image_size, pixel_format.resize_mode
    split = open_split(dataset_name, "test", image_size=image_size, resize_mode=resize_mode)
    if split.label_names != labels:
        raise ExportError(f"--dataset_name {dataset_name} names other classes than the model: {', '.join(labels)}.")
    _, rows = np.unique(split.labels, return_index=True)
    rows = rows[:10]
    target.mkdir()
    [pixels] = split.images.read([rows])
    for number, image in enumerate(pixels):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(target / f"{number}.png")
    return [
        {"file": f"samples/{number}.png", "label": labels[label]} for number, label in enumerate(split.labels[rows])
    ]


@tolerant_output()
def main() -> None:
    """Runs; a mistake in the input ends in one sentence and exit code 1."""
    disable_progress_bar()  # transformers': loading takes no time
    try:
        run(parse())
    except SlimResNetError as error:
        sys.exit(f"demo.build: error: {error}")
    except OSError as error:
        sys.exit(f"demo.build: error: --output_dir cannot be written to: {error}")


if __name__ == "__main__":
    main()
