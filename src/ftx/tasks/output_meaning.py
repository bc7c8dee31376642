"""The tasks, and what the logits of a model mean: its task, its labels and their thresholds."""

from __future__ import annotations

from ftx.core.closed_model import ClosedModel
from ftx.tasks.base import Task
from ftx.tasks.hierarchical import Hierarchical
from ftx.tasks.labels import Labels
from ftx.tasks.multiclass import Multiclass
from ftx.tasks.multilabel import Multilabel
from ftx.tasks.task_names import TaskName
from ftx.tasks.thresholds import Thresholds

# The narrowest first: ``ftx data check`` takes the first that suits the labels.
TASKS: dict[TaskName, type[Task]] = {
    "hierarchical": Hierarchical,
    "multiclass": Multiclass,
    "multilabel": Multilabel,
}


class Meaning(ClosedModel):
    """What logits mean, as an artefact records it."""

    task: TaskName = "multiclass"
    labels: Labels
    thresholds: Thresholds = Thresholds()

    def open(self) -> Task:
        """The task that reads such logits."""
        return TASKS[self.task](self.labels, self.thresholds)
