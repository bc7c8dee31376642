"""The interface of every task, and what most of them share.

Shapes: N images, C labels, in the order of the logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ftx.tasks.labels import LabelDeclaration, Labels
from ftx.tasks.thresholds import Flags, Floats, Thresholds

if TYPE_CHECKING:
    from torch import Tensor

    from ftx.tasks.task_names import LossName


Targets = NDArray[np.float32]
# The labels of each image, by its path.
ImageLabels = Mapping[str, tuple[str, ...]]
# The labels of a data set, and each image's labels by their names among them.
RelatedLabels = tuple[Labels, list[tuple[str, ...]]]


@dataclass(frozen=True)
class LossChoice:
    """How a loss is computed.

    ``kind`` is the loss of independent labels, ``smoothing`` the label smoothing of mutually exclusive classes.
    ``weights_2C`` are the weights of each label where it is present and, for independent labels, where it is absent.
    """

    kind: LossName = "bce"
    smoothing: float = 0.0
    weights_2C: Tensor | None = None


@dataclass(frozen=True)
class ScoredLabel:
    """A label and the model's confidence in it, in [0, 1]."""

    name: str
    score: float


class Task(Protocol):
    """Loss, decoding, metrics and metadata of one kind of label, for one set of labels.

    ``thresholds`` are the scores above which independent labels are predicted.
    """

    # The key of ``metrics`` that training chooses by, a fraction in [0, 1] that should rise; and the one to choose by
    # if rare labels are to count as much as frequent ones.
    metric: ClassVar[str]
    balanced_metric: ClassVar[str]
    # Whether folders inside class folders are labels below labels.
    nested_folders: ClassVar[bool] = False
    # Whether an adapter in all blocks learns as much from half of the patches, with a head that starts as a probe;
    # docs/decisions/0018.
    half_patches_after_probe: ClassVar[bool] = False
    # Whether each image has one label, so that the threshold of prediction sets may differ by label.
    one_label: ClassVar[bool] = False
    # What the prediction set of an image does if it is right.
    right_set: ClassVar[str] = "contain the label"
    labels: Labels
    thresholds: Thresholds

    def __init__(self, labels: Labels, thresholds: Thresholds | None = None) -> None:
        self.labels, self.thresholds = labels, thresholds or Thresholds()

    @staticmethod
    def suits(samples: ImageLabels, declared: LabelDeclaration) -> bool:
        """Whether a data set's labels look as if they were for this task."""
        ...

    @staticmethod
    def relate(samples: ImageLabels, declared: LabelDeclaration, where: object) -> RelatedLabels:
        """How the labels of a data set relate; ``where`` is named in an error.

        Raises: DataError naming the images whose labels do not suit the task.
        """
        ...

    def targets(self, samples: Sequence[tuple[str, ...]]) -> Targets:
        """1 for an image's labels and their ancestors in the tree. Shape: [N, C]."""
        rows = {name: [self.labels.index(one) for one in self.labels.path(name)] for name in self.labels.names}
        targets_NC = np.zeros((len(samples), len(self.labels)), dtype=np.float32)
        for row, names in enumerate(samples):
            targets_NC[row, [above for name in names for above in rows[name]]] = 1
        return targets_NC

    def loss(self, logits_NC: Tensor, targets_NC: Tensor, how: LossChoice, whole_MC: Tensor | None = None) -> Tensor:
        """The mean loss of a batch, a scalar.

        With ``whole_MC``, the targets of a whole batch, ``logits_NC`` are a part of it: the losses of all parts add up
        to the mean loss of the batch.
        """
        ...

    def scores(self, logits_NC: Floats) -> Floats:
        """Logits as scores in [0, 1]. Shape: [N, C]."""
        ...

    def predicted(self, logits_NC: Floats) -> Flags:
        """Which labels are predicted for each image. Shape: [N, C]."""
        ...

    def decode(self, scores_C: Floats) -> list[ScoredLabel]:
        """The labels of one image, from its scores."""
        ...

    def in_order(self, labels: Sequence[int], scores_C: Floats) -> list[int]:
        """Some labels, by number, in the order in which a prediction has them: the highest score first."""
        return sorted(labels, key=lambda row: -scores_C[row])

    def known(self, targets_NC: Targets) -> Flags:
        """The labels whose presence or absence the truth contains. Shape: [N, C]."""
        return np.ones(targets_NC.shape, dtype=bool)

    def with_thresholds(self, thresholds: Thresholds) -> Task:
        """The same task with other thresholds."""
        return type(self)(self.labels, thresholds)

    def correct(self, logits_NC: Floats, targets_NC: Targets) -> Flags:
        """Whether every label of an image that is known is predicted correctly. Shape: [N]."""
        return ((self.predicted(logits_NC) == (targets_NC > 0)) | ~self.known(targets_NC)).all(axis=1)

    def set_scores(self, logits_NC: Floats, targets_NC: Targets) -> Floats:
        """At which threshold the prediction set of an image becomes right about a label; 0 if it always is.

        The set is right about a label of the truth if this is at most the threshold. Shape: [N, C].
        """
        return np.where(targets_NC > 0, self._distance(logits_NC), 0)

    def set_labels(self, targets_NC: Targets) -> NDArray[np.int64]:
        """How many labels of each image a set can miss, at least 1. Shape: [N]."""
        return np.maximum((targets_NC > 0).sum(axis=1), 1)

    def prediction_set(self, logits_NC: Floats, thresholds_C: Floats) -> Flags:
        """The labels of each prediction set: those predicted, and others that are near enough. Shape: [N, C].

        Source: LAC (Sadinle et al., arXiv:1609.00451, eq. 3), whose sets may be empty; a predicted label is always in.
        """
        return self._distance(logits_NC) <= thresholds_C

    def missed(self, sets_NC: Flags, targets_NC: Targets) -> Floats:
        """The fraction of the labels of each image that its set misses. Shape: [N]."""
        return ((targets_NC > 0) & ~sets_NC).sum(axis=1) / self.set_labels(targets_NC)

    def _distance(self, logits_NC: Floats) -> Floats:
        """How far each label is from a prediction that is certain: 1 - score; 0 for a label that is predicted."""
        return np.where(self.predicted(logits_NC), 0, 1 - self.scores(logits_NC)).astype(np.float32)

    def metrics(self, logits_NC: Floats, targets_NC: Targets) -> dict[str, float]:
        """The figures of the task, each in [0, 1]."""
        ...

    def tuned_thresholds(self, logits_NC: Floats, targets_NC: Targets) -> Thresholds:
        """The best thresholds for these images, which the model was not trained on; none by default."""
        return Thresholds()

    def model_info(self) -> dict[str, str]:
        """The metadata by which Model API decodes as we do."""
        ...

    def more_figures(self, logits_NC: Floats, targets_NC: Targets) -> str:
        """What a report adds to the accuracy, after a comma or semicolon; nothing for most."""
        return ""

    def decoding_code(self) -> tuple[list[str], list[str]]:
        """Python for a model card: definitions next to ``labels``, and what prints the labels of ``logits``."""
        ...


def choosing_metric(task: Task | type[Task], *, balanced: bool) -> str:
    """The metric that chooses the epoch to keep; ``balanced``: rare labels count as much as frequent ones."""
    return task.balanced_metric if balanced else task.metric
