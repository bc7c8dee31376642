"""Training: what is trained, how, and what comes of it."""

from __future__ import annotations

from ftx.training.device_placement import require_gpu
from ftx.training.estimate import dry_run
from ftx.training.init_from import recipe_from
from ftx.training.report import DryRunReport, TrainReport
from ftx.training.session import OnEpoch, resume, train
from ftx.training.state import EpochEnd

__all__ = [
    "DryRunReport",
    "EpochEnd",
    "OnEpoch",
    "TrainReport",
    "dry_run",
    "recipe_from",
    "require_gpu",
    "resume",
    "train",
]
