"""What every task answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ftx.labels import Labels

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]
Targets = NDArray[np.float32]


@dataclass(frozen=True)
class ScoredLabel:
    """A label and how sure the model is of it, in [0, 1]."""

    name: str
    score: float


class Task(Protocol):
    """Head width, loss, decoding, metric and metadata of one kind of label."""

    def head_width(self, labels: Labels) -> int:
        """How many logits the head has."""
        ...

    def targets(self, labels: Labels, samples: Sequence[tuple[str, ...]]) -> Targets:
        """The truth as numbers. Shape: [N, C]; 1 where the label holds."""
        ...

    def loss(self, logits_NC: Tensor, targets_NC: Tensor, *, label_smoothing: float) -> Tensor:
        """The mean loss of a batch, a scalar."""
        ...

    def scores(self, logits_NC: Floats) -> Floats:
        """Logits as scores in [0, 1]. Shape: [N, C]."""
        ...

    def decode(self, labels: Labels, scores_C: Floats) -> list[ScoredLabel]:
        """The labels of one image, from its scores."""
        ...

    def right(self, logits_NC: Floats, targets_NC: Targets) -> NDArray[np.bool_]:
        """Whether each image is wholly right: the mean is the metric that training chooses by. Shape: [N]."""
        ...

    def model_info(self, labels: Labels) -> dict[str, str]:
        """What Model API reads to decode as we do."""
        ...
