"""What pyproject.toml admits is what is tested: from the oldest versions, exactly, to the pinned ones."""

import tomllib

from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.version import Version


def pins(name):
    """The versions that a constraints file holds."""
    lines = (REPOSITORY / name).read_text().splitlines()
    return {
        name.lower(): Version(version)
        for name, version in (line.split("==") for line in lines if line and not line.startswith("#"))
    }


def lower_bounds():
    """Of everything that the package and its extras for training and development require."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    bounds = {}
    for text in [*project["dependencies"], *extras["train"], *extras["export"], *extras["dev"]]:
        requirement = Requirement(text)
        if requirement.name != "slimresnet":
            (bound,) = requirement.specifier
            assert bound.operator == ">=", text
            bounds[requirement.name.lower()] = Version(bound.version)
    return bounds


def test_the_oldest_versions_tested_are_the_lower_bounds():
    assert pins("constraints-oldest.txt") == lower_bounds()


def test_the_pinned_versions_are_admitted():
    pinned = pins("constraints.txt")
    for name, bound in lower_bounds().items():
        assert pinned[name] >= bound, name
