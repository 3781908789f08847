"""Train, measure, share and use small residual networks for images.

    from slimresnet import Recipe, evaluate, export, predict, push, train

The network itself is the package `modeling_slimresnet`, which needs torch and transformers alone. What is here needs
`pip install "slimresnet[train]"`, and ONNX files `[export]`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimresnet.api.evaluate import evaluate
    from slimresnet.api.export import export
    from slimresnet.api.predict import predict
    from slimresnet.api.push import push
    from slimresnet.api.train import TrainResult, train
    from slimresnet.errors import InterruptedRun, SlimResNetError
    from slimresnet.recipe.settings import Recipe

__all__ = [
    "InterruptedRun", "Recipe", "SlimResNetError", "TrainResult", "evaluate", "export", "predict", "push", "train",
]  # fmt: skip

_WHERE = {
    "InterruptedRun": "errors",
    "Recipe": "recipe.settings",
    "SlimResNetError": "errors",
    "TrainResult": "api.train",
    "evaluate": "api.evaluate",
    "export": "api.export",
    "predict": "api.predict",
    "push": "api.push",
    "train": "api.train",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("modeling_slimresnet").__version__
    # On demand: training brings a dozen packages, and predicting does not need them all.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"slimresnet.{_WHERE[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == __name__:
            raise
        raise ModuleNotFoundError(
            f'slimresnet.{name} needs the package {error.name}: pip install "slimresnet[train]".', name=error.name
        ) from error


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
