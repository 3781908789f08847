"""The weights that ship with the project: whole, loaded as their card says, and as good as it says."""

import dataclasses
import json

import pytest
from conftest import REPOSITORY, SAMPLE, run_python

from benchmarks.write_readme import PRETRAINED
from slimresnet.cli.train import parse_recipe
from slimresnet.hub.card import is_edited
from slimresnet.hub.card_text import render_model_card
from slimresnet.hub.files import collect
from slimresnet.recipe.reading import read_recipe
from slimresnet.recipe.settings import SETTINGS

SCORING = """
import sys
from datasets import load_dataset
from torch import inference_mode
from transformers import AutoImageProcessor, AutoModelForImageClassification

folder, sample = sys.argv[1:]
processor = AutoImageProcessor.from_pretrained(folder)
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
images = load_dataset(sample, split="test")
with inference_mode():
    classes = model(**processor(images["img"][:], return_tensors="pt")).logits.argmax(dim=1)
assert [model.config.id2label[index] for index in range(10)] == images.features["label"].names
print(sum(one == other for one, other in zip(classes.tolist(), images["label"][:])) / len(images))
"""


@pytest.mark.processes
@pytest.mark.slow
def test_they_score_on_the_samples_test_images_what_they_score_on_all(tmp_path):
    (tmp_path / "scoring.py").write_text(SCORING)
    process = run_python(
        "-I", tmp_path / "scoring.py", PRETRAINED, SAMPLE, cwd=tmp_path, HF_MODULES_CACHE=str(tmp_path / "modules")
    )
    assert process.returncode == 0, process.stderr
    expected = json.loads((PRETRAINED / "all_results.json").read_text())["test_accuracy"]
    assert abs(float(process.stdout.splitlines()[-1]) - expected) < 0.03  # 500 images: three standard errors


def test_the_folder_can_be_shared_as_it_is_and_comes_from_the_recipe_best_long():
    files = collect(PRETRAINED, "user/slimresnet-cifar10")
    assert "model.safetensors" in files
    assert not is_edited(PRETRAINED / "README.md")
    assert (PRETRAINED / "README.md").read_text() == render_model_card(PRETRAINED, "slimresnet-cifar10")
    made = read_recipe(PRETRAINED)
    recipe = parse_recipe([f"--config={REPOSITORY / 'configuration' / 'best_long.yaml'}"])
    assert made.license == "apache-2.0" and recipe.license is None  # a run of one's own has one's own licence
    for field in dataclasses.fields(recipe):
        if SETTINGS[field.name].affects != "rounding" and field.name != "license":
            assert getattr(made, field.name) == getattr(recipe, field.name), field.name
