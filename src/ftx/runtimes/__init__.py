"""Runtimes: one way to run a model, whatever computes it."""

from __future__ import annotations

from ftx.runtimes.open_model import LoadOptions, load, load_artifact, load_folder, load_with_all_tokens
from ftx.runtimes.predictor import Predictor

__all__ = ["LoadOptions", "Predictor", "load", "load_artifact", "load_folder", "load_with_all_tokens"]
