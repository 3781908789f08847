"""A run before its first step: the launch, the data, the network, the plan."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.data.description import describe_data
from slimresnet.data.inputs import TrainingInputs, pixel_format_of
from slimresnet.data.loader import Loading, TrainingLoader, load_batches
from slimresnet.data.opening import TrainingData, build_training_loader, open_data
from slimresnet.evaluation.scores import score
from slimresnet.formats.trained import ModelError
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.launch import start_accelerator
from slimresnet.recipe.plan import DEFAULT_TOTAL_TRAIN_BATCH_SIZE, Plan, batch_sizes, make_plan
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.checkpoints import find_checkpoint
from slimresnet.run_folder.names import WEIGHTS_NAME
from slimresnet.training.bookkeeping import DivergedError
from slimresnet.training.calibration import Calibration, calibration_of_twin
from slimresnet.training.class_weights import ClassWeights, open_class_weights
from slimresnet.training.distillation.teachers import Teacher, open_teachers
from slimresnet.training.freezing import TRUNK, freeze_parts, frozen_parts
from slimresnet.training.initialization import WHITENING_IMAGES, whiten_stem
from slimresnet.training.network import build_network, fit_config, fit_normalization, load_network_config
from slimresnet.training.pretrained import Pretrained, as_it_sees, open_pretrained
from slimresnet.training.seen import SeenHeldOut, find_seen
from slimresnet.training.several_classes import fit_task
from slimresnet.training.state.fingerprint import RunFingerprint
from slimresnet.training.state.progress import Progress


@dataclass(frozen=True)
class Run:
    """
    All that a run begins with.

    Attributes:
        plan: the recipe, and what this launch, machine and data make of it.
        config: of the network, with the classes of the data.
        model: the network on its device, with its first weights.
        pretrained: what the network starts from; None where its weights are drawn.
        frozen: names of the parts of the network that stay as they are.
        teachers: networks that it learns from; none where it learns from labels alone.
        class_weights: of the loss on labels; None where all classes count the same.
        loading: how this process gets its batches.
        loader: the training batches of this process.
        inputs: makes the network's inputs of them.
        progress: where the run stands.
        checkpoint: what it goes on from; None where it begins.
        fingerprint: what its checkpoints are checkpoints of.
        twin: the temperature of the run that `--calibration_run` names; None where it names none.
        seen: held-out images that what it starts from, or a teacher, was trained on.
    """

    plan: Plan
    accelerator: Accelerator
    config: SlimResNetConfig
    data: TrainingData
    model: SlimResNetForImageClassification
    pretrained: Pretrained | None
    frozen: list[str]
    teachers: list[Teacher]
    class_weights: ClassWeights | None
    loading: Loading
    loader: TrainingLoader
    inputs: TrainingInputs
    progress: Progress
    checkpoint: Path | None
    fingerprint: RunFingerprint
    twin: Calibration | None
    seen: SeenHeldOut

    @property
    def validate(self) -> Callable[[nn.Module], dict[str, float]] | None:
        """Gives the scores of a network on the validation images, as `score`; None where there are none."""
        return self._validate if len(self.data.validation_rows) else None

    def _validate(self, model: nn.Module) -> dict[str, float]:
        try:
            with self.accelerator.autocast():
                return score(model, self.data.validation, self.data.validation_rows, **self.scoring)
        except ModelError as error:
            raise self.diverged() from error

    @property
    def scoring(self) -> dict:
        """How this run scores: arguments of `predict_logits`."""
        return {
            "loading": self.loading,
            "batch_size": self.plan.eval_batch_size,
            "normalize": self.inputs.normalize,
        }

    def diverged(self) -> DivergedError:
        """What is said where logits are no numbers."""
        step = self.progress.global_step
        return DivergedError(
            f"logits are NaN or infinite after step {step}", step, self.plan.recipe, self.progress.max_steps
        )

    def describe(self) -> str:
        """What is about to run, on what: the launch may have understood something else than was meant."""
        recipe, batch, data, accelerator = self.plan.recipe, self.plan.batch, self.data, self.accelerator
        copies = f", × {recipe.augmented_copies} augmented copies" if recipe.augmented_copies > 1 else ""
        is_lowered = batch != batch_sizes(recipe, accelerator.num_processes)
        lowered = f", as {DEFAULT_TOTAL_TRAIN_BATCH_SIZE} are more than there are" if is_lowered else ""
        return "\n".join(
            [
                *describe_data(recipe, data, pixel_format_of(recipe, self.config)),
                f"network  {self._describe_network()}",
                *(f"teacher  {teacher.describe()}" for teacher in self.teachers),
                *self.seen.describe(),
                *self._describe_classes(),
                f"machine  processes: {accelerator.num_processes}, device: {accelerator.device.type}, threads: "
                f"{torch.get_num_threads()}",
                f"batch    {batch.total} images a step = {batch.per_device} × {accelerator.num_processes} processes × "
                f"{recipe.gradient_accumulation_steps} accumulated{copies}{lowered}",
                f"speed    {self.plan.describe()}",
            ]
        )

    def _describe_classes(self) -> list[str]:
        """What evens the classes out, a line each."""
        lines = []
        if self.plan.recipe.balanced_sampling:
            lines.append("order    each class equally often")
        if self.class_weights:
            lines.append(f"loss     classes weigh {self.class_weights.describe(self.data.train.label_names)}")
        return lines

    def _describe_network(self) -> str:
        """How large it is, where its weights are from, and which of them are trained."""
        recipe, names = self.plan.recipe, self.data.train.label_names
        size = f"{self.model.num_parameters():,} parameters"
        if self.pretrained is None:
            beside = recipe.config_name is not None and (Path(recipe.config_name) / WEIGHTS_NAME).is_file()
            unused = f"; those of {recipe.config_name} are not used, --model_name_or_path starts from them"
            return f"{size}, drawn by seed {recipe.seed}" + (unused if beside else "")
        trained = self.model.num_parameters(only_trainable=True)
        kept = "stem and stages" if recipe.freeze == TRUNK else f"all up to {recipe.freeze}"
        frozen = f"; {trained:,} of them trained, {kept} frozen" if self.frozen else ""
        return f"{size}, from {self.pretrained.describe(names)}{frozen}"


def prepare_run(recipe: Recipe, output_dir: Path, checkpoints_dir: Path) -> Run:
    """
    Starts the launch, opens the data, builds the network, opens its teachers.

    Args:
        output_dir: folder of the run, as `check_output_dir` gives it.
        checkpoints_dir: folder of the checkpoints that `--resume_from_checkpoint last` means.

    Raises:
        RecipeError, DatasetError, CheckpointError, FolderError: what was asked for cannot be.
    """
    pretrained = open_pretrained(recipe, output_dir)
    recipe, config = _choose_network(recipe, pretrained)
    frozen = frozen_parts(config, recipe.freeze)
    accelerator, why_precision = start_accelerator(recipe)
    batch_sizes(recipe, accelerator.num_processes)  # a mistake is better found before the data is read
    checkpoint = find_checkpoint(recipe.resume_from_checkpoint, checkpoints_dir, say=accelerator.print)
    loading = Loading(
        accelerator.device, accelerator.process_index, accelerator.num_processes, recipe.dataloader_num_workers
    )
    data = open_data(recipe, loading, pixel_format_of(recipe, config))
    recipe = fit_task(recipe, config, data.train)
    batch = batch_sizes(recipe, accelerator.num_processes, len(data.train_rows))
    _check_validation(recipe, data)
    class_weights = open_class_weights(recipe, data)
    teachers = open_teachers(recipe, config, data.train.label_names, output_dir)
    seen = find_seen(recipe, data, pixel_format_of(recipe, config), pretrained, teachers)
    loader = build_training_loader(recipe, data, loading, batch.per_device)
    plan = make_plan(recipe, accelerator, why_precision, config, batch, loader.steps_per_epoch)
    progress = Progress(plan.steps_per_epoch, plan.max_steps)
    model = _first_network(plan, config, data, pretrained, frozen).to(accelerator.device)
    inputs = TrainingInputs(recipe, config, progress.num_epochs)
    if recipe.stem_initialization == "whitening" and checkpoint is None:
        _whiten(model, data, loading, inputs)
    twin = None
    if recipe.calibration_run is not None:
        twin = calibration_of_twin(
            Path(recipe.calibration_run), plan.portable_recipe(), config, data, pretrained, teachers, class_weights
        )
    return Run(
        plan,
        accelerator,
        config,
        data,
        model,
        pretrained,
        frozen,
        teachers,
        class_weights,
        loading,
        loader,
        inputs,
        progress=progress,
        checkpoint=checkpoint,
        fingerprint=RunFingerprint.of(plan, config, data, pretrained, teachers, accelerator, class_weights),
        twin=twin,
        seen=seen,
    )


def _first_network(
    plan: Plan, config: SlimResNetConfig, data: TrainingData, pretrained: Pretrained | None, frozen: list[str]
) -> SlimResNetForImageClassification:
    """The network that training begins with, on the CPU: drawn by seed, or from trained weights."""
    model = build_network(plan, config, data.train.label_names)
    if pretrained:
        pretrained.load_into(model, data.train.label_names)
    freeze_parts(model, frozen)
    return model


def _choose_network(recipe: Recipe, pretrained: Pretrained | None) -> tuple[Recipe, SlimResNetConfig]:
    """The recipe with what it leaves to trained weights, and the config of its network."""
    recipe = as_it_sees(recipe, pretrained)
    config = pretrained.new_config() if pretrained else load_network_config(recipe)
    fit_config(config, recipe, is_trained=pretrained is not None)
    return fit_normalization(recipe, config.num_channels), config


def _whiten(
    model: SlimResNetForImageClassification, data: TrainingData, loading: Loading, inputs: TrainingInputs
) -> None:
    """Gives the stem the principal components of the first training images."""
    [(pixels, _)] = load_batches(data.train, [data.train_rows[:WHITENING_IMAGES]], loading)
    whiten_stem(model, inputs.normalize(pixels))


def _check_validation(recipe: Recipe, data: TrainingData) -> None:
    """Raises a RecipeError where a choice is to be made on validation images, and there are none."""
    choices = {"--load_best_model_at_end": recipe.load_best_model_at_end}
    choices["--early_stopping_patience"] = recipe.early_stopping_patience is not None
    asked = [flag for flag, is_asked in choices.items() if is_asked]
    if asked and not len(data.validation_rows):
        raise RecipeError(f"{asked[0]} needs validation images, and there are none: give a --validation_size above 0.")
