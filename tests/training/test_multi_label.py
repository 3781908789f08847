"""Images of several classes, from one run: training, scoring, prediction, export and card; the parts by themselves."""

import csv
import dataclasses
import json

import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from PIL import ImageDraw
from sklearn.metrics import average_precision_score, f1_score
from training_runs import read, train
from transformers import pipeline

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.api.evaluate import evaluate
from slimresnet.api.export import export
from slimresnet.api.predict import Asked, predict, write_predictions
from slimresnet.cli.predict import parse
from slimresnet.data.inputs import TrainingInputs
from slimresnet.data.loader import TrainingBatch
from slimresnet.data.randomness import Draws
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.source import DatasetError
from slimresnet.data.splits import stratified_split
from slimresnet.data.task import MULTI_LABEL, SINGLE_LABEL, task_of
from slimresnet.errors import SlimResNetError
from slimresnet.evaluation.scores import AT_THRESHOLD, measure
from slimresnet.evaluation.temperature import fit_temperature
from slimresnet.evaluation.thresholds import best_f1_threshold, thresholds_of
from slimresnet.evaluation.tta import compare_policies, views_of
from slimresnet.formats.format import ExportError
from slimresnet.formats.onnx_int8 import check_classes
from slimresnet.hub.files import collect
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe

NAMES = ["blue", "circle", "red", "square"]
COLOURS = {"red": (230, 30, 30), "blue": (30, 30, 230)}


def picture(generator):
    """Up to four shapes on grey, and the classes that it shows: their colours and their forms."""
    image, shown = PILImage.new("RGB", (16, 16), (200, 200, 200)), set()
    draw = ImageDraw.Draw(image)
    for left, top in ((0, 0), (8, 0), (0, 8), (8, 8)):
        if generator.random() < 0.3:
            colour, form = generator.choice([*COLOURS]), generator.choice(["circle", "square"])
            paint = draw.ellipse if form == "circle" else draw.rectangle
            paint((left + 1, top + 1, left + 6, top + 6), fill=COLOURS[colour])
            shown |= {str(colour), str(form)}
    noise = generator.integers(0, 50, (16, 16, 3))
    return PILImage.fromarray((0.8 * np.asarray(image) + noise).astype(np.uint8)), sorted(shown)


