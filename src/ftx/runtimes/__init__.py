"""Runtimes: one way to ask a model, whatever computes it."""

from __future__ import annotations

from ftx.runtimes.base import Compute, Predictor
from ftx.runtimes.opening import load, load_artifact, load_folder

__all__ = ["Compute", "Predictor", "load", "load_artifact", "load_folder"]
