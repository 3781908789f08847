"""The command lines: parse, call, print. What a command does belongs elsewhere."""

from importlib.util import find_spec

# A plain `pip install slimresnet` brings the model alone: a sentence, and no traceback from the middle of an import.
if missing := [package for package in ("accelerate", "datasets", "evaluate") if find_spec(package) is None]:
    raise SystemExit(f'slimresnet: error: {", ".join(missing)} missing: pip install "slimresnet[train]".')
