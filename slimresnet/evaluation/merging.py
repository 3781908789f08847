"""Which earlier figures of a folder may stand beside new ones."""

import math
from collections.abc import Iterable

_SCALED = "_expected_calibration_error_scaled"


def still_true(before: dict, results: dict) -> dict:
    """
    The earlier figures that may stand beside new ones.

    Left out are figures of the same rows with another policy, figures of other data under the same names, and figures
    that were scaled with another temperature.
    """
    elsewhere = tuple(
        name.removesuffix("fingerprint")
        for name in results
        if name.endswith("_fingerprint") and before.get(name) not in (None, results[name])
    )
    refitted = is_refitted(before, results)
    return {
        name: value
        for name, value in before.items()
        if name.removesuffix("_tta") not in results
        and not name.startswith(elsewhere)
        and not (refitted and name.endswith("_scaled"))
    }


def is_refitted(before: dict, results: dict) -> bool:
    """Whether new figures have another temperature than earlier ones."""
    if not results.get("temperature") or not before.get("temperature"):
        return False
    return not math.isclose(results["temperature"], before["temperature"], rel_tol=1e-3)  # a fit, and rounding


def scaled_splits(before: dict) -> Iterable[str]:
    """Prefixes of the splits whose details were scaled with the temperature of these figures."""
    return (name.removesuffix(_SCALED) for name in before if name.endswith(_SCALED))


def without_scaling(details: dict) -> dict:
    """Details of a split without those that a temperature made."""
    return {name: value for name, value in details.items() if not name.endswith("_scaled")}
