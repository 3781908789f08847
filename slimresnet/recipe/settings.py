"""The recipe: every setting of a run, from a YAML file and the command line."""

import dataclasses
import itertools
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import yaml
from transformers.hf_argparser import HfArg, string_to_bool

from slimresnet.errors import SlimResNetError, printable

TRAIN_SPLIT = "train"
ALL_SPLITS = "all"  # what `datasets` calls the sum of all splits


class RecipeError(SlimResNetError):
    """A setting that cannot be used; the message, one line whatever it quotes, names the flag and says what to do."""


def _switch(help: str) -> dataclasses.Field:
    """A field that is `"auto"` or, once the recipe is checked, a bool."""
    return HfArg(default="auto", help=help, metadata={"nargs": "?", "const": "true"})


@dataclass
class Recipe:
    """Names follow transformers' TrainingArguments and image-classification examples where those have one."""

    # data
    dataset_name: str = HfArg(
        default="uoft-cs/cifar10", help="A dataset on the Hub, or a folder, as load_dataset takes it."
    )
    dataset_config_name: str | None = HfArg(default=None, help="The dataset's configuration, if it has several.")
    dataset_revision: str | None = HfArg(default=None, help="Branch, tag or commit of the dataset on the Hub.")
    streaming: bool = HfArg(
        default=True, help="Decode images on the way; false holds them all in memory, on the training device."
    )
    image_column_name: str | None = HfArg(
        default=None, help="Column of the images; by default the only one of type Image."
    )
    label_column_name: str | None = HfArg(
        default=None, help="Column of the labels; by default the only one of type ClassLabel."
    )
    test_split: str = HfArg(default="test", help="Split that the finished model is scored on, once.")
    validation_size: int = HfArg(
        default=5000, help="Images cut from the training split, evenly by class, to make choices on."
    )
    max_train_samples: int | None = HfArg(default=None, help="Train on so many images, drawn by seed.")
    max_eval_samples: int | None = HfArg(default=None, help="Validate, and test, on so many images, drawn by seed.")
    shuffle_buffer_size: int = HfArg(
        default=50000, help="Samples within which the order is random: a stream holds them, encoded."
    )
    dataloader_num_workers: int = HfArg(default=1, help="Processes that read ahead of training while streaming.")

    # augmentation
    image_mean: list[float] = HfArg(
        default_factory=lambda: [0.4914, 0.4822, 0.4465], help="Mean of each channel, in 0-1."
    )
    image_std: list[float] = HfArg(
        default_factory=lambda: [0.2470, 0.2435, 0.2616], help="Standard deviation of each channel, in 0-1."
    )
    trivial_augment: bool = HfArg(
        default=False, help="Put each image through one of fourteen operations, at a strength of its own."
    )
    crop_padding: int = HfArg(default=4, help="Random crop after padding by so many pixels.")
    crop_padding_mode: Literal["zero", "reflect"] = HfArg(default="zero", help="What is padded with.")
    horizontal_flip_prob: float = HfArg(default=0.5, help="Probability of a left-right mirror image.")
    alternating_flip: bool = HfArg(
        default=False, help="Mirror every image in every other epoch; the probability says how many begin with it."
    )
    vertical_flip_prob: float = HfArg(default=0.0, help="Probability of an upside-down mirror image.")
    gaussian_blur_prob: float = HfArg(default=0.0, help="Probability of a 3x3 Gaussian blur.")
    gaussian_blur_sigma: list[float] = HfArg(
        default_factory=lambda: [0.1, 1.5], help="Range of its standard deviation, in pixels."
    )
    random_erasing_prob: float = HfArg(default=0.0, help="Probability that a rectangle is painted over.")
    random_erasing_area: list[float] = HfArg(
        default_factory=lambda: [0.02, 0.2], help="Range of the share of its area."
    )
    cutmix_prob: float = HfArg(default=0.0, help="Probability that a sample has a patch of another pasted in.")
    cutmix_alpha: float = HfArg(default=1.0, help="The patch's share is drawn from Beta(alpha, alpha).")
    label_smoothing_factor: float = HfArg(default=0.0, help="Share of each label that is spread over all classes.")
    num_light_augmentation_epochs: int = HfArg(
        default=0, help="Epochs at the start with crop and horizontal flip only."
    )
    num_final_light_augmentation_epochs: int = HfArg(default=0, help="The same at the end.")
    progressive_resizing: list[str] | None = HfArg(
        default=None, help="Smaller images first, as PIXELS:SHARE of the epochs until which: 16:0.3 24:0.7."
    )

    # model
    config_name: str | None = HfArg(
        default=None, help="A config.json, or its folder, for another network than the default one."
    )
    stem_initialization: Literal["random", "whitening"] = HfArg(
        default="random", help="whitening starts the stem from the principal components of the images' patches."
    )

    # optimisation
    num_train_epochs: int = HfArg(
        default=100, help="Epochs; the learning rate falls over them, or over those behind the warm-up."
    )
    max_train_steps: int | None = HfArg(default=None, help="Optimiser steps, instead of --num_train_epochs.")
    total_train_batch_size: int | None = HfArg(
        default=None,
        help="Images of one optimiser step over all processes, that --learning_rate is tuned for; 128 by default.",
    )
    per_device_train_batch_size: int | None = HfArg(
        default=None, help="Images a process takes at once; by default its share."
    )
    per_device_eval_batch_size: int = HfArg(default=128, help="The same, in evaluation.")
    gradient_accumulation_steps: int = HfArg(default=1, help="Batches a process takes for one optimiser step.")
    optim: Literal["sgd", "muon"] = HfArg(
        default="sgd", help="muon is for the convolutions of the stages; all else has SGD with it too."
    )
    learning_rate: float = HfArg(default=0.1, help="Peak learning rate of SGD.")
    muon_learning_rate: float = HfArg(default=0.05, help="Peak learning rate of Muon.")
    muon_weight_decay: float = HfArg(default=0.02, help="Weight decay of Muon.")
    momentum: float = HfArg(default=0.9, help="Momentum.")
    nesterov: bool = HfArg(default=False, help="Nesterov's momentum.")
    weight_decay: float = HfArg(default=5e-4, help="Weight decay of SGD.")
    norm_bias_learning_rate: float | None = HfArg(
        default=None, help="Peak learning rate of BatchNorm's biases, if not --learning_rate."
    )
    decay_norm_and_bias: bool = HfArg(default=True, help="Decay BatchNorm's parameters and biases too.")
    lr_scheduler_type: Literal["constant", "linear", "cosine", "multi_step", "hybrid"] = HfArg(
        default="cosine",
        help="hybrid is multi_step over the first half of the run, then cosine from --lr_gamma of the peak.",
    )
    lr_milestones: list[float] = HfArg(
        default_factory=lambda: [0.5, 0.75],
        help="Shares of the run, or of hybrid's first half, after which the rate drops.",
    )
    lr_gamma: float = HfArg(default=0.1, help="Factor by which the learning rate drops at each milestone.")
    warmup_steps: float = HfArg(
        default=0.0, help="Steps over which the rate rises to its peak; a number below 1 is a share of the run."
    )
    sam_rho: float = HfArg(
        default=0.0, help="Radius of sharpness-aware minimisation, whose steps cost two; 0 for none."
    )
    num_final_sam_epochs: int | None = HfArg(
        default=None, help="Epochs at the end that have it; by default all, though the last few do nearly as much."
    )
    ema_decay: float = HfArg(
        default=0.0, help="Decay a step of averaged weights, which are then evaluated and saved; 0 for none."
    )

    # machine
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = HfArg(
        default="auto", help="auto: what accelerate launch says, else bf16 where the hardware has it."
    )
    channels_last: str = _switch("Keep feature maps in NHWC order; auto: where convolutions like it.")
    torch_compile: str = _switch("Compile the network; auto: where the run is long enough to repay it.")
    torch_compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = HfArg(
        default="default", help="torch.compile's mode; max-autotune takes minutes."
    )
    cuda_graphs: str = _switch("Launch each step of a GPU as one graph; auto: where one process trains on it.")
    use_cpu: bool = HfArg(default=False, help="Use the CPU where there is a GPU too.")
    sync_batchnorm: bool = HfArg(
        default=False, help="BatchNorm takes its statistics of all GPUs' batches, not of each one's own."
    )
    deterministic: bool = HfArg(
        default=False, help="Only algorithms that give the same bits each time, on GPUs too, at some cost in speed."
    )

    # evaluation
    tta: Literal["auto", "none", "flip", "flip_shift", "paper"] = HfArg(
        default="auto",
        help="Test-time augmentation that the test split is scored with too; auto takes what is best on validation.",
    )
    temperature: float | None = HfArg(
        default=None, help="What logits are divided by for calibration; by default what is best on validation."
    )

    # run
    output_dir: str = HfArg(default="runs/slimresnet", help="Folder of everything the run writes.")
    overwrite_output_dir: bool = HfArg(default=False, help="Replace the run that the folder holds.")
    seed: int = HfArg(default=42, help="Of the weights, the validation split, the order and every draw.")
    logging_steps: int = HfArg(default=10, help="Optimiser steps between updates of the progress bar and the trackers.")
    checkpointing_steps: str = HfArg(default="epoch", help="Save a checkpoint each epoch, each so many steps, or no.")
    save_total_limit: int | None = HfArg(default=2, help="Checkpoints to keep; null keeps all.")
    resume_from_checkpoint: str | None = HfArg(default=None, help="A checkpoint's folder, or last.")
    load_best_model_at_end: bool = HfArg(
        default=False, help="Keep the weights of the epoch best on validation, not the last."
    )
    push_to_hub: bool = HfArg(default=False, help="Bring the finished run to the Hub, as push_to_hub.py does.")
    hub_model_id: str | None = HfArg(default=None, help="The repository for it, as user/name.")
    license: str | None = HfArg(
        default=None, help="Licence of the weights, as the Hub names it, such as apache-2.0; for the model card."
    )
    report_to: Literal["none", "tensorboard", "trackio"] = HfArg(
        default="none", help="Tracker that gets every figure too."
    )

    def __post_init__(self):
        for name in _RANGES:
            check_range(name, getattr(self, name))
        for name, value in vars(self).items():
            if isinstance(value, str) and printable(value) != value:
                raise RecipeError(f"--{name} {printable(value)} is no UTF-8, as files are named here: rename it.")
        for name in ("gaussian_blur_sigma", "random_erasing_area"):
            values = getattr(self, name)
            if len(values) != 2 or values[0] > values[1]:
                raise RecipeError(f"--{name} takes two numbers, the lower first, got {values}.")
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name)) != 3:
                raise RecipeError(f"--{name} takes three numbers, one a channel, got {getattr(self, name)}.")
        for name in ("channels_last", "torch_compile", "cuda_graphs"):
            value = getattr(self, name)
            if value != "auto":
                try:
                    setattr(self, name, string_to_bool(value))
                except ArgumentTypeError:
                    raise RecipeError(f"--{name} must be true, false or auto, got {value}.") from None
        parse_resizing(self.progressive_resizing)
        if self.nesterov and not self.momentum:
            raise RecipeError("--nesterov needs a --momentum above 0.")
        if self.warmup_steps >= 1 and self.warmup_steps != int(self.warmup_steps):
            raise RecipeError(f"--warmup_steps must be a whole number or a share below 1, got {self.warmup_steps}.")
        if self.num_final_sam_epochs and not self.sam_rho:
            raise RecipeError("--num_final_sam_epochs needs a --sam_rho above 0.")
        tested = {part.partition("[")[0].strip() for part in self.test_split.split("+")}
        if tested & {TRAIN_SPLIT, ALL_SPLITS}:
            raise RecipeError(
                f"--test_split {self.test_split} would test on images that are trained on: name another split. "
                "eval.py scores those too, with --split."
            )
        if self.load_best_model_at_end and not self.validation_size:
            raise RecipeError("--load_best_model_at_end chooses on validation: give a --validation_size above 0.")
        if self.push_to_hub and not self.hub_model_id:
            raise RecipeError("--push_to_hub needs the name of a repository: give --hub_model_id user/name.")
        if self.checkpointing_steps not in ("epoch", "no") and not _is_step(self.checkpointing_steps):
            raise RecipeError(
                f"--checkpointing_steps must be epoch, no, or a number of steps, got {self.checkpointing_steps}."
            )

    def max_steps(self, steps_per_epoch: int) -> int:
        """Optimiser steps of the run."""
        return self.max_train_steps or self.num_train_epochs * steps_per_epoch

    def resolve_batch_size(self, num_processes: int) -> None:
        """
        Fills in the batch of a process, or of all of them, from the other and the number of processes.

        Raises:
            RecipeError: the one does not divide by the other.
        """
        shares = num_processes * self.gradient_accumulation_steps
        terms = f"{num_processes} processes × {self.gradient_accumulation_steps} accumulation steps"
        if self.per_device_train_batch_size is None:
            self.total_train_batch_size = self.total_train_batch_size or DEFAULT_TOTAL_TRAIN_BATCH_SIZE
            if self.total_train_batch_size % shares:
                raise RecipeError(
                    f"--total_train_batch_size {self.total_train_batch_size} does not divide by {terms}: "
                    "change one of them."
                )
            self.per_device_train_batch_size = self.total_train_batch_size // shares
        total = self.per_device_train_batch_size * shares
        if self.total_train_batch_size not in (None, total):
            raise RecipeError(
                f"--total_train_batch_size {self.total_train_batch_size}, which the learning rate is tuned for, is not "
                f"{self.per_device_train_batch_size} images (--per_device_train_batch_size) × {terms}: change one of "
                "them."
            )
        self.total_train_batch_size = total

    def to_yaml(self) -> str:
        """Every value as resolved, but for what is of one start of a run; `--config` takes the text back."""
        settings = {name: value for name, value in dataclasses.asdict(self).items() if name not in OF_ONE_START}
        return yaml.safe_dump(settings, sort_keys=False)


