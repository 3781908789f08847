"""`push` as Python calls it. What goes to the Hub, and how, is in tests/hub."""

import inspect

import pytest
from process_state import unchanged

from slimresnet.api.push import push
from slimresnet.cli import push_to_hub as script
from slimresnet.hub_errors import HubError


def test_flags_are_arguments_with_the_same_defaults():
    parameters = inspect.signature(push).parameters
    flags = vars(script.parse(["run", "--repo_id=user/name"]))
    assert flags == {"folder": "run", "repo_id": "user/name"} | {
        name: parameter.default for name, parameter in parameters.items() if name not in ("folder", "repo_id")
    }


def test_it_is_called_from_any_folder_and_again(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained.parent)
    with unchanged():
        for folder in (trained.name, trained):
            assert push(folder, "user/name", dry_run=True, license="mit") is None
    first, second = capsys.readouterr().out.split("in 18 files\n")[:2]
    assert first == second and "bytes  model.safetensors" in first


def test_a_mistake_is_raised(trained, tmp_path):
    with unchanged(), pytest.raises(HubError, match=r"is not a finished run, it has no config\.json"):
        push(tmp_path, "user/name")
    with pytest.raises(HubError, match="--license is for a run's model card"):
        push(trained, "user/name", space=True, license="mit")


def test_a_flag_that_is_nearly_right_gets_its_name(capsys):
    for words, said in ((["--repo=user/name"], "--repo_id"), (["--repo_id=a/b", "--licence=mit"], "--license")):
        with pytest.raises(SystemExit):
            script.parse(["run", *words])
        assert f"did you mean {said}?" in capsys.readouterr().err


def test_a_dry_run_knows_a_name_that_no_repository_can_have(tmp_path):
    with pytest.raises(HubError, match=r"--repo_id a b/c/d cannot be the name of a repository .*: it is user/name"):
        push(tmp_path, "a b/c/d", dry_run=True)
