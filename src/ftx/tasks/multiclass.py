"""Multiclass: exactly one label holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ftx.core.errors import DataError, listed
from ftx.tasks.base import ImageLabels, LossChoice, RelatedLabels, ScoredLabel, Targets
from ftx.tasks.labels import LabelDeclaration, Labels
from ftx.tasks.metrics import f1_of
from ftx.tasks.softmax import best, softmax
from ftx.tasks.thresholds import Flags, Floats, Thresholds

if TYPE_CHECKING:
    from torch import Tensor


class Multiclass:
    """Softmax over all labels, cross-entropy, the best label wins."""

    metric: ClassVar[str] = "accuracy"
    balanced_metric: ClassVar[str] = "macro_f1"
    nested_folders: ClassVar[bool] = False

    def __init__(self, labels: Labels, thresholds: Thresholds | None = None) -> None:
        self.labels, self.thresholds = labels, thresholds or Thresholds()

    @staticmethod
    def suits(samples: ImageLabels, declared: LabelDeclaration) -> bool:
        """One label each."""
        return all(len(names) == 1 for names in samples.values())

    @staticmethod
    def relate(samples: ImageLabels, declared: LabelDeclaration, where: object) -> RelatedLabels:
        """One group of all labels, a class folder without images included, for that is a mistake to be told."""
        strange = [f"{path}: {';'.join(names) or 'none'}" for path, names in samples.items() if len(names) != 1]
        if strange:
            raise DataError(
                "multiclass images carry exactly one label each",
                where=str(where),
                found=listed(strange),
                fix="the task multilabel, or hierarchical for a tree (--task, or a recipe of that task)",
            )
        names = sorted({*declared.names, *(name for (name,) in samples.values())})
        if len(names) < 2:
            raise DataError(
                "there is only one class",
                where=str(where),
                found=", ".join(names),
                fix="add another, or --task multilabel, where a label holds or does not",
            )
        return Labels.multiclass(names), list(samples.values())

    def targets(self, samples: Sequence[tuple[str, ...]]) -> Targets:
        """One-hot rows. Shape: [N, C]."""
        targets_NC = np.zeros((len(samples), len(self.labels)), dtype=np.float32)
        for row, names in enumerate(samples):
            (name,) = names
            targets_NC[row, self.labels.index(name)] = 1
        return targets_NC

    def loss(self, logits_NC: Tensor, targets_NC: Tensor, how: LossChoice, whole_MC: Tensor | None = None) -> Tensor:
        """Cross-entropy with smoothed labels (Szegedy et al., arXiv:1512.00567, section 7)."""
        from torch.nn.functional import cross_entropy

        each_N = cross_entropy(logits_NC, targets_NC, label_smoothing=how.smoothing, reduction="none")
        if how.weights_2C is not None:
            # By the true label alone: torch's own weights would weigh what smoothing gives to the others as well, and
            # teach a rare label on every image.
            each_N = each_N * (targets_NC * how.weights_2C[0]).sum(dim=1)
        return each_N.mean() if whole_MC is None else each_N.sum() / len(whole_MC)

    def scores(self, logits_NC: Floats) -> Floats:
        """Softmax. Shape: [N, C]."""
        return softmax(logits_NC)

    def predicted(self, logits_NC: Floats) -> Flags:
        """The best label alone; of equal ones the first. Shape: [N, C]."""
        return best(logits_NC)

    def decode(self, scores_C: Floats) -> list[ScoredLabel]:
        """The best label alone; of equal ones the first."""
        row = int(scores_C.argmax())
        return [ScoredLabel(name=self.labels.names[row], score=float(scores_C[row]))]

    def known(self, targets_NC: Targets) -> Flags:
        """All of them. Shape: [N, C]."""
        return np.ones(targets_NC.shape, dtype=bool)

    def with_thresholds(self, thresholds: Thresholds) -> Multiclass:
        return Multiclass(self.labels, thresholds)

    def correct(self, logits_NC: Floats, targets_NC: Targets) -> Flags:
        """Whether the best logit is the true label's. Shape: [N]."""
        return logits_NC.argmax(axis=-1) == targets_NC.argmax(axis=-1)

    def metrics(self, logits_NC: Floats, targets_NC: Targets) -> dict[str, float]:
        """The share of right images, and the mean F1 of the labels that occur in truth or answers."""
        macro, _ = f1_of(self.predicted(logits_NC), targets_NC > 0)
        return {"accuracy": float(self.correct(logits_NC, targets_NC).mean()), "macro_f1": macro}

    def tuned_thresholds(self, logits_NC: Floats, targets_NC: Targets) -> Thresholds:
        """None: the best label wins whatever its score."""
        return Thresholds()

    def model_info(self) -> dict[str, str]:
        """Model API's keys for one exclusive group."""
        return {"multilabel": "False", "hierarchical": "False", "topk": "1"}

    def more_figures(self, logits_NC: Floats, targets_NC: Targets) -> str:
        """Nothing."""
        return ""

    def decoding_code(self) -> tuple[list[str], list[str]]:
        """Python for a model card: the best label."""
        return [], ["print(labels[int(logits.argmax())])"]
