"""
The names of a run's files, each with what the file is, and the sets that belong together. No other module spells one.

A name is a path below the run's folder, a picture's below the folder of figures. A suffix follows the prefix of the
scored rows, such as `test` or `eval`. What a network is exported to is named by its format, in `slimresnet.formats`.
"""

# The network, by the names that transformers looks for.
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
PREPROCESSOR_NAME = "preprocessor_config.json"  # the image processor
MODEL_CODE = ("configuration_slimresnet.py", "modeling_slimresnet.py")  # for trust_remote_code=True
NETWORK_FILES = (CONFIG_NAME, WEIGHTS_NAME, PREPROCESSOR_NAME)  # data alone
LOADABLE_FILES = (*NETWORK_FILES, *MODEL_CODE)  # all that from_pretrained needs

# The run.
RECIPE_NAME = "recipe.yaml"  # what was asked
CLASS_WEIGHTS_NAME = "class_weights.json"  # of a run whose --class_weights was a file: what that held
RESULTS_NAME = "all_results.json"  # every figure; a folder that has it holds a finished run
TRAINER_STATE_NAME = "trainer_state.json"  # the history of training, as transformers writes it; of checkpoints too
CARD_NAME = "README.md"  # the model card

# Scores.
DETAILS_SUFFIX = "_details.json"  # confusion matrix, figures of each class, bins of the reliability diagram
CORRUPTIONS_SUFFIX = "_corruptions.json"  # accuracy under each corruption and severity

# Pictures.
FIGURES_FOLDER = "figures"
CURVES_PICTURE = "curves.png"
LEARNING_RATE_PICTURE = "learning_rate.png"
TRAINING_SAMPLES_PICTURE = "training_samples.png"
CONFUSION_MATRIX_SUFFIX = "_confusion_matrix.png"
CLASSES_SUFFIX = "_classes.png"
RELIABILITY_SUFFIX = "_reliability.png"
MISTAKES_SUFFIX = "_mistakes.png"
AVERAGE_PRECISION_SUFFIX = "_average_precision.png"  # of each class, where an image may be of several
RUN_PICTURES = (CURVES_PICTURE, LEARNING_RATE_PICTURE, TRAINING_SAMPLES_PICTURE)
SCORE_PICTURE_SUFFIXES = (
    CONFUSION_MATRIX_SUFFIX,
    CLASSES_SUFFIX,
    RELIABILITY_SUFFIX,
    MISTAKES_SUFFIX,
    AVERAGE_PRECISION_SUFFIX,
)
TEST_PICTURES = tuple(f"test{suffix}" for suffix in SCORE_PICTURE_SUFFIXES)
FIGURES = tuple(f"{FIGURES_FOLDER}/{name}" for name in RUN_PICTURES + TEST_PICTURES)

# What training writes at its end.
RUN_FILES = (
    RESULTS_NAME, RECIPE_NAME, TRAINER_STATE_NAME, CONFIG_NAME, WEIGHTS_NAME, PREPROCESSOR_NAME, CARD_NAME, *MODEL_CODE,
    CLASS_WEIGHTS_NAME, f"eval{DETAILS_SUFFIX}", f"test{DETAILS_SUFFIX}", *FIGURES,
)  # fmt: skip

# Exports.
EXPORTS_NAME = "exports.json"  # of each exported file: what it takes, and how it was checked

# A checkpoint, beside the weights and the trainer's state.
CHECKPOINT_PREFIX = "checkpoint-"  # of a folder, before the step
CHECKSUMS_NAME = "SHA256SUMS"  # as `sha256sum --check` reads it; a checkpoint that has it is complete
FINGERPRINT_NAME = "run.json"  # which run the checkpoint is of
OPTIMIZER_NAME = "optimizer.bin"  # the state of the optimiser, pickled tensors
SCALER_NAME = "scaler.pt"  # the state of the loss scaler, pickled tensors
PROGRESS_NAME = "progress.json"  # step, history, best score
AVERAGED_WEIGHTS_NAME = "averaged.safetensors"
BEST_WEIGHTS_NAME = "best.safetensors"
PICKLED_PROGRESS_NAME = "custom_checkpoint_0.pkl"  # of earlier versions, in place of PROGRESS_NAME
PICKLED_AVERAGED_NAME = "custom_checkpoint_1.pkl"  # of earlier versions, in place of AVERAGED_WEIGHTS_NAME

# The folder within a run's folder in which all is this package's.
OWN_NAME = ".slimresnet"
LOCK_NAME = f"{OWN_NAME}/lock"  # held by the process that is at work
OWNER_NAME = f"{OWN_NAME}/owner.json"  # which process that is
RECORD_NAME = f"{OWN_NAME}/record.json"  # the files that were written here, with their digests
CHANGE_NAME = f"{OWN_NAME}/change"  # a change in the making
JOURNAL_NAME = f"{CHANGE_NAME}/journal.json"  # of a change that was decided on: what goes where
NEXT_RECORD_NAME = f"{CHANGE_NAME}/record.json"  # of a change that was decided on: the record as it is to be
UNFINISHED_NAME = f"{OWN_NAME}/unfinished"  # checkpoints that are being written or removed
REPLACEMENT_NAME = f"{OWN_NAME}/replacement"  # checkpoints of a run that is to take the place of the one in the folder

# A page that `python -m demo.build` made.
PAGE_NAME = "about.json"  # its files, its classes, its test images
