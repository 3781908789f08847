"""The model card and the way to the Hub, against a server on this machine that speaks the Hub's HTTP."""

import dataclasses
import io
import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
import yaml
from conftest import REPOSITORY, SAMPLE, run_python
from hub_server import HubServer
from huggingface_hub import ModelCard, constants
from PIL import Image
from training_runs import evaluate_folder, read, snapshot, train, write_as_ours

from demo.build import space_card
from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.api.export import export
from slimresnet.api.push import push
from slimresnet.cli import push_to_hub as push_script
from slimresnet.cli.train import parse_recipe
from slimresnet.evaluation.flops import multiply_adds
from slimresnet.formats.onnx_float32 import ONNX_FILE
from slimresnet.formats.onnx_int8 import QUANTIZED_ONNX_FILE
from slimresnet.formats.torch_export import TORCH_EXPORT_FILE
from slimresnet.hub.card import is_edited, renew_model_card
from slimresnet.hub.card_text import render_model_card
from slimresnet.hub.files import collect, collect_page, shared_files
from slimresnet.hub.model_index import eval_results
from slimresnet.hub.shared_recipe import shared_recipe
from slimresnet.hub.upload import upload
from slimresnet.hub_errors import HubError
from slimresnet.recipe.reading import read_recipe
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.changes import change
from slimresnet.run_folder.names import EXPORTS_NAME
from slimresnet.run_folder.ownership import own
from slimresnet.training.network import load_network_config

FILES = {
    "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "configuration_slimresnet.py",
    "modeling_slimresnet.py", "recipe.yaml", "all_results.json", "trainer_state.json", "eval_details.json",
    "test_details.json", "figures/curves.png", "figures/learning_rate.png", "figures/training_samples.png",
    "figures/test_confusion_matrix.png", "figures/test_classes.png", "figures/test_reliability.png",
    "figures/test_mistakes.png",
}  # fmt: skip


@pytest.fixture
def hub(monkeypatch):
    """The Hub as huggingface_hub sees it in this process."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        yield server


DECOYS = (
    ".env", "notes.txt", "secrets.json", "run.json", "details.json", "corruptions.json", "config.yaml", "README.txt",
    "model.bin", "optimizer.safetensors", "train.py", "eval.onnx", "figures/notes.txt", "figures/raw/photo.png",
    "photo.png", "onnx/notes.json", "checkpoint-3/model.safetensors", "logs/test_details.json", ".git/config",
    "onnx/other.onnx", "figures/holiday.png", "figures/my_classes.png", "personal_details.json", "my_corruptions.json",
    "pytorch_model.bin", "optimizer.bin", "training_args.bin", ".ssh/id_ed25519", "adapter_model.safetensors",
)  # fmt: skip


@pytest.fixture
def folder(trained, tmp_path):
    """A finished run with things beside it that are nobody's business."""
    folder = shutil.copytree(trained, tmp_path / "run")
    for name in DECOYS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    return folder


def renew_card(folder):
    with own(folder), change(folder) as made:
        renew_model_card(made, folder)


def state(folder, **facts):
    """Has the results of a folder state these facts, and not those that are None."""
    results = {name: value for name, value in (read(folder) | facts).items() if value is not None}
    (folder / "all_results.json").write_text(json.dumps(results))


def set_recipe(folder, **settings):
    """Gives the recipe of a folder other settings."""
    recipe = dataclasses.replace(read_recipe(folder), **settings)
    (folder / "recipe.yaml").write_text(recipe.to_yaml())


def metadata(card):
    return ModelCard(card).data.to_dict()


# --- the card ------------------------------------------------------------------------------------------------------


def test_every_number_of_the_card_is_one_of_the_run(folder, hub):
    evaluate_folder(folder, f"--output_dir={folder}", "--tta=flip")
    results = read(folder)
    card = ModelCard.load(folder / "README.md")
    card.validate()  # by the Hub, which this server stands for
    assert "POST /api/validate-yaml" in hub.requests
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "image-classification")
    assert "license" not in data and "datasets" not in data  # nobody gave one; a local dataset has no page
    by_name = {(each.dataset_split, each.metric_name): each.metric_value for each in card.data.eval_results}
    assert by_name["test (90 images)", "Accuracy"] == results["test_accuracy"]
    assert by_name["train (90 held out)", "Accuracy"] == results["eval_accuracy"]
    assert by_name["test (90 images)", "Accuracy with test-time augmentation (flip)"] == results["test_accuracy_tta"]
    assert set(by_name.values()) <= set(results.values())
    for name in ("test_accuracy", "test_accuracy_low", "test_accuracy_high_tta", "eval_top_5_accuracy"):
        assert f"{results[name]:.2%}" in card.text, name
    low, value, high = (f"{results[f'test_accuracy{bound}_tta']:.2%}" for bound in ("_low", "", "_high"))
    assert f"| {value} ({low} – {high}) |" in card.text
    assert "`flip`, averages the logits of\n2 views of an image." in card.text
    calibrated = f"divided by the temperature {results['calibration_temperature']:.3f}, fitted on 90 held-out images of"
    assert calibrated in card.text
    errors = [f"{results[f'test_expected_calibration_error{ending}']:.2%}" for ending in ("", "_uncalibrated")]
    assert (
        f"On the test images its calibration error is {errors[0]}; before calibration it was {errors[1]}." in card.text
    )
    assert "| calibration error | before calibration |" in card.text and f"| {' | '.join(errors)} |" in card.text
    assert (
        by_name["test (90 images)", "Expected calibration error before calibration"]
        == results["test_expected_calibration_error_uncalibrated"]
    )
    config = SlimResNetConfig.from_pretrained(folder)
    assert f"parameters and {multiply_adds(config, 32) / 1e6:.1f} million multiply-adds" in card.text
    assert f"- {results['total_flos'] / 1e15:.2g} petaFLOP" in card.text
    assert f"- {results['train_samples']:,} training images, 3 epochs" in card.text
    assert "vertical_flip_prob" not in card.text and "output_dir" not in card.text  # as by default; nobody's business
    assert "4,754,218" not in card.text and "![Loss and accuracy over the epochs](figures/curves.png)" in card.text
    assert "cutmix_prob: 0.5" in card.text and "CutMix: Yun" in card.text
    assert str(folder.parent) not in card.content  # no paths of this machine
    table = [line for line in card.text.splitlines() if line.startswith("|")]
    assert len(table) == 4 and len({line.count("|") for line in table}) == 1


