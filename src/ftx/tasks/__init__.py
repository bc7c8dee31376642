"""What a task is made of: head width, loss, decoding, metrics, metadata."""

from __future__ import annotations

from ftx.tasks.base import ScoredLabel, Task
from ftx.tasks.multiclass import Multiclass

TASKS: dict[str, Task] = {"multiclass": Multiclass()}

__all__ = ["TASKS", "ScoredLabel", "Task"]
