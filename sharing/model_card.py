"""The model card of a finished folder, every number of it read from the files of the run."""

import dataclasses
import hashlib
from pathlib import Path

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from evaluation.backends import EXPORTS_NAME, QUANTIZED_ONNX_FILE, TORCH_EXPORT_FILE
from evaluation.trained import read_json
from evaluation.views import POLICIES
from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from training.arithmetic import multiply_adds
from training.output_dir import RESULTS_NAME, read_recipe
from training.recipe import Recipe

CARD_NAME = "README.md"
_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
_MARK = "<!-- written by SlimResNet, sha256 of the text above: {} -->\n"
_METRICS = {  # name in all_results.json: name in the Hub's list of metrics, name for people
    "accuracy": ("accuracy", "Accuracy"),
    "accuracy_tta": ("accuracy", "Accuracy with test-time augmentation"),
    "top_5_accuracy": ("accuracy", "Top-5 accuracy"),
    "loss": ("loss", "Cross entropy"),
    "expected_calibration_error": ("ece", "Expected calibration error"),
    "expected_calibration_error_scaled": ("ece", "Expected calibration error after temperature scaling"),
    "corruption_accuracy": ("accuracy", "Mean accuracy under 15 corruptions of 5 severities"),
}
_FIGURES = {
    "curves.png": "Loss and accuracy over the epochs",
    "test_confusion_matrix.png": "Confusion matrix of the test split",
    "test_classes.png": "Precision, recall and F1 of each class",
    "test_reliability.png": "Accuracy over confidence",
    "test_mistakes.png": "The most confident mistakes",
    "training_samples.png": "Training images, and what the network sees of them",
}


def write_model_card(folder: Path, home: Path | None = None) -> bool:
    """
    Writes `README.md` from the other files of a finished folder, unless a person edited the one that is there.

    Args:
        home: where the folder's files go in the end, if that is elsewhere.

    Returns:
        Whether it was written.
    """
    home = home or folder
    if is_edited(home / CARD_NAME):
        return False
    name = read_recipe(folder).hub_model_id or home.resolve().name
    (folder / CARD_NAME).write_text(render_model_card(folder, name), encoding="utf-8")
    return True


def is_edited(card: Path) -> bool:
    """Whether there is a card that differs from what was written here: its last line has the digest of the rest."""
    if not card.exists():
        return False
    text, mark, digest = card.read_text(encoding="utf-8").rpartition(_MARK.split("{}")[0])
    return not mark or mark + digest != _MARK.format(_digest(text))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def render_model_card(folder: Path, name: str) -> str:
    """The text of the card of a finished folder whose model goes by `name`, as `from_pretrained` takes it."""
    results = read_json(folder / RESULTS_NAME)
    recipe = read_recipe(folder)
    config = SlimResNetConfig.from_pretrained(folder)
    with torch.device("meta"):
        num_parameters = SlimResNetForImageClassification(config).num_parameters()
    tta = results.get("test_tta", "none")
    corruptions = read_json(folder / "test_corruptions.json").get("none")
    names = [config.id2label[index] for index in range(config.num_labels)]
    is_local = Path(recipe.dataset_name).is_dir()
    card = ModelCard.from_template(
        ModelCardData(
            model_name=name,
            license="apache-2.0",
            library_name="transformers",
            pipeline_tag="image-classification",
            tags=["slimresnet", "resnet", "image-classification", "pytorch"],
            datasets=None if is_local else [recipe.dataset_name],
            metrics=["accuracy"],
            eval_results=eval_results(folder),
        ),
        template_path=str(_TEMPLATE),
        name=name,
        image_size=config.image_size,
        num_labels=config.num_labels,
        label_names=names if len(names) <= 20 else None,
        num_parameters=num_parameters,
        multiply_adds=multiply_adds(config, config.image_size),
        dataset=_dataset(recipe),
        dataset_is_local=is_local,
        dataset_revision=recipe.dataset_revision,
        results_table=_results_table(results),
        validated=recipe.validation_size > 0,
        seed=recipe.seed,
        tta=None if tta == "none" else tta,
        num_views=len(POLICIES[tta]),
        temperature=results.get("temperature"),
        corruption_accuracy=results.get("test_corruption_accuracy"),
        corruption_accuracy_tta=results.get("test_corruption_accuracy_tta"),
        corruption_samples=results.get("test_corruption_samples"),
        corruptions=corruptions,
        exports=_exports(folder, results),
        figures=[
            (f"figures/{file}", caption) for file, caption in _FIGURES.items() if (folder / "figures" / file).exists()
        ],
        changed_settings=_changed_settings(recipe),
        training_facts=_training_facts(results, recipe),
        is_cifar10="cifar10" in _dataset(recipe).lower().replace("-", ""),
        uses_cutmix=recipe.cutmix_prob > 0,
    )
    text = card.content.rstrip("\n") + "\n\n"
    return text + _MARK.format(_digest(text))


