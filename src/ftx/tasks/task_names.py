"""What tasks and losses are called, in recipes, runs and cards."""

from __future__ import annotations

from typing import Literal

TaskName = Literal["multiclass", "multilabel", "hierarchical"]
# Of labels that decide by themselves.
LossName = Literal["asymmetric", "bce"]
