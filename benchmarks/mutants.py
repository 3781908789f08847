"""Plants small faults and counts those that the tests notice: python -m benchmarks.mutants --sample 25

The faults are mutmut's: another operator, number, string or keyword, an argument left out. For each module they are
drawn by seed, planted one at a time into a copy of the repository, and given to the tests that exercise the module. A
fault is loud where the program breaks by itself; of the silent ones, those that a test's own assertion catches are
counted. What survives is written into `benchmarks/mutants.json`, to be read: a test is written for it, or a reason
beside it why it may stay. `pip install -e ".[mutation]"` brings mutmut.
"""

import argparse
import contextlib
import difflib
import gc
import importlib
import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("modeling_slimresnet", "slimresnet")
# Where the tests of a module are not `tests/ROOM/test_MODULE.py`.
OWN_TESTS = {
    "modeling_slimresnet/configuration_slimresnet.py": ["model/test_configuration.py", "model/test_modeling.py"],
    "modeling_slimresnet/modeling_slimresnet.py": [
        "model/test_modeling.py", "training/test_initialization.py", "model/test_losses.py", "model/test_promises.py",
    ],
    "slimresnet/data/corruptions/extra.py": ["data/test_corruptions.py", "evaluation/test_shift.py"],
    "slimresnet/data/corruptions/frost.py": ["data/test_corruptions.py", "evaluation/test_shift.py"],
    "slimresnet/data/corruptions/standard.py": ["data/test_corruptions.py", "evaluation/test_shift.py"],
    "slimresnet/data/device.py": ["data/test_inputs.py"],
    "slimresnet/data/splits.py": ["data/test_dataset.py", "data/test_bad_data.py"],
    "slimresnet/data/sources/dataset.py": ["data/test_dataset.py", "data/test_bad_data.py"],
    "slimresnet/data/sources/prediction.py": ["api/test_predict.py"],
    "slimresnet/data/transforms/cutmix.py": ["data/test_mixing.py"],
    "slimresnet/data/transforms/mixup.py": ["data/test_mixing.py"],
    "slimresnet/discovery.py": ["formats/test_registry.py", "data/test_sources.py", "data/test_transforms.py"],
    "slimresnet/errors.py": ["cli/test_sentences.py"],
    "slimresnet/hub_errors.py": ["cli/test_sentences.py"],
    "slimresnet/recipe/hardware.py": ["recipe/test_speed.py", "training/test_cuda_graphs.py"],
    "slimresnet/recipe/settings.py": ["recipe/test_recipe.py", "recipe/test_bad_recipes.py"],
    "slimresnet/training/loop.py": ["training/test_training.py", "training/test_preemption.py"],
    "slimresnet/training/output_dir.py": ["training/test_checkpoints.py", "training/test_training.py"],
    "slimresnet/training/state/fingerprint.py": ["training/test_checkpoints.py", "evaluation/test_rows.py"],
    "slimresnet/training/state/progress.py": ["training/test_checkpoints.py", "training/test_training.py"],
    "slimresnet/training/step.py": ["training/test_sam.py", "training/test_training.py"],
}  # fmt: skip
# What takes seconds to import, and no tests change.
PRELOADED = (
    "accelerate", "datasets", "evaluate", "hypothesis", "matplotlib.pyplot", "scipy.special", "sklearn.metrics",
    "torch.utils.data", "transformers.modeling_utils", "transformers.models.auto", "transformers.hf_argparser",
    "transformers.models.vit.image_processing_pil_vit",
)  # fmt: skip
CONTEXT = multiprocessing.get_context("fork")


class Mutant(NamedTuple):
    """A fault: the module, the line that it begins at, that code as it was and becomes, and the whole text."""

    module: str
    line: int
    was: str
    becomes: str
    text: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.module, self.was, self.becomes


def draw(module: str, text: str, sample: int, seed: int) -> list[Mutant]:
    """Mutants of a module's text, but none of a sentence, which is a message, and no None for a value."""
    # Here, since only this command needs them: --help and the tests do without.
    import libcst
    from mutmut.mutation.file_mutation import create_mutations

    tree, mutations, *_ = create_mutations(module, text)
    population = []
    for mutation in mutations:
        was, becomes = (tree.code_for_node(node) for node in (mutation.original_node, mutation.mutated_node))
        is_prose = isinstance(mutation.original_node, libcst.SimpleString) and " " in was
        if not is_prose and becomes.count("None") <= was.count("None"):
            population.append(mutation)
    drawn = random.Random(f"{seed} {module}").sample(population, min(sample, len(population)))
    mutated = (tree.deep_replace(mutation.original_node, mutation.mutated_node).code for mutation in drawn)
    return [_compare(module, text, other) for other in dict.fromkeys(mutated) if other != text]


def _compare(module: str, text: str, mutated: str) -> Mutant:
    lines, others = text.splitlines(), mutated.splitlines()
    blocks = difflib.SequenceMatcher(None, lines, others, autojunk=False).get_opcodes()
    (_, start, _, start_of_other, _), *_ = changed = [block for block in blocks if block[0] != "equal"]
    was, becomes = lines[start : changed[-1][2]], others[start_of_other : changed[-1][4]]
    return Mutant(module, start + 1, " ".join(map(str.strip, was)), " ".join(map(str.strip, becomes)), mutated)


def modules() -> list[str]:
    """All modules of both packages, by their path."""
    files = [file for package in PACKAGES for file in sorted((REPOSITORY / package).rglob("*.py"))]
    return [file.relative_to(REPOSITORY).as_posix() for file in files if not file.stem.startswith("__")]


