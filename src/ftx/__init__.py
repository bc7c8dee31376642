"""ftx: train an adapter on a Vision Transformer, merge it, export it, and prove its accuracy."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ftx.core.errors import EnvironmentFault, FtxError
from ftx.core.version import __version__

if TYPE_CHECKING:
    from ftx.classifier import Classifier
    from ftx.evaluating import validate
    from ftx.evaluating.evaluate import evaluate
    from ftx.evaluating.predict import predict
    from ftx.explaining.explain import explain
    from ftx.exporting import export
    from ftx.merging.combine_adapters import combine
    from ftx.merging.compare_adapters import compare
    from ftx.merging.merge_and_prove import merge
    from ftx.recipe.schema import Recipe
    from ftx.reporting.report import report
    from ftx.runs.run import Run
    from ftx.runtimes import load
    from ftx.tasks.labels import Labels
    from ftx.training import train

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
    "explain",
    "export",
    "load",
    "merge",
    "predict",
    "report",
    "train",
    "validate",
]

# Public name -> its module. `import ftx` loads none of them: torch by itself takes seconds.
_MODULES = {
    "Classifier": "ftx.classifier",
    "combine": "ftx.merging.combine_adapters",
    "compare": "ftx.merging.compare_adapters",
    "Labels": "ftx.tasks.labels",
    "Recipe": "ftx.recipe.schema",
    "Run": "ftx.runs.run",
    "evaluate": "ftx.evaluating.evaluate",
    "explain": "ftx.explaining.explain",
    "export": "ftx.exporting",
    "load": "ftx.runtimes",
    "merge": "ftx.merging.merge_and_prove",
    "predict": "ftx.evaluating.predict",
    "report": "ftx.reporting.report",
    "train": "ftx.training",
    "validate": "ftx.evaluating",
}

# Packages of the extras, by the name they are imported under, and the extra that an error names (jinja2 is in two:
# serving imports fastapi before it).
_EXTRAS = {
    "braceexpand": "shards",
    "fastapi": "serve",
    "fsspec": "shards",
    "huggingface_hub": "train",
    "jinja2": "train",
    "matplotlib": "train",
    "nncf": "train",
    "onnx": "train",
    "onnxruntime": "train",
    "onnxscript": "train",
    "optuna": "tune",
    "prometheus_client": "serve",
    "pyarrow": "parquet",
    "python_multipart": "serve",
    "ray": "ray",
    "regex": "train",
    "sqlalchemy": "tune",
    "timm": "train",
    "torch": "train",
    "torchvision": "train",
    "uvicorn": "serve",
    "webdataset": "shards",
}
# How an error names the extras whose own name is no noun.
_EXTRA_NAMES = {"train": "training", "serve": "serving", "tune": "tuning"}


def missing_extra(error: ModuleNotFoundError) -> EnvironmentFault | None:
    """The error for an import that failed because the extra is not installed; None for any other import."""
    package = (error.name or "").partition(".")[0]
    if package not in _EXTRAS:
        return None
    from ftx.core.packages import install_command

    extra = _EXTRAS[package]
    return EnvironmentFault(
        f"this needs the {_EXTRA_NAMES.get(extra, extra)} extra, which is not installed",
        found=f"no package '{package}'",
        fix=install_command(extra),
    )


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'ftx' has no attribute '{name}'")
    try:
        value: object = getattr(import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        fault = missing_extra(error)
        if fault is None:
            raise
        raise fault from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
