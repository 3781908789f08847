"""A network of one channel from the data to the card: coloured and grey pictures alike, of any shape."""

import json

import numpy as np
import pytest
import torch
from conftest import write_dataset
from PIL import Image
from training_runs import evaluate_folder, train
from transformers import AutoImageProcessor, pipeline

from modeling_slimresnet import SlimResNetBackbone, SlimResNetConfig, SlimResNetForImageClassification
from modeling_slimresnet.__main__ import layer_table
from slimresnet.api.export import export
from slimresnet.api.predict import predict
from slimresnet.data.inputs import build_image_processor
from slimresnet.data.luma import LUMA
from slimresnet.data.transforms.normalize import normalize
from slimresnet.evaluation.plots import plot_mistakes
from slimresnet.formats.graph import LogitsOfPixels
from slimresnet.formats.trained import ModelError, load_model, load_processing
from slimresnet.hub.files import collect
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe
from slimresnet.training.distillation.teachers import open_teachers
from slimresnet.training.network import load_network_config

LAYERS = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "strides": [1, 2]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures of two classes, half of them coloured, tall and wide ones."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 20)):
        labels = np.arange(count) % 2
        images = [
            rng.integers(0, 100 + 155 * label, (20, 31, 3) if number % 4 < 2 else (27, 18), dtype=np.uint8)
            for number, label in enumerate(labels)
        ]
        write_dataset(folder / "parquet", split, images, labels.tolist(), ["dark", "light"])
    (folder / "pictures").mkdir()
    for number in range(6):
        Image.fromarray(images[number]).save(folder / "pictures" / f"{number}.png")
    (folder / "config.json").write_text(json.dumps(LAYERS | {"model_type": "slimresnet"}))
    return folder


