"""What has to stand before the loop: the accelerator, the data, the network."""

import os
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import set_seed
from joblib import cpu_count
from torch import nn

from cifar10.loading import Loading, TrainingLoader
from cifar10.reading import TRAIN_SPLIT, ImageSplit, open_split
from cifar10.splitting import random_subset, stratified_split
from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification

from .hardware import are_threads_the_launchers, choose_mixed_precision, keep_freed_memory
from .recipe import Recipe, RecipeError


def start_accelerator(recipe: Recipe) -> tuple[Accelerator, str]:
    """
    Starts accelerate; fills in the recipe's precision and batch sizes, which depend on the launch.

    Returns:
        The accelerator, and why it has its precision.

    Raises:
        RecipeError: precision, tracker, BatchNorm or batch size do not fit the machine or the launch.
    """
    if recipe.report_to not in ("none", *map(str, get_available_trackers())):
        raise RecipeError(f"--report_to {recipe.report_to} needs a package: pip install {recipe.report_to}.")
    # Restarted workers would read the addresses of the dead from the launcher's store, and wait for them
    # (https://github.com/pytorch/pytorch/issues/135712).
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise RecipeError(
            "--max_restarts needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment and --rdzv_backend c10d "
            "among the flags of accelerate launch: without them restarted processes do not find each other."
        )
    on_cpu = recipe.use_cpu or not torch.accelerator.is_available()
    device_type = "cpu" if on_cpu else torch.accelerator.current_accelerator().type
    precision = choose_mixed_precision(recipe.mixed_precision, device_type)
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=precision.value,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        log_with=None if recipe.report_to == "none" else recipe.report_to,
        project_dir=recipe.output_dir,
    )
    recipe.mixed_precision = accelerator.mixed_precision
    recipe.resolve_batch_size(accelerator.num_processes)
    if accelerator.device.type == "mps" and recipe.trivial_augment:
        raise RecipeError("--trivial_augment computes in float64, which Apple's GPUs do not have: add --use_cpu.")
    if accelerator.device.type == "cuda":
        # Where float32 is asked for, scores are those of a CPU; what is to be fast has bf16.
        torch.backends.cudnn.allow_tf32 = False
        # Batches have few shapes, each worth a search; which algorithm wins it may differ from run to run.
        torch.backends.cudnn.benchmark = not recipe.deterministic
    if accelerator.device.type == "cpu":
        if recipe.mixed_precision == "fp16":
            raise RecipeError("--mixed_precision fp16 has no effect on a CPU: use bf16 or no.")
        if recipe.sync_batchnorm and accelerator.num_processes > 1:
            raise RecipeError("--sync_batchnorm works on GPUs alone: leave it out where several processes share CPUs.")
        keep_freed_memory()
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if torch.get_num_threads() == 1 and are_threads_the_launchers():
            torch.set_num_threads(max(1, cpu_count(only_physical_cores=True) // local_processes))
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it, before its first use
    set_seed(recipe.seed, deterministic=recipe.deterministic)
    return accelerator, precision.reason


def load_network_config(recipe: Recipe) -> SlimResNetConfig:
    """
    The config that `--config_name` names, or the default one.

    Raises:
        RecipeError: there is none, or it is of no SlimResNet, has a field that no SlimResNet has, or an impossible one.
    """
    if recipe.config_name is None:
        return SlimResNetConfig()
    try:
        try:
            content, _ = SlimResNetConfig.get_config_dict(recipe.config_name)
        except (AttributeError, RecursionError, TypeError):
            content = None
        if not isinstance(content, dict):
            raise ValueError("it is JSON, but no object of fields")
        if not content:
            raise ValueError("there is no config.json in it, or an empty one")
        if content.get("model_type") != SlimResNetConfig.model_type:
            raise ValueError(f"its model_type is {content.get('model_type')}, not {SlimResNetConfig.model_type}")
        # transformers takes any field; a misspelt one would leave the default in its place.
        unknown = content.keys() - SlimResNetConfig().to_dict().keys() - {"num_labels"}
        if unknown:
            raise ValueError(f"SlimResNet has no field {', '.join(sorted(unknown))}: correct or remove it")
        # The other fields, such as return_dict, say how a model is used, which is for this program to say.
        described = {*SlimResNetConfig.__annotations__, "id2label", "num_labels", "out_features", "out_indices"}
        config = SlimResNetConfig(**{field: content[field] for field in content.keys() & described})
        if config.num_channels != 3:
            raise ValueError(f"num_channels must be 3, because images are read as RGB, got {config.num_channels}")
        if config.problem_type != "single_label_classification":
            raise ValueError(
                f"problem_type must be single_label_classification, because a label here is one class, got "
                f"{config.problem_type}"
            )
        if content.get("id2label") and content.get("num_labels") not in (None, len(content["id2label"])):
            raise ValueError(f"num_labels is {content['num_labels']}, but id2label names {len(content['id2label'])}")
        return config
    except Exception as error:  # OSError, strict-dataclass and JSON errors, each of its own base
        reason = " ".join(str(error).split())
        raise RecipeError(f"--config_name {recipe.config_name} cannot be used: {reason}") from error


@dataclass(frozen=True)
class TrainingData:
    """The splits, and which of their rows are trained on, validated on and tested on."""

    train: ImageSplit
    test: ImageSplit
    train_rows: np.ndarray
    validation_rows: np.ndarray
    test_rows: np.ndarray


def open_recipe_split(
    recipe: Recipe, split: str, image_size: int, resident_on: torch.device | None = None
) -> ImageSplit:
    """
    A split of the dataset that the recipe names; `resident_on` as in `open_split`.

    Raises:
        DatasetError: as `open_split`.
    """
    return open_split(
        recipe.dataset_name,
        split,
        image_size=image_size,
        config_name=recipe.dataset_config_name,
        revision=recipe.dataset_revision,
        image_column=recipe.image_column_name,
        label_column=recipe.label_column_name,
        resident_on=resident_on,
    )


def open_data(recipe: Recipe, loading: Loading, image_size: int) -> TrainingData:
    """
    Opens both splits and cuts off validation.

    Raises:
        DatasetError: as `open_split` and `stratified_split`.
        RecipeError: what is to be tested on is the training split, or has other classes.
    """
    resident_on = None if recipe.streaming else loading.device
    train = open_recipe_split(recipe, TRAIN_SPLIT, image_size, resident_on)
    test = open_recipe_split(recipe, recipe.test_split, image_size, resident_on)
    if test.fingerprint == train.fingerprint:
        raise RecipeError(
            f"--test_split {recipe.test_split} of {recipe.dataset_name} holds the very images of the training split: "
            "name another split."
        )
    if test.label_names != train.label_names:
        raise RecipeError(
            f"--test_split {recipe.test_split} of {recipe.dataset_name} names other classes than the training split."
        )
    train_rows, validation_rows = stratified_split(train.labels, recipe.validation_size, recipe.seed)
    return TrainingData(
        train,
        test,
        train_rows=random_subset(train_rows, recipe.max_train_samples, recipe.seed),
        validation_rows=random_subset(validation_rows, recipe.max_eval_samples, recipe.seed),
        test_rows=random_subset(np.arange(len(test.labels)), recipe.max_eval_samples, recipe.seed),
    )


def build_training_loader(recipe: Recipe, data: TrainingData, loading: Loading) -> TrainingLoader:
    """The recipe's order and batch size over the training rows."""
    return TrainingLoader(
        data.train,
        data.train_rows,
        loading,
        seed=recipe.seed,
        batch_size=recipe.per_device_train_batch_size,
        accumulation=recipe.gradient_accumulation_steps,
        window=recipe.shuffle_buffer_size,
    )


def build_network(recipe: Recipe, config: SlimResNetConfig, label_names: list[str]) -> SlimResNetForImageClassification:
    """A new network for the classes of the dataset, its weights drawn by seed."""
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: index for index, name in config.id2label.items()}
    model = SlimResNetForImageClassification(config)
    if recipe.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model.to(memory_format=torch.channels_last) if recipe.channels_last else model
