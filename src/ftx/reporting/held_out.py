"""What a model answered for the held-out images, and which of the answers to look at.

Shapes: N images, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ftx.core.progress import Progress
from ftx.data.dataset import Entry
from ftx.evaluating.evaluate import ClassScore, ask, class_scores
from ftx.runs.artifacts import Artifact
from ftx.runs.compute_precision import ComputePrecision
from ftx.runs.kept_logits import read_logits
from ftx.runs.machine import Machine
from ftx.runs.run import Run
from ftx.tasks.base import ScoredLabel, Targets, Task
from ftx.tasks.task_names import TaskName
from ftx.tasks.thresholds import Flags, Floats


@dataclass(frozen=True)
class HeldOut:
    """The images, the truth, and an artifact's answers in the precision that it is deployed in."""

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
        """Which labels each image was given. Shape: [N, C]."""
        return self.task.predicted(self.logits_NC)

    @cached_property
    def true(self) -> Flags:
        """Which labels each image carries. Shape: [N, C]."""
        return self.targets_NC > 0

    @cached_property
    def known(self) -> Flags:
        """Of which labels the truth says whether they hold. Shape: [N, C]."""
        return self.task.known(self.targets_NC)

    @cached_property
    def correct(self) -> Flags:
        """Whether all of an image's labels are right. Shape: [N]."""
        return self.task.correct(self.logits_NC, self.targets_NC)

    def answer(self, row: int) -> list[ScoredLabel]:
        """The labels that an image was given."""
        return self.task.decode(self.scores[row])

    def confidences(self) -> tuple[Floats, Flags]:
        """The scores that an answer rests on, and whether what they say is right.

        Of a label of an exclusive group that of the label called; of one that decides by itself each score as the
        chance that it holds. Shape: [K] and [K].
        """
        labels = self.task.labels
        grouped = np.isin(labels.names, [name for group in labels.groups for name in group])
        # The score of a label below another is its share of that: it was asked where that was called.
        taken_NC = self.known & (self.predicted | (~grouped & self._of_parents(self.predicted)))
        return self.scores[taken_NC], self.true[taken_NC]

    @cached_property
    def mistakes(self) -> Floats:
        """How sure the model was of each label that it got wrong, in [0, 1]; 0 of every other. Shape: [N, C].

        In a group the score of the label that was wrongly called. Of a label that decides by itself, how far its score
        went beyond the threshold, as a share of what is there. Below a mistake nothing more is one.
        """
        labels, scores_NC = self.task.labels, self.scores
        off_NC = self.known & (self.predicted != self.true) & self._of_parents(self.predicted & self.true)
        sure_NC = np.where(self.predicted, scores_NC, 0).astype(np.float32)
        singles = [labels.index(name) for name in labels.singles]
        threshold_S = self.task.thresholds.of(labels.names)[singles]
        beyond_NS = scores_NC[:, singles] - threshold_S
        room_NS = np.where(beyond_NS > 0, 1 - threshold_S, threshold_S)
        sure_NC[:, singles] = np.abs(beyond_NS) / np.maximum(room_NS, np.finfo(np.float32).tiny)
        return np.where(off_NC, sure_NC, 0)

    def _of_parents(self, flags_NC: Flags) -> Flags:
        """The flag of each label's parent; true for a label without one. Shape: [N, C]."""
        labels = self.task.labels
        above_NC = np.ones_like(flags_NC)
        for name, parent in labels.parents.items():
            above_NC[:, labels.index(name)] = flags_NC[:, labels.index(parent)]
        return above_NC

    def margin(self) -> Floats:
        """How far each answer is from being another one: the least over its labels. Shape: [N].

        In a group that a label was called of, the best score less the next; of one that decides by itself the distance
        from its threshold, if its parent was called.
        """
        labels, scores_NC = self.task.labels, self.scores
        least_N = np.ones(len(scores_NC), dtype=np.float32)
        for group in labels.groups:
            if len(group) > 1:
                rows = [labels.index(name) for name in group]
                best_N2 = np.sort(scores_NC[:, rows], axis=1)[:, -2:]
                asked_N = self.predicted[:, rows].any(axis=1)
                least_N = np.where(asked_N, np.minimum(least_N, best_N2[:, 1] - best_N2[:, 0]), least_N)
        thresholds_C, asked_NC = self.task.thresholds.of(labels.names), self._of_parents(self.predicted)
        for name in labels.singles:
            row = labels.index(name)
            distance_N = np.abs(scores_NC[:, row] - thresholds_C[row])
            least_N = np.where(asked_NC[:, row], np.minimum(least_N, distance_N), least_N)
        return least_N

    def worst(self, most: int) -> list[int]:
        """Rows of the images that were answered wrongly, the surest mistake first."""
        order = np.lexsort((np.arange(len(self.correct)), -self.mistakes.max(axis=1)))
        return [row for row in order.tolist() if not self.correct[row]][:most]

    def least_certain(self, most: int) -> list[int]:
        """Rows of the images whose answer was nearest to another one."""
        order = np.lexsort((np.arange(len(self.correct)), self.margin()))
        return order[:most].tolist()


def held_out(run: Run, artifact: Artifact, data: Path | None, progress: Progress) -> HeldOut:
    """What an artifact answered when it was validated or evaluated; it is asked now if nothing was kept of that.

    Raises: RunError, DataError as ``ftx eval``.
    """
    answers = read_logits(run, artifact) or ask(run, artifact, data=data, progress=progress)
    entries, task = run.report_entries(), run.task
    return HeldOut(
        artifact=artifact,
        compute=answers.compute,
        machine=answers.machine,
        task_name=run.manifest.task,
        task=task,
        entries=entries,
        logits_NC=answers.logits_NC,
        targets_NC=task.targets([entry.labels for entry in entries]),
    )


def class_scores_of(answers: HeldOut | None) -> list[ClassScore]:
    """Each label's figures, as ``ftx eval`` gives them; none without answers."""
    if answers is None:
        return []
    called_NC = answers.predicted & answers.known
    return class_scores(called_NC, answers.true, answers.scores, answers.task.labels.names)
