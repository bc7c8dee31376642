"""ftx: train an adapter on a Vision Transformer, merge it, export it, and prove that nothing was lost."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ftx.errors import EnvironmentFault, FtxError
from ftx.version import __version__

if TYPE_CHECKING:
    from ftx.classifier import Classifier
    from ftx.combining import combine
    from ftx.comparing import compare
    from ftx.evaluation import evaluate
    from ftx.exporting import export
    from ftx.labels import Labels
    from ftx.merging import merge
    from ftx.prediction import predict
    from ftx.recipe import Recipe
    from ftx.run import Run
    from ftx.runtimes import load
    from ftx.training import train
    from ftx.validation import validate

__all__ = [
    "Classifier",
    "FtxError",
    "Labels",
    "Recipe",
    "Run",
    "__version__",
    "combine",
    "compare",
    "evaluate",
    "export",
    "load",
    "merge",
    "predict",
    "train",
    "validate",
]

# Public name -> the room it lives in. `import ftx` loads none of them: torch alone takes seconds.
_ROOMS = {
    "Classifier": "ftx.classifier",
    "combine": "ftx.combining",
    "compare": "ftx.comparing",
    "Labels": "ftx.labels",
    "Recipe": "ftx.recipe",
    "Run": "ftx.run",
    "evaluate": "ftx.evaluation",
    "export": "ftx.exporting",
    "load": "ftx.runtimes",
    "merge": "ftx.merging",
    "predict": "ftx.prediction",
    "train": "ftx.training",
    "validate": "ftx.validation",
}

# Packages of the extra `train`, by the name they are imported under.
_TRAIN_EXTRA = frozenset({"nncf", "onnx", "onnxruntime", "onnxscript", "timm", "torch", "torchmetrics", "torchvision"})


def missing_extra(error: ModuleNotFoundError) -> EnvironmentFault | None:
    """What to tell the user when an import failed because the extra is not installed; None if it did not."""
    package = (error.name or "").partition(".")[0]
    if package not in _TRAIN_EXTRA:
        return None
    return EnvironmentFault(
        "this needs the training extra, which is not installed",
        found=f"no package '{package}'",
        mend="pip install 'ftx-vit[train]'",
    )


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module 'ftx' has no attribute '{name}'")
    try:
        value: object = getattr(import_module(_ROOMS[name]), name)
    except ModuleNotFoundError as error:
        fault = missing_extra(error)
        if fault is None:
            raise
        raise fault from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
