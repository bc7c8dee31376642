"""From the labels that images carry to how labels relate: one exclusive group, singles, or a tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ftx.errors import DataError
from ftx.labels import Labels
from ftx.recipe import TaskName


def relate(task: TaskName, samples: Sequence[tuple[str, ...]], where: object) -> tuple[Labels, list[tuple[str, ...]]]:
    """The labels of a data set, and each sample's labels by their names in it.

    Raises: DataError if an image does not carry what the task asks for.
    """
    if task == "hierarchical":
        return _tree(samples, where)
    names = sorted({name for sample in samples for name in sample})
    if task == "multilabel":
        if not names:
            raise DataError("no image has a label", where=str(where))
        return Labels(tuple(names), singles=tuple(names)), list(samples)
    several = next((sample for sample in samples if len(sample) != 1), None)
    if several is not None:
        raise DataError(
            "multiclass images carry exactly one label each",
            where=str(where),
            found=";".join(several) or "an image without a label",
            mend="--task multilabel, or --task hierarchical for a tree",
        )
    return Labels.multiclass(names), list(samples)


def _tree(samples: Sequence[tuple[str, ...]], where: object) -> tuple[Labels, list[tuple[str, ...]]]:
    """Children of one label exclude each other, and so do the roots.

    But a root without children that stands beside another root in some image is a single: it holds or does not.
    """
    nodes = sorted({tuple(name.split("/")[:end]) for sample in samples for name in sample for end in _ends(name)})
    has_children = {node[:-1] for node in nodes if len(node) > 1}
    beside: set[tuple[str, ...]] = set()
    for sample in samples:
        roots = {(name.split("/")[0],) for name in sample}
        if len(roots) > 1:
            beside |= roots
    singles = [node for node in nodes if len(node) == 1 and node in beside and node not in has_children]
    groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for node in nodes:
        if node not in singles:
            groups.setdefault(node[:-1], []).append(node)
    # A group of one would be certain whatever is seen: such a child holds or does not.
    alone = [members[0] for _, members in sorted(groups.items()) if len(members) == 1]
    exclusive = [
        members for _, members in sorted(groups.items(), key=lambda item: (len(item[0]), item[0])) if len(members) > 1
    ]
    name_of = _names(nodes)
    for sample in samples:
        _refuse_two_of_a_group(sample, exclusive, where)
    labels = Labels(
        names=tuple(name_of[node] for members in exclusive for node in members)
        + tuple(name_of[node] for node in sorted([*singles, *alone])),
        groups=tuple(tuple(name_of[node] for node in members) for members in exclusive),
        singles=tuple(name_of[node] for node in sorted([*singles, *alone])),
        parents={name_of[node]: name_of[node[:-1]] for node in nodes if len(node) > 1},
    )
    return labels, [tuple(name_of[tuple(name.split("/"))] for name in sample) for sample in samples]


def _ends(name: str) -> range:
    return range(1, len(name.split("/")) + 1)


def _names(nodes: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """A node's own name where it is the only one so called, else its whole path."""
    counted = Counter(node[-1] for node in nodes)
    return {node: node[-1] if counted[node[-1]] == 1 else "/".join(node) for node in nodes}


def _refuse_two_of_a_group(
    sample: tuple[str, ...], exclusive: Sequence[Sequence[tuple[str, ...]]], where: object
) -> None:
    held = {tuple(name.split("/")[:end]) for name in sample for end in _ends(name)}
    for members in exclusive:
        both = [node for node in members if node in held]
        if len(both) > 1:
            raise DataError(
                "an image carries two labels that exclude each other",
                where=str(where),
                found=" and ".join("/".join(node) for node in both),
                mend="children of one label, and roots with children, exclude each other: keep one of the two",
            )
