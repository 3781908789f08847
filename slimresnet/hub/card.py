"""The model card of a finished folder, every number of it read from the files of the run."""

import dataclasses
import hashlib
from pathlib import Path

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.data.corruptions.standard import overlapping_augmentations
from slimresnet.errors import printable
from slimresnet.evaluation.flops import multiply_adds
from slimresnet.evaluation.tta import POLICIES
from slimresnet.formats.registry import formats_of
from slimresnet.hub.markdown import as_block, as_code, as_literal, as_text
from slimresnet.hub.shared_recipe import shared_recipe
from slimresnet.recipe.reading import read_recipe
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.changes import Change, is_written_here
from slimresnet.run_folder.names import CARD_NAME, EXPORTS_NAME, RECIPE_NAME, RESULTS_NAME
from slimresnet.run_folder.reading import read_json

_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
_MARK = "<!-- written by SlimResNet, sha256 of the text above: {} -->\n"
_METRICS = {  # name in all_results.json: name in the Hub's list of metrics, name for people
    "accuracy": ("accuracy", "Accuracy"),
    "accuracy_tta": ("accuracy", "Accuracy with test-time augmentation ({tta})"),
    "top_5_accuracy": ("accuracy", "Top-5 accuracy"),
    "loss": ("loss", "Cross entropy"),
    "expected_calibration_error": ("ece", "Expected calibration error"),
    "expected_calibration_error_scaled": ("ece", "Expected calibration error after temperature scaling"),
    "corruption_accuracy": ("accuracy", "Mean accuracy under 15 corruptions of 5 severities, frost: {frost}"),
}
_CHOICES = {  # what a run says that it chose: what that is for people
    "epoch": "the epoch whose weights were kept",
    "tta": "the test-time augmentation, `{tta}`",
    "temperature": "the temperature",
}
_FROST = {  # how a run's frost was made: the same for people
    "photographs": "the photographs of frost of its authors",
    "synthetic": "synthetic frost in place of the photographs of its authors",
    None: "a fractal in place of the photographs of frost of its authors, which is easier than they are",
}
_CIFAR10 = ("uoft-cs/cifar10", "cifar10")  # where the Hub has it
_FIGURES = {
    "curves.png": "Loss and accuracy over the epochs",
    "test_confusion_matrix.png": "Confusion matrix of the test split",
    "test_classes.png": "Precision, recall and F1 of each class",
    "test_reliability.png": "Accuracy over confidence",
    "test_mistakes.png": "The most confident mistakes",
    "training_samples.png": "Training images, and what the network sees of them",
}
_CORRUPTIONS_NAME = "test_corruptions.json"
# What a card is written from.
_READ = (
    "config.json", RECIPE_NAME, RESULTS_NAME, EXPORTS_NAME, _CORRUPTIONS_NAME,
    *(f"figures/{name}" for name in _FIGURES),
)  # fmt: skip

_WRITERS = {"text": as_text, "code": as_code, "literal": as_literal}  # of what comes from data


def write_model_card(made: Change, home: Path) -> None:
    """
    Writes `README.md` of a run whose files are in a change, unless a person edited the one that is there.

    Args:
        home: the folder that is changed.
    """
    if is_edited(home / CARD_NAME):
        return
    name = read_recipe(made.files).hub_model_id or printable(home.resolve().name)
    (made.files / CARD_NAME).write_text(render_model_card(made.files, name), encoding="utf-8")
    made.own.add(CARD_NAME)  # by its last line, whatever the record says


def renew_model_card(made: Change, home: Path) -> None:
    """The same of a run whose files are in the folder, for a change that adds to them."""
    made.bring(name for name in _READ if is_written_here(home, name))
    write_model_card(made, home)


def say_if_edited(card: Path) -> None:
    """Says of a card that a person edited why it is not renewed."""
    if is_edited(card):
        print(f"{card} was edited by hand and stays as it is")


