"""A hierarchy of labels with how well each was answered, to be drawn as a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftx.evaluating.evaluate import ClassScore
from ftx.tasks.labels import Labels


@dataclass(frozen=True)
class Node:
    """A label, its figures where there are any, and the labels below it."""

    name: str
    score: ClassScore | None
    children: Sequence[Node]


def label_tree(labels: Labels, scores: Sequence[ClassScore]) -> list[Node]:
    """The roots of the tree; empty where no label has a parent."""
    if not labels.parents:
        return []
    by_name = {score.name: score for score in scores}
    below: dict[str | None, list[str]] = {}
    for name in labels.names:
        below.setdefault(labels.parents.get(name), []).append(name)

    def node(name: str) -> Node:
        return Node(name, by_name.get(name), [node(child) for child in below.get(name, ())])

    return [node(name) for name in below[None]]
