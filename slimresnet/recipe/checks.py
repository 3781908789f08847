"""What values a setting may have: its type, its range, and the sentence where a value is none of them."""

import itertools
from collections.abc import Sequence
from numbers import Integral, Real
from os import PathLike, fspath
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, get_args, get_origin

from slimresnet.errors import SlimResNetError, printable

LARGEST_RATE = 1e30  # a weight is multiplied with it, and has to stay a float32, whose largest is 3e38
NO_LIMIT = float("inf")


class RecipeError(SlimResNetError):
    """A setting that cannot be used; the message names the flag and says what to do."""


class Setting(NamedTuple):
    """
    What is known of a setting beside its value.

    Attributes:
        group: heading of `--help` that it stands under.
        help: one sentence that says what the value is.
        affects: `"weights"`; `"rounding"`, how the same sums are made; None where neither depends on it.
        low, high: range of its numbers, both included; infinity for no limit, and no number is infinite.
        no_help: what `--no_NAME` does, of a switch that is on by default.
    """

    group: str
    help: str
    affects: Literal["weights", "rounding"] | None
    low: float | None
    high: float
    no_help: str | None


class SettingType(NamedTuple):
    """
    The type of a setting.

    Attributes:
        of: bool, int, float or str.
        choices: the only values there are; empty where any will do.
        is_optional: None stands for a setting that is not set.
        is_sequence: a tuple of values of this type.
        or_auto: `"auto"` leaves a switch to the machine, or a number to the data.
        or_share: a number of images may be a share of all of them too, a float between 0 and 1, both left out.
    """

    of: type
    choices: tuple[str, ...] = ()
    is_optional: bool = False
    is_sequence: bool = False
    or_auto: bool = False
    or_share: bool = False

    @property
    def words(self) -> str:
        """What a value has to be, for people."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.of is bool:
            return "true, false or auto" if self.or_auto else "true or false"
        if self.or_share:
            return "a whole number, a share between 0 and 1, or auto"
        return {int: "a whole number", float: "a number", str: "text"}[self.of]


def setting_type(annotation: Any) -> SettingType:
    """The type of a setting, from its annotation in `Recipe`."""
    parts = get_args(annotation)
    if {int, float} <= {*parts}:
        return SettingType(int, or_auto=True, or_share=True)
    if isinstance(annotation, UnionType) or NoneType in parts or bool in parts:
        inner = [setting_type(part) for part in parts if part is not NoneType]
        if bool in parts:
            return SettingType(bool, or_auto=True)
        return inner[0]._replace(is_optional=True)
    if get_origin(annotation) is Literal:
        return SettingType(str, choices=parts)
    if get_origin(annotation) is tuple:
        return setting_type(parts[0])._replace(is_sequence=True)
    return SettingType(annotation)


def checked(name: str, kind: SettingType, setting: Setting, value: Any) -> Any:
    """
    A value as a recipe keeps it: a tuple for a list, a float for a whole number where numbers may be any.

    Raises:
        RecipeError: it has another type, is none of the choices, or lies outside of the range.
    """
    if value is None and kind.is_optional:
        return None
    if kind.is_sequence:
        if kind.of is str:
            value = _split_texts(value)
        if not isinstance(value, list | tuple) or not value:
            raise RecipeError(f"--{name} must be a list of values, got {value!r}.")
        value = tuple(_checked_scalar(name, kind, each) for each in value)
    else:
        value = _checked_scalar(name, kind, value)
    check_numbers(name, setting, value)
    return value


def _split_texts(value: Any) -> Any:
    """Texts of which some, or the only one, have commas between others, as a list of all; other values as they are."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        return value
    return [part.strip() for each in value for part in each.split(",") if part.strip() or not each.strip()]


def _checked_scalar(name: str, kind: SettingType, value: Any) -> Any:
    if kind.of is float and isinstance(value, Real) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return NO_LIMIT
    if kind.or_share and isinstance(value, float) and 0 < value < 1:
        return float(value)
    if kind.of is int and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)  # NumPy's too
    if kind.of is str and isinstance(value, PathLike):
        value = fspath(value)
    if (kind.or_auto and value == "auto") or (type(value) is kind.of and (not kind.choices or value in kind.choices)):
        if isinstance(value, str) and printable(value) != value:
            raise RecipeError(f"--{name} {printable(value)} is no UTF-8, as files are named here: rename it.")
        return value
    shown = str(value) if kind.choices or not isinstance(value, str) else repr(value)
    raise RecipeError(f"--{name} must be {kind.words}, got {printable(shown)}.")


def check_numbers(name: str, setting: Setting, values: Any) -> None:
    """
    Holds numbers of a setting against its range.

    Args:
        values: a number, a sequence of them, `"auto"`, or None.

    Raises:
        RecipeError: one is outside of it.
    """
    low, high = setting.low, setting.high
    if low is None:
        return
    for value in values if isinstance(values, list | tuple) else [values]:
        if value not in (None, "auto") and (not low <= value <= high or value == NO_LIMIT):
            bounds = f"between {low} and {high}"
            if high >= LARGEST_RATE:
                bounds = f"at most {high:g}" if value > high else f"at least {low}"
            bounds = "finite" if value == NO_LIMIT else bounds
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
            f"--progressive_resizing needs positive sizes and shares that rise, up to 1, got {words(stages or ())}."
        )
    return parsed


def words(values: Sequence) -> str:
    """Values as a command line has them."""
    return " ".join(map(str, values))