def write_folder(folder, sizes, columns=False):
    """A folder of pictures beside lists of their classes, or beside columns of 0 and 1."""
    generator = np.random.default_rng(0)
    for split, size in sizes.items():
        (folder / split).mkdir(parents=True)
        shown = {}
        for number in range(size):
            image, shown[f"{number:03}.png"] = picture(generator)
            image.save(folder / split / f"{number:03}.png")
        if columns:
            rows = [[name, *(int(each in classes) for each in NAMES)] for name, classes in shown.items()]
            with (folder / split / "metadata.csv").open("w", newline="") as file:
                csv.writer(file).writerows([["file_name", *NAMES], *rows])
        else:
            lines = [json.dumps({"file_name": name, "labels": classes}) + "\n" for name, classes in shown.items()]
            (folder / split / "metadata.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("several") / "shapes", {"train": 256, "test": 64})


@pytest.fixture(scope="module")
def flags(pictures, tmp_path_factory):
    config = tmp_path_factory.mktemp("network")
    SlimResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], strides=[1, 2], image_size=16
    ).save_pretrained(config)
    return [
        f"--dataset_name={pictures}", f"--config_name={config}", "--total_train_batch_size=32", "--learning_rate=0.1",
        "--num_train_epochs=3", "--validation_size=64", "--cutmix_prob=0", "--checkpointing_steps=no",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "model"
    return train(
        flags, f"--output_dir={folder}", "--label_smoothing_factor=0.02", "--load_best_model_at_end", "--ema_decay=0.5"
    )


def targets_and_probabilities(folder, pictures, split="test"):
    found = predict(folder, pictures / split)
    shown = [json.loads(line)["labels"] for line in (pictures / split / "metadata.jsonl").read_text().splitlines()]
    return np.array([[name in classes for name in NAMES] for classes in shown]), found


def test_a_run_says_what_it_learnt_and_its_figures_are_those_of_scikit_learn(run, pictures):
    config, results = read(run, "config.json"), read(run, "all_results.json")
    assert config["problem_type"] == "multi_label_classification" and [*config["id2label"].values()] == NAMES
    labels, found = targets_and_probabilities(run, pictures)
    # float32 sums, in batches of another size
    each = [average_precision_score(labels[:, k], found.probabilities[:, k]) for k in range(4)]
    assert results["test_mean_average_precision"] == pytest.approx(np.mean(each), abs=1e-3)
    assert read(run, "test_details.json")["average_precision"] == pytest.approx(each, abs=1e-3)
    assert np.mean(each) > labels.mean() + 0.1  # it learnt something
    given = found.probabilities >= results["test_threshold_f1"]
    assert results["test_micro_f1"] == pytest.approx(f1_score(labels, given, average="micro"), abs=0.01)
    assert results["test_macro_f1"] == pytest.approx(f1_score(labels, given, average="macro"), abs=0.01)
    assert results["test_exact_match"] == pytest.approx((labels == given).all(axis=1).mean(), abs=0.02)
    loss = -np.log(np.where(labels, found.probabilities, 1 - found.probabilities)).mean()
    assert results["test_loss"] == pytest.approx(loss, abs=1e-4)
    assert "test_accuracy" not in results


def test_the_threshold_and_the_epoch_are_those_of_validation(run):
    results, state = read(run, "all_results.json"), read(run, "trainer_state.json")
    assert results["eval_threshold_f1"] == results["test_threshold_f1"] and results["eval_samples"] == 64
    scores = [entry["eval_mean_average_precision_ema"] for entry in state["log_history"]]
    assert state["best_metric"] == max(scores) and all("eval_loss" in entry for entry in state["log_history"])
    assert yaml.safe_load((run / "recipe.yaml").read_text())["metric_for_best_model"] == "mean_average_precision"


def test_eval_finds_the_figures_of_the_run_and_a_threshold_of_the_held_out_images(run, pictures):
    results = read(run, "all_results.json")
    tested = evaluate(run, dataset_name=str(pictures), tta="flip").results
    names = ["mean_average_precision", "threshold_f1", "micro_f1", "macro_f1", "exact_match", "loss"]
    for name in names:
        assert tested[f"test_{name}"] == pytest.approx(results[f"test_{name}"], abs=1e-3), name
        assert name == "threshold_f1" or f"test_{name}_tta" in tested
    held_out = evaluate(run, dataset_name=str(pictures), split="held_out", compare_tta=True)
    assert held_out.results["eval_threshold_f1"] == pytest.approx(results["eval_threshold_f1"], abs=1e-3)
    assert max(held_out.details["eval_details.json"]["tta"].values()) <= 1
    with pytest.raises(RecipeError, match="--shift cifar10c scores networks of one class an image"):
        evaluate(run, shift="cifar10c")


def test_data_of_one_class_an_image_is_not_scored(run, tmp_path):
    for name in NAMES:
        (tmp_path / "data" / "test" / name).mkdir(parents=True)
        PILImage.new("RGB", (16, 16)).save(tmp_path / "data" / "test" / name / "0.png")
    with pytest.raises(RecipeError, match="has one class an image, and the model gives several"):
        evaluate(run, dataset_name=str(tmp_path / "data"))


def test_predictions_are_those_of_the_pipeline(run, pictures, tmp_path, capsys):
    """Its sigmoid comes from problem_type in the config."""
    file = pictures / "test" / "000.png"
    found = predict(run, file)[0]
    told = {each["label"]: each["score"] for each in pipeline("image-classification", model=str(run))(str(file))}
    assert told == pytest.approx(dict(zip(NAMES, found.probabilities.tolist(), strict=True)), abs=1e-5)
    threshold = read(run, "all_results.json")["eval_threshold_f1"]
    assert found.label_name == tuple(name for name in NAMES if told[name] >= threshold)
    assert [NAMES[each] for each in found.label] == [*found.label_name]

    table, embeddings = tmp_path / "table.csv", tmp_path / "embeddings.parquet"
    words = [run, file, "--output", table, "--embeddings", embeddings, "--labels", "names", "--probabilities"]
    write_predictions(Asked(**vars(parse([*map(str, words), "--threshold", "0"]))))
    [heading, row] = csv.reader(table.open())
    assert heading == ["ID", "Labels", *NAMES] and row[:2] == ["000.png", "blue|circle|red|square"]
    [written] = pyarrow.parquet.read_table(embeddings).to_pylist()
    assert written["label"] == [0, 1, 2, 3] and written["label_name"] == NAMES
    capsys.readouterr()
    for least, shown in (("0", max(told, key=told.get)), ("1", "none")):
        write_predictions(Asked(**vars(parse([str(run), str(file), "--threshold", least]))))
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["file", "classes", "next"] and lines[1].split()[1] == shown
    assert predict(run, file, threshold=1).labels.tolist() == [[0, 0, 0, 0]]
    with pytest.raises(SlimResNetError, match="--target_precision is for one class an image"):
        predict(run, file, target_precision=0.9)


def test_a_file_gives_the_classes_of_the_network(run, pictures, tmp_path):
    folder = tmp_path / "exported"
    [facts] = export(run, output_dir=folder).values()
    assert facts["same_class"] == 1
    exported, network = predict(folder, pictures / "test", backend="onnxruntime"), predict(run, pictures / "test")
    np.testing.assert_allclose(exported.probabilities, network.probabilities, atol=1e-5)
    assert (exported.labels == network.labels).mean() > 0.99


def test_the_card_tells_of_several_classes_and_goes_to_the_hub(run):
    card, results = (run / "README.md").read_text(), read(run, "all_results.json")
    assert "It says of each of 4 classes whether an image shows it" in card and "classes apart" not in card
    assert "| mAP |" in card and f"{results['test_mean_average_precision']:.2%}" in card
    assert f"is {results['eval_threshold_f1']:.3f} or more" in card and "64 held-out images" in card
    assert "name: Mean average precision" in card and "Average precision of each class" in card
    assert {"README.md", "figures/test_average_precision.png"} <= {*collect(run, "user/shapes")}


def test_a_run_from_the_weights_of_another_keeps_the_head_and_without_validation_gives_classes_from_a_half(
    flags, run, tmp_path
):
    others = [flag for flag in flags if not flag.startswith("--config_name")]
    more = [f"--model_name_or_path={run}", "--freeze=trunk", "--num_train_epochs=1", "--validation_size=0"]
    folder = train(others, f"--output_dir={tmp_path / 'more'}", *more)
    results = read(folder, "all_results.json")
    assert results["train_head_is_new"] is False
    assert read(folder, "config.json")["problem_type"] == "multi_label_classification"
    assert results["test_threshold_f1"] == 0.5 and "eval_threshold_f1" not in results
    assert "no images were held out to choose another threshold" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--teacher_name_or_path=somewhere"], "--teacher_name_or_path is for images of one class each"),
        (["--class_weights=balanced"], "--class_weights is for images of one class each"),
        (["--balanced_sampling"], "--balanced_sampling is for images of one class each"),
        (["--metric_for_best_model=macro_f1"], "choose mean_average_precision or loss"),
    ],
)
def test_what_is_for_one_class_an_image_is_refused(flags, tmp_path, more, said):
    with pytest.raises(RecipeError, match=said):
        train(flags, f"--output_dir={tmp_path / 'run'}", *more)
    assert not (tmp_path / "run").exists()