def test_what_was_not_measured_is_left_out(folder):
    results = read(folder)
    kept = ("test_accuracy", "test_loss", "test_samples", "epoch", "test_dataset", "test_split")
    (folder / "all_results.json").write_text(json.dumps({name: results[name] for name in kept}))
    for file in (folder / "figures").glob("*.png"):
        file.unlink()
    card = render_model_card(folder, "user/name")
    assert [each.metric_name for each in eval_results(folder)] == ["Accuracy", "Cross entropy"]
    absent = (
        "| validation |", "![", "None", "of CIFAR-10-C", "minutes", "images a second", "were scored", "chose",
        "Wilson", "It was trained on", "huggingface.co/datasets", "the temperature", "calibration error",
    )  # fmt: skip
    assert not [words for words in absent if words in card]
    assert "| top-5 |" not in card and f"{results['test_accuracy']:.2%}" in card


@pytest.mark.parametrize(
    ("facts", "said", "unsaid"),
    [
        ({}, "100 images were held out of the training split for validation, by a draw of seed 42. On 90 of them", []),
        ({"eval_chose_samples": 100}, "by a draw of seed 42. On them", []),
        ({"eval_samples": 30}, "On 90 of them the run chose", ["30 of them"]),  # scored anew, which chose nothing
        ({"eval_chose": "epoch"}, "the run chose the epoch whose weights were kept.", ["test-time augmentation."]),
        (
            {"eval_chose": "epoch, tta, temperature"},  # as an earlier version counted what is in no weights
            "chose the epoch whose weights were kept, the test-time augmentation, `flip`.",
            [],
        ),
        (
            {"eval_chose": "tta", "test_tta": "paper"},
            "chose the test-time augmentation, `flip`.",
            ["augmentation, `paper`."],
        ),
        ({"eval_chose": "temperature"}, "by a draw of seed 42. The test images were scored", ["chose"]),
        ({"eval_chose": None}, "held out of the training split", ["chose"]),
        ({"test_times_scored": 1}, "The test images were scored once, as far as the files of the run record.", []),
        ({"test_times_scored": 3}, "The test images were scored 3 times, as far as", ["once"]),
        ({"test_times_scored": None}, "held out", ["images were scored once"]),
        (
            {"calibration_temperature": 1.5},
            "by the temperature 1.500, fitted on 90 held-out images of this run. Its probabilities are calibrated",
            ["not calibrated", "which its recipe gives", "another run"],
        ),
        (
            {"calibration_temperature": 1.5, "calibration_source": "twin", "calibration_samples": 10_000},
            "by the temperature 1.500, fitted on 10,000 held-out images of another run of its recipe. Its",
            ["not calibrated", "of this run"],
        ),
        ({"calibration_samples": None}, ", fitted on held-out images of this run. Its probabilities", []),
        (
            {"calibration_temperature": 1.5, "calibration_source": "recipe", "calibration_samples": None},
            "by the temperature 1.500, which its recipe gives. Its probabilities",
            ["fitted"],
        ),
        (
            {"calibration_temperature": 1.5, "calibration_source": None},
            "by the temperature 1.500. Its",
            ["fitted"],
        ),
        (
            {
                "calibration_temperature": None,
                "test_expected_calibration_error": 0.0625,
                "test_expected_calibration_error_uncalibrated": None,
            },
            "The network is not calibrated: its probabilities are those of training, and may be too sure or not sure "
            "enough. On the test images its calibration error is 6.25%.",
            ["divided by", "before calibration it was"],
        ),
        ({"temperature": 1.5, "test_expected_calibration_error_scaled": 0.0625}, "calibrated", ["1.500", "6.25%"]),
        ({"test_precision": "bf16"}, "The test figures are of a network in bf16.", ["The validation figures"]),
        ({}, "; before calibration it was ", ["are of a network in"]),
        (
            {
                "test_corruption_accuracy": 0.5,
                "test_corruption_samples": 90,
                "test_corruption_accuracy_tta": 0.625,
                "test_corruption_tta": "flip_shift",
            },
            "with test-time augmentation, `flip_shift`, 62.50%.",
            [],
        ),
        (
            {
                "eval_tta": "flip_shift",
                "eval_accuracy_tta": 0.625,
                "eval_accuracy_low_tta": None,
                "test_tta": "flip",
                "test_accuracy_tta": 0.75,
                "test_accuracy_low_tta": None,
            },
            "| 62.50%, `flip_shift` |",
            ["75.00%, `flip`"],
        ),
        ({"train_device": "Abacus", "train_runtime": 150}, "- 2 minutes of training steps on Abacus,", ["processes"]),
        ({"train_num_processes": 4}, ", 4 processes, ", []),
        ({"train_samples_per_second": None}, "of training steps on", ["images a second"]),
        ({"train_runtime": 43.4}, "- 43 seconds of training steps on", ["minute"]),
    ],
)
def test_the_sentences_of_the_card_are_facts_of_the_run(folder, facts, said, unsaid):
    state(folder, **facts)
    set_recipe(folder, tta="flip")
    card = " ".join(render_model_card(folder, "user/name").split())
    assert said in card and not [words for words in unsaid if words in card]
    assert "Every choice" not in card


