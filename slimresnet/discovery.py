"""Finding modules by the folder that they lie in: what is added there needs no entry in a list."""

import importlib
import pkgutil
from types import ModuleType


def modules_of(package: str) -> list[ModuleType]:
    """The modules of a package, given by its dotted name, each imported, in the order of their names."""
    names = sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__))
    return [importlib.import_module(f"{package}.{name}") for name in names]