def test_lists_and_columns_of_one_data_are_the_same_labels(pictures, tmp_path):
    columns = write_folder(tmp_path / "columns", {"train": 20, "test": 8}, columns=True)
    lists = write_folder(tmp_path / "lists", {"train": 20, "test": 8})
    ones, names = open_split(str(lists), "train", image_size=16), ",".join(NAMES)
    others = open_split(str(columns), "train", image_size=16, label_column=names)
    assert ones.task is others.task is MULTI_LABEL and ones.label_names == others.label_names == NAMES
    assert ones.labels.dtype == np.uint8 and ones.labels.shape == (20, 4)
    assert (ones.labels == others.labels).all() and ones.fingerprint == others.fingerprint
    assert not ones.labels.any(axis=1).all()  # an image may be of no class
    turned = open_split(str(columns), "train", image_size=16, label_column="red,blue")
    assert (turned.labels == ones.labels[:, [2, 0]]).all() and turned.fingerprint != ones.fingerprint


def table_of(folder, labels, feature, column="labels", label_column=None):
    image = PILImage.new("RGB", (8, 8))
    features = Features({"image": Image(), column: feature})
    folder.mkdir()
    Dataset.from_dict({"image": [image] * len(labels), column: labels}, features=features).to_parquet(
        folder / "train.parquet"
    )
    return open_split(str(folder), "train", image_size=8, label_column=label_column)