DEFAULT_TOTAL_TRAIN_BATCH_SIZE = 128
# What is said when a run is started, and no part of what it is: a recipe that carried it would replace the run that it
# was written by.
OF_ONE_START = ("overwrite_output_dir", "resume_from_checkpoint", "push_to_hub")

_NO_LIMIT = float("inf")
_LARGEST_RATE = 1e30  # what weights are multiplied with has to be a float32, whose largest is 3e38
_RANGES = {
    "validation_size": (0, _NO_LIMIT),
    "max_train_samples": (1, _NO_LIMIT),
    "max_eval_samples": (1, _NO_LIMIT),
    "shuffle_buffer_size": (1, _NO_LIMIT),
    "dataloader_num_workers": (0, _NO_LIMIT),
    "image_mean": (0, 1),
    "image_std": (1e-6, 1),
    "crop_padding": (0, _NO_LIMIT),
    "horizontal_flip_prob": (0, 1),
    "vertical_flip_prob": (0, 1),
    "gaussian_blur_prob": (0, 1),
    "gaussian_blur_sigma": (0.01, _NO_LIMIT),
    "random_erasing_prob": (0, 1),
    "random_erasing_area": (0, 1),
    "cutmix_prob": (0, 1),
    "cutmix_alpha": (0.01, _NO_LIMIT),
    "label_smoothing_factor": (0, 1),
    "num_light_augmentation_epochs": (0, _NO_LIMIT),
    "num_final_light_augmentation_epochs": (0, _NO_LIMIT),
    "num_train_epochs": (1, _NO_LIMIT),
    "max_train_steps": (1, _NO_LIMIT),
    "per_device_train_batch_size": (1, _NO_LIMIT),
    "per_device_eval_batch_size": (1, _NO_LIMIT),
    "gradient_accumulation_steps": (1, _NO_LIMIT),
    "total_train_batch_size": (1, _NO_LIMIT),
    "learning_rate": (0, _LARGEST_RATE),
    "norm_bias_learning_rate": (0, _LARGEST_RATE),
    "muon_learning_rate": (0, _LARGEST_RATE),
    "muon_weight_decay": (0, _LARGEST_RATE),
    "momentum": (0, 1),
    "weight_decay": (0, _LARGEST_RATE),
    "lr_milestones": (0, 1),
    "lr_gamma": (0, 1),
    "warmup_steps": (0, _NO_LIMIT),
    "sam_rho": (0, _LARGEST_RATE),
    "num_final_sam_epochs": (1, _NO_LIMIT),
    "ema_decay": (0, 1),
    "temperature": (0.01, _NO_LIMIT),
    "seed": (0, 2**32 - 1),
    "logging_steps": (1, _NO_LIMIT),
    "save_total_limit": (1, _NO_LIMIT),
}