def test_what_a_run_found_comes_from_its_results(folder):
    """Its recipe says what was asked: to choose."""
    set_recipe(folder, tta="auto", temperature=None, mixed_precision="auto")
    found = {"eval_chose": "tta", "eval_chose_tta": "flip", "test_tta": "flip", "calibration_temperature": 1.5}
    state(folder, **found, train_precision="bf16", train_batch_size=32, train_samples=224)
    card = " ".join(render_model_card(folder, "user/name").split())
    assert "the run chose the test-time augmentation, `flip`." in card
    assert "by the temperature 1.500, fitted on 90 held-out images of this run. " in card
    assert ", precision bf16 " in card and "- 224 training images, 3 epochs, 32 images an optimiser step" in card
    assert not [words for words in ("`auto`", "precision auto", "None", "null") if words in card]
    state(folder, train_precision=None)
    assert ", precision" not in render_model_card(folder, "user/name")  # nothing tells
    state(folder, eval_chose_tta=None, eval_tta=None)
    assert "chose the test-time augmentation." in render_model_card(folder, "user/name")


def test_the_policy_that_a_run_chose_is_still_said_when_it_is_scored_with_another(folder):
    set_recipe(folder, tta="auto")
    state(folder, eval_chose="tta", eval_chose_tta="flip_shift", eval_tta="flip_shift")
    evaluate_folder(folder, "--split=held_out", f"--output_dir={folder}")
    evaluate_folder(folder, "--tta=flip", f"--output_dir={folder}")
    assert (read(folder)["eval_tta"], read(folder)["test_tta"]) == ("none", "flip")
    assert "the test-time augmentation, `flip_shift`" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_any_fact_may_be_missing(folder):
    """A figure whose own facts are not there is left out; the rest stays."""
    state(
        folder,
        test_corruption_accuracy=0.5,
        test_corruption_accuracy_tta=0.5,
        test_corruption_samples=90,
        test_corruption_tta="flip",
        test_tta="flip",
        test_accuracy_tta=0.75,
        eval_tta="flip_shift",
        eval_accuracy_tta=0.625,
        eval_accuracy_low_tta=0.5,
        eval_accuracy_high_tta=0.75,
        train_num_processes=2,
    )
    whole, entries = read(folder), eval_results(folder)
    assert len(entries) > 10
    for name in whole:
        state(folder, **{name: None})
        card = render_model_card(folder, "user/name")
        assert "\n# user/name\n" in card and "None" not in card, name
        lost = len(entries) - len(eval_results(folder))
        assert lost == 1 if name in ("test_accuracy", "test_tta", "test_corruption_samples") else lost >= 0, name
        state(folder, **whole)


@pytest.mark.parametrize(
    ("smallest", "largest", "shown"), [(10, 15, True), (10, 14, False), (0, 3, True), (None, 9, False)]
)
def test_scores_that_count_all_classes_alike_are_shown_where_classes_are_uneven(folder, smallest, largest, shown):
    """Of the split whose classes are, and not of the other; a folder of an earlier version does not say."""
    state(folder, test_smallest_class_samples=smallest, test_largest_class_samples=largest)
    state(folder, eval_smallest_class_samples=9, eval_largest_class_samples=9)
    results = read(folder)
    card = render_model_card(folder, "user/name")
    assert ("| balanced accuracy | macro F1 |" in card) == shown
    (row,) = [line for line in card.splitlines() if line.startswith("| test |")]
    assert (f"| {results['test_balanced_accuracy']:.2%} | {results['test_macro_f1']:.2%} |" in row) == shown
    entries = [(each.metric_name, each.dataset_split.split()[0]) for each in eval_results(folder)]
    assert [entry for entry in entries if entry[0] in ("Balanced accuracy", "Macro F1")] == (
        [("Balanced accuracy", "test"), ("Macro F1", "test")] if shown else []
    )


def test_what_a_file_says_was_chosen_is_text(folder):
    state(folder, eval_chose="epoch, {x}, tta.__class__, {tta}")
    card = " ".join(render_model_card(folder, "user/name").split())
    assert r"the run chose the epoch whose weights were kept, {x}, tta.\_\_class\_\_, {tta}." in card


def test_only_what_was_used_is_said_to_have_been(folder):
    plain = render_model_card(folder, "user/name")
    set_recipe(folder, cutmix_prob=0.0, stem_initialization="whitening")
    other = render_model_card(folder, "user/name")
    assert "CutMix" in plain and "principal components" not in plain
    assert "CutMix" not in other and "alone, from random weights and, in the stem, the principal components" in other


def test_what_was_exported_is_in_the_card_with_the_figures_of_each_file(folder):
    facts = {"pixel_values": "uint8", "bytes": 1_200_000, "same_class": 0.9, "checked_images": 20}
    facts |= {"checked_on": "training images", "smallest_side": None}
    files = {name: facts for name in (ONNX_FILE, QUANTIZED_ONNX_FILE, TORCH_EXPORT_FILE)}
    (folder / EXPORTS_NAME).write_text(json.dumps(files))
    scores = {"onnxruntime": 0.81, "onnxruntime_int8": 0.82, "openvino": 0.83, "torch_export": 0.84}
    state(folder, **{f"test_{name}_accuracy": score for name, score in scores.items()})
    card = render_model_card(folder, "user/name")
    state_of_file = {**facts, "file": "other", "accuracies": None}  # which are the card's own names
    (folder / EXPORTS_NAME).write_text(json.dumps(dict.fromkeys(files, state_of_file)))
    assert render_model_card(folder, "user/name") == card
    rows = {line.split("`")[1]: line for line in card.splitlines() if line.startswith("| `")}
    assert rows[ONNX_FILE].endswith("| 81.00% (onnxruntime), 83.00% (openvino) |") and "| 1.2 |" in rows[ONNX_FILE]
    assert rows[QUANTIZED_ONNX_FILE].endswith("| 82.00% (onnxruntime) |") and "90.00% of 20" in rows[ONNX_FILE]
    assert rows[TORCH_EXPORT_FILE].endswith("| 84.00% (torch_export) |")
    assert '{ dtype: "q8" })`, or `"fp32"`.' in card
    state(folder, test_openvino_dataset="user/elsewhere")
    assert "83.00%" not in render_model_card(folder, "user/name")
    for file, said in ((ONNX_FILE, '{ dtype: "fp32" })`.'), (QUANTIZED_ONNX_FILE, '{ dtype: "q8" })`.')):
        (folder / EXPORTS_NAME).write_text(json.dumps({file: facts}))
        assert said in render_model_card(folder, "user/name")
    (folder / EXPORTS_NAME).write_text(json.dumps({TORCH_EXPORT_FILE: facts}))
    assert "transformers.js" not in render_model_card(folder, "user/name")


