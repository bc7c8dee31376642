"""Hierarchical: exclusive groups and single labels, tied to each other by a tree of parents.

Shapes: N images, C labels, G labels of one group.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ftx.core.errors import DataError
from ftx.tasks.base import ImageLabels, LossChoice, RelatedLabels, ScoredLabel, Targets
from ftx.tasks.label_tree import tree_of
from ftx.tasks.labels import LabelDeclaration, Labels
from ftx.tasks.metrics import f1_of
from ftx.tasks.sigmoid import sigmoid
from ftx.tasks.softmax import best, softmax
from ftx.tasks.thresholds import Flags, Floats, Thresholds, tune

if TYPE_CHECKING:
    from torch import Tensor


class Hierarchical:
    """A softmax a group, a sigmoid a single label, and answers that agree with the tree.

    A label is called if it is its group's best, or as a single above its threshold, and all its ancestors are called
    too: what the greedy and the probabilistic resolver of Model API both end with.
    """

    metric: ClassVar[str] = "path_accuracy"
    balanced_metric: ClassVar[str] = "macro_f1"
    nested_folders: ClassVar[bool] = True

    def __init__(self, labels: Labels, thresholds: Thresholds) -> None:
        self.labels, self.thresholds = labels, thresholds
        if labels.names != tuple(name for group in labels.groups for name in group) + labels.singles:
            raise DataError("labels of a tree stand in the order of their groups, the singles last")

    @staticmethod
    def suits(samples: ImageLabels, declared: LabelDeclaration) -> bool:
        """Labels that are paths, or that a data set ties to each other beyond one group of all."""
        if declared.groups is None:
            return bool(declared.parents) or any("/" in name for names in samples.values() for name in names)
        every = {name for names in samples.values() for name in names}
        return bool(declared.groups) and (bool(declared.parents) or not every <= set(declared.groups[0]))

    @staticmethod
    def relate(samples: ImageLabels, declared: LabelDeclaration, where: object) -> RelatedLabels:
        """A tree, as the data set declares it or as its labels spell it."""
        return tree_of(samples, declared, where)

    def targets(self, samples: Sequence[tuple[str, ...]]) -> Targets:
        """1 where the label holds, or one below it in the tree: the parent of a known child is known. Shape: [N, C]."""
        targets_NC = np.zeros((len(samples), len(self.labels)), dtype=np.float32)
        for row, names in enumerate(samples):
            for name in names:
                targets_NC[row, [self.labels.index(one) for one in self.labels.path(name)]] = 1
        return targets_NC

    def loss(self, logits_NC: Tensor, targets_NC: Tensor, how: LossChoice, whole_MC: Tensor | None = None) -> Tensor:
        """The mean over the groups and, as one more, the singles.

        A group's cross-entropy is masked where the image has no label of it, and nowhere else; a single's loss never.
        """
        from torch.nn.functional import cross_entropy

        from ftx.tasks.sigmoid import binary_loss

        whole_MC, weights_2C = targets_NC if whole_MC is None else whole_MC, how.weights_2C
        parts: list[Tensor] = []
        for rows in self._groups:
            truth_NG = targets_NC[:, rows]
            known_N, known_M = (truth.sum(dim=1) > 0 for truth in (truth_NG, whole_MC[:, rows]))
            each_N = cross_entropy(logits_NC[:, rows], truth_NG, label_smoothing=how.smoothing, reduction="none")
            if weights_2C is not None:  # by the true label alone, as in Multiclass
                each_N = each_N * (truth_NG * weights_2C[0, rows]).sum(dim=1)
            parts.append((each_N * known_N).sum() / known_M.sum().clamp(min=1))
        if self.labels.singles:
            weights_2S = None if weights_2C is None else weights_2C[:, self._singles]
            each_NS = binary_loss(logits_NC[:, self._singles], targets_NC[:, self._singles], how.kind, weights_2S)
            parts.append(each_NS.sum() / (len(whole_MC) * len(self.labels.singles)))
        return sum(parts[1:], parts[0]) / len(parts)

    def scores(self, logits_NC: Floats) -> Floats:
        """The share of its group for each label of one, given its parent; a single's own. Shape: [N, C]."""
        scores_NC = sigmoid(logits_NC)
        for rows in self._groups:
            scores_NC[:, rows] = softmax(logits_NC[:, rows])
        return scores_NC

    def raw(self, scores_NC: Floats) -> Flags:
        """The best of each group and the singles above their thresholds, whatever the tree says. Shape: [N, C]."""
        raw_NC = scores_NC > self.thresholds.of(self.labels.names)
        for rows in self._groups:
            raw_NC[:, rows] = best(scores_NC[:, rows])
        return raw_NC

    def predicted(self, logits_NC: Floats) -> Flags:
        """Shape: [N, C]."""
        return self._consistent(self.raw(self.scores(logits_NC)))

    def decode(self, scores_C: Floats) -> list[ScoredLabel]:
        """The labels called: the path from the root, then the singles, each after its parent."""
        called_C = self._consistent(self.raw(scores_C[None]))[0]
        alone = self._singles.start
        rows = sorted(np.flatnonzero(called_C).tolist(), key=lambda row: (row >= alone, self._depth[row], row))
        return [ScoredLabel(self.labels.names[row], float(scores_C[row])) for row in rows]

    def with_thresholds(self, thresholds: Thresholds) -> Hierarchical:
        return Hierarchical(self.labels, thresholds)

    def correct(self, logits_NC: Floats, targets_NC: Targets) -> Flags:
        """Whether every label is that is known: the whole path. Shape: [N]."""
        called_NC, true_NC = self.predicted(logits_NC), targets_NC > 0
        return ((called_NC == true_NC) | ~self.known(targets_NC)).all(axis=1)

    def metrics(self, logits_NC: Floats, targets_NC: Targets) -> dict[str, float]:
        """Accuracy of whole paths, groups and singles, hierarchical F1, and the share of images with a contradiction.

        Hierarchical F1 counts each image's labels with all their ancestors (Kiritchenko et al., 2005).
        """
        raw_NC = self.raw(self.scores(logits_NC))
        called_NC, true_NC = self._consistent(raw_NC), targets_NC > 0
        known_NC = self.known(targets_NC)
        told_NC = called_NC & known_NC
        found = {"path_accuracy": float(self.correct(logits_NC, targets_NC).mean())}
        hits, either = int((told_NC & true_NC).sum()), int(told_NC.sum() + true_NC.sum())
        found["hierarchical_f1"] = 2 * hits / max(either, 1)
        found["macro_f1"] = f1_of(told_NC, true_NC)[0]
        found["inconsistent"] = float((raw_NC & ~called_NC & ~self._conditional).any(axis=1).mean())
        for name, rows in zip(self._group_names, self._groups, strict=True):
            seen_N = true_NC[:, rows].any(axis=1)
            if seen_N.any():
                same_N = raw_NC[:, rows].argmax(axis=1) == true_NC[:, rows].argmax(axis=1)
                found[f"accuracy_{name}"] = float(same_N[seen_N].mean())
        if self.labels.singles:
            same_NC = raw_NC[:, self._singles] == true_NC[:, self._singles]
            found["singles_accuracy"] = float(same_NC.mean())
        return found

    def tuned_thresholds(self, logits_NC: Floats, targets_NC: Targets) -> Thresholds:
        """The threshold of the largest F1 for each single label."""
        if not self.labels.singles:
            return Thresholds()
        scores_NC = self.scores(logits_NC)
        return tune(self.labels.singles, scores_NC[:, self._singles], targets_NC[:, self._singles] > 0)

    def model_info(self) -> dict[str, str]:
        """Model API's keys for a tree."""
        return {
            "multilabel": "False",
            "hierarchical": "True",
            "hierarchical_postproc": "probabilistic",
            "confidence_threshold": repr(round(self.thresholds.shared, 6)),
            "hierarchical_config": json.dumps(self._config(), ensure_ascii=False),
        }

    def _config(self) -> dict[str, object]:
        """Group by group as the logits lie, singles as groups of one that come last."""
        labels = self.labels
        inside = {name: [i, j] for i, group in enumerate(labels.groups) for j, name in enumerate(group)}
        alone = {name: [len(labels.groups), j] for j, name in enumerate(labels.singles)}
        heads = {
            "num_multiclass_heads": len(labels.groups),
            "num_multilabel_classes": len(labels.singles),
            "head_idx_to_logits_range": {str(i): [rows.start, rows.stop] for i, rows in enumerate(self._groups)},
            "num_single_label_classes": len(inside),
            "class_to_group_idx": inside | alone,
            "all_groups": [list(group) for group in labels.groups] + [[name] for name in labels.singles],
            "label_to_idx": {name: row for row, name in enumerate(labels.names)},
            "empty_multiclass_head_indices": [],
        }
        return {"cls_heads_info": heads, "label_tree_edges": [[child, up] for child, up in labels.parents.items()]}

    @cached_property
    def _groups(self) -> tuple[slice, ...]:
        ends = np.cumsum([0, *(len(group) for group in self.labels.groups)]).tolist()
        return tuple(slice(start, stop) for start, stop in itertools.pairwise(ends))

    @cached_property
    def _group_names(self) -> tuple[str, ...]:
        """A group is called after its labels' parent, without one roots; a second group of that name goes by number."""
        names: list[str] = []
        taken: set[str] = set()
        for number, group in enumerate(self.labels.groups):
            parents = {self.labels.parents.get(name) for name in group}
            name = (parents.pop() or "roots") if len(parents) == 1 else f"group_{number}"
            names.append(f"group_{number}" if name in taken else name)
            taken.add(name)
        return tuple(names)

    @cached_property
    def _singles(self) -> slice:
        return slice(len(self.labels) - len(self.labels.singles), len(self.labels))

    @cached_property
    def _depth(self) -> tuple[int, ...]:
        return tuple(len(self.labels.path(name)) for name in self.labels.names)

    @cached_property
    def _conditional(self) -> Flags:
        """Labels of a group with one parent, given which their scores count: they contradict nothing. Shape: [C]."""
        conditional_C = np.zeros(len(self.labels), dtype=bool)
        for group, rows in zip(self.labels.groups, self._groups, strict=True):
            conditional_C[rows] = len({self.labels.parents.get(name) for name in group}) == 1
        return conditional_C

    def _consistent(self, raw_NC: Flags) -> Flags:
        """Without the labels that lack an ancestor. Shape: [N, C]."""
        kept_NC = raw_NC.copy()
        for row in np.argsort(self._depth, kind="stable"):  # parents first
            up = self.labels.parents.get(self.labels.names[row])
            if up is not None:
                kept_NC[:, row] &= kept_NC[:, self.labels.index(up)]
        return kept_NC

    def known(self, targets_NC: Targets) -> Flags:
        """Shape: [N, C].

        The labels of a group are known where the image has one of them, or where their parent is known not to hold;
        singles always.
        """
        true_NC = targets_NC > 0
        known_NC = np.ones_like(true_NC)
        for rows in self._groups:
            known_NC[:, rows] = true_NC[:, rows].any(axis=1, keepdims=True)
        for row in np.argsort(self._depth, kind="stable"):  # parents first
            up = self.labels.parents.get(self.labels.names[row])
            if up is not None:
                above = self.labels.index(up)
                known_NC[:, row] |= known_NC[:, above] & ~true_NC[:, above]
        return known_NC

    def more_figures(self, logits_NC: Floats, targets_NC: Targets) -> str:
        """Nothing."""
        return ""

    def decoding_code(self) -> tuple[list[str], list[str]]:
        """Python for a model card: the score of every label; those of a group add up to 1."""
        if not self.labels.groups:
            return self.thresholds.decoding_code(self.labels.names)
        groups = [[self.labels.index(name) for name in group] for group in self.labels.groups]
        scores = [
            "scores = logits[0].sigmoid()",
            "for group in groups:",
            "    scores[group] = logits[0, group].softmax(0)",
        ]
        return [f"groups = {groups!r}"], [*scores, "print(dict(zip(labels, scores.tolist())))"]