@pytest.fixture(scope="module")
def flags(data):
    return [
        f"--dataset_name={data / 'parquet'}", f"--config_name={data / 'config.json'}", "--image_size=16",
        "--num_channels=1", "--resize_mode=pad", "--validation_size=20", "--total_train_batch_size=20",
        "--max_train_steps=2", "--stem_initialization=whitening", "--trivial_augment", "--cutmix_prob=0.5",
        "--random_erasing_prob=0.5", "--gaussian_blur_prob=0.5", "--use_cpu", "--mixed_precision=no",
        "--streaming=false", "--checkpointing_steps=no",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def grey(flags, tmp_path_factory):
    """The folder of a finished run."""
    return train(flags, f"--output_dir={tmp_path_factory.mktemp('grey') / 'run'}")


@pytest.fixture(scope="module")
def exported(grey, data, tmp_path_factory):
    """The run in every form."""
    folder = tmp_path_factory.mktemp("exported") / "all"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slimresnet.formats.onnx_int8.SMALLEST_SHARE", 0)  # of a network that has hardly learnt
        patch.setattr("slimresnet.api.export.CHECK_BATCH", 8)
        export(grey, output_dir=folder, quantize="int8", dataset_name=str(data / "parquet"))
    export(grey, output_dir=folder, format="torch_export")
    return folder


def test_the_folder_says_what_was_asked_for(grey):
    config = json.loads((grey / "config.json").read_text())
    assert (config["num_channels"], config["image_size"]) == (1, 16)
    processor = json.loads((grey / "preprocessor_config.json").read_text())
    assert processor["image_processor_type"] == "ViTImageProcessor"
    assert processor["image_mean"] == pytest.approx([0.4809] * 3, abs=1e-4)
    assert load_processing(grey).pixel_format.num_channels == 1


def test_grey_pictures_give_others_the_pixels_of_training(grey, data):
    """Through transformers' own classes; a coloured one differs by what luma is rounded by, half of one in 255."""
    processor, (pixel_format, normalize) = AutoImageProcessor.from_pretrained(grey), load_processing(grey)
    network = SlimResNetForImageClassification.from_pretrained(grey).eval()
    classify, seen = pipeline("image-classification", model=str(grey)), {"L": 0, "RGB": 0}
    predictions = predict(grey, data / "pictures")
    for prediction in predictions:
        picture = Image.open(data / "pictures" / prediction.name)
        theirs = processor(picture, return_tensors="pt")["pixel_values"]
        shares = torch.tensor(LUMA / LUMA.sum(), dtype=torch.float32).view(3, 1, 1)
        mixed = (theirs * shares).sum(dim=1, keepdim=True)
        with torch.inference_mode():
            assert torch.equal(network(theirs).logits, network(mixed).logits)
            logits = network(theirs).logits
        tolerance = 1e-4 if picture.mode == "L" else 0.03
        named = {each["label"]: each["score"] for each in classify(picture)}
        for name, share, other in zip(["dark", "light"], prediction.probabilities, logits.softmax(1)[0], strict=True):
            assert named[name] == pytest.approx(share, abs=tolerance) and named[name] == pytest.approx(float(other))
        seen[picture.mode] += 1
    assert all(seen.values()) and pixel_format.resize_mode == "pad"
    assert normalize(torch.zeros(2, 1, 16, 16, dtype=torch.uint8)).shape == (2, 1, 16, 16)


@pytest.mark.parametrize(
    ("backend", "quantized"), [("torch_export", False), ("onnxruntime", False), ("onnxruntime", True)]
)
def test_every_form_takes_rgb_and_says_what_the_network_says(exported, data, backend, quantized):
    expected = predict(exported, data / "pictures", tta="flip")
    found = predict(
        exported, data / "pictures", tta="flip", backend=backend, quantized=quantized, trust_remote_code=True
    )
    assert np.allclose(found.probabilities, expected.probabilities, atol=0.05 if quantized else 1e-5)
    facts = json.loads((exported / "exports.json").read_text())
    assert all(each["pixel_values"] == "float32" for each in facts.values())


def test_a_graph_that_normalises_takes_rgb(grey):
    pixels = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    network, normalize = load_model(grey), load_processing(grey).normalize
    with torch.inference_mode():
        found = LogitsOfPixels(network, normalize)(pixels.expand(-1, 3, -1, -1))
        torch.testing.assert_close(found, network(normalize(pixels)).logits)


def test_it_is_scored_shown_and_described(grey, exported, data, tmp_path):
    accuracy = evaluate_folder(grey, f"--dataset_name={data / 'parquet'}", "--tta=paper").results["test_accuracy"]
    assert accuracy == json.loads((grey / "all_results.json").read_text())["test_accuracy"]
    files = collect(exported, "user/grey")
    card = files["README.md"].decode()
    assert "for grey images of 16×16 pixels" in card and "the longer side, between bars of black" in card
    assert "`[images, 3, height, width]`" in card and "the network has one, which it mixes them into" in card
    stem = layer_table(SlimResNetConfig.from_pretrained(grey)).splitlines()[2].split()
    assert stem[0] == "Conv2d-1" and stem[-2] == "36"  # parameters: 3×3 of one channel for each of four
    pixels = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    plot_mistakes(pixels, torch.eye(2), np.array([1, 0]), ["dark", "light"], tmp_path / "mistakes.png")
    assert (tmp_path / "mistakes.png").exists()


def test_it_is_gone_on_with(grey, flags, tmp_path):
    """The folder says size, channels, normalisation and what is done to pictures that are not square."""
    of_network = ("--config_name", "--image_size", "--num_channels", "--resize_mode", "--stem_initialization")
    own = [flag for flag in flags if flag.split("=")[0] not in of_network] + [f"--model_name_or_path={grey}"]
    folder = train(own, f"--output_dir={tmp_path / 'on'}", "--max_train_steps=1")
    assert load_processing(folder).pixel_format == load_processing(grey).pixel_format
    for name in ("preprocessor_config.json", "config.json"):
        assert json.loads((folder / name).read_text()) == json.loads((grey / name).read_text())
    with pytest.raises(RecipeError, match="--num_channels 3 is not that of --model_name_or_path, 1"):
        train(own, "--num_channels=3", f"--output_dir={tmp_path / 'no'}")


def test_teachers_of_other_channels(grey, tmp_path):
    """A grey one mixes the colours that its student sees; a coloured one sees its student's grey thrice."""
    config = SlimResNetConfig(**LAYERS, image_size=16, id2label={0: "dark", 1: "light"})
    coloured = SlimResNetForImageClassification(config).eval()
    coloured.save_pretrained(tmp_path)
    build_image_processor(Recipe(), config).save_pretrained(tmp_path)
    pixels = torch.randint(0, 256, (5, 1, 16, 16), dtype=torch.uint8).expand(-1, 3, -1, -1)
    own = {name: load_processing(folder).normalize for name, folder in (("grey", grey), ("coloured", tmp_path))}

    recipe = Recipe(teacher_name_or_path=str(grey))
    [teacher] = open_teachers(recipe, config, ["dark", "light"], tmp_path / "run")
    with torch.inference_mode():
        expected = load_model(grey)(own["grey"](pixels[:, :1])).logits
        torch.testing.assert_close(teacher(own["coloured"](pixels)), expected, rtol=1e-4, atol=1e-4)
    recipe = Recipe(teacher_name_or_path=str(tmp_path), image_mean=[0.3], image_std=[0.2])
    student = SlimResNetConfig(**LAYERS, image_size=16, num_channels=1)
    [teacher] = open_teachers(recipe, student, ["dark", "light"], tmp_path / "run")
    with torch.inference_mode():
        seen = normalize(pixels[:, :1], (0.3,), (0.2,))
        expected = coloured(own["coloured"](pixels)).logits
        torch.testing.assert_close(teacher(seen), expected, rtol=1e-4, atol=1e-4)
        assert teacher.multiply_adds(16) > 0


def test_a_config_says_so_too(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LAYERS | {"model_type": "slimresnet", "num_channels": 1}))
    assert load_network_config(Recipe(config_name=str(tmp_path))).num_channels == 1


def test_the_network_takes_one_channel_or_three_and_no_others():
    config = SlimResNetConfig(**LAYERS, num_channels=1)
    for network in (SlimResNetForImageClassification(config), SlimResNetBackbone(config)):
        network.eval()
        images = torch.rand(2, 1, 8, 8)
        alike = (network(each)[0] for each in (images, images.expand(-1, 3, -1, -1)))
        first, second = (each if isinstance(each, torch.Tensor) else each[0] for each in alike)
        torch.testing.assert_close(first, second)
        with pytest.raises(ValueError, match=r"shape \[batch, 1, height, width\], got \[2, 2, 8, 8\]"):
            network(torch.rand(2, 2, 8, 8))


def test_channels_of_different_normalisation_are_refused(grey, tmp_path):
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((grey / name).read_bytes())
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_mean": [0.5, 0.4, 0.3]}))
    with pytest.raises(ModelError, match="must be the same for each channel, because the network takes grey images"):
        load_processing(tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_mean": [0.13], "image_std": [0.31]}))
    with pytest.raises(ModelError, match=r"no preprocessor_config\.json that can be used"):
        load_processing(tmp_path)  # it takes no pictures that are opened as RGB
    config = json.loads((tmp_path / "config.json").read_text()) | {"num_channels": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="takes images of 4 channels"):
        load_processing(tmp_path)
