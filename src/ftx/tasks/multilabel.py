"""Multi-label: each label is independent; an image may have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ftx.core.errors import DataError
from ftx.tasks.base import ImageLabels, LossChoice, RelatedLabels, ScoredLabel, Targets, Task
from ftx.tasks.labels import LABEL_IMAGES, LabelDeclaration, Labels
from ftx.tasks.metrics import f1_of, mean_average_precision
from ftx.tasks.scores import binary_loss, sigmoid
from ftx.tasks.thresholds import Flags, Floats, Thresholds, tune

if TYPE_CHECKING:
    from torch import Tensor


class Multilabel(Task):
    """A sigmoid a label, asymmetric loss or cross-entropy, a threshold a label."""

    metric = "mAP"
    balanced_metric = "mAP"  # a mean over labels already

    @staticmethod
    def suits(samples: ImageLabels, declared: LabelDeclaration) -> bool:
        """Any number of labels."""
        return True

    @staticmethod
    def relate(samples: ImageLabels, declared: LabelDeclaration, where: object) -> RelatedLabels:
        """Independent labels, including a class folder without images, as that is a mistake to report."""
        names = tuple(sorted({*declared.names, *(name for carried in samples.values() for name in carried)}))
        if not names:
            raise DataError("at least one image must have a label", where=str(where), fix=LABEL_IMAGES)
        return Labels(names, singles=names), list(samples.values())

    def loss(self, logits_NC: Tensor, targets_NC: Tensor, how: LossChoice, whole_MC: Tensor | None = None) -> Tensor:
        """The mean over images and labels, so that the learning rate does not depend on the number of labels."""
        each_NC = binary_loss(logits_NC, targets_NC, how.kind, how.weights_2C)
        return each_NC.mean() if whole_MC is None else each_NC.sum() / whole_MC.numel()

    def scores(self, logits_NC: Floats) -> Floats:
        """Shape: [N, C]."""
        return sigmoid(logits_NC)

    def predicted(self, logits_NC: Floats) -> Flags:
        """Labels whose score is above their threshold. Shape: [N, C]."""
        return self.scores(logits_NC) > self.thresholds.of(self.labels.names)

    def decode(self, scores_C: Floats) -> list[ScoredLabel]:
        """The labels above their threshold, the highest score first; there may be none."""
        above = np.flatnonzero(scores_C > self.thresholds.of(self.labels.names)).tolist()
        return [ScoredLabel(self.labels.names[row], float(scores_C[row])) for row in self.in_order(above, scores_C)]

    def metrics(self, logits_NC: Floats, targets_NC: Targets) -> dict[str, float]:
        """Mean average precision, which needs no threshold, and macro and micro F1, which do."""
        true_NC = targets_NC > 0
        macro, micro = f1_of(self.predicted(logits_NC), true_NC)
        return {
            "mAP": mean_average_precision(self.scores(logits_NC), true_NC),
            "macro_f1": macro,
            "micro_f1": micro,
            "accuracy": float(self.correct(logits_NC, targets_NC).mean()),
        }

    def tuned_thresholds(self, logits_NC: Floats, targets_NC: Targets) -> Thresholds:
        """The threshold of the largest F1 for each label."""
        return tune(self.labels.names, self.scores(logits_NC), targets_NC > 0)

    def model_info(self) -> dict[str, str]:
        """Model API's keys for independent labels; it takes one threshold for all."""
        return {
            "multilabel": "True",
            "hierarchical": "False",
            "confidence_threshold": repr(round(self.thresholds.shared, 6)),
        }

    def more_figures(self, logits_NC: Floats, targets_NC: Targets) -> str:
        """The mean average precision, which no threshold moves."""
        return f"; mean average precision {self.metrics(logits_NC, targets_NC)['mAP']:.2f}"

    def decoding_code(self) -> tuple[list[str], list[str]]:
        """Python for a model card: the labels above their thresholds."""
        return self.thresholds.decoding_code(self.labels.names)
