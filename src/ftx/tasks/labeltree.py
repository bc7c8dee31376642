"""From the labels that images carry to a label tree: exclusive groups, singles, parents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ftx.errors import DataError
from ftx.labels import Declared, Labels
from ftx.tasks.base import Related

Node = tuple[str, ...]


def tree_of(samples: Sequence[tuple[str, ...]], declared: Declared, where: object) -> Related:
    """The tree that a data set declares, or the one that its labels spell as paths: ``animal/cat``.

    Raises: DataError if an image carries two labels that exclude each other, or no image has a label.
    """
    if not any(samples):
        raise DataError("no image has a label", where=str(where))
    if declared.groups is not None:
        return _declared(samples, declared, where)
    if declared.parents:
        path_of = Labels.tree(declared.parents)
        return _spelt([[path_of(name) for name in sample] for sample in samples], where)
    return _spelt([[tuple(name.split("/")) for name in sample] for sample in samples], where)


def _declared(samples: Sequence[tuple[str, ...]], declared: Declared, where: object) -> Related:
    """Groups as they were declared, of the labels that occur; every other label is a single."""
    path_of = Labels.tree(declared.parents)
    held = [{above for name in sample for above in path_of(name)} for sample in samples]
    occurring = {name for names in held for name in names}
    kept = [tuple(name for name in group if name in occurring) for group in declared.groups or ()]
    groups = tuple(group for group in kept if len(group) > 1)
    for names in held:
        _refuse_two_of_a_group([(name,) for name in names], [[(name,) for name in group] for group in groups], where)
    grouped = {name for group in groups for name in group}
    singles = tuple(sorted(occurring - grouped))
    parents = {name: up for name, up in declared.parents.items() if name in occurring}
    return Labels(tuple(name for group in groups for name in group) + singles, groups, singles, parents), list(samples)


def _spelt(samples: Sequence[Sequence[Node]], where: object) -> Related:
    """Children of one label exclude each other, and so do the roots, but for those that must be singles.

    A root without children that stands beside another root in some image may be a single, which holds or does not. As
    few are made singles as leave the others exclusive: of ``Bag;new`` and ``Shoe/Boot;new`` it is ``new`` alone.
    """
    held = [{node[:end] for node in sample for end in range(1, len(node) + 1)} for sample in samples]
    nodes = sorted({node for sample in held for node in sample})
    has_children = {node[:-1] for node in nodes if len(node) > 1}
    singles = _not_exclusive([{node[:1] for node in sample} for sample in samples], has_children)
    groups: dict[Node, list[Node]] = {}
    for node in nodes:
        if node not in singles:
            groups.setdefault(node[:-1], []).append(node)
    # A group of one would be certain whatever is seen: such a child holds or does not.
    singles = sorted(singles + [members[0] for members in groups.values() if len(members) == 1])
    exclusive = [members for _, members in sorted(groups.items(), key=_by_depth) if len(members) > 1]
    for sample in held:
        _refuse_two_of_a_group(sample, exclusive, where)
    name_of = _names(nodes)
    named = tuple(tuple(name_of[node] for node in members) for members in exclusive)
    alone = tuple(name_of[node] for node in singles)
    labels = Labels(
        names=tuple(name for members in named for name in members) + alone,
        groups=named,
        singles=alone,
        parents={name_of[node]: name_of[node[:-1]] for node in nodes if len(node) > 1},
    )
    return labels, [tuple(name_of[node] for node in sample) for sample in samples]


def _not_exclusive(roots: Sequence[set[Node]], has_children: set[Node]) -> list[Node]:
    """Roots without children that others stand beside: the one with the most neighbours first, until none is left."""
    neighbours: dict[Node, set[Node]] = {}
    for sample in roots:
        for node in sample:
            neighbours.setdefault(node, set()).update(sample - {node})
    found: list[Node] = []
    while free := [node for node, beside in neighbours.items() if beside and node not in has_children]:
        single = max(sorted(free), key=lambda node: len(neighbours[node]))
        found.append(single)
        del neighbours[single]
        for beside in neighbours.values():
            beside.discard(single)
    return found


def _by_depth(group: tuple[Node, list[Node]]) -> tuple[int, Node]:
    return len(group[0]), group[0]


def _names(nodes: Sequence[Node]) -> Mapping[Node, str]:
    """A node's own name where it is the only one so called, else its whole path."""
    counted = Counter(node[-1] for node in nodes)
    return {node: node[-1] if counted[node[-1]] == 1 else "/".join(node) for node in nodes}


def _refuse_two_of_a_group(held: Sequence[Node] | set[Node], groups: Sequence[Sequence[Node]], where: object) -> None:
    for members in groups:
        both = [node for node in members if node in held]
        if len(both) > 1:
            raise DataError(
                "an image carries two labels that exclude each other",
                where=str(where),
                found=" and ".join("/".join(node) for node in both),
                mend="labels of one group, children of one label, and roots with children exclude each other: keep one",
            )
