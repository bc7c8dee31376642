"""The gate: every exported artifact against the trained model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftx.evaluating.logit_bounds import Bounds
    from ftx.evaluating.parity import validate
    from ftx.runs.parity_json import ParityReport, ParityRow

__all__ = ["Bounds", "ParityReport", "ParityRow", "validate"]

# Imported when used: they take a quarter of a second, and `ftx predict` needs none of them.
_HOMES = {
    "Bounds": "ftx.evaluating.logit_bounds",
    "ParityReport": "ftx.runs.parity_json",
    "ParityRow": "ftx.runs.parity_json",
    "validate": "ftx.evaluating.parity",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
