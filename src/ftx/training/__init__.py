"""Training: what is trained, how, and what comes of it."""

from __future__ import annotations

from ftx.training.report import DryRunReport, TrainReport
from ftx.training.session import dry_run, train

__all__ = ["DryRunReport", "TrainReport", "dry_run", "train"]