def tests_of(module: str) -> tuple[list[str], list[str]]:
    """
    The tests of a module: its own, and the others of its room. The first that fails ends a mutant.

    Returns:
        Two lists of files below `tests`.
    """
    package, room, *_ = PurePosixPath(module).parts
    folder = REPOSITORY / "tests" / ("model" if package == "modeling_slimresnet" else room)
    files = [f"{folder.name}/{file.name}" for file in sorted(folder.glob("test_*.py"))]
    name = f"{folder.name}/test_{PurePosixPath(module).stem}.py"
    own = OWN_TESTS.get(module, [name] if name in files else [])
    return own, [file for file in files if file not in own]


class _Watch:
    """Tells an assertion that failed from a program that broke; of the others' tests it takes the quick ones."""

    def __init__(self, own: list[str]):
        self.outcome, self._own = "survived", own

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        def is_taken(item: pytest.Item) -> bool:
            is_quick = not any(map(item.get_closest_marker, ("slow", "processes", "browser")))
            return is_quick or item.nodeid.removeprefix("tests/").split("::")[0] in self._own

        config.hook.pytest_deselected(items=[item for item in items if not is_taken(item)])
        items[:] = filter(is_taken, items)

    def pytest_exception_interact(self, call: pytest.CallInfo) -> None:
        noticed = (AssertionError, pytest.fail.Exception)
        self.outcome = "caught" if isinstance(call.excinfo.value, noticed) else "loud"


def _run_tests(tree: Path, module: str, result: Path) -> None:
    """What a child does: pytest in the copy, up to the first test that fails."""
    own, others = tests_of(module)
    os.setsid()  # with what the tests start, it can be stopped as one
    os.chdir(tree)
    sys.path[0] = str(tree)
    sys.dont_write_bytecode = True  # a file that changes twice a second would be taken for its last version
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]
    with (tree / "log.txt").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    watch = _Watch(own)
    files = [f"tests/{file}" for file in own + others]
    code = pytest.main(["-x", "-q", "-n0", "-p", "no:cacheprovider", *files], [watch])
    result.write_text("loud" if code and watch.outcome == "survived" else watch.outcome)


def outcome(tree: Path, module: str, seconds: float) -> str:
    """`survived`, `caught`, `loud`, or `hung` where the tests took longer than `seconds`."""
    result = tree / "outcome.txt"
    result.write_text("loud")  # what stands where the child died
    child = CONTEXT.Process(target=_run_tests, args=(tree, module, result))
    child.start()
    child.join(seconds)
    if child.is_alive():
        os.killpg(child.pid, signal.SIGKILL)
        child.join()
        return "hung"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # workers that a broken test left
    return result.read_text()


def examine(tree: Path, module: str, sample: int, seed: int) -> dict[Mutant, str]:
    """The outcome of each mutant that is drawn."""
    started = time.perf_counter()
    if outcome(tree, module, 1800) != "survived":
        sys.exit(f"The tests of {module} fail without a fault:\n{(tree / 'log.txt').read_text()[-3000:]}")
    limit = 60 + 5 * (time.perf_counter() - started)
    text = (tree / module).read_text(encoding="utf-8")
    outcomes = {}
    for mutant in draw(module, text, sample, seed):
        (tree / module).write_text(mutant.text, encoding="utf-8")
        outcomes[mutant] = outcome(tree, module, limit)
        if outcomes[mutant] == "survived":
            print(f"{module}:{mutant.line}\n  - {mutant.was}\n  + {mutant.becomes}", flush=True)
    (tree / module).write_text(text, encoding="utf-8")
    return outcomes


def record(path: Path, command: str, outcomes: dict[Mutant, str]) -> list[dict]:
    """Brings outcomes into the file: what survived keeps its reason, what was caught goes. Returns the unread ones."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"modules": {}, "survivors": []}
    reasons = {(each["module"], each["was"], each["becomes"]): each["reason"] for each in known["survivors"]}
    for mutant, result in outcomes.items():
        reason = reasons.pop(mutant.key, "")
        if result == "survived":
            reasons[mutant.key] = reason
    for module in {mutant.module for mutant in outcomes}:
        results = [result for mutant, result in outcomes.items() if mutant.module == module]
        loud = results.count("loud") + results.count("hung")
        known["modules"][module] = {
            "command": command, "mutants": len(results), "loud": loud, "silent": len(results) - loud,
            "caught": results.count("caught"),
        }  # fmt: skip
    known["modules"] = dict(sorted(known["modules"].items()))
    known["survivors"] = [
        dict(zip(("module", "was", "becomes", "reason"), (*key, reason), strict=True))
        for key, reason in sorted(reasons.items())
    ]
    path.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [each for each in known["survivors"] if not each["reason"]]


def main() -> None:
    """Examines the modules; fails where a survivor has no reason beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help="such as slimresnet/data/loader.py; by default all"
    )
    parser.add_argument("--sample", type=int, default=25, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "mutants.json")
    arguments = parser.parse_args()
    if unknown := sorted({*arguments.modules} - {*modules()}):
        parser.error(f"{', '.join(unknown)}: no such module, choose from {', '.join(modules())}")
    if importlib.util.find_spec("mutmut") is None:
        parser.error("a package is missing: pip install mutmut")
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # pytest collects garbage, which a child need not look for among all that it was born with
    command = f"python -m benchmarks.mutants --sample {arguments.sample} --seed {arguments.seed}"
    unread = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(REPOSITORY, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "runs", "node_modules"))
        for module in arguments.modules or modules():
            outcomes = examine(tree, module, arguments.sample, arguments.seed)
            unread = record(arguments.output, command, outcomes)
            print(module, json.loads(arguments.output.read_text())["modules"][module], flush=True)
    if unread:
        sys.exit(f"{len(unread)} survivors have no reason in {arguments.output}: write a test for each, or its reason.")


if __name__ == "__main__":
    main()