def test_a_list_that_is_not_called_labels_has_to_be_named(tmp_path):
    with pytest.raises(DatasetError, match="has no ClassLabel column"):
        table_of(tmp_path / "unnamed", [["a"], ["b"]], List(Value("string")), "tags")
    split = table_of(tmp_path / "named", [["a"], ["b"]], List(Value("string")), "tags", label_column="tags")
    assert split.labels.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("feature", "labels"),
    [
        (List(ClassLabel(names=["a", "b", "c"])), [[0, 2], [], 300 * [1]]),
        (List(Value("string")), [["a", "c"], [], ["b"]]),
        (List(Value("int64")), [[4, 17], [], [9]]),
        ({"category": List(ClassLabel(names=["a", "b", "c"]))}, [{"category": each} for each in ([0, 2], [], [1])]),
    ],
)
def test_lists_of_any_sort_are_labels(tmp_path, feature, labels):
    split = table_of(tmp_path / "data", labels, feature)
    assert split.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert split.label_names == (["4", "9", "17"] if feature == List(Value("int64")) else ["a", "b", "c"])


@pytest.mark.parametrize(
    ("feature", "labels", "said"),
    [
        (List(Value("bool")), [[False, True, True], [True, False, False]], "holds rows of 0 and 1"),
        (List(Value("int64")), [[0, 1, 1], [1, 0, 0]], "holds rows of 0 and 1, which name no classes"),
        (List(Value("string")), [["a", "b"], None], "row 1 .* has nothing in column labels"),
        (List(Value("string")), [["a"], ["b", None]], "row 1 .* none of the 2 there are .it says nothing"),
        (List(ClassLabel(names=["a", "b"])), [[0], [1], [0, -1]], "row 2 .* names a class in column labels"),
    ],
)
def test_lists_that_are_no_labels_are_told(tmp_path, feature, labels, said):
    with pytest.raises(DatasetError, match=said):
        table_of(tmp_path / "data", labels, feature)


@pytest.mark.parametrize(
    ("columns", "cell", "said"),
    [
        ("blue,square", "2", "row 0 .* has neither 0 nor 1 in column square .it says 2"),
        ("blue,square", "", "row 0 .* has neither 0 nor 1 in column square .it says nothing"),
        ("blue,image", "1", "image is no column of 0 and 1"),
        ("blue,", "1", "a name between commas is no column of 0 and 1"),
        ("blue,blue", "1", "names column blue twice"),
    ],
)
def test_columns_that_are_no_labels_are_told(tmp_path, columns, cell, said):
    folder = write_folder(tmp_path / "columns", {"train": 3}, columns=True)
    file = folder / "train" / "metadata.csv"
    heading, first, *rows = file.read_text().splitlines()
    file.write_text("\n".join([heading, f"{first.rpartition(',')[0]},{cell}", *rows]))
    with pytest.raises(DatasetError, match=said):
        open_split(str(folder), "train", image_size=16, label_column=columns)