def is_edited(card: Path) -> bool:
    """Whether there is a card that differs from what was written here: its last line has the digest of the rest."""
    if not card.exists():
        return False
    try:
        content = card.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return True
    text, mark, digest = content.rpartition(_MARK.split("{}")[0])
    return not mark or mark + digest != _MARK.format(_digest(text))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def render_model_card(folder: Path, name: str, license: str | None = None) -> str:
    """
    The text of the card of a finished folder.

    What the files of the run do not say is not in it.

    Args:
        name: of the model, as `from_pretrained` takes it.
        license: of the weights, where it is other than the recipe's.
    """
    recipe = shared_recipe(folder, license)
    results, others = _own_figures(folder, recipe)
    config = SlimResNetConfig.from_pretrained(folder)
    with torch.device("meta"):
        num_parameters = SlimResNetForImageClassification(config).num_parameters()
    names = [config.id2label[index] for index in range(config.num_labels)]
    exports = _exports(folder, results)
    dataset, is_local = results.get("train_dataset"), results.get("train_dataset_is_local")
    card = ModelCard.from_template(
        ModelCardData(
            model_name=name,
            license=recipe.license,
            library_name="transformers",
            pipeline_tag="image-classification",
            tags=["slimresnet", "resnet", "image-classification", "pytorch"],
            datasets=[dataset] if is_local is False else None,
            metrics=["accuracy"],
            eval_results=eval_results(folder) or None,
        ),
        template_path=str(_TEMPLATE),
        name=name,
        **_WRITERS,
        image_size=config.image_size,
        num_labels=config.num_labels,
        label_names=[as_text(each) for each in names] if len(names) <= 20 else None,
        num_parameters=num_parameters,
        multiply_adds=multiply_adds(config, config.image_size),
        recipe=recipe,
        results=results,
        results_table=_results_table(results),
        chosen=[
            _CHOICES[choice].format(tta=recipe.tta) if choice in _CHOICES else as_text(choice)
            for choice in _chosen_together(results)
        ],
        precisions={
            title: results[f"{prefix}_precision"]
            for title, prefix in (("test", "test"), ("validation", "eval"))
            if results.get(f"{prefix}_precision", "float32") != "float32"
        },
        num_views=len(POLICIES[results.get("test_tta", "none")]),
        temperature_source=_temperature_source(results, recipe),
        frost=_FROST.get(results.get("test_corruption_frost"), results.get("test_corruption_frost")),
        overlapping=list(overlapping_augmentations(recipe.trivial_augment, recipe.gaussian_blur_prob)),
        corruptions=read_json(folder / _CORRUPTIONS_NAME).get("none"),
        exports=exports,
        js_dtypes=_js_dtypes([export["file"] for export in exports]),
        figures=_figures(folder, others),
        changed_settings=as_block(_changed_settings(recipe), "yaml"),
        training_facts=_training_facts(results, recipe),
        is_cifar10=dataset in _CIFAR10 and is_local is False,
    )
    text = card.content.rstrip("\n") + "\n\n"
    return text + _MARK.format(_digest(text))


def _figures(folder: Path, others: tuple[str, ...]) -> list[tuple[str, str]]:
    """Path and caption of each picture of the folder that is not of other data than the recipe's."""
    return [
        (f"figures/{file}", caption)
        for file, caption in _FIGURES.items()
        if (folder / "figures" / file).exists() and not file.startswith(others)
    ]


def _own_figures(folder: Path, recipe: Recipe) -> tuple[dict, tuple[str, ...]]:
    """The results without the figures of other data than the recipe's, and what the names of those begin with."""
    results = read_json(folder / RESULTS_NAME)
    others = tuple(
        name.removesuffix("dataset")
        for name, dataset in results.items()
        if name.endswith("_dataset") and dataset != recipe.dataset_name
    )
    return {name: value for name, value in results.items() if not name.startswith(others)}, others


def _chosen(results: dict) -> list[str]:
    """What the run chose on its validation images; nothing, where it does not say."""
    return [choice for choice in results.get("eval_chose", "").split(", ") if choice]


def _chosen_together(results: dict) -> list[str]:
    """Those of its choices that a run made on the same images; a temperature may have been fitted anew, on others."""
    apart = results.get("temperature_samples") != results.get("eval_chose_samples")
    return [choice for choice in _chosen(results) if not (apart and choice == "temperature")]


def _temperature_source(results: dict, recipe: Recipe) -> str | None:
    """Where the temperature of the results comes from; None where nothing tells."""
    if "temperature" in _chosen(results):
        count = f"{results['temperature_samples']:,}" if "temperature_samples" in results else "the"
        return f"fitted on {count} validation images"
    if "train_dataset" in results and results.get("temperature") == recipe.temperature:
        return "given by the recipe"
    return None


def _exports(folder: Path, results: dict) -> list[dict]:
    """Of each file that export.py made: what it is, how it was checked, and its test accuracy as far as it is known."""
    rows = []
    for name, facts in read_json(folder / EXPORTS_NAME).items():
        accuracies = {
            each.backend: results[f"test_{each.scored_as}_accuracy"]
            for each in formats_of(name)
            if f"test_{each.scored_as}_accuracy" in results
        }
        rows.append({**facts, "file": name, "accuracies": accuracies})
    return rows


def _js_dtypes(files: list[str]) -> list[str]:
    """The dtypes by which transformers.js finds files, the quantised ones first: they are what a browser is to load."""
    found = sorted((each for file in files for each in formats_of(file)), key=lambda each: not each.is_quantized)
    return list(dict.fromkeys(each.js_dtype for each in found if each.js_dtype))


