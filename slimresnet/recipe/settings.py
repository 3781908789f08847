"""The recipe: every setting of a run, as it was asked for. A recipe never changes."""

import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_type_hints

import yaml

from slimresnet.recipe.checks import (
    LARGEST_RATE,
    NO_LIMIT,
    RecipeError,
    Setting,
    SettingType,
    check_numbers,
    checked,
    parse_resizing,
    setting_type,
    words,
)
from slimresnet.run_folder.schemas import TEMPERATURES

TRAIN_SPLIT, VALIDATION_SPLIT, TEST_SPLIT = "train", "validation", "test"
ALL_SPLITS = "all"  # what `datasets` calls the sum of all splits
BALANCED = "balanced"  # class weights that are the inverse of the classes' shares
NO_TRACKER = "none"
RESIZE_MODE: Literal["squash"] = "squash"  # of a recipe that names none, and whose weights have none


def _setting(
    group: str,
    default: Any,
    help: str,
    *,
    affects: Literal["weights", "rounding"] | None = "weights",
    low: float | None = None,
    high: float = NO_LIMIT,
    no_help: str | None = None,
) -> Any:
    return dataclasses.field(default=default, metadata={"setting": Setting(group, help, affects, low, high, no_help)})


@dataclass(frozen=True)
class Recipe:
    """
    Every setting of a run. Names follow transformers' TrainingArguments and image-classification examples.

    Transforms of training images run in the order in which their settings stand here.

    Raises:
        RecipeError: a value has another type than its setting, is none of its choices, lies outside of its range, or
            does not go with another one.
    """

    # data
    dataset_name: str = _setting(
        "data", "uoft-cs/cifar10", "A dataset on the Hub, or a folder, ZIP file or table of images.", affects=None
    )
    dataset_config_name: str | None = _setting(
        "data", None, "Configuration of the dataset, where it has several.", affects=None
    )
    dataset_revision: str | None = _setting(
        "data", None, "Branch, tag or commit of the dataset on the Hub; by default main.", affects=None
    )
    streaming: bool = _setting(
        "data",
        True,
        "Decode images while training reads them.",
        affects=None,
        no_help="Decode all images first, and hold them in memory on the training device.",
    )
    image_column_name: str | None = _setting(
        "data", None, "Column of the images; by default the only column that holds some.", affects=None
    )
    label_column_name: str | None = _setting(
        "data",
        None,
        "Column of the labels; by default the only ClassLabel, or else of text or numbers. A column of lists gives an "
        "image several classes, and so do a,b,c, columns of 0 and 1 that are called as the classes.",
        affects=None,
    )
    test_split: str = _setting("data", TEST_SPLIT, "Split that the finished model is scored on, once.", affects=None)
    test_size: int | float | Literal["auto"] = _setting(
        "data",
        "auto",
        "Images cut from the training split, evenly by class, to test on, where the data has no split test: a number, "
        "or a share. auto: a fifth, at most 10,000.",
        low=0,
    )
    validation_size: int | float | Literal["auto"] = _setting(
        "data",
        "auto",
        "Images cut from the training split, evenly by class, to make choices on: a number, or a share; 0 for none. "
        "auto: the data's own split validation where there is one, else a tenth, at most 5,000.",
        low=0,
    )
    max_train_samples: int | None = _setting(
        "data", None, "Number of training images to use, drawn by seed; all by default.", low=1
    )
    max_eval_samples: int | None = _setting(
        "data", None, "Number of validation images to use, and of test images, drawn by seed; all by default.", low=1
    )
    shuffle_buffer_size: int = _setting(
        "data", 50000, "Samples within which the order is random. A stream holds so many of them, encoded.", low=1
    )
    dataloader_num_workers: int = _setting("data", 1, "Processes that read ahead while streaming.", affects=None, low=0)
    balanced_sampling: bool = _setting(
        "data",
        False,
        "Show every class equally often: an epoch has as many images as before, those of small classes several times. "
        "It needs a --shuffle_buffer_size of all training images.",
    )

    resize_mode: Literal["squash", "crop", "pad"] | None = _setting(
        "data",
        None,
        "What is done to a picture that is not square. squash: both sides to the image size; crop: the shorter side, "
        "and the middle is cut out; pad: the longer side, between bars of black. By default that of "
        "--model_name_or_path, else squash.",
    )

    # augmentation
    image_mean: tuple[float, ...] = _setting(
        "augmentation",
        (0.4914, 0.4822, 0.4465),
        "Mean of each channel, in 0-1: three numbers, or one for grey images. By default CIFAR-10's; for grey images "
        "these are mixed into one as colours are (ITU-R 601-2).",
        low=0,
        high=1,
    )
    image_std: tuple[float, ...] = _setting(
        "augmentation",
        (0.2470, 0.2435, 0.2616),
        "Standard deviation of each channel, in 0-1; as many numbers as --image_mean.",
        low=1e-06,
        high=1,
    )
    trivial_augment: bool = _setting(
        "augmentation",
        False,
        "Put each image through one of fourteen operations at a random strength (TrivialAugment).",
    )
    trivial_augment_translation: int = _setting(
        "augmentation",
        32,
        "Pixels that TrivialAugment moves an image by at most. The paper's 32 may leave a small image all black; its "
        "code has 10 in AutoAugment's space, and 14.4 in RandAugment's.",
        low=0,
        high=1024,
    )
    crop_padding: int = _setting(
        "augmentation", 4, "Pixels of padding on each side before a random crop of the old size; 0 for no crop.", low=0
    )
    crop_padding_mode: Literal["zero", "reflect"] = _setting(
        "augmentation", "zero", "What a random crop is padded with: black, or the mirror image."
    )
    horizontal_flip_prob: float = _setting(
        "augmentation", 0.5, "Probability of a left-right mirror image.", low=0, high=1
    )
    alternating_flip: bool = _setting(
        "augmentation",
        False,
        "Mirror every image in every other epoch; --horizontal_flip_prob is the share that begins mirrored.",
    )
    vertical_flip_prob: float = _setting(
        "augmentation", 0.0, "Probability of an upside-down mirror image.", low=0, high=1
    )
    gaussian_blur_prob: float = _setting("augmentation", 0.0, "Probability of a 3x3 Gaussian blur.", low=0, high=1)
    gaussian_blur_sigma: tuple[float, ...] = _setting(
        "augmentation", (0.1, 1.5), "Range of the standard deviation of --gaussian_blur_prob, in pixels.", low=0.01
    )
    random_erasing_prob: float = _setting(
        "augmentation", 0.0, "Probability that a rectangle is painted over.", low=0, high=1
    )
    random_erasing_area: tuple[float, ...] = _setting(
        "augmentation",
        (0.02, 0.2),
        "Range of the share of the image that --random_erasing_prob paints over.",
        low=0,
        high=1,
    )
    cutmix_prob: float = _setting(
        "augmentation", 0.0, "Probability that a patch of another image is pasted in (CutMix).", low=0, high=1
    )
    cutmix_alpha: float = _setting(
        "augmentation", 1.0, "CutMix draws the share of the patch from Beta(alpha, alpha).", low=0.01
    )
    mixup_prob: float = _setting(
        "augmentation",
        0.0,
        "Probability that an image is blended with another one (mixup). An image gets CutMix, mixup or neither: the "
        "two probabilities add up to at most 1.",
        low=0,
        high=1,
    )
    mixup_alpha: float = _setting(
        "augmentation", 1.0, "mixup draws the share of the other image from Beta(alpha, alpha).", low=0.01
    )
    label_smoothing_factor: float = _setting(
        "augmentation", 0.0, "Share of each label that is spread over all classes.", low=0, high=1
    )
    num_light_augmentation_epochs: int = _setting(
        "augmentation", 0, "Epochs at the start with crop and horizontal flip only.", low=0
    )
    num_final_light_augmentation_epochs: int = _setting(
        "augmentation", 0, "Epochs at the end with crop and horizontal flip only.", low=0
    )
    progressive_resizing: tuple[str, ...] | None = _setting(
        "augmentation",
        None,
        "Train on smaller images first: PIXELS:SHARE, the size up to that share of the epochs, such as 16:0.3 24:0.7.",
    )
    augmented_copies: int = _setting(
        "augmentation",
        1,
        "Copies of each image in a step, each augmented by its own draws (batch augmentation). "
        "--total_train_batch_size counts images, not copies: a step costs that many times as much.",
        low=1,
        high=64,
    )

    # network
    config_name: str | None = _setting(
        "network",
        None,
        "Another network than the default one: a config.json, its folder, or the name of one that ships, such as wide.",
        affects=None,
    )
    image_size: int | None = _setting(
        "network",
        None,
        "Height and width in pixels of the images that the network sees; by default those of its config, 32. Choose it "
        "so that what tells the classes apart is a few pixels wide, and not above the size of the pictures: 28 or 32 "
        "for digits and icons, 64 or 96 for photographs. The cost of a step grows with the square. Trained weights "
        "know things as large as they were in training: with few pictures, keep the size of the weights.",
        affects=None,  # a checkpoint knows the network by its config
        low=16,
        high=256,
    )
    num_channels: int | None = _setting(
        "network",
        None,
        "Channels of the images: 3 for colours, 1 for grey, into which coloured pictures are turned (ITU-R 601-2 "
        "luma); by default those of the network's config, 3.",
        affects=None,
        low=1,
        high=3,
    )
    stem_initialization: Literal["random", "whitening"] = _setting(
        "network", "random", "whitening starts the stem from the principal components of the images' patches."
    )

    # fine-tuning
    model_name_or_path: str | None = _setting(
        "fine-tuning",
        None,
        "Trained SlimResNet to start from: a folder, or a model on the Hub. Its head is kept where the classes are the "
        "same, so that a finished run goes on for more epochs, and drawn anew where they differ.",
        affects=None,  # a checkpoint knows weights by what they are, wherever these lie
    )
    freeze: str = _setting(
        "fine-tuning",
        "none",
        "Part to leave as it is in --model_name_or_path, its BatchNorm statistics too: stem, stage1 and so on (up to "
        "that stage), or trunk, all but the head.",
    )
    trunk_learning_rate_factor: float = _setting(
        "fine-tuning",
        1.0,
        "Learning rates of stem and stages of --model_name_or_path, as a share of the head's.",
        low=0,
        high=1,
    )

    # distillation
    teacher_name_or_path: str | None = _setting(
        "distillation",
        None,
        "Trained network to learn from: a folder, or a model on the Hub, of the same classes; FOLDER,FOLDER for the "
        "average of several.",
        affects=None,  # a checkpoint knows teachers by their files, wherever these lie
    )
    distillation_temperature: float = _setting(
        "distillation", 4.0, "Temperature that student and teacher are compared at.", low=0.01
    )
    distillation_alpha: float = _setting(
        "distillation",
        1.0,
        "Share of the teacher in the loss, beside the labels. An image that is mixed with one of another class learns "
        "from the teacher alone.",
        low=0,
        high=1,
    )

    # optimisation
    num_train_epochs: int = _setting("optimisation", 100, "Number of epochs; the learning rate falls over them.", low=1)
    max_train_steps: int | None = _setting(
        "optimisation", None, "Number of optimiser steps, in place of --num_train_epochs.", low=1
    )
    total_train_batch_size: int | None = _setting(
        "optimisation",
        None,
        "Images of one optimiser step over all processes, which --learning_rate is tuned for; 128 by default, "
        "and for fewer images the largest power of two that they fill.",
        low=1,
    )
    per_device_train_batch_size: int | None = _setting(
        "optimisation",
        None,
        "Images that a process takes at once; by default its share of --total_train_batch_size.",
        affects="rounding",
        low=1,
    )
    per_device_eval_batch_size: int | None = _setting(
        "optimisation",
        None,
        "Images that a process scores at once; by default 128, and on a CUDA GPU as many as have the pixels of 1,000 "
        "of 32 × 32.",
        affects="rounding",
        low=1,
    )
    gradient_accumulation_steps: int = _setting(
        "optimisation", 1, "Batches that a process adds up for one optimiser step.", affects="rounding", low=1
    )
    class_weights: str | None = _setting(
        "optimisation",
        None,
        "Weights of the classes in the loss: balanced, for the inverse of their shares of the training images, or a "
        "JSON or YAML file of class names and weights, of which the ratios count; by default all weigh the same.",
        affects=None,  # a checkpoint knows weights by what the file holds, wherever it lies
    )
    optim: Literal["sgd", "muon"] = _setting(
        "optimisation", "sgd", "Optimiser. muon takes the convolutions of the stages, and SGD all other weights."
    )
    learning_rate: float = _setting("optimisation", 0.1, "Peak learning rate of SGD.", low=0, high=LARGEST_RATE)
    muon_learning_rate: float = _setting("optimisation", 0.05, "Peak learning rate of Muon.", low=0, high=LARGEST_RATE)
    muon_weight_decay: float = _setting("optimisation", 0.02, "Weight decay of Muon.", low=0, high=LARGEST_RATE)
    momentum: float = _setting("optimisation", 0.9, "Momentum of SGD and of Muon.", low=0, high=1)
    nesterov: bool = _setting("optimisation", False, "Use Nesterov's momentum.")
    weight_decay: float = _setting("optimisation", 0.0005, "Weight decay of SGD.", low=0, high=LARGEST_RATE)
    norm_bias_learning_rate: float | None = _setting(
        "optimisation",
        None,
        "Peak learning rate of BatchNorm's biases; by default --learning_rate.",
        low=0,
        high=LARGEST_RATE,
    )
    decay_norm_and_bias: bool = _setting(
        "optimisation",
        True,
        "Apply weight decay to BatchNorm's parameters and to biases.",
        no_help="Apply no weight decay to BatchNorm's parameters and to biases.",
    )
    lr_scheduler_type: Literal["constant", "linear", "cosine", "multi_step", "hybrid"] = _setting(
        "optimisation",
        "cosine",
        "Schedule of the learning rate. hybrid: half multi_step, half cosine from --lr_gamma of the peak.",
    )
    lr_milestones: tuple[float, ...] = _setting(
        "optimisation",
        (0.5, 0.75),
        "Shares of the run after which multi_step lowers the rate; for hybrid, shares of its first half.",
        low=0,
        high=1,
    )
    lr_gamma: float = _setting(
        "optimisation", 0.1, "Factor by which the learning rate drops at each milestone.", low=0, high=1
    )
    warmup_steps: float = _setting(
        "optimisation", 0.0, "Steps over which the learning rate rises to its peak; below 1, a share of the run.", low=0
    )
    sam_rho: float = _setting(
        "optimisation",
        0.0,
        "Radius of sharpness-aware minimisation (SAM); 0 for none. A step then costs two.",
        low=0,
        high=LARGEST_RATE,
    )
    num_final_sam_epochs: int | None = _setting(
        "optimisation", None, "Number of final epochs that have SAM; all by default.", low=1
    )
    ema_decay: float = _setting(
        "optimisation",
        0.0,
        "Decay per step of an exponential moving average of the weights, which is evaluated and saved; 0 for none.",
        low=0,
        high=1,
    )
    ema_batchnorm: Literal["average", "recompute"] = _setting(
        "optimisation",
        "average",
        "BatchNorm statistics of the averaged weights: an average too, or recomputed from training images before they "
        "are scored or saved.",
    )

    # machine
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = _setting(
        "machine",
        "auto",
        "Precision of training. auto: what accelerate launch says, else bf16 where the hardware has it.",
        affects="rounding",
    )
    channels_last: bool | Literal["auto"] = _setting(
        "machine",
        "auto",
        "Keep feature maps in NHWC order. auto: where convolutions are faster so.",
        affects="rounding",
    )
    torch_compile: bool | Literal["auto"] = _setting(
        "machine",
        "auto",
        "Compile the training step. auto: where the run is long enough to repay it.",
        affects="rounding",
    )
    torch_compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = _setting(
        "machine", "default", "Mode of torch.compile; max-autotune takes minutes.", affects="rounding"
    )
    fused_batchnorm: bool | Literal["auto"] = _setting(
        "machine",
        "auto",
        "Do BatchNorm, ReLU and the shortcut's addition in one pass each way, by Triton kernels. auto: off, as "
        "nobody has timed them yet.",
        affects="rounding",
    )
    cuda_graphs: bool | Literal["auto"] = _setting(
        "machine",
        "auto",
        "Launch each step of a GPU as one CUDA graph. auto: where one process trains on one GPU.",
        affects="rounding",
    )
    use_cpu: bool = _setting("machine", False, "Train on the CPU, even where there is a GPU.", affects="rounding")
    sync_batchnorm: bool = _setting("machine", False, "Take the statistics of BatchNorm over the batches of all GPUs.")
    deterministic: bool = _setting(
        "machine",
        False,
        "Use only algorithms that give the same bits each time, on GPUs too, at some cost in speed.",
        affects="rounding",
    )

    # evaluation
    tta: Literal["auto", "none", "flip", "flip_shift", "paper"] = _setting(
        "evaluation",
        "auto",
        "Test-time augmentation to score with. auto: the policy that is best on validation; of fewer than 50 images, "
        "none.",
        affects=None,
    )
    temperature: float | None = _setting(
        "evaluation",
        None,
        "Temperature that the head of the finished network is divided by; by default the one that fits the held-out "
        "images.",
        affects=None,
        low=TEMPERATURES[0],
        high=TEMPERATURES[1],
    )
    calibration_run: str | None = _setting(
        "evaluation",
        None,
        "Folder of a finished run of the same recipe that held images out. Its temperature calibrates this run, which "
        "needs --validation_size 0. Without one, and without --temperature, such a run is not calibrated.",
        affects=None,
    )

    # output
    output_dir: str = _setting("output", "runs/slimresnet", "Folder for everything that the run writes.", affects=None)
    overwrite_output_dir: bool = _setting("output", False, "Replace the run that --output_dir holds.", affects=None)
    seed: int = _setting(
        "optimisation",
        42,
        "Seed of the weights, of the validation split, of the order and of every draw.",
        low=0,
        high=2**32 - 1,
    )
    logging_steps: int = _setting(
        "output", 10, "Optimiser steps between updates of the progress bar and the trackers.", affects=None, low=1
    )
    checkpointing_steps: str = _setting(
        "output", "epoch", "When to save a checkpoint: epoch, no, or a number of steps.", affects=None
    )
    save_total_limit: int | None = _setting(
        "output", 2, "Number of checkpoints to keep; null keeps all.", affects=None, low=1
    )
    resume_from_checkpoint: str | None = _setting(
        "output", None, "Checkpoint to go on from: its folder, or last.", affects=None
    )
    load_best_model_at_end: bool = _setting(
        "optimisation", False, "Keep the weights of the epoch that is best on validation, not the last."
    )
    metric_for_best_model: Literal["accuracy", "balanced_accuracy", "macro_f1", "mean_average_precision", "loss"] = (
        _setting(
            "optimisation",
            "accuracy",
            "Score on validation that says which epoch is best, and whether training still improves. "
            "balanced_accuracy, the mean recall of the classes, and macro_f1 count all classes alike. Images of "
            "several classes have mean_average_precision, their default, and loss.",
        )
    )
    early_stopping_patience: int | None = _setting(
        "optimisation",
        None,
        "Epochs without an improvement on validation after which training ends; null for none. The learning rate "
        "falls over --num_train_epochs all the same. The last weights are kept unless --load_best_model_at_end is set.",
        low=1,
    )
    early_stopping_threshold: float = _setting(
        "optimisation",
        0.0,
        "What an epoch has to be better by than the best one before, for --early_stopping_patience.",
        low=0,
    )
    push_to_hub: bool = _setting("output", False, "Push the finished run to the Hub.", affects=None)
    hub_model_id: str | None = _setting("output", None, "Repository of --push_to_hub, as user/name.", affects=None)
    license: str | None = _setting(
        "output",
        None,
        "Licence of the weights, as the Hub names it, such as apache-2.0; for the model card.",
        affects=None,
    )
    report_to: tuple[str, ...] = _setting(
        "output",
        (NO_TRACKER,),
        "Trackers that get every figure too: none, or names that accelerate has, such as tensorboard, trackio, wandb, "
        "mlflow, comet_ml, aim; several with commas or spaces between them.",
        affects=None,
    )

    def __post_init__(self):
        for name, value in vars(self).items():
            object.__setattr__(
                self, name, checked(name, setting_types()[name], SETTINGS[name], value)
            )  # a list becomes a tuple, and 1 a float
        self._check_sequences()
        self._check_combinations()
        if self.checkpointing_steps not in ("epoch", "no") and not _is_step(self.checkpointing_steps):
            raise RecipeError(
                f"--checkpointing_steps must be epoch, no, or a number of steps, got {self.checkpointing_steps}."
            )

    def _check_sequences(self) -> None:
        for name in ("gaussian_blur_sigma", "random_erasing_area"):
            values = getattr(self, name)
            if len(values) != 2 or values[0] > values[1]:
                raise RecipeError(f"--{name} takes two numbers, the lower first, got {words(values)}.")
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name)) not in (1, 3):
                raise RecipeError(
                    f"--{name} takes three numbers, one a channel, or one for grey images, got "
                    f"{words(getattr(self, name))}."
                )
        parse_resizing(self.progressive_resizing)
        if NO_TRACKER in self.report_to and len(self.report_to) > 1:
            raise RecipeError(f"--report_to {words(self.report_to)} names {NO_TRACKER} and trackers: leave one out.")

    def _check_combinations(self) -> None:
        if self.num_channels == 2:
            raise RecipeError("--num_channels must be 3 for colours or 1 for grey, got 2.")
        if self.nesterov and not self.momentum:
            raise RecipeError("--nesterov needs a --momentum above 0.")
        if self.warmup_steps >= 1 and self.warmup_steps != int(self.warmup_steps):
            raise RecipeError(f"--warmup_steps must be a whole number or a share below 1, got {self.warmup_steps}.")
        if self.cutmix_prob + self.mixup_prob > 1:
            raise RecipeError(
                f"--cutmix_prob {self.cutmix_prob} and --mixup_prob {self.mixup_prob} are more than 1 together, and an "
                "image gets one of the two: lower one."
            )
        if self.num_final_sam_epochs and not self.sam_rho:
            raise RecipeError("--num_final_sam_epochs needs a --sam_rho above 0.")
        if self.ema_batchnorm == "recompute" and not self.ema_decay:
            raise RecipeError("--ema_batchnorm recompute needs an --ema_decay above 0.")
        tested = {part.partition("[")[0].strip() for part in self.test_split.split("+")}
        if tested & {TRAIN_SPLIT, ALL_SPLITS}:
            raise RecipeError(
                f"--test_split {self.test_split} would test on images that are trained on: name another split. "
                "eval.py scores those too, with --split."
            )
        if self.test_size == 0:
            raise RecipeError(
                "--test_size 0 leaves nothing to score the finished model on: give a number, a share, or auto."
            )
        if self.load_best_model_at_end and not self.validation_size:
            raise RecipeError("--load_best_model_at_end chooses on validation: give a --validation_size above 0.")
        teaching = ("distillation_temperature", "distillation_alpha")
        if self.teacher_name_or_path is None and (
            useless := [name for name in teaching if getattr(self, name) != getattr(Recipe, name)]
        ):
            raise RecipeError(f"--{useless[0]} needs a --teacher_name_or_path.")
        if self.teacher_name_or_path and self.distillation_alpha == 1 and self.label_smoothing_factor:
            raise RecipeError(
                "--label_smoothing_factor smooths labels, which --distillation_alpha 1 leaves to the teacher: set it "
                "to 0, or lower --distillation_alpha."
            )
        self._check_uneven_classes()
        self._check_early_stopping()
        self._check_start()
        if self.calibration_run is not None and self.temperature:
            raise RecipeError("--temperature and --calibration_run both say what the head is divided by: give one.")
        if self.calibration_run is not None and self.validation_size:
            own = f"{self.validation_size:,}" if isinstance(self.validation_size, int) else "some"
            raise RecipeError(
                "--calibration_run is for a run that holds no images out, and this one fits its temperature on "
                f"{own} of its own: leave it out, or give --validation_size 0."
            )
        if self.push_to_hub and not self.hub_model_id:
            raise RecipeError("--push_to_hub needs the name of a repository: give --hub_model_id user/name.")

    def _check_uneven_classes(self) -> None:
        if self.class_weights == BALANCED and self.balanced_sampling:
            raise RecipeError(
                "--class_weights balanced and --balanced_sampling both even the classes out, together more than that: "
                "give one."
            )
        if self.balanced_sampling and self.alternating_flip:
            raise RecipeError(
                "--alternating_flip mirrors an image alike wherever it stands in an epoch, and --balanced_sampling "
                "shows those of small classes several times in one: give --alternating_flip false."
            )
        if self.class_weights is not None and self.teacher_name_or_path and self.distillation_alpha == 1:
            raise RecipeError(
                "--class_weights weighs the loss on labels, which --distillation_alpha 1 leaves to the teacher: leave "
                "it out, or lower --distillation_alpha."
            )

    def _check_early_stopping(self) -> None:
        if self.early_stopping_threshold and self.early_stopping_patience is None:
            raise RecipeError("--early_stopping_threshold needs an --early_stopping_patience.")
        if self.early_stopping_patience is not None and self.validation_size == 0:
            raise RecipeError(
                "--early_stopping_patience waits for an improvement on validation: give a --validation_size above 0."
            )

    def _check_start(self) -> None:
        """What goes with trained weights, and what without."""
        if self.model_name_or_path is None:
            tuning = ("freeze", "trunk_learning_rate_factor")
            if useless := [name for name in tuning if getattr(self, name) != getattr(Recipe, name)]:
                raise RecipeError(f"--{useless[0]} needs a --model_name_or_path.")
            return
        if self.config_name is not None:
            raise RecipeError(
                "--model_name_or_path brings its own network, and --config_name names another one: leave one out."
            )
        if self.stem_initialization != "random":
            raise RecipeError(
                f"--stem_initialization {self.stem_initialization} would replace weights of --model_name_or_path: "
                "leave one out."
            )
        if self.freeze != "none" and self.ema_batchnorm == "recompute":
            raise RecipeError(
                "--ema_batchnorm recompute would change the statistics that --freeze keeps: leave one out."
            )

    def to_dict(self) -> dict[str, Any]:
        """Every setting by name, as JSON and YAML have it: a list for a tuple."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    def to_yaml(self) -> str:
        """What was asked, but for what is of one start of a run; `--config` takes the text back."""
        settings = {name: value for name, value in self.to_dict().items() if name not in OF_ONE_START}
        return yaml.safe_dump(settings, sort_keys=False)


# Settings of one start, not of the run. recipe.yaml leaves them out: a file with overwrite_output_dir would replace its
# own run, and calibration_run is a folder of this machine.
OF_ONE_START = ("calibration_run", "overwrite_output_dir", "resume_from_checkpoint", "push_to_hub")

SETTINGS: dict[str, Setting] = {each.name: each.metadata["setting"] for each in dataclasses.fields(Recipe)}


@cache
def setting_types() -> dict[str, SettingType]:
    """The type of each setting."""
    return {name: setting_type(annotation) for name, annotation in get_type_hints(Recipe).items()}


def check_range(name: str, value: float | None) -> None:
    """
    Holds a number that was given elsewhere against the range of a setting.

    Raises:
        RecipeError: it lies outside of it.
    """
    check_numbers(name, SETTINGS[name], value)


def _is_step(text: str) -> bool:
    try:
        return text.isdecimal() and int(text) > 0
    except ValueError:  # of more digits than Python reads
        return False
