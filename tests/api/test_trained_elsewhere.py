"""Folders that transformers' Trainer and `save_pretrained` wrote: scored, predicted with, exported, shared."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import SAMPLE
from huggingface_hub import ModelCard
from PIL import Image
from training_runs import assert_accuracy, evaluate_folder, read, snapshot
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments, ViTImageProcessorPil

import modeling_slimresnet
from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from modeling_slimresnet.configuration_slimresnet import AUTO_MAP
from slimresnet.api.export import export, training_images
from slimresnet.api.exported_folder import bring_files
from slimresnet.api.predict import predict
from slimresnet.api.push import push
from slimresnet.data.sources.dataset import open_split
from slimresnet.formats.torch_export import TORCH_EXPORT_FILE
from slimresnet.formats.trained import ModelError, weights_digest
from slimresnet.hub.files import collect, model_code
from slimresnet.hub_errors import HubError
from slimresnet.recipe.checks import RecipeError
from slimresnet.run_folder.names import AVERAGE_PRECISION_SUFFIX, SCORE_PICTURE_SUFFIXES

NETWORK = {"config.json", "model.safetensors", "preprocessor_config.json", *model_code()}
PROCESSOR = ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.25] * 3)


class Rows(torch.utils.data.Dataset):
    """Sixteen images of the sample, as Trainer takes them."""

    def __init__(self):
        split = open_split(str(SAMPLE), "train", image_size=16)
        self._pixels = next(split.images.read([np.arange(16)]))
        self._labels = split.labels[:16]

    def __len__(self):
        return 16

    def __getitem__(self, row):
        return {"pixel_values": (self._pixels[row] / 255 - 0.5) / 0.25, "labels": int(self._labels[row])}


@pytest.fixture(scope="module")
def by_trainer(tmp_path_factory):
    """What Trainer leaves after two steps: weights, its state and figures, a checkpoint, a pickle of its arguments."""
    folder = tmp_path_factory.mktemp("trainer") / "mine"
    config = SlimResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], strides=[1, 2], image_size=16,
        id2label=dict(enumerate(open_split(str(SAMPLE), "test", image_size=16).label_names)),
    )  # fmt: skip
    arguments = TrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=8, use_cpu=True, report_to="none", save_steps=2,
        disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(
        SlimResNetForImageClassification(config), arguments, train_dataset=Rows(), processing_class=PROCESSOR
    )
    found = trainer.train()
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("all", found.metrics | {"eval_accuracy": 0.75, "test_accuracy": 0.5})
    (folder / "training_args.bin").write_bytes(b"a pickle that nobody is to open")
    return folder


@pytest.fixture
def mine(by_trainer, tmp_path):
    return shutil.copytree(by_trainer, tmp_path / "mine")


@pytest.fixture
def picture(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    image.save(tmp_path / "one.png")
    return tmp_path / "one.png"


def by_transformers(folder, picture):
    """Probabilities by transformers alone."""
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return model(**PROCESSOR(Image.open(picture), return_tensors="pt")).logits.softmax(1)[0].numpy()


def test_it_is_predicted_with(mine, picture):
    expected = by_transformers(mine, picture)
    for folder in (mine, mine / "checkpoint-2"):
        [got] = predict(folder, picture)
        np.testing.assert_allclose(got.probabilities, expected, atol=1e-5)
        assert got.label_name == open_split(str(SAMPLE), "test", image_size=16).label_names[got.label]


def test_without_an_image_processor_nothing_is_guessed(mine, picture):
    """And the code that the sentence gives makes the folder usable."""
    (mine / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"has no preprocessor_config\.json, and only who trained it knows") as refused:
        predict(mine, picture)
    with pytest.raises(HubError, match=r"has no preprocessor_config\.json, and only who trained it knows"):
        push(mine, "user/name", dry_run=True)
    code = str(refused.value).partition("save that there, ")[2].partition(", with the mean")[0]
    exec(code.replace("image_mean=[…]", "image_mean=[0.5]*3").replace("image_std=[…]", "image_std=[0.25]*3"), {
        "ViTImageProcessor": ViTImageProcessorPil
    })  # fmt: skip
    np.testing.assert_allclose(predict(mine, picture)[0].probabilities, by_transformers(mine, picture), atol=1e-5)


def test_it_is_scored_on_the_data_that_is_named(mine, capsys):
    with pytest.raises(RecipeError, match=r"has no recipe\.yaml that says what it was trained on: name the data with"):
        evaluate_folder(mine)
    before = snapshot(mine)
    found = evaluate_folder(mine, f"--dataset_name={SAMPLE}", f"--output_dir={mine}")
    split = open_split(str(SAMPLE), "test", image_size=16)
    pixels = next(split.images.read([np.arange(500)]))
    with torch.inference_mode():
        logits = AutoModelForImageClassification.from_pretrained(mine)((pixels / 255 - 0.5) / 0.25).logits
    assert_accuracy(found.results["cifar10_sample_test_accuracy"], logits, torch.from_numpy(split.labels))
    assert read(mine)["cifar10_sample_test_accuracy"] == found.results["cifar10_sample_test_accuracy"]
    after = snapshot(mine)
    theirs = {mine / "all_results.json": mine / "all_results.json.bak"}  # renamed, since another program wrote it
    assert all(after[theirs.get(file, file)] == content for file, content in before.items())
    assert not (mine / "README.md").exists()


def test_classes_without_names_are_those_of_the_data_in_their_order(tmp_path, capsys):
    """As `save_pretrained` writes them for whoever gave a number alone."""
    config = SlimResNetConfig(
        embedding_size=8, hidden_sizes=[8], depths=[1], strides=[2], image_size=16, num_labels=10, id2label=None
    )
    SlimResNetForImageClassification(config).save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    assert read(tmp_path, "config.json")["id2label"]["3"] == "LABEL_3"
    found = evaluate_folder(tmp_path, f"--dataset_name={SAMPLE}", "--max_eval_samples=20")
    assert found.results["cifar10_sample_test_samples"] == 20
    assert f"MODEL does not name its classes: they are taken for those of {SAMPLE}" in capsys.readouterr().out
    config.id2label = {label: f"LABEL_{label}" for label in range(9)}
    SlimResNetForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="names other classes than the model"):
        evaluate_folder(tmp_path, f"--dataset_name={SAMPLE}")


def test_it_is_exported(mine, picture, tmp_path):
    (mine / "modeling_slimresnet.py").write_text("raise SystemExit('code of a stranger')")
    export(mine, output_dir=tmp_path / "exported", format="torch_export")
    files = {file.relative_to(tmp_path / "exported").as_posix() for file in (tmp_path / "exported").rglob("*.*")}
    assert not {name for name in files if "training_args" in name or "checkpoint" in name or "trainer_state" in name}
    for name, code in model_code().items():
        assert (tmp_path / "exported" / name).read_bytes() == code.read_bytes()
    [got] = predict(tmp_path / "exported", picture, backend="torch_export", trust_remote_code=True)
    np.testing.assert_allclose(got.probabilities, by_transformers(mine, picture), atol=1e-5)
    assert collect(tmp_path / "exported", "user/name").keys() == {
        *NETWORK,
        "README.md",
        "exports.json",
        TORCH_EXPORT_FILE,
    }


def test_what_int8_is_calibrated_on_is_named(mine):
    with pytest.raises(RecipeError, match=r"no recipe\.yaml .* --dataset_name"):
        training_images(mine, 32)
    images = training_images(mine, 32, dataset_name=str(SAMPLE))
    assert (len(images.checks), len(images.ranges), images.source) == (512, 32, "images of cifar10_sample")


def content_of(file):
    return file if isinstance(file, bytes) else file.read_bytes()


def test_what_goes_to_the_hub_is_the_network_and_a_card_of_what_is_known(mine):
    (mine / "modeling_slimresnet.py").write_text("raise SystemExit('code of a stranger')")
    config = read(mine, "config.json")
    config |= {"_name_or_path": "/home/me/secret", "auto_map": {"AutoConfig": "stranger/code--run.Me"}}
    (mine / "config.json").write_text(json.dumps(config))
    before = snapshot(mine)
    assert push(mine, "user/name", dry_run=True) is None
    files = collect(mine, "user/name", license="mit")
    assert files.keys() == {*NETWORK, "README.md"} and snapshot(mine) == before
    pushed = json.loads(content_of(files["config.json"]))
    assert pushed["auto_map"] == AUTO_MAP and "_name_or_path" not in pushed
    assert content_of(files["modeling_slimresnet.py"]) == model_code()["modeling_slimresnet.py"].read_bytes()
    card = ModelCard(content_of(files["README.md"]).decode())
    assert card.data.license == "mit" and card.data.eval_results is None and "metrics" not in card.data.to_dict()
    for unknown in (
        "## Results", "## Training", "recipe.yaml", "calibrated", "held out", "trained on", "random weights", "CutMix",
        "75.00%", "50.00%", "0.75", "None", "Undefined",
    ):  # fmt: skip
        assert unknown not in card.text, unknown
    assert "tells 10 classes apart: airplane" in card.text and "## Use" in card.text and "## Limits" in card.text


def test_pushed_it_loads_anywhere(mine, picture, tmp_path):
    expected = by_transformers(mine, picture)
    (tmp_path / "hub").mkdir()
    for name, file in collect(mine, "user/name").items():
        (tmp_path / "hub" / name).write_bytes(content_of(file))
    np.testing.assert_allclose(predict(tmp_path / "hub", picture)[0].probabilities, expected, atol=1e-5)


def test_figures_of_eval_py_come_into_the_card_with_their_data(mine):
    """And those that Trainer wrote, of data that nobody names, do not."""
    evaluate_folder(mine, f"--dataset_name={SAMPLE}", "--max_eval_samples=60", f"--output_dir={mine}", "--tta=flip")
    files = collect(mine, "user/name")
    assert files.keys() - NETWORK == {
        "README.md", "all_results.json", "cifar10_sample_test_details.json",
        *(f"figures/cifar10_sample_test{suffix}" for suffix in {*SCORE_PICTURE_SUFFIXES} - {AVERAGE_PRECISION_SUFFIX}),
    }  # fmt: skip
    card, results = ModelCard(content_of(files["README.md"]).decode()), read(mine)
    accuracy = results["cifar10_sample_test_accuracy"]
    assert f"| test of cifar10\\_sample | 60 | {accuracy:.2%} (" in card.text and "Intervals hold 95 %" in card.text
    [of_accuracy] = [each for each in card.data.eval_results if each.metric_name == "Accuracy"]
    assert (of_accuracy.metric_value, of_accuracy.dataset_name) == (accuracy, "cifar10_sample")
    assert of_accuracy.dataset_split == "test (60 images)"
    assert "75.00%" not in card.text and "## Training" not in card.text and "held out" not in card.text


def test_images_that_it_may_have_been_trained_on_are_not_called_held_out(mine):
    evaluate_folder(mine, f"--dataset_name={SAMPLE}", "--split=train", "--max_eval_samples=60", f"--output_dir={mine}")
    card = ModelCard(content_of(collect(mine, "user/name")["README.md"]).decode())
    assert {each.dataset_split for each in card.data.eval_results} == {"train (60 images)"}
    assert "held out" not in card.text and "| train of cifar10\\_sample | 60 |" in card.text


@pytest.mark.parametrize(
    "results", ['{"eval_accuracy": 0.5, "eval_f1_per_class": [0.1, 0.2]}', '{"train_loss": NaN}', "[]"]
)
def test_results_of_another_program_may_hold_anything(mine, picture, tmp_path, results, capsys):
    """They are unknown, and stay."""
    theirs, output = mine / "all_results.json", tmp_path / "output"
    theirs.write_text(results)
    flags = (f"--dataset_name={SAMPLE}", "--max_eval_samples=20")
    evaluate_folder(mine, *flags)
    assert len(training_images(mine, 4, dataset_name=str(SAMPLE)).ranges) == 4
    assert collect(mine, "user/name").keys() == {*NETWORK, "README.md"}
    with pytest.raises(ModelError, match="has no thresholds for --target_precision"):
        predict(mine, picture, target_precision=0.95)
    output.mkdir()
    (output / theirs.name).write_text(results)
    bring_files(output, mine, weights_digest(mine), {}, {})
    assert theirs.read_text() == (output / theirs.name).read_text() == results
    evaluate_folder(mine, *flags, f"--output_dir={mine}")
    aside = mine / "all_results.json.bak"
    assert f"{theirs} was not written by this program, or was changed since: it is {aside}" in capsys.readouterr().err
    assert aside.read_text() == results and "eval_accuracy" not in read(mine)


def test_a_card_that_is_there_stays(mine):
    """Trainer writes one, with figures of its own."""
    (mine / "README.md").write_text("---\nlicense: mit\nlibrary_name: transformers\n---\n# mine\n")
    assert collect(mine, "user/name")["README.md"] == mine / "README.md"
    with pytest.raises(HubError, match=r"licence is apache-2\.0 by --license"):
        collect(mine, "user/name", license="apache-2.0")
    assert b"# user/name" in collect(mine, "user/name", overwrite_card=True)["README.md"]


def test_a_run_of_ours_that_lost_its_recipe_is_no_folder_of_others(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "recipe.yaml").unlink()
    with pytest.raises(HubError, match=r"is not a finished run, it has no recipe\.yaml"):
        collect(run, "user/name")


def test_the_code_is_that_of_the_package():
    assert all(file.parent.name == modeling_slimresnet.__name__ and file.is_file() for file in model_code().values())