def test_a_plain_column_of_classes_comes_before_a_list(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    image = PILImage.new("RGB", (8, 8))
    columns = {"image": [image] * 2, "label": ["cat", "dog"], "labels": [["a"], ["b"]]}
    Dataset.from_dict(columns, features=Features(
        {"image": Image(), "label": Value("string"), "labels": List(Value("string"))}
    )).to_parquet(folder / "train.parquet")  # fmt: skip
    assert open_split(str(folder), "train", image_size=8).task is SINGLE_LABEL
    assert open_split(str(folder), "train", image_size=8, label_column="labels").task is MULTI_LABEL


def test_a_cut_is_even_by_sets_that_repeat_and_leaves_each_class_a_row():
    generator = np.random.default_rng(0)
    common = np.repeat([[1, 0, 0, 0], [0, 1, 1, 0]], [60, 20], axis=0)
    rare = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]])
    labels = generator.permutation(np.concatenate([common, rare])).astype(np.uint8)
    for seed in range(5):
        kept, off = stratified_split(labels, 21, seed)
        assert sorted([*kept, *off]) == [*range(84)] and len(off) in (20, 21)
        for classes, size in ((common[0], 15), (common[-1], 5)):
            assert abs((labels[off] == classes).all(axis=1).sum() - size) <= 1
        assert labels[kept].any(axis=0).all()
        assert all(
            (one == other).all() for one, other in zip((kept, off), stratified_split(labels, 21, seed), strict=True)
        )
    assert len(stratified_split(labels, 21, 0)[1]) and set(off) != set(stratified_split(labels, 21, 0)[1])


def test_sets_of_classes_that_never_repeat_are_drawn_and_copies_stay_on_one_side():
    labels = np.array([[each >> bit & 1 for bit in range(5)] for each in range(32)], np.uint8)
    kept, off = stratified_split(labels, 8, 0)
    assert len(off) == 8 and labels[kept].any(axis=0).all()
    twice, contents = np.repeat(labels, 2, axis=0), np.repeat(np.arange(32, dtype=np.uint64), 2)
    kept, off = stratified_split(twice, 16, 0, contents=contents)
    assert len(off) and not {*contents[kept]} & {*contents[off]}


def logits_and_labels(count=200, classes=5):
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(count, classes, generator=generator) < torch.linspace(0.05, 0.6, classes)).to(torch.uint8)
    return 2 * torch.randn(count, classes, generator=generator) + 3 * labels - 2, labels.numpy()


def test_metrics_are_those_of_scikit_learn():
    logits, labels = logits_and_labels()
    measured = measure("multi_label", logits, labels)
    assert measured["mean_average_precision"] == pytest.approx(average_precision_score(labels, logits.numpy()))
    assert measured["loss"] == pytest.approx(MULTI_LABEL.loss(logits.double(), torch.from_numpy(labels)).item())
    for threshold in (0.3, 0.5):
        given, at = logits.sigmoid().numpy() >= threshold, measure(AT_THRESHOLD, logits, labels, threshold=threshold)
        assert at["micro_f1"] == pytest.approx(f1_score(labels, given, average="micro"))
        assert at["macro_f1"] == pytest.approx(f1_score(labels, given, average="macro"))
        assert at["exact_match"] == pytest.approx((labels == given).all(axis=1).mean())


def test_a_class_that_is_not_there_counts_in_no_mean():
    logits, labels = logits_and_labels()
    labels[:, 0], logits[:, 0] = 0, -9
    measured, rest = measure("multi_label", logits, labels), slice(1, None)
    assert measured["average_precision"][0] is None
    others = average_precision_score(labels[:, rest], logits[:, rest].numpy())
    assert measured["mean_average_precision"] == pytest.approx(others)
    at = measure(AT_THRESHOLD, logits, labels)
    assert at["macro_f1"] == pytest.approx(f1_score(labels[:, rest], logits[:, rest].numpy() >= 0, average="macro"))
    assert measure("multi_label", logits, 0 * labels)["mean_average_precision"] == 0
    nothing = measure(AT_THRESHOLD, 0 * logits - 9, 0 * labels)
    assert nothing == {"micro_f1": 0.0, "macro_f1": 0.0, "exact_match": 1.0}


