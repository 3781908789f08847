"""The rules of the layout, read from the source: which room imports which, who names a file, how long things are."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import pytest
import transformers.utils
from conftest import REPOSITORY

from slimresnet.run_folder import names

# The rooms of slimresnet, from the one that a person calls down; `slimresnet` is the package's own `__init__`. A room
# imports from itself and from those behind it.
ORDER = (
    "cli", "slimresnet", "api", "training", "hub", "evaluation", "formats", "data", "recipe", "run_folder",
    "hub_errors", "errors", "discovery", "modeling_slimresnet",
)  # fmt: skip
LONGEST_FUNCTION, LONGEST_SCRIPT = 60, 40  # lines


def modules(root: Path) -> dict[str, ast.Module]:
    """The modules of both packages, parsed, by their path below the root."""
    files = sorted((root / "slimresnet").rglob("*.py")) + sorted((root / "modeling_slimresnet").rglob("*.py"))
    return {file.relative_to(root).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def dotted(path: str) -> str:
    """The name that a module is imported by."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room_of(module: str) -> str:
    first, *rest = module.split(".")
    return rest[0] if first == "slimresnet" and rest else first


def imports(tree: ast.Module, known: set[str]) -> Iterator[tuple[int, str]]:
    """Line and name of each import, in functions too; of `from a import b` the name is `a.b` where that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield node.lineno, f".{node.module or ''}" if node.level else whole if whole in known else node.module


def imports_against_the_order(root: Path) -> list[str]:
    parsed = modules(root)
    known = {dotted(path) for path in parsed}
    outside = {file.stem for file in root.glob("*.py")} | {"benchmarks", "demo", "examples", "tests"}
    faults = []
    for path, tree in parsed.items():
        room = room_of(dotted(path))
        if room not in ORDER:
            faults.append(f"{path} has no place in the order")
            continue
        for line, name in imports(tree, known):
            first, target = name.split(".")[0], room_of(name)
            if name.startswith("."):
                if room != "modeling_slimresnet":
                    faults.append(f"{path}:{line} imports relatively")
            elif first in outside:
                faults.append(f"{path}:{line} imports {name}, which is not installed")
            elif first in ("slimresnet", "modeling_slimresnet") and target not in ORDER[ORDER.index(room) :]:
                faults.append(f"{path}:{line} imports {name}, of a room above")
    return faults


def circles(root: Path) -> list[str]:
    """A circle of modules that import each other, if there is one."""
    parsed = modules(root)
    known = {dotted(path) for path in parsed}
    graph = {dotted(path): {name for _, name in imports(tree, known) if name in known} for path, tree in parsed.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" ← ".join(error.args[1])]
    return []


def packages_without_a_docstring(root: Path) -> list[str]:
    parsed = modules(root)
    folders = {Path(path).parent for path in parsed if "/metrics/" not in path}  # scripts that `evaluate` copies
    inits = {(folder / "__init__.py").as_posix() for folder in folders}
    return [path for path in sorted(inits) if path not in parsed or not ast.get_docstring(parsed[path])]


CONSTANTS = {name: value for name, value in vars(names).items() if name.isupper()}
TEXTS = {text for value in CONSTANTS.values() for text in ([value] if isinstance(value, str) else value)}
WHOLE = {part for text in TEXTS for part in text.split("/") if "." in part}
WHOLE |= {names.FIGURES_FOLDER, names.CHECKSUMS_NAME}
SUFFIXES = tuple(text for name, text in CONSTANTS.items() if name.endswith("_SUFFIX"))


def names_a_file(text: str) -> bool:
    """Whether a text is a path of a run's file, or a part of one. A sentence is none: it quotes names to people."""
    is_word = not any(map(str.isspace, text))
    return is_word and (
        names.CHECKPOINT_PREFIX in text or text.endswith(SUFFIXES) or not WHOLE.isdisjoint(text.split("/"))
    )


