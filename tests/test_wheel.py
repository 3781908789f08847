"""What pip installs is all of both packages, the recipes and the networks."""

import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import REPOSITORY

SOURCES = ("modeling_slimresnet", "slimresnet", "configuration", "pyproject.toml", "README.md", "LICENSE")
CONFIGURATION = REPOSITORY / "configuration"


@pytest.mark.processes
def test_a_wheel_has_every_module_and_every_file_that_modules_read(tmp_path):
    tree = tmp_path / "tree"
    for name in SOURCES:  # a copy: setuptools leaves folders beside what it builds
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        tree.mkdir(exist_ok=True)
        copy(REPOSITORY / name, tree / name)
    # Without the network: the setuptools that is installed builds it.
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run([*pip, f"--wheel-dir={tmp_path}", tree], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    [wheel] = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    shipped = [file for pattern in ("*.yaml", "networks/*.json") for file in CONFIGURATION.glob(pattern)]
    expected = {f"slimresnet/configuration/{file.relative_to(CONFIGURATION).as_posix()}" for file in shipped}
    for package in ("modeling_slimresnet", "slimresnet"):
        files = [
            file for file in (REPOSITORY / package).rglob("*") if file.is_file() and file.parent.name != "__pycache__"
        ]
        expected |= {file.relative_to(REPOSITORY).as_posix() for file in files}
    assert packed == expected
    assert {"slimresnet/hub/model_card.md.jinja", "slimresnet/configuration/fast.yaml"} < packed
    assert "slimresnet/configuration/networks/wide.json" in packed