def test_a_run_that_held_nothing_out_says_so_and_where_its_temperature_is_from(folder):
    set_recipe(folder, validation_size=0, temperature=1.25)
    state(
        folder,
        train_validation_size=0,
        eval_chose=None,
        calibration_temperature=1.25,
        calibration_source="recipe",
        calibration_samples=None,
    )
    card = " ".join(render_model_card(folder, "user/name").split())
    assert (
        "No images were held out for validation in this run." in card and "1.250, which its recipe gives. Its" in card
    )
    assert "has the loss of every epoch" in card


def test_what_was_held_out_and_left_out_is_what_the_run_counted(folder):
    """Not what was asked for; and a folder of an earlier version has a number in its recipe alone."""
    sentence = "{} images were held out of the training split for validation, by a draw of seed 42."
    for asked, counted, said in (("auto", 1200, "1,200"), (0.5, 7, "7"), (100, None, "100"), ("auto", None, "90")):
        set_recipe(folder, validation_size=asked)
        state(folder, train_validation_size=counted, train_left_out_samples=None)
        card = " ".join(render_model_card(folder, "user/name").split())
        assert sentence.format(said) in card and "left out" not in card and "to test on" not in card
    state(folder, train_validation_size=12, train_test_size=1500, train_left_out_samples=3, eval_split="validation",
          test_split="train")  # fmt: skip
    card = " ".join(render_model_card(folder, "user/name").split())
    assert "12 images of the data's own split `validation` were held out for validation." in card
    assert "1,500 images were cut from the training split to test on, by a draw of seed 42." in card
    assert "3 training images were left out: their pictures are among those of test or validation." in card
    assert "train (90 held out)" in {each.dataset_split for each in eval_results(folder)}  # of the test images


