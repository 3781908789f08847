"""The names of a run's files. No other module spells one."""

RESULTS_NAME = "all_results.json"
RECIPE_NAME = "recipe.yaml"
TRAINER_STATE_NAME = "trainer_state.json"
FINGERPRINT_NAME = "run.json"  # of a checkpoint
CHECKSUMS_NAME = "SHA256SUMS"  # of a checkpoint, as `sha256sum --check` reads it
CARD_NAME = "README.md"
FIGURES = (
    "figures/curves.png", "figures/learning_rate.png", "figures/training_samples.png",
    "figures/test_confusion_matrix.png", "figures/test_classes.png", "figures/test_reliability.png",
    "figures/test_mistakes.png",
)  # fmt: skip
RUN_FILES = (
    RESULTS_NAME, RECIPE_NAME, TRAINER_STATE_NAME, "config.json", "model.safetensors", "preprocessor_config.json",
    CARD_NAME, "configuration_slimresnet.py", "modeling_slimresnet.py", "eval_details.json", "test_details.json",
    *FIGURES,
)  # fmt: skip

# Exports.
EXPORTS_NAME = "exports.json"  # of each exported file: what it takes, and how it was checked