def _exports(folder: Path, results: dict) -> list[dict]:
    """Of each file that export.py made: what it is, how it was checked, and its test accuracy as far as it is known."""
    rows = []
    for name, facts in read_json(folder / EXPORTS_NAME).items():
        backends = ["torch_export"] if name == TORCH_EXPORT_FILE else ["onnxruntime", "openvino"]
        suffix = "_int8" if name == QUANTIZED_ONNX_FILE else ""
        accuracies = {
            backend: results[f"test_{backend}{suffix}_accuracy"]
            for backend in backends
            if f"test_{backend}{suffix}_accuracy" in results
        }
        rows.append({"file": name, "accuracies": accuracies, **facts})
    return rows


def eval_results(folder: Path) -> list[EvalResult]:
    """The figures of a finished folder as the Hub's model-index has them: of the test split, and of validation."""
    results = read_json(folder / RESULTS_NAME)
    recipe = read_recipe(folder)
    dataset = _dataset(recipe)
    entries = []
    held_out = f"train ({results.get('eval_samples', 0):,} held out)"
    for prefix, split in (("test", recipe.test_split), ("eval", held_out)):
        for key, (metric, title) in _METRICS.items():
            value = results.get(f"{prefix}_{key}")
            if value is not None:
                if key.endswith("_tta"):
                    title += f" ({results[f'{prefix}_tta']})"
                entries.append(
                    EvalResult(
                        task_type="image-classification",
                        dataset_type=dataset,
                        dataset_name=dataset,
                        dataset_config=recipe.dataset_config_name,
                        dataset_split=split,
                        dataset_revision=recipe.dataset_revision,
                        metric_type=metric,
                        metric_name=title,
                        metric_value=value,
                    )
                )
    return entries


def _dataset(recipe: Recipe) -> str:
    """The dataset's name; of a local one the folder's, and not where it lies."""
    path = Path(recipe.dataset_name)
    return path.resolve().name if path.is_dir() else recipe.dataset_name


def _results_table(results: dict) -> list[list[str]]:
    columns = {
        "accuracy": _with_interval("accuracy"),
        "with test-time augmentation": _with_interval("accuracy", "_tta"),
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
    rows = []
    for title, prefix in splits:
        cells = [title, f"{results[f'{prefix}_samples']:,}"]
        for write in columns.values():
            try:
                cells.append(write(prefix, results))
            except KeyError:  # not measured in this run
                cells.append("")
        rows.append(cells)
    header = ["split", "images", *columns]
    filled = [column for column in range(len(header)) if any(row[column] for row in rows)]
    return [[row[column] for column in filled] for row in (header, *rows)]


def _with_interval(name: str, suffix: str = ""):
    def write(prefix: str, results: dict) -> str:
        value, low, high = (results.get(f"{prefix}_{name}{bound}{suffix}") for bound in ("", "_low", "_high"))
        if value is None:
            raise KeyError(name)
        return f"{value:.2%}" if low is None else f"{value:.2%} ({low:.2%} – {high:.2%})"

    return write


def _changed_settings(recipe: Recipe) -> str:
    """The settings that decide what is learnt, where they differ from the defaults, as YAML."""
    default, changed = dataclasses.asdict(Recipe()), dataclasses.asdict(recipe)
    if Path(recipe.dataset_name).is_dir():
        changed["dataset_name"] = _dataset(recipe)
    quiet = {
        "output_dir",
        "overwrite_output_dir",
        "resume_from_checkpoint",
        "config_name",
        "push_to_hub",
        "hub_model_id",
    }
    settings = {name: value for name, value in changed.items() if value != default[name] and name not in quiet}
    return yaml.safe_dump(settings, sort_keys=False) if settings else "# none\n"


def _training_facts(results: dict, recipe: Recipe) -> list[str]:
    facts = []
    if "train_samples" in results:
        facts.append(f"{results['train_samples']:,} training images, {results['epoch']:.4g} epochs")
    if "train_runtime" in results:
        where = f" on {results['train_device']}" if results.get("train_device") else ""
        many = results.get("train_num_processes", 1)
        facts.append(
            f"{results['train_runtime'] / 60:.0f} minutes of training steps{where}"
            + (f", {many} processes" if many > 1 else "")
            + (
                f", {results['train_samples_per_second']:,.0f} images a second"
                if "train_samples_per_second" in results
                else ""
            )
            + f", precision {recipe.mixed_precision}"
        )
    if "total_flos" in results:
        petaflop = results["total_flos"] / 1e15
        facts.append(f"{petaflop:.2g} petaFLOP (six times the multiply-adds of every image seen)")
    return facts
