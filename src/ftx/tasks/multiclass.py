"""Multiclass: exactly one label holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ftx.errors import DataError
from ftx.labels import Declared, Labels
from ftx.tasks.base import Flags, Floats, Related, ScoredLabel, Targets
from ftx.tasks.exclusive import best, softmax
from ftx.tasks.ranking import f1_of
from ftx.tasks.thresholds import Thresholds

if TYPE_CHECKING:
    from torch import Tensor

    from ftx.recipe import LossName


class Multiclass:
    """Softmax over all labels, cross-entropy, the best label wins."""

    metric = "accuracy"
    nested_folders: ClassVar[bool] = False

    def __init__(self, labels: Labels, thresholds: Thresholds | None = None) -> None:
        self.labels, self.thresholds = labels, thresholds or Thresholds()

    @staticmethod
    def relate(samples: Sequence[tuple[str, ...]], declared: Declared, where: object) -> Related:
        """One group of all labels, a class folder without images included, for that is a mistake to be told."""
        several = next((sample for sample in samples if len(sample) != 1), None)
        if several is not None:
            raise DataError(
                "multiclass images carry exactly one label each",
                where=str(where),
                found=";".join(several) or "an image without a label",
                mend="--task multilabel, or --task hierarchical for a tree",
            )
        return Labels.multiclass(sorted({*declared.names, *(name for (name,) in samples)})), list(samples)

    def targets(self, samples: Sequence[tuple[str, ...]]) -> Targets:
        """One-hot rows. Shape: [N, C]."""
        targets_NC = np.zeros((len(samples), len(self.labels)), dtype=np.float32)
        for row, names in enumerate(samples):
            (name,) = names
            targets_NC[row, self.labels.index(name)] = 1
        return targets_NC

    def loss(
        self,
        logits_NC: Tensor,
        targets_NC: Tensor,
        *,
        kind: LossName,
        label_smoothing: float,
        weights_2C: Tensor | None = None,
    ) -> Tensor:
        """Cross-entropy with smoothed labels (Szegedy et al., arXiv:1512.00567, section 7)."""
        from torch.nn.functional import cross_entropy

        weights_C = None if weights_2C is None else weights_2C[0]
        return cross_entropy(logits_NC, targets_NC, weight=weights_C, label_smoothing=label_smoothing)

    def scores(self, logits_NC: Floats) -> Floats:
        """Softmax. Shape: [N, C]."""
        return softmax(logits_NC)

    def called(self, logits_NC: Floats) -> Flags:
        """The best label alone; of equal ones the first. Shape: [N, C]."""
        return best(logits_NC)

    def decode(self, scores_C: Floats) -> list[ScoredLabel]:
        """The best label alone; of equal ones the first."""
        row = int(scores_C.argmax())
        return [ScoredLabel(name=self.labels.names[row], score=float(scores_C[row]))]

    def right(self, logits_NC: Floats, targets_NC: Targets) -> Flags:
        """Whether the best logit is the true label's. Shape: [N]."""
        return logits_NC.argmax(axis=-1) == targets_NC.argmax(axis=-1)

    def metrics(self, logits_NC: Floats, targets_NC: Targets) -> dict[str, float]:
        """The share of right images, and the mean F1 of the labels that occur in truth or answers."""
        macro, _ = f1_of(self.called(logits_NC), targets_NC > 0)
        return {"accuracy": float(self.right(logits_NC, targets_NC).mean()), "macro_f1": macro}

    def tuned(self, logits_NC: Floats, targets_NC: Targets) -> Thresholds:
        """None: the best label wins whatever its score."""
        return Thresholds()

    def model_info(self) -> dict[str, str]:
        """Model API's keys for one exclusive group."""
        return {"multilabel": "False", "hierarchical": "False", "topk": "1"}
