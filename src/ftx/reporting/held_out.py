"""What a model predicted for the held-out images, and which of the predictions to look at.

Shapes: N images, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ftx.core.progress import Progress
from ftx.core.statistics import wilson_interval
from ftx.data.dataset import Entry
from ftx.evaluating.evaluate import ClassScore, class_scores, held_out_logits
from ftx.runs.artifacts import Artifact
from ftx.runs.compute_precision import ComputePrecision
from ftx.runs.kept_logits import read_logits
from ftx.runs.machine import Machine
from ftx.runs.run import Run
from ftx.tasks.base import ScoredLabel, Targets, Task
from ftx.tasks.task_names import TaskName
from ftx.tasks.thresholds import Flags, Floats


@dataclass(frozen=True)
class HeldOutPredictions:
    """The images, the truth, and an artifact's predictions in the precision that it is deployed in."""

    artifact: Artifact
    compute: ComputePrecision
    machine: Machine
    task_name: TaskName
    task: Task
    entries: tuple[Entry, ...]
    logits_NC: Floats
    targets_NC: Targets

    @property
    def split(self) -> str:
        """``test``, or ``val`` where there is no test split."""
        return self.entries[0].split

    @cached_property
    def scores(self) -> Floats:
        """Shape: [N, C], in [0, 1]."""
        return self.task.scores(self.logits_NC)

    @cached_property
    def predicted(self) -> Flags:
        """The labels predicted for each image. Shape: [N, C]."""
        return self.task.predicted(self.logits_NC)

    @cached_property
    def true(self) -> Flags:
        """The labels of each image. Shape: [N, C]."""
        return self.targets_NC > 0

    @cached_property
    def known(self) -> Flags:
        """The labels whose presence or absence the truth contains. Shape: [N, C]."""
        return self.task.known(self.targets_NC)

    @cached_property
    def correct(self) -> Flags:
        """Whether all of an image's labels are predicted correctly. Shape: [N]."""
        return self.task.correct(self.logits_NC, self.targets_NC)

    def accuracy(self) -> tuple[int, int, float, float]:
        """The number of images that are wholly correct, of how many, and the ends of the fraction's 95 % interval."""
        correct, images = int(self.correct.sum()), len(self.correct)
        return correct, images, *wilson_interval(correct, images)

    def labels_of(self, row: int) -> list[ScoredLabel]:
        """The labels predicted for an image."""
        return self.task.decode(self.scores[row])

    def confidences(self) -> tuple[Floats, Flags]:
        """The scores that count as probabilities, and whether their labels are present.

        In a group of mutually exclusive classes that of the predicted label; of an independent label each score.
        Shape: [K] and [K].
        """
        labels = self.task.labels
        grouped = np.isin(labels.names, [name for group in labels.groups for name in group])
        # The score of a label below another is its fraction of that: it counts if that was predicted.
        counted_NC = self.known & (self.predicted | (~grouped & self._of_parents(self.predicted)))
        return self.scores[counted_NC], self.true[counted_NC]

    @cached_property
    def mistakes(self) -> Floats:
        """The model's confidence in each label that it got wrong, in [0, 1]; 0 of every other. Shape: [N, C].

        In a group the score of the label that was wrongly predicted. Of an independent label, how far its score is
        beyond the threshold, as a fraction of what is there. Below a mistake nothing more is one.
        """
        labels, scores_NC = self.task.labels, self.scores
        off_NC = self.known & (self.predicted != self.true) & self._of_parents(self.predicted & self.true)
        confidence_NC = np.where(self.predicted, scores_NC, 0).astype(np.float32)
        singles = [labels.index(name) for name in labels.singles]
        threshold_S = self.task.thresholds.of(labels.names)[singles]
        beyond_NS = scores_NC[:, singles] - threshold_S
        most_NS = np.where(beyond_NS > 0, 1 - threshold_S, threshold_S)
        confidence_NC[:, singles] = np.abs(beyond_NS) / np.maximum(most_NS, np.finfo(np.float32).tiny)
        return np.where(off_NC, confidence_NC, 0)

    def _of_parents(self, flags_NC: Flags) -> Flags:
        """The flag of each label's parent; true for a label without one. Shape: [N, C]."""
        labels = self.task.labels
        above_NC = np.ones_like(flags_NC)
        for name, parent in labels.parents.items():
            above_NC[:, labels.index(name)] = flags_NC[:, labels.index(parent)]
        return above_NC

    def margin(self) -> Floats:
        """How far each prediction is from being another one: the least over its labels. Shape: [N].

        In a group that a label was predicted of, the best score less the next; of an independent label the distance
        from its threshold, if its parent was predicted.
        """
        labels, scores_NC = self.task.labels, self.scores
        least_N = np.ones(len(scores_NC), dtype=np.float32)
        for group in labels.groups:
            if len(group) > 1:
                rows = [labels.index(name) for name in group]
                best_N2 = np.sort(scores_NC[:, rows], axis=1)[:, -2:]
                counts_N = self.predicted[:, rows].any(axis=1)
                least_N = np.where(counts_N, np.minimum(least_N, best_N2[:, 1] - best_N2[:, 0]), least_N)
        thresholds_C, counts_NC = self.task.thresholds.of(labels.names), self._of_parents(self.predicted)
        for row in map(labels.index, labels.singles):
            distance_N = np.abs(scores_NC[:, row] - thresholds_C[row])
            least_N = np.where(counts_NC[:, row], np.minimum(least_N, distance_N), least_N)
        return least_N

    def worst(self, most: int) -> list[int]:
        """Rows of the images that were predicted wrongly, the most confident error first."""
        order = np.argsort(-self.mistakes.max(axis=1), kind="stable")
        return order[~self.correct[order]][:most].tolist()

    def least_certain(self, most: int) -> list[int]:
        """Rows of the images whose prediction was nearest to another one."""
        return np.argsort(self.margin(), kind="stable")[:most].tolist()


def held_out(run: Run, artifact: Artifact, data: Path | None, progress: Progress) -> HeldOutPredictions:
    """The predictions kept when the artifact was validated or evaluated; it runs now if none were kept.

    Raises: RunError, DataError as ``ftx eval``.
    """
    kept = read_logits(run, artifact) or held_out_logits(run, artifact, data=data, progress=progress)
    entries, task = run.report_entries(), run.task
    return HeldOutPredictions(
        artifact=artifact,
        compute=kept.compute,
        machine=kept.machine,
        task_name=run.manifest.task,
        task=task,
        entries=entries,
        logits_NC=kept.logits_NC,
        targets_NC=task.targets([entry.labels for entry in entries]),
    )


def class_scores_of(predictions: HeldOutPredictions | None) -> list[ClassScore]:
    """Each label's figures, as ``ftx eval`` prints them; none without predictions."""
    if predictions is None:
        return []
    counted_NC = predictions.predicted & predictions.known
    return class_scores(counted_NC, predictions.true, predictions.scores, predictions.task.labels.names)
