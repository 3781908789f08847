"""What the JSON files of a run hold, as far as these tools rely on it: the types, by the name of the file."""

import re
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from typing import NamedTuple, TypeGuard

from slimresnet.run_folder.names import CORRUPTIONS_SUFFIX, DETAILS_SUFFIX, EXPORTS_NAME, RESULTS_NAME


class Kind(NamedTuple):
    """What a value has to be: in words, and as a test."""

    words: str
    holds: Callable[[object], bool]


def _is_number(value: object) -> TypeGuard[float]:
    """Whether a value fits into a float; JSON has whole numbers of any length."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


NUMBER = Kind("a number", _is_number)
COUNT = Kind("a whole number, 0 or more", lambda value: _is_number(value) and value >= 0 and value == int(value))
TEXT = Kind("text", lambda value: isinstance(value, str))
SWITCH = Kind("true or false", lambda value: isinstance(value, bool))
POLICIES = ("none", "flip", "flip_shift", "paper")  # of test-time augmentation, as `evaluation.tta` defines them
POLICY = Kind(f"one of {', '.join(POLICIES)}", lambda value: isinstance(value, str) and value in POLICIES)
POLICY_OR_SCORE = Kind(  # of other data, or of a metric that is not known here
    f"{POLICY.words}, or a number", lambda value: POLICY.holds(value) or _is_number(value)
)
TEMPERATURES = (0.01, 100.0)  # least and largest that a head is divided by; beyond, it would answer one thing to all
TEMPERATURE = Kind(
    f"a number from {TEMPERATURES[0]} to {TEMPERATURES[1]:g}",
    lambda value: _is_number(value) and TEMPERATURES[0] <= value <= TEMPERATURES[1],
)
SOURCES = ("held_out", "twin", "recipe")  # of a temperature, as `training.calibration` writes them
SOURCE = Kind(f"one of {', '.join(SOURCES)}", lambda value: isinstance(value, str) and value in SOURCES)
NUMBERS = Kind("a list of numbers", lambda value: isinstance(value, list) and all(map(_is_number, value)))
BINS = Kind(
    "a list of bins, each with the numbers confidence, accuracy and share",
    lambda value: (
        isinstance(value, list)
        and all(
            isinstance(each, dict) and all(_is_number(each.get(name)) for name in ("confidence", "accuracy", "share"))
            for each in value
        )
    ),
)


class Schema(NamedTuple):
    """
    What an object has to be.

    Attributes:
        kinds: by a regular expression of names, what the values have to be. The first match counts; values of other
            names are free.
        required: names that the object must have.
    """

    kinds: "dict[str, Kind | Schema]"
    required: tuple[str, ...] = ()


_FIGURES = r"accuracy|accuracy_low|accuracy_high|m(acro|icro)_f1|mean_average_precision|exact_match|threshold_f1"
_CALIBRATED = r"(loss|expected_calibration_error)(_uncalibrated)?"
_RESULTS = Schema(
    {
        "calibration_temperature": TEMPERATURE,
        "calibration_source": SOURCE,
        rf"epoch|total_flos|.*_({_FIGURES}|{_CALIBRATED})(_tta)?|.*_(runtime|samples_per_second)": NUMBER,
        r"train_(validation|test)_size|train_(started_from|teacher)_saw_held_out": COUNT,
        r".*_(samples|num_rows|times_scored|num_processes|corruptions|teacher_parameters)": COUNT,
        r".*_(dataset|split|fingerprint|precision|frost|device|chose|teacher|started_from|started_from_digest)": TEXT,
        r"train_(ended_by|class_weights)": TEXT,
        r".*_is_local|.*_is_new": SWITCH,
        r"(eval|test)(_corruption|_extra_corruption|_chose)?_tta": POLICY,
        r".*_tta": POLICY_OR_SCORE,
        r"(eval|test)_.*": NUMBER,  # whatever else a run says of its splits is a score
    }
)
_EXPORT = Schema(
    {
        "bytes|checked_images|calibration_images|opset": COUNT,
        "same_class|largest_logit|largest_difference": NUMBER,
        "checked_on|pixel_values": TEXT,
        "smallest_side": Kind("a whole number, or null", lambda value: value is None or COUNT.holds(value)),
    },
    required=("pixel_values", "bytes", "same_class", "checked_images"),
)
_SCHEMAS = {
    RESULTS_NAME: _RESULTS,  # a run has the figures that it measured
    EXPORTS_NAME: Schema({".*": _EXPORT}),
    f"*{CORRUPTIONS_SUFFIX}": Schema({".*": Schema({".*": NUMBERS})}),
    f"*{DETAILS_SUFFIX}": Schema({"reliability|reliability_uncalibrated": BINS}),
}


def find_fault(name: str, content: dict) -> str | None:
    """
    The first fault of a JSON file, in a few words; None where no fault is known.

    Args:
        name: name of the file, which decides what the file has to hold.
        content: the object in the file.
    """
    schema = next((schema for pattern, schema in _SCHEMAS.items() if fnmatch(name, pattern)), Schema({}))
    return _find_fault(content, schema, "")


def _find_fault(content: dict, schema: Schema, path: str) -> str | None:
    for name, value in content.items():
        kind = next((kind for pattern, kind in schema.kinds.items() if re.fullmatch(pattern, name)), None)
        if isinstance(kind, Schema):
            inside = f"{path}{name}"
            fault = (
                _find_fault(value, kind, f"{inside}: ")
                if isinstance(value, dict)
                else f"{inside} must be an object of names and values, got {_short(value)}"
            )
        else:
            fault = (
                None if kind is None or kind.holds(value) else f"{path}{name} must be {kind.words}, got {_short(value)}"
            )
        if fault:
            return fault
    missing = [name for name in schema.required if name not in content]
    return f"{path}{missing[0]} is missing" if missing else None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