def eval_results(folder: Path) -> list[EvalResult]:
    """
    The figures of a finished folder as the Hub's model-index has them: of the test split, and of validation.

    Only of figures whose data, images and policy are known, and are the run's own.
    """
    recipe = shared_recipe(folder)
    results, _ = _own_figures(folder, recipe)
    entries = []
    for prefix in ("test", "eval"):
        if f"{prefix}_dataset" not in results:
            continue
        dataset = results[f"{prefix}_dataset"]
        for key, (metric, title) in _METRICS.items():
            value, rows = results.get(f"{prefix}_{key}"), _rows_scored(results, prefix, key)
            if value is None or rows is None or (key.endswith("_tta") and f"{prefix}_tta" not in results):
                continue
            entries.append(
                EvalResult(
                    task_type="image-classification",
                    dataset_type=dataset,
                    dataset_name=dataset,
                    dataset_config=recipe.dataset_config_name,
                    dataset_split=rows,
                    dataset_revision=recipe.dataset_revision,
                    metric_type=metric,
                    metric_name=title.format(
                        tta=results.get(f"{prefix}_tta"),
                        frost=results.get(f"{prefix}_corruption_frost", "a fractal, easier than photographs"),
                    ),
                    metric_value=value,
                )
            )
    return entries


def _rows_scored(results: dict, prefix: str, key: str) -> str | None:
    """Name of the split that a figure is of, with the number of its images where they are not the whole split."""
    split = results.get(f"{prefix}_split")
    samples = results.get(f"{prefix}_corruption_samples" if key.startswith("corruption") else f"{prefix}_samples")
    if split is None or samples is None:
        return None
    if prefix == "eval":
        return f"{split} ({samples:,} held out)"
    whole = results.get(f"{prefix}_num_rows", results.get(f"{prefix}_samples"))
    return split if samples == whole else f"{split} ({samples:,} images)"


def _results_table(results: dict) -> list[list[str]]:
    columns = {
        "images": lambda prefix, got: f"{got[f'{prefix}_samples']:,}",
        "accuracy": _with_interval("accuracy"),
        "with test-time augmentation": _with_policy,
        "top-5": lambda prefix, got: f"{got[f'{prefix}_top_5_accuracy']:.2%}",
        "cross entropy": lambda prefix, got: f"{got[f'{prefix}_loss']:.4f}",
        "calibration error": lambda prefix, got: f"{got[f'{prefix}_expected_calibration_error']:.2%}",
        "after scaling": lambda prefix, got: f"{got[f'{prefix}_expected_calibration_error_scaled']:.2%}",
    }
    splits = [
        (title, prefix)
        for title, prefix in (("test", "test"), ("validation", "eval"))
        if f"{prefix}_accuracy" in results
    ]
    if not splits:
        return []
    rows = []
    for title, prefix in splits:
        cells = [title]
        for write in columns.values():
            try:
                cells.append(write(prefix, results))
            except KeyError:  # not measured in this run
                cells.append("")
        rows.append(cells)
    header = ["split", *columns]
    filled = [column for column in range(len(header)) if any(row[column] for row in rows)]
    return [[row[column] for column in filled] for row in (header, *rows)]


def _with_policy(prefix: str, results: dict) -> str:
    """The interval, and the policy where it is not that of the test row, which a sentence names."""
    policy = results[f"{prefix}_tta"]
    return _with_interval("accuracy", "_tta")(prefix, results) + (
        f", {as_code(policy)}" if policy != results.get("test_tta") else ""
    )


def _with_interval(name: str, suffix: str = ""):
    def write(prefix: str, results: dict) -> str:
        value, low, high = (results.get(f"{prefix}_{name}{bound}{suffix}") for bound in ("", "_low", "_high"))
        if value is None:
            raise KeyError(name)
        return f"{value:.2%}" if None in (low, high) else f"{value:.2%} ({low:.2%} – {high:.2%})"

    return write


def _changed_settings(recipe: Recipe) -> str:
    """The settings that decide what is learnt, where they differ from the defaults, as YAML."""
    default = dataclasses.asdict(Recipe())
    quiet = {"config_name", "license", "push_to_hub", "hub_model_id"}
    settings = {
        name: value
        for name, value in dataclasses.asdict(recipe).items()
        if value != default[name] and name not in quiet
    }
    return yaml.safe_dump(settings, sort_keys=False) if settings else "# none\n"


def _training_facts(results: dict, recipe: Recipe) -> list[str]:
    facts, speed = [], "train_samples_per_second"
    if "train_samples" in results:
        epochs = f", {results['epoch']:.4g} epochs" if "epoch" in results else ""
        facts.append(f"{results['train_samples']:,} training images{epochs}")
    if "train_runtime" in results:
        where = f" on {as_text(results['train_device'])}" if results.get("train_device") else ""
        many = results.get("train_num_processes", 1)
        facts.append(
            f"{results['train_runtime'] / 60:.0f} minutes of training steps{where}"
            + (f", {many} processes" if many > 1 else "")
            + (f", {results[speed]:,.0f} images a second" if speed in results else "")
            + f", precision {recipe.mixed_precision}"
        )
    if "total_flos" in results:
        petaflop = results["total_flos"] / 1e15
        facts.append(f"{petaflop:.2g} petaFLOP (six times the multiply-adds of every image seen)")
    return facts
