"""Runtimes: one way to run a model, whatever computes it."""

from __future__ import annotations

from ftx.runtimes.open_model import load, load_artifact, load_folder, load_with_all_tokens
from ftx.runtimes.predictor import Predictor

__all__ = ["Predictor", "load", "load_artifact", "load_folder", "load_with_all_tokens"]