def test_whether_data_are_local_is_what_the_run_recorded(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user" / "images").mkdir(parents=True)  # a folder that happens to be there
    set_recipe(folder, dataset_name="user/images", dataset_revision="v1", dataset_config_name="small")
    hub_facts = {"train_dataset": "user/images", "test_dataset": "user/images", "eval_dataset": "user/images"}
    state(folder, **hub_facts, train_dataset_is_local=False)
    card = render_model_card(folder, "user/name")
    assert metadata(card)["datasets"] == ["user/images"] and "[user/images](https://huggingface.co/datasets" in card
    assert "(revision `v1`) alone, from random weights." in card
    measured = {(each.dataset_type, each.dataset_config, each.dataset_revision) for each in eval_results(folder)}
    assert measured == {("user/images", "small", "v1")}
    state(folder, train_dataset_is_local=True)
    card = render_model_card(folder, "user/name")
    assert "datasets" not in metadata(card) and "the local dataset `user/images`" in card
    assert "`--dataset_name FOLDER` says where" in card and "huggingface.co/datasets" not in card


@pytest.mark.parametrize("dataset", ["uoft-cs/cifar10", "cifar10", "uoft-cs/cifar100", "sample"])
def test_cifar10_is_named_as_a_source_where_it_was_the_data(folder, dataset):
    state(folder, train_dataset=dataset, train_dataset_is_local=False)
    assert ("- CIFAR-10: Krizhevsky" in render_model_card(folder, "user/name")) == dataset.endswith("cifar10")
    state(folder, train_dataset_is_local=True)  # whatever lies in a folder of that name
    assert "- CIFAR-10: Krizhevsky" not in render_model_card(folder, "user/name")


def test_figures_of_other_data_are_not_in_the_card(folder):
    state(
        folder,
        test_dataset="user/elsewhere",
        test_accuracy=0.123,
        test_corruption_accuracy=0.234,
        test_corruption_samples=9,
    )
    state(folder, eval_onnxruntime_accuracy=0.5)
    card = render_model_card(folder, "user/name")
    assert {each.dataset_split for each in eval_results(folder)} == {"train (90 held out)"}
    assert f"{read(folder)['eval_accuracy']:.2%}" in card and "| validation |" in card
    assert not [words for words in ("12.30%", "23.40%", "elsewhere", "| test |", "figures/test_") if words in card]
    state(folder, eval_dataset="user/elsewhere")
    card = render_model_card(folder, "user/name")
    assert not eval_results(folder) and "model-index" not in metadata(card) and "| split |" not in card


def test_figures_whose_data_are_unknown_are_not_in_the_metadata(folder):
    state(folder, test_dataset=None, eval_dataset=None)
    assert not eval_results(folder) and f"{read(folder)['test_accuracy']:.2%}" in render_model_card(folder, "a/b")


def test_corruptions_come_into_the_card(folder):
    (folder / "test_corruptions.json").write_text(json.dumps({"none": {"fog": [0.9, 0.8, 0.7, 0.6, 0.5]}}))
    corrupted = {"test_corruption_accuracy": 0.7, "test_corruption_samples": 90}
    state(folder, **corrupted)
    card = " ".join(render_model_card(folder, "user/name").split())
    assert "| fog | 90.0% | 80.0% | 70.0% | 60.0% | 50.0% |" in card and "the mean accuracy is 70.00%." in card
    assert "a fractal in place of the photographs of frost of its authors, which is easier" in card
    assert "computed on 90 test images, the mean" in card and "as the table of corruptions shows" in card
    names = {
        "photographs": "with the photographs of frost of its authors",
        "synthetic": "with synthetic frost in place",
    }
    for frost, said in names.items():
        state(folder, test_corruption_frost=frost, test_corruption_precision="bf16", test_corruption_accuracy_tta=0.75)
        card = " ".join(render_model_card(folder, "user/name").split())
        assert said in card and "computed on 90 test images in bf16, the mean accuracy is 70.00%, with test-" in card
        assert "augmentation 75.00%." in card and "which is easier" not in card
        assert f"Mean accuracy under 15 corruptions of 5 severities, frost: {frost}" in card
    assert "that do what corruptions do" not in card
    set_recipe(folder, trivial_augment=True, gaussian_blur_prob=0.1)
    card = " ".join(render_model_card(folder, "user/name").split())
    assert "that do what corruptions do: brightness, contrast, color, sharpness, gaussian blur." in card


def test_a_card_that_a_person_edited_is_kept(folder, hub, capsys):
    card = folder / "README.md"
    assert not is_edited(card)
    renew_card(folder)
    assert not is_edited(card)
    text = card.read_text().replace("## Limits", "## Limits\n\n- It has never seen a giraffe.")
    card.write_text(text)
    renew_card(folder)
    assert is_edited(card) and card.read_text() == text
    card.write_bytes("Ergebnis: 5 € übrig".encode("cp1252"))
    assert is_edited(card)
    card.write_text(text)
    evaluate_folder(folder, f"--output_dir={folder}", f"--tta={read(folder)['test_tta']}")
    assert card.read_text() == text and "was edited by hand and stays as it is" in capsys.readouterr().out
    assert collect(folder, "user/name")["README.md"] == card
    assert b"giraffe" not in collect(folder, "user/name", overwrite_card=True)["README.md"]


def test_training_anew_keeps_an_edited_card_and_no_stale_figures(flags, tmp_path, capsys):
    folder = train(flags, "--max_train_steps=1")
    later = ["test_corruptions.json", ONNX_FILE, EXPORTS_NAME, "figures/eval_classes.png"]
    write_as_ours(folder, *later)
    theirs = ["figures/my_plot.png", "experiment_details.json", "onnx/other.onnx", "model.pt2"]
    for name in theirs:
        (folder / name).write_text("mine")
    train(flags, "--max_train_steps=2", "--overwrite_output_dir")
    assert "edited" not in capsys.readouterr().out
    assert not any((folder / name).exists() for name in later)
    assert all((folder / name).read_text() == "mine" for name in theirs)
    (folder / "README.md").write_text("my own words")
    train(flags, "--max_train_steps=1", "--overwrite_output_dir")
    assert (folder / "README.md").read_text() == "my own words"


# --- what goes -----------------------------------------------------------------------------------------------------


def test_what_goes_and_what_stays(folder):
    assert collect(folder, "user/name").keys() == FILES
    assert all((folder / name).exists() for name in (*DECOYS, "checkpoint-21"))
    later = {"test_corruptions.json", "onnx/model.onnx", "onnx/model_quantized.onnx", "model.pt2"}
    write_as_ours(folder, "exports.json", *later)
    for name in ("figures/my_plot.png", "experiment_details.json", "onnx/other.onnx"):
        (folder / name).write_text("{}")
    assert collect(folder, "user/name").keys() == FILES | later | {"exports.json"}
    shutil.rmtree(folder / ".slimresnet")  # as of an earlier version, which kept no record
    assert collect(folder, "user/name").keys() >= FILES | later | {"exports.json"}


def test_no_path_of_this_machine_leaves_it(trained, folder, tmp_path):
    """Of a run whose dataset, config, checkpoint and output folder lie here, and of what is exported of it."""
    set_recipe(folder, hub_model_id="user/name", report_to="tensorboard")
    with (folder / "recipe.yaml").open("a") as file:  # as an earlier version wrote it
        file.write(f"resume_from_checkpoint: {tmp_path / 'checkpoint-7'}\noverwrite_output_dir: true\n")
    exported = tmp_path / "exported"
    for form in ("onnx", "torch_export"):
        export(folder, format=form, output_dir=exported)
    written = read_recipe(folder)  # here it can be run again
    assert (written.dataset_name, written.output_dir) == (str(SAMPLE), str(trained)) and Path(
        written.config_name
    ).exists()
    here = {tmp_path, trained.parent, Path(written.config_name), REPOSITORY, Path(sysconfig.get_path("purelib"))}
    for run in (folder, exported):
        files = collect(run, "user/name")
        assert ("model.pt2" in files and ONNX_FILE in files) == (run == exported)
        for name, content in files.items():
            content = content if isinstance(content, bytes) else content.read_bytes()
            if name == "model.pt2":  # a ZIP file, whose text may be compressed
                with ZipFile(io.BytesIO(content)) as archive:
                    content = b"".join(archive.read(member) for member in archive.namelist())
            for path in here:
                assert str(path).encode() not in content, f"{name} holds {path}"
        shared, whole = yaml.safe_load(files["recipe.yaml"]), written.to_dict()
        changed = {name: value for name, value in shared.items() if value != whole[name]}
        assert changed == {
            "dataset_name": "cifar10_sample",
            "config_name": "config.json",
            "output_dir": Recipe().output_dir,
            "hub_model_id": None,
            "report_to": ["none"],
        }


def test_the_shared_recipe_trains_the_shared_network(folder, tmp_path, monkeypatch):
    """In a copy of the repository, with the dataset at hand."""
    clone = tmp_path / "clone"
    clone.mkdir()
    for name, content in collect(folder, "user/name").items():
        (clone / name).parent.mkdir(exist_ok=True)
        (clone / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    monkeypatch.chdir(clone)
    recipe = parse_recipe(["--config=recipe.yaml"])
    assert load_network_config(recipe).hidden_sizes == [16, 32] and recipe.cutmix_prob == 0.5
    set_recipe(folder, config_name=None)
    assert shared_recipe(folder).config_name is None  # the default network needs no file


@pytest.mark.parametrize(
    ("name", "shared"),
    [("/home/me/pictures", "pictures"), ("../pictures", "pictures"), ("user/pictures", "user/pictures")],
)
def test_a_dataset_that_was_not_recorded_goes_by_what_the_hub_could_call_it(folder, name, shared):
    set_recipe(folder, dataset_name=name)
    state(folder, train_dataset=None, train_dataset_is_local=None)
    assert yaml.safe_load(collect(folder, "a/b")["recipe.yaml"])["dataset_name"] == shared


def test_the_licence_is_the_users_to_say(folder):
    def licences(**more):
        files = collect(folder, "user/name", **more)
        return metadata(files["README.md"].decode()).get("license"), yaml.safe_load(files["recipe.yaml"])["license"]

    assert licences() == (None, None)
    assert licences(license="mit") == ("mit", "mit")
    set_recipe(folder, license="apache-2.0")
    assert licences() == ("apache-2.0", "apache-2.0")
    assert licences(license="mit") == ("mit", "mit")
    card = folder / "README.md"
    card.write_text(card.read_text().replace("library_name:", "license: gpl-3.0\nlibrary_name:"))
    assert collect(folder, "user/name", license="gpl-3.0")["README.md"] == card
    with pytest.raises(HubError, match=r"licence is mit by --license or .* edited by hand and says gpl-3\.0: give"):
        collect(folder, "user/name", license="mit")
    with pytest.raises(HubError, match=r"licence is apache-2\.0 by .*recipe\.yaml, but .* says gpl-3\.0"):
        collect(folder, "user/name")
    assert licences(license="mit", overwrite_card=True) == ("mit", "mit")
    assert metadata(space_card("page", "mit"))["license"] == "mit" and "license" not in metadata(
        space_card("page", None)
    )


def test_folders_that_are_refused(folder, tmp_path):
    with pytest.raises(HubError, match=r"is not a finished run, it has no config\.json"):
        collect(tmp_path / "nothing", "user/name")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(HubError, match="cannot be loaded"):
        collect(folder, "user/name")
    (folder / "model.safetensors").write_bytes(weights)
    processor = (folder / "preprocessor_config.json").read_bytes()
    (folder / "preprocessor_config.json").write_text("[")
    with pytest.raises(HubError, match=r"preprocessor_config\.json"):
        collect(folder, "user/name")
    (folder / "preprocessor_config.json").write_bytes(processor)
    card = folder / "README.md"
    accuracy = read(folder)["test_accuracy"]
    card.write_text(card.read_text().replace(f"value: {accuracy}", "value: 0.999"))
    with pytest.raises(
        HubError,
        match=rf"claims Accuracy 0\.999 on test \(90 images\) of cifar10_.*, where .* has {accuracy}.*--overwrite_card",
    ):
        collect(folder, "user/name")
    renew_card(folder)
    card.write_text(render_model_card(folder, "user/name").replace("type: cifar10_sample", "type: user/other"))
    with pytest.raises(HubError, match=r"on test \(90 images\) of user/other, where .* has None"):
        collect(folder, "user/name")
    card.write_text("---\nlicense: [\n---\n")
    with pytest.raises(HubError, match="metadata at the top"):
        collect(folder, "user/name")
    collect(folder, "user/name", overwrite_card=True)


def test_dry_run_needs_no_network_and_changes_nothing(folder, capsys):
    before = snapshot(folder)
    assert push(folder, "user/name", dry_run=True, license="mit") is None
    said = capsys.readouterr().out
    assert all(path in said for path in FILES) and "checkpoint" not in said and "in 18 files" in said
    assert f"{(folder / 'model.safetensors').stat().st_size:,} bytes  model.safetensors" in said
    assert snapshot(folder) == before


# --- the way there -------------------------------------------------------------------------------------------------


def pushed(hub, name="user/name", branch="main"):
    repository = hub.repositories[name]
    return repository.commits[repository.branches[branch]]


def test_one_commit_brings_it_all_and_a_second_push_changes_nothing(folder, hub):
    address = upload(collect(folder, "user/name"), "user/name")
    assert address.startswith(f"{hub.url}/user/name/commit/")
    assert pushed(hub).keys() - {".gitattributes"} == FILES and len(hub.repositories["user/name"].commits) == 2
    assert pushed(hub)["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert b'from_pretrained("user/name"' in pushed(hub)["README.md"]
    upload(collect(folder, "user/name"), "user/name")
    assert len(hub.repositories["user/name"].commits) == 2


def test_branch_pull_request_and_private(folder, hub):
    files = collect(folder, "user/name")
    upload(files, "user/name", private=True)
    assert hub.repositories["user/name"].private
    assert upload(files | {"README.md": b"---\nlicense: mit\n---\nnew"}, "user/name", create_pr=True).endswith(
        "/discussions/1"
    )
    assert pushed(hub, branch="refs/pr/1")["README.md"].endswith(b"new") and not pushed(hub)["README.md"].endswith(
        b"new"
    )
    upload(files | {"README.md": b"---\nlicense: mit\n---\nv2"}, "user/name", revision="v2")
    assert pushed(hub, branch="v2")["README.md"].endswith(b"v2") and not pushed(hub)["README.md"].endswith(b"v2")
    upload(files, "user/public")
    with pytest.raises(HubError, match="is public, and --private is for new ones"):
        upload(files, "user/public", private=True)


def test_the_flags_of_the_command_reach_the_hub(folder, hub, monkeypatch, capsys):
    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["push_to_hub.py", str(folder), "--repo_id=user/name", *flags])
        push_script.main()
        return capsys.readouterr().out.splitlines()[-1]

    assert run("--dry_run") == "nothing was sent to user/name: --dry_run" and not hub.repositories
    assert run("--private", "--license=mit").startswith(f"{hub.url}/user/name/commit/")
    assert hub.repositories["user/name"].private and b"license: mit" in pushed(hub)["README.md"]
    run("--revision=v2", "--license=gpl-3.0")
    assert b"license: gpl-3.0" in pushed(hub, branch="v2")["README.md"] and b"license: mit" in pushed(hub)["README.md"]
    assert run("--create_pr", "--license=bsd-3-clause").endswith("/discussions/1")
    (folder / "README.md").write_text("---\nlanguage: en\n---\nmy own words")
    run()
    assert pushed(hub)["README.md"].endswith(b"my own words")
    run("--overwrite_card")
    assert b"# user/name" in pushed(hub)["README.md"]
    (folder / "recipe.yaml").write_text("no_setting: 1\n")
    with pytest.raises(SystemExit, match=r"push_to_hub\.py: error: .*no_setting"):
        run()


def test_the_name_in_the_card_of_a_folder(folder):
    renew_card(folder)
    assert "# run\n" in (folder / "README.md").read_text()
    set_recipe(folder, hub_model_id="user/name")
    renew_card(folder)
    assert "# user/name\n" in (folder / "README.md").read_text()


def test_a_page_becomes_a_static_space(hub, tmp_path, folder):
    page = tmp_path / "page"
    (page / "samples").mkdir(parents=True)
    card = b"---\ntitle: demo\nsdk: static\n---\n"
    content = {"index.html": b"<!doctype html>", "samples/0.png": b"png", "README.md": card}
    content["about.json"] = json.dumps({"files": [*content, "about.json"]}).encode()
    for name, data in content.items():
        (page / name).write_bytes(data)
    address = push(page, "user/demo", space=True, private=True)
    assert address.startswith(f"{hub.url}/spaces/user/demo/commit/")
    assert pushed(hub, "spaces/user/demo") == content | {".gitattributes": b""}  # the Hub's own
    assert hub.repositories["spaces/user/demo"].private and "user/demo" not in hub.repositories
    with pytest.raises(HubError, match=r"is no page: make one with python -m demo\.build"):
        push(folder, "user/demo", space=True)
    for flag, value in (("overwrite_card", True), ("license", "mit")):
        with pytest.raises(HubError, match=f"--{flag} is for a run's model card"):
            push(page, "user/demo", space=True, **{flag: value})


@pytest.fixture
def page(tmp_path):
    """A page in a folder full of other people's files."""
    page = tmp_path / "page"
    names = ["index.html", "about.json", "samples/0.png", "README.md"]
    for name in (*names, *DECOYS, "samples/mine.png", "index.html.bak", "style.css"):
        (page / name).parent.mkdir(parents=True, exist_ok=True)
        (page / name).write_text("mine")
    (page / "secret").symlink_to(tmp_path)
    (page / "about.json").write_text(json.dumps({"files": names}))
    (page / "README.md").write_text(space_card("demo", None))
    return page


def test_of_a_page_goes_what_the_build_wrote_and_the_list_comes_first(page, hub, capsys):
    push(page, "user/demo", space=True, dry_run=True)
    *listed, total = capsys.readouterr().out.splitlines()
    names = json.loads((page / "about.json").read_text())["files"]
    assert [line.split("bytes  ")[1] for line in listed] == names and "in 4 files" in total
    assert not hub.repositories
    push(page, "user/demo", space=True)
    assert pushed(hub, "spaces/user/demo").keys() == {*names, ".gitattributes"}  # the Hub's own


def test_links_in_a_page_are_not_followed(page, tmp_path):
    (tmp_path / "secret.png").write_text("secret")
    for link, target in (("samples/0.png", tmp_path / "secret.png"), ("samples", tmp_path / "elsewhere")):
        aside = page / link
        aside.rename(tmp_path / "elsewhere")
        aside.symlink_to(target)
        with pytest.raises(HubError, match=r"holds links, which are not followed \(samples/0\.png\)"):
            collect_page(page)
        aside.unlink()
        (tmp_path / "elsewhere").rename(aside)
    assert collect_page(page)


@pytest.mark.parametrize("names", [["../secret"], ["/etc/hostname"], ["samples/../../secret"], [7], "README.md", None])
def test_a_page_that_lists_what_is_not_in_it_is_refused(page, names):
    (page / "about.json").write_text(json.dumps({"files": names}))
    with pytest.raises(HubError, match=r"has no about\.json that lists its files, and is no page"):
        collect_page(page)


def test_a_page_that_is_no_longer_whole_is_refused(page):
    (page / "samples/0.png").unlink()
    with pytest.raises(HubError, match=r"lacks samples/0\.png, which demo\.build wrote there"):
        collect_page(page)


def test_links_in_a_run_are_not_followed(folder, tmp_path):
    """Nor do they come into an exported folder, from where their content would go."""
    secret = tmp_path / "secret"
    secret.mkdir()
    for name in ("test_classes.png", "trainer_state.json"):
        (secret / name).write_text("secret")
    (folder / "trainer_state.json").unlink()
    (folder / "trainer_state.json").symlink_to(secret / "trainer_state.json")
    (folder / "figures/curves.png").unlink()
    (folder / "figures/curves.png").symlink_to(folder / "figures/learning_rate.png")
    with pytest.raises(
        HubError, match=r"holds links, which are not followed \(trainer_state\.json, figures/curves\.png\)"
    ):
        collect(folder, "user/name")
    exported = tmp_path / "exported"
    export(folder, output_dir=exported)
    assert not any(b"secret" in content for content in snapshot(exported).values())
    assert (exported / "figures/curves.png").is_file() and "trainer_state.json" not in collect(exported, "user/name")
    shutil.rmtree(folder / "figures")
    (folder / "figures").symlink_to(secret)
    assert not any("classes" in file.name for file in shared_files(folder))


def test_a_folder_in_the_hubs_cache_is_exported_whole(folder, tmp_path):
    """Its files are links to where the cache has them."""
    snapshots, blobs = tmp_path / "cache/snapshots/1", tmp_path / "cache/blobs"
    snapshots.mkdir(parents=True), blobs.mkdir()
    for number, file in enumerate(shared_files(folder)):
        link = snapshots / file.relative_to(folder)
        link.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    assert len(shared_files(snapshots)) == len(shared_files(folder)) == len(FILES)


@pytest.mark.parametrize("request_part", ["repos/create", "preupload", "/commit/", "validate-yaml"])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (401, "does not know the access token"),
        (403, "no right to write to user/name"),
        (409, "somebody else is changing user/name"),
        (500, "the Hub failed"),
        ("drop", "cannot be reached, or the connection broke"),
    ],
)
def test_after_any_failure_a_second_try_is_safe(folder, hub, monkeypatch, request_part, fault, said):
    if (request_part, fault) == ("repos/create", 409):
        request_part = "preupload"  # there it means that the repository exists, which is no failure
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client tries some requests again, later and later
    files = collect(folder, "user/name")
    hub.faults = [(request_part, fault)] * 10
    with pytest.raises(HubError, match=said) as refused:
        upload(files, "user/name")
    assert "\n" not in str(refused.value)
    hub.faults = []
    assert not any(FILES & commit.keys() for each in hub.repositories.values() for commit in each.commits.values())
    upload(files, "user/name")
    assert pushed(hub).keys() - {".gitattributes"} == FILES


