"""Multiclass: exactly one label an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftx.core.errors import DataError, listed
from ftx.tasks.base import ImageLabels, LossChoice, RelatedLabels, ScoredLabel, Targets, Task
from ftx.tasks.labels import LabelDeclaration, Labels
from ftx.tasks.metrics import f1_of
from ftx.tasks.scores import best, class_loss, softmax
from ftx.tasks.thresholds import Flags, Floats

if TYPE_CHECKING:
    from torch import Tensor


class Multiclass(Task):
    """Softmax over all labels, cross-entropy, the best label wins."""

    metric = "accuracy"
    balanced_metric = "macro_f1"
    half_patches_after_probe = True
    one_label = True

    @staticmethod
    def suits(samples: ImageLabels, declared: LabelDeclaration) -> bool:
        """One label each."""
        return all(len(names) == 1 for names in samples.values())

    @staticmethod
    def relate(samples: ImageLabels, declared: LabelDeclaration, where: object) -> RelatedLabels:
        """One group of all labels, including a class folder without images, as that is a mistake to report."""
        strange = [f"{path}: {';'.join(names) or 'none'}" for path, names in samples.items() if len(names) != 1]
        if strange:
            raise DataError(
                "each image of a multiclass data set must have exactly one label",
                where=str(where),
                found=listed(strange),
                fix="use --task multilabel, or --task hierarchical for a label tree",
            )
        names = sorted({*declared.names, *(name for (name,) in samples.values())})
        if len(names) < 2:
            raise DataError(
                "the data must have at least two classes",
                where=str(where),
                found=", ".join(names),
                fix="add images of another class, or use --task multilabel for one label that an image has or has not",
            )
        return Labels.multiclass(names), list(samples.values())

    def loss(self, logits_NC: Tensor, targets_NC: Tensor, how: LossChoice, whole_MC: Tensor | None = None) -> Tensor:
        """Cross-entropy with smoothed labels."""
        each_N = class_loss(logits_NC, targets_NC, how.smoothing, how.weights_2C)
        return each_N.mean() if whole_MC is None else each_N.sum() / len(whole_MC)

    def scores(self, logits_NC: Floats) -> Floats:
        """Softmax. Shape: [N, C]."""
        return softmax(logits_NC)

    def predicted(self, logits_NC: Floats) -> Flags:
        """Only the best label; of equal ones the first. Shape: [N, C]."""
        return best(logits_NC)

    def decode(self, scores_C: Floats) -> list[ScoredLabel]:
        """Only the best label; of equal ones the first."""
        row = int(scores_C.argmax())
        return [ScoredLabel(name=self.labels.names[row], score=float(scores_C[row]))]

    def metrics(self, logits_NC: Floats, targets_NC: Targets) -> dict[str, float]:
        """The fraction of correct images, and the mean F1 of the labels that occur in truth or predictions."""
        macro, _ = f1_of(self.predicted(logits_NC), targets_NC > 0)
        return {"accuracy": float(self.correct(logits_NC, targets_NC).mean()), "macro_f1": macro}

    def model_info(self) -> dict[str, str]:
        """Model API's keys for one exclusive group."""
        return {"multilabel": "False", "hierarchical": "False", "topk": "1"}

    def decoding_code(self) -> tuple[list[str], list[str]]:
        """Python for a model card: the best label."""
        return [], ["print(labels[int(logits.argmax())])"]
