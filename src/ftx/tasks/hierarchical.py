"""Hierarchical: groups of mutually exclusive classes and independent labels, related by a tree of parents.

Shapes: N images, C labels, G labels of one group.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ftx.core.errors import DataError, listed
from ftx.tasks.base import ImageLabels, LossChoice, RelatedLabels, ScoredLabel, Targets, Task
from ftx.tasks.label_tree import tree_of
from ftx.tasks.labels import LabelDeclaration, Labels
from ftx.tasks.metrics import f1_of
from ftx.tasks.scores import best, binary_loss, class_loss, sigmoid, softmax
from ftx.tasks.thresholds import Flags, Floats, Thresholds, tune

if TYPE_CHECKING:
    from torch import Tensor


class Hierarchical(Task):
    """A softmax a group, a sigmoid an independent label, and predictions that agree with the tree.

    A label is predicted if it is the best of its group, or as an independent one above its threshold, and all its
    ancestors are predicted too: what the greedy and the probabilistic resolver of Model API both end with.
    """

    metric = "path_accuracy"
    right_set = "contain no wrong label"
    balanced_metric = "macro_f1"
    nested_folders = True

    def __init__(self, labels: Labels, thresholds: Thresholds | None = None) -> None:
        super().__init__(labels, thresholds)
        if labels.names != tuple(name for group in labels.groups for name in group) + labels.singles:
            raise DataError(
                "the labels of a tree must be sorted by group, with the independent labels last",
                found=listed(labels.names),
                fix="list all labels of the first group, then all of the next group, and the independent labels at the "
                "end",
            )

    @staticmethod
    def suits(samples: ImageLabels, declared: LabelDeclaration) -> bool:
        """Labels that are paths, or that a data set relates to each other beyond one group of all."""
        if declared.groups is None:
            return bool(declared.parents) or any("/" in name for names in samples.values() for name in names)
        every = {name for names in samples.values() for name in names}
        return bool(declared.groups) and (bool(declared.parents) or not every <= set(declared.groups[0]))

    @staticmethod
    def relate(samples: ImageLabels, declared: LabelDeclaration, where: object) -> RelatedLabels:
        """A tree, as the data set declares it or as its labels spell it."""
        return tree_of(samples, declared, where)

    def loss(self, logits_NC: Tensor, targets_NC: Tensor, how: LossChoice, whole_MC: Tensor | None = None) -> Tensor:
        """The mean over the groups and, as one more, the independent labels.

        A group's cross-entropy is masked if the image has no label of it; the loss of an independent label never is.
        """
        whole_MC = targets_NC if whole_MC is None else whole_MC
        parts: list[Tensor] = []
        for rows in self._groups:
            known_N, known_M = (truth_NC[:, rows].sum(dim=1) > 0 for truth_NC in (targets_NC, whole_MC))
            weights_2G = None if how.weights_2C is None else how.weights_2C[:, rows]
            each_N = class_loss(logits_NC[:, rows], targets_NC[:, rows], how.smoothing, weights_2G)
            parts.append((each_N * known_N).sum() / known_M.sum().clamp(min=1))
        if self.labels.singles:
            weights_2S = None if how.weights_2C is None else how.weights_2C[:, self._singles]
            each_NS = binary_loss(logits_NC[:, self._singles], targets_NC[:, self._singles], how.kind, weights_2S)
            parts.append(each_NS.sum() / (len(whole_MC) * len(self.labels.singles)))
        return sum(parts[1:], parts[0]) / len(parts)

    def scores(self, logits_NC: Floats) -> Floats:
        """Probabilities within each group, given its parent; of an independent label its own. Shape: [N, C]."""
        scores_NC = sigmoid(logits_NC)
        for rows in self._groups:
            scores_NC[:, rows] = softmax(logits_NC[:, rows])
        return scores_NC

    def raw(self, scores_NC: Floats) -> Flags:
        """The best of each group and the independent labels above their thresholds, without the tree. Shape: [N, C]."""
        raw_NC = scores_NC > self.thresholds.of(self.labels.names)
        for rows in self._groups:
            raw_NC[:, rows] = best(scores_NC[:, rows])
        return raw_NC

    def predicted(self, logits_NC: Floats) -> Flags:
        """Those that agree with the tree. Shape: [N, C]."""
        return self._consistent(self.raw(self.scores(logits_NC)))

    def decode(self, scores_C: Floats) -> list[ScoredLabel]:
        """The labels predicted: the path from the root, then the independent labels, each after its parent."""
        rows = np.flatnonzero(self._consistent(self.raw(scores_C[None]))[0]).tolist()
        return [ScoredLabel(self.labels.names[row], float(scores_C[row])) for row in self.in_order(rows, scores_C)]

    def in_order(self, labels: Sequence[int], scores_C: Floats) -> list[int]:
        """The path from the root, then the independent labels, each after its parent."""
        return sorted(labels, key=lambda row: (row >= self._singles.start, self._depth[row], row))

    def set_scores(self, logits_NC: Floats, targets_NC: Targets) -> Floats:
        """The probability of the likeliest predicted label that is wrong, at that label: a set ends before it.

        Shape: [N, C].
        """
        wrong_NC = self.known(targets_NC) & (targets_NC == 0)
        likely_NC = np.where(wrong_NC, self._path_scores(logits_NC), 0)
        return np.where(best(likely_NC), likely_NC, 0)

    def set_labels(self, targets_NC: Targets) -> NDArray[np.int64]:
        """A set is right as a whole. Shape: [N]."""
        return np.ones(len(targets_NC), np.int64)

    def prediction_set(self, logits_NC: Floats, thresholds_C: Floats) -> Flags:
        """The predicted labels whose path from the root is more likely than the threshold. Shape: [N, C].

        Source: sets of nodes, arXiv:2501.19038; the deepest node that is certain enough.
        """
        return self._path_scores(logits_NC) > thresholds_C

    def missed(self, sets_NC: Flags, targets_NC: Targets) -> Floats:
        """Whether each set contains a wrong label. Shape: [N]."""
        return (sets_NC & self.known(targets_NC) & (targets_NC == 0)).any(axis=1).astype(np.float64)

    def _path_scores(self, logits_NC: Floats) -> Floats:
        """The probability of each predicted label and all its ancestors; 0 for the others. Shape: [N, C]."""
        scores_NC = self.scores(logits_NC)
        kept_NC = self._consistent(self.raw(scores_NC))
        for row, above in self._edges:
            scores_NC[:, row] *= scores_NC[:, above]
        return np.where(kept_NC, scores_NC, 0)

    def metrics(self, logits_NC: Floats, targets_NC: Targets) -> dict[str, float]:
        """Accuracy of whole paths, groups and independent labels, hierarchical F1, and the fraction of contradictions.

        Hierarchical F1 counts each image's labels with all their ancestors (Kiritchenko et al., 2005).
        """
        raw_NC = self.raw(self.scores(logits_NC))
        predicted_NC, true_NC = self._consistent(raw_NC), targets_NC > 0
        counted_NC = predicted_NC & self.known(targets_NC)
        hits, either = int((counted_NC & true_NC).sum()), int(counted_NC.sum() + true_NC.sum())
        found = {
            "path_accuracy": float(self.correct(logits_NC, targets_NC).mean()),
            "hierarchical_f1": 2 * hits / max(either, 1),
            "macro_f1": f1_of(counted_NC, true_NC)[0],
            "inconsistent": float((raw_NC & ~predicted_NC & ~self._conditional).any(axis=1).mean()),
        }
        for name, rows in zip(self._group_names, self._groups, strict=True):
            seen_N = true_NC[:, rows].any(axis=1)
            if seen_N.any():
                same_N = raw_NC[:, rows].argmax(axis=1) == true_NC[:, rows].argmax(axis=1)
                found[f"accuracy_{name}"] = float(same_N[seen_N].mean())
        if self.labels.singles:
            found["singles_accuracy"] = float((raw_NC == true_NC)[:, self._singles].mean())
        return found

    def tuned_thresholds(self, logits_NC: Floats, targets_NC: Targets) -> Thresholds:
        """The threshold of the largest F1 for each independent label."""
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
        """Groups in the order of the logits, then each independent label as a group of one."""
        labels = self.labels
        inside = {name: [i, j] for i, group in enumerate(labels.groups) for j, name in enumerate(group)}
        singles = {name: [len(labels.groups), j] for j, name in enumerate(labels.singles)}
        heads = {
            "num_multiclass_heads": len(labels.groups),
            "num_multilabel_classes": len(labels.singles),
            "head_idx_to_logits_range": {str(i): [rows.start, rows.stop] for i, rows in enumerate(self._groups)},
            "num_single_label_classes": len(inside),
            "class_to_group_idx": inside | singles,
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
        """A group has the name of its labels' parent, or "roots"; a second group of that name has its number."""
        names: list[str] = []
        for number, group in enumerate(self.labels.groups):
            parents = {self.labels.parents.get(name) for name in group}
            name = (parents.pop() or "roots") if len(parents) == 1 else ""
            names.append(f"group_{number}" if not name or name in names else name)
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

    @cached_property
    def _edges(self) -> list[tuple[int, int]]:
        """The rows of each label that has a parent, and of that; parents first."""
        labels = self.labels
        edges = [(labels.index(name), labels.index(parent)) for name, parent in labels.parents.items()]
        return sorted(edges, key=lambda edge: self._depth[edge[0]])

    def _consistent(self, raw_NC: Flags) -> Flags:
        """Without the labels that lack an ancestor. Shape: [N, C]."""
        kept_NC = raw_NC.copy()
        for row, above in self._edges:
            kept_NC[:, row] &= kept_NC[:, above]
        return kept_NC

    def known(self, targets_NC: Targets) -> Flags:
        """Shape: [N, C].

        The labels of a group are known if the image has one of them, or if their parent is known to be absent;
        independent labels always.
        """
        true_NC = targets_NC > 0
        known_NC = np.ones_like(true_NC)
        for rows in self._groups:
            known_NC[:, rows] = true_NC[:, rows].any(axis=1, keepdims=True)
        for row, above in self._edges:
            known_NC[:, row] |= known_NC[:, above] & ~true_NC[:, above]
        return known_NC

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