def test_tokens_names_and_networks(folder, hub, monkeypatch, tmp_path):
    files = {"README.md": b"---\nlicense: mit\n---\n"}
    for token, said in (("hf_reader", "no right to write"), ("hf_nobody", "does not know the access token")):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(HubError, match=said):
            upload(files, "user/name")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(HubError, match="there is no access token: log in"):
        upload(files, "user/name")
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    with pytest.raises(HubError, match="has no user/absent"):
        upload(files, "user/absent", create_pr=True)
    with pytest.raises(HubError, match="--repo_id a/b/c cannot be the name of a repository"):
        upload(files, "a/b/c")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"the Hub at http://127\.0\.0\.1:9 cannot be reached"):
        upload(files, "user/name")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        upload(files, "user/name")


def test_train_pushes_at_its_end_and_finds_a_bad_token_before_it_begins(flags, hub, monkeypatch, capsys):
    more = ["--push_to_hub", "--hub_model_id=user/trained", "--max_train_steps=1"]
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    with pytest.raises(HubError, match="no right to write"):
        train(flags, *more)
    assert "epoch 1" not in capsys.readouterr().out
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    folder = train(flags, *more)
    assert json.loads(pushed(hub, "user/trained")["all_results.json"]) == read(folder)
    assert b"# user/trained" in pushed(hub, "user/trained")["README.md"]