def names_spelt_elsewhere(root: Path) -> list[str]:
    home = Path(names.__file__).relative_to(REPOSITORY).as_posix()
    faults = []
    for path, tree in modules(root).items():
        if path == home or path.startswith("modeling_slimresnet/"):
            continue
        # Pieces of a sentence that has values in it are no names, and neither are docstrings.
        sentences = {
            piece
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            and any(isinstance(piece, ast.Constant) and " " in piece.value for piece in node.values)
            for piece in node.values
        }
        texts = [each for each in ast.walk(tree) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        spelt = [(each.lineno, each.value) for each in texts if each not in sentences and names_a_file(each.value)]
        faults += [f"{path}:{line} spells {text!r}" for line, text in sorted(spelt)]
    return faults


def long_functions(root: Path) -> list[str]:
    return [
        f"{path}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path, tree in modules(root).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.end_lineno - node.lineno >= LONGEST_FUNCTION
    ]


def long_scripts(root: Path) -> list[str]:
    lengths = {file.name: len(file.read_text(encoding="utf-8").splitlines()) for file in root.glob("*.py")}
    return [f"{name} has {length} lines" for name, length in lengths.items() if length > LONGEST_SCRIPT]


RULES = (
    imports_against_the_order, circles, packages_without_a_docstring, names_spelt_elsewhere, long_functions,
    long_scripts,
)  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_is_kept(rule):
    assert len(modules(REPOSITORY)) > 60
    assert rule(REPOSITORY) == []


LONG = "def run():\n" + "    pass\n" * LONGEST_FUNCTION
A, B = "slimresnet/data/a.py", "slimresnet/data/cellar/__init__.py"
PLANTED = [
    (imports_against_the_order, A, "import slimresnet.evaluation.scoring", "a.py:1 imports"),
    (imports_against_the_order, A, "from slimresnet import evaluation", "a.py:1 imports"),
    (imports_against_the_order, A, "from slimresnet import Recipe", "a.py:1 imports"),
    (imports_against_the_order, "slimresnet/errors.py", "def f():\n    import slimresnet.cli", "errors.py:2"),
    (imports_against_the_order, "modeling_slimresnet/a.py", "import slimresnet.errors", "modeling_slimresnet/a.py:1"),
    (imports_against_the_order, A, "from .b import c", "a.py:1 imports relatively"),
    (imports_against_the_order, "slimresnet/cli/a.py", "import train", "a.py:1 imports train"),
    (imports_against_the_order, "slimresnet/cli/a.py", "from benchmarks.measuring import machine", "a.py:1 imports"),
    (imports_against_the_order, "slimresnet/cellar/a.py", "", "a.py has no place"),
    (circles, A, "from slimresnet.data import b", "data.a ← slimresnet.data.b"),
    (circles, A, "def f():\n    import slimresnet.data.b", "data.a ← slimresnet.data.b"),
    (packages_without_a_docstring, B, "import os", "data/cellar/__init__.py"),
    (packages_without_a_docstring, "slimresnet/data/cellar/a.py", '"""No package."""', "data/cellar/__init__.py"),
    (names_spelt_elsewhere, A, "a = 'all_results.json'", "a.py:1 spells 'all_results.json'"),
    (names_spelt_elsewhere, A, "a = f'{folder}/config.json'", "a.py:1 spells '/config.json'"),
    (names_spelt_elsewhere, A, "a = f'{prefix}_details.json'", "a.py:1 spells '_details.json'"),
    (names_spelt_elsewhere, A, "a = folder / 'figures'", "a.py:1 spells 'figures'"),
    (names_spelt_elsewhere, A, "a = f'checkpoint-{step}'", "a.py:1 spells 'checkpoint-'"),
    (long_functions, A, LONG, "a.py:1 run has 61 lines"),
    (long_functions, A, f"class A:\n{indent(LONG, '  ')}", "a.py:2 run has 61"),
    (long_scripts, "train.py", "import os\n" * 41, "train.py has 41 lines"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "file", "text", "said"), PLANTED)
def test_a_fault_that_is_planted_is_found(tmp_path, rule, file, text, said):
    house = {
        "slimresnet/__init__.py": '"""The package."""\nfrom slimresnet.api.training import train\n',
        "slimresnet/api/__init__.py": '"""What a person calls."""',
        "slimresnet/api/training.py": "def train(): ...",
        "slimresnet/evaluation/__init__.py": '"""Scores."""',
        "slimresnet/data/__init__.py": '"""Rows."""',
        "slimresnet/data/b.py": "from slimresnet.data import a\nprint(f'there is no config.json in {a}')",
        "slimresnet/data/a.py": "import modeling_slimresnet\nfrom slimresnet.errors import b",
        "slimresnet/hub_errors.py": "import slimresnet.errors",
        "slimresnet/errors.py": "",
        "modeling_slimresnet/__init__.py": '"""The model."""\nfrom .modeling import a',
        "train.py": "from slimresnet.cli import train",
    }  # fmt: skip
    for name, content in house.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert [fault for each in RULES for fault in each(tmp_path)] == []
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    [found] = rule(tmp_path)
    assert said in found


def test_transformers_looks_for_these_names():
    assert transformers.utils.CONFIG_NAME == names.CONFIG_NAME
    assert transformers.utils.SAFE_WEIGHTS_NAME == names.WEIGHTS_NAME
    assert transformers.utils.IMAGE_PROCESSOR_NAME == names.PREPROCESSOR_NAME
