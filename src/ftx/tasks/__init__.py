"""What a task is made of: loss, decoding, metrics, metadata."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ftx.labels import Labels
from ftx.recipe import TaskName
from ftx.tasks.base import ScoredLabel, Task, TaskKind
from ftx.tasks.hierarchical import Hierarchical
from ftx.tasks.multiclass import Multiclass
from ftx.tasks.multilabel import Multilabel
from ftx.tasks.thresholds import Thresholds

# A task is made for its labels, and for the thresholds that were tuned for them.
TASKS: dict[TaskName, TaskKind] = {
    "multiclass": Multiclass,
    "multilabel": Multilabel,
    "hierarchical": Hierarchical,
}


class Meaning(BaseModel):
    """What logits mean, as an artefact records it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: TaskName = "multiclass"
    labels: Labels
    thresholds: Thresholds = Thresholds()

    def open(self) -> Task:
        """The task that reads such logits."""
        return TASKS[self.task](self.labels, self.thresholds)


__all__ = ["TASKS", "Meaning", "ScoredLabel", "Task", "TaskKind", "Thresholds"]