# --- and back ------------------------------------------------------------------------------------------------------

PUSHING = """
import sys
from slimresnet.cli import push_to_hub
from transformers import AutoImageProcessor, AutoModelForImageClassification

push_to_hub.main()  # imports modeling_slimresnet
for auto_class in (AutoModelForImageClassification, AutoImageProcessor):
    auto_class.from_pretrained(sys.argv[1]).push_to_hub("user/python")
"""
LOADING = """
import json, sys
import torch
from transformers import AutoModelForImageClassification, pipeline

pixel_values = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
report = {}
for name in sys.argv[2:]:
    model = AutoModelForImageClassification.from_pretrained(name, trust_remote_code=True)
    classify = pipeline("image-classification", model=name, trust_remote_code=True)
    report[name] = [type(model).__module__, model(pixel_values).logits.tolist(), classify(sys.argv[1])[0]["label"]]
print(json.dumps(report))
"""


@pytest.mark.processes
@pytest.mark.slow
def test_pushed_from_the_command_line_and_from_python_it_loads_in_a_fresh_process(folder, hub, tmp_path):
    hub.uploads = "lfs"
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "hf_writer",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",  # this server takes large files as Git LFS does
    }
    process = run_python("-c", PUSHING, folder, "--repo_id=user/name", **environment)
    assert process.returncode == 0 and f"{hub.url}/user/name/commit/" in process.stdout, process.stderr
    assert any("PUT /lfs/" in request for request in hub.requests)

    image = tmp_path / "image.png"
    Image.linear_gradient("L").save(image)
    (tmp_path / "load.py").write_text(LOADING)
    process = run_python("-I", tmp_path / "load.py", image, "user/name", "user/python", cwd=tmp_path, **environment)
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout.splitlines()[-1])
    model = SlimResNetForImageClassification.from_pretrained(folder)
    with torch.inference_mode():
        expected = model(torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)).logits
    for module, logits, label in report.values():
        assert module.startswith("transformers_modules.") and label in model.config.label2id
        torch.testing.assert_close(torch.tensor(logits), expected)
    assert report.keys() == {"user/name", "user/python"} and os.listdir(tmp_path / "home")