def check_range(name: str, values: float | list[float] | None) -> None:
    """
    Holds values of a setting, wherever they were given, against its range.

    Raises:
        RecipeError: one is outside it.
    """
    low, high = _RANGES[name]
    for value in values if isinstance(values, list) else [values]:
        if value is not None and (not low <= value <= high or value == _NO_LIMIT):
            bounds = f"between {low} and {high}"
            if high >= _LARGEST_RATE:
                bounds = f"at most {high:g}" if value > high else f"at least {low}"
            bounds = "finite" if value == _NO_LIMIT else bounds
            raise RecipeError(f"--{name} must be {bounds}, got {value}.")


def parse_resizing(stages: Sequence[str] | None) -> list[tuple[int, float]]:
    """
    Reads `--progressive_resizing`: pixels, and the share of the epochs until which images have that size.

    Raises:
        RecipeError: a stage is not PIXELS:SHARE, or the shares do not rise from above 0 to at most 1.
    """
    parsed = []
    for stage in stages or ():
        pixels, _, share = str(stage).partition(":")
        try:
            parsed.append((int(pixels), float(share)))
        except ValueError:
            raise RecipeError(f"--progressive_resizing takes PIXELS:SHARE, such as 24:0.5, got {stage}.") from None
    shares = [0.0, *(share for _, share in parsed)]
    rises = all(low < high <= 1 for low, high in itertools.pairwise(shares))
    if not rises or any(pixels < 1 for pixels, _ in parsed):
        raise RecipeError(
            f"--progressive_resizing needs positive sizes and shares that rise, up to 1, got {' '.join(stages)}."
        )
    return parsed


def _is_step(text: str) -> bool:
    try:
        return text.isdecimal() and int(text) > 0
    except ValueError:  # of more digits than Python reads
        return False