@pytest.mark.parametrize("name", ["multi_label", AT_THRESHOLD])
@pytest.mark.parametrize("spoil", ["shape", "label", "logit"])
def test_a_metric_refuses_what_no_figure_can_be_made_of(name, spoil):
    logits, labels = logits_and_labels()
    if spoil == "shape":
        labels = labels[:, 0]
    elif spoil == "label":
        labels[3, 1] = 2
    else:
        logits[3, 1] = torch.nan
    with pytest.raises(ValueError, match="same shape" if spoil == "shape" else "the first is sample 3"):
        measure(name, logits, labels)


def test_the_threshold_has_the_largest_f1_of_all():
    logits, labels = logits_and_labels(12, 4)

    def f1(threshold):
        return measure(AT_THRESHOLD, logits, labels, threshold=threshold)["micro_f1"]

    best = best_f1_threshold(logits, labels)
    assert f1(best) == max(f1(each) for each in [0.0, *logits.sigmoid().numpy().ravel()])
    assert best_f1_threshold(logits, 0 * labels) == 0.5 and best_f1_threshold(logits, 0 * labels + 1) == 0
    assert thresholds_of({"eval_threshold_f1": best}, "eval_onnxruntime_int8", "none") == {"f1": best}


def test_a_temperature_makes_the_binary_cross_entropy_least():
    logits, labels = logits_and_labels(2000)
    best, targets = fit_temperature(4 * logits, labels), torch.from_numpy(labels)
    losses = [MULTI_LABEL.loss(4 * logits.double() / each, targets).item() for each in (0.98 * best, best, 1.02 * best)]
    assert min(losses) == losses[1] and best > 2


def test_policies_are_compared_by_mean_average_precision():
    logits, labels = logits_and_labels()
    views = {view: logits + number * torch.randn_like(logits) for number, view in enumerate(views_of("flip", "paper",
        "flip_shift"))}  # fmt: skip
    expected = average_precision_score(labels, ((views["original"] + views["mirror"]) / 2).numpy())
    assert compare_policies(views, labels)["flip"] == pytest.approx(expected)


def test_vectors_are_mixed_and_smoothed_as_such(tiny_config):
    """Half of the other image's classes where half of it is blended in; smoothing goes to a half for each class."""
    recipe = Recipe(mixup_prob=1.0, cutmix_prob=0.0, label_smoothing_factor=0.2)
    tiny_config.num_labels = 3
    labels = torch.tensor([[1, 1, 0], [0, 1, 0]], dtype=torch.uint8)
    inputs = TrainingInputs(dataclasses.replace(recipe, num_light_augmentation_epochs=0), tiny_config, 1)
    batch = TrainingBatch(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), labels, Draws(0, 0, 0, np.arange(2)))
    mixed = inputs(batch)["labels"]
    assert mixed[:, 1].tolist() == pytest.approx([0.9, 0.9]) and mixed[:, 2].tolist() == pytest.approx([0.1, 0.1])
    assert ((mixed[:, 0] > 0.1) & (mixed[:, 0] < 0.9)).all()
    model = SlimResNetForImageClassification(tiny_config)
    model.config.problem_type = task_of(labels).problem_type
    outputs = model(pixel_values=torch.randn(2, 3, 16, 16), labels=mixed)
    torch.testing.assert_close(outputs.loss, MULTI_LABEL.loss(outputs.logits, mixed))


def test_a_quantised_file_is_judged_class_by_class():
    """What lies within rounding of the threshold is a tie."""
    expected = torch.tensor([[3.0, -3.0, 0.51], [2.0, -1.0, 1.5]]).repeat(20, 1)
    check_classes("file", expected - 0.05 * (expected == 0.51), expected, "images", 0.5)
    with pytest.raises(ExportError, match="disagrees"):
        check_classes("file", torch.where(expected == 1.5, 0.0, expected), expected, "images", 0.5)
