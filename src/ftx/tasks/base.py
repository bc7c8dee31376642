"""What every task answers.

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
# The labels that each image carries, by its path.
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
    """A label and how sure the model is of it, in [0, 1]."""

    name: str
    score: float


class Task(Protocol):
    """Loss, decoding, metrics and metadata of one kind of label, for one set of labels.

    ``thresholds`` holds, by label, the score above which a label that decides by itself is called.
    """

    # The key of ``metrics`` that training chooses by, a share in [0, 1] that should rise; and the one to choose by
    # where rare labels are to count as frequent ones do.
    metric: ClassVar[str]
    balanced_metric: ClassVar[str]

    @property
    def labels(self) -> Labels:
        """The labels, one logit each."""
        ...

    @property
    def thresholds(self) -> Thresholds:
        """Without meaning where no label decides by itself."""
        ...

    def targets(self, samples: Sequence[tuple[str, ...]]) -> Targets:
        """The truth as numbers. Shape: [N, C]; 1 where the label holds."""
        ...

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
        """Which labels each image is given. Shape: [N, C]."""
        ...

    def decode(self, scores_C: Floats) -> list[ScoredLabel]:
        """The labels of one image, from its scores."""
        ...

    def known(self, targets_NC: Targets) -> Flags:
        """Of which labels the truth says whether they hold. Shape: [N, C]."""
        ...

    def with_thresholds(self, thresholds: Thresholds) -> Task:
        """The same task with others."""
        ...

    def correct(self, logits_NC: Floats, targets_NC: Targets) -> Flags:
        """Whether each image is wholly right. Shape: [N]."""
        ...

    def metrics(self, logits_NC: Floats, targets_NC: Targets) -> dict[str, float]:
        """What the task is measured by, each in [0, 1]."""
        ...

    def tuned_thresholds(self, logits_NC: Floats, targets_NC: Targets) -> Thresholds:
        """Thresholds that suit these images best, which were not trained on."""
        ...

    def model_info(self) -> dict[str, str]:
        """What Model API reads to decode as we do."""
        ...

    def more_figures(self, logits_NC: Floats, targets_NC: Targets) -> str:
        """What a report adds to the accuracy, after a comma or semicolon; nothing for most."""
        ...

    def decoding_code(self) -> tuple[list[str], list[str]]:
        """Python for a model card: what it defines next to ``labels``, and what prints the labels of ``logits``."""
        ...


def choosing_metric(task: Task | TaskKind, *, balanced: bool) -> str:
    """The metric that the epoch to keep is chosen by; ``balanced``: where rare labels are to count as frequent ones."""
    return task.balanced_metric if balanced else task.metric


class TaskKind(Protocol):
    """A task before its labels are known: how it understands a data set, and how it is made for one."""

    # Whether folders inside class folders are labels below labels.
    nested_folders: bool

    # As the task's own.
    metric: str
    balanced_metric: str

    def __call__(self, labels: Labels, thresholds: Thresholds) -> Task:
        """The task for these labels."""
        ...

    def suits(self, samples: ImageLabels, declared: LabelDeclaration) -> bool:
        """Whether labels look as if they were for this task."""
        ...

    def relate(self, samples: ImageLabels, declared: LabelDeclaration, where: object) -> RelatedLabels:
        """How the labels that images carry relate; ``where`` is named in an error.

        Raises: DataError naming the images that do not carry what the task asks for.
        """
        ...
