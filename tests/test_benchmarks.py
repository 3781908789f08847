"""The README's figures are those of the files, and the files those of the commands beside them."""

import json

import pytest

from benchmarks.measuring import FOLDER, take_turns
from benchmarks.write_readme import FILES, README, updated


def test_the_readme_quotes_the_files():
    text = README.read_text(encoding="utf-8")
    assert updated(text) == text, "run python -m benchmarks.write_readme"


@pytest.mark.parametrize("name", FILES)
def test_ratios_are_of_the_speeds_beside_them(name):
    result = json.loads((FOLDER / f"{name}.json").read_text())
    assert result["command"].startswith(f"python -m benchmarks.{name}")
    for table in result["tables"].values():
        base = table["rows"][table["ratio_to"]]["images_per_second"]
        for row in table["rows"].values():
            assert row["ratio"] == pytest.approx(row["images_per_second"] / base, abs=0.006)
            assert row["lowest"] <= row["images_per_second"] <= row["highest"]


def test_contenders_take_turns():
    calls = []
    contenders = {name: lambda name=name: calls.append(name) or 10 for name in "AB"}
    result = take_turns(contenders, rounds=3)
    assert "".join(calls) == "AB" + "ABABAB"  # a first call that is not counted, then in turn
    assert all(row["lowest"] <= row["images_per_second"] <= row["highest"] for row in result.values())
