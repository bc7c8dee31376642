"""From the labels that images carry to a label tree: exclusive groups, singles, parents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import TypeVar

from ftx.core.errors import DataError, listed
from ftx.core.untrusted_input import MOST_TREE_LEVELS
from ftx.tasks.base import ImageLabels, RelatedLabels
from ftx.tasks.labels import LabelDeclaration, Labels

LabelPath = tuple[str, ...]
MemberT = TypeVar("MemberT", str, LabelPath)


def tree_of(samples: ImageLabels, declared: LabelDeclaration, where: object) -> RelatedLabels:
    """The tree that a data set declares, or the one that its labels spell as paths: ``animal/cat``.

    Raises: DataError naming the images that carry labels that exclude each other, or if no image has a label.
    """
    if not any(samples.values()):
        raise DataError("no image has a label", where=str(where))
    if declared.groups is not None:
        return _declared(samples, declared, where)
    if declared.parents:
        path_of = Labels.tree(declared.parents)
        return _spelt({path: [path_of(name) for name in names] for path, names in samples.items()}, (), where)
    nodes = {path: [_node(name, path) for name in names] for path, names in samples.items()}
    return _spelt(nodes, [(name,) for name in declared.names], where)


def _node(name: str, path: str) -> LabelPath:
    parts = tuple(part.strip() for part in name.split("/"))
    if not all(parts):
        raise DataError("a label's path has an empty part", where=path, found=name, fix="write it as animal/cat")
    if len(parts) > MOST_TREE_LEVELS:
        found = f"{len(parts)} levels, at most {MOST_TREE_LEVELS}"
        raise DataError("a label's path has too many levels", where=path, found=found)
    return parts


def _declared(samples: ImageLabels, declared: LabelDeclaration, where: object) -> RelatedLabels:
    """Groups as they were declared, of the labels that occur; every other label is a single."""
    path_of = Labels.tree(declared.parents)
    held = {path: {above for name in names for above in path_of(name)} for path, names in samples.items()}
    occurring = {name for names in held.values() for name in names}
    kept = [tuple(name for name in group if name in occurring) for group in declared.groups or ()]
    groups = tuple(group for group in kept if len(group) > 1)
    _refuse_two_of_a_group(held, groups, str, where)
    grouped = {name for group in groups for name in group}
    singles = tuple(sorted(occurring - grouped))
    parents = {name: up for name, up in declared.parents.items() if name in occurring}
    names = tuple(name for group in groups for name in group) + singles
    return Labels(names, groups, singles, parents), list(samples.values())


def _spelt(samples: Mapping[str, Sequence[LabelPath]], more: Sequence[LabelPath], where: object) -> RelatedLabels:
    """Children of one label exclude each other, and so do the roots, but for those that must be singles.

    A root without children that stands beside another root in some image may be a single, which holds or does not: see
    ``_not_exclusive``. ``more`` are nodes that exist whether or not an image has them.
    """
    held = {
        path: {node[:end] for node in carried for end in range(1, len(node) + 1)} for path, carried in samples.items()
    }
    nodes = sorted({node for sample in held.values() for node in sample} | set(more))
    has_children = {node[:-1] for node in nodes if len(node) > 1}
    singles = _not_exclusive([{node for node in sample if len(node) == 1} for sample in held.values()], has_children)
    groups: dict[LabelPath, list[LabelPath]] = {}
    for node in nodes:
        if node not in singles:
            groups.setdefault(node[:-1], []).append(node)
    # A group of one would be certain whatever is seen: such a child holds or does not.
    singles = sorted(singles + [members[0] for members in groups.values() if len(members) == 1])
    exclusive = [members for _, members in sorted(groups.items(), key=_by_depth) if len(members) > 1]
    _refuse_two_of_a_group(held, exclusive, "/".join, where)
    name_of = _names(nodes)
    named = tuple(tuple(name_of[node] for node in members) for members in exclusive)
    alone = tuple(name_of[node] for node in singles)
    labels = Labels(
        names=tuple(name for members in named for name in members) + alone,
        groups=named,
        singles=alone,
        parents={name_of[node]: name_of[node[:-1]] for node in nodes if len(node) > 1},
    )
    return labels, [tuple(name_of[node] for node in carried) for carried in samples.values()]


def _not_exclusive(roots: Sequence[set[LabelPath]], has_children: set[LabelPath]) -> list[LabelPath]:
    """Roots without children that are singles, so that no two of the others stand in one image.

    One after the other, the root that most rarely stands alone: an attribute such as *new* never does, a class does.
    """
    neighbours: dict[LabelPath, set[LabelPath]] = {}
    seen, alone = Counter[LabelPath](), Counter[LabelPath]()
    for sample in roots:
        seen.update(sample)
        if len(sample) == 1:
            alone.update(sample)
        for node in sample:
            neighbours.setdefault(node, set()).update(sample - {node})
    # By how rarely it stands alone, then by its neighbours, of which there are fewer as singles are taken out: an entry
    # can only have become too good, and goes back with what it is now.
    free = [(alone[node] / seen[node], -len(beside), node) for node, beside in neighbours.items()]
    free = [entry for entry in free if entry[1] and entry[2] not in has_children]
    heapify(free)
    found: list[LabelPath] = []
    while free:
        rarity, before, single = heappop(free)
        if -len(neighbours[single]) != before:
            if neighbours[single]:
                heappush(free, (rarity, -len(neighbours[single]), single))
            continue
        found.append(single)
        for beside in neighbours.pop(single):
            neighbours[beside].discard(single)
    return found


def _by_depth(group: tuple[LabelPath, list[LabelPath]]) -> tuple[int, LabelPath]:
    return len(group[0]), group[0]


def _names(nodes: Sequence[LabelPath]) -> Mapping[LabelPath, str]:
    """A node's own name where it is the only one so called, else its whole path."""
    counted = Counter(node[-1] for node in nodes)
    return {node: node[-1] if counted[node[-1]] == 1 else "/".join(node) for node in nodes}


def _refuse_two_of_a_group(
    held: Mapping[str, set[MemberT]], groups: Sequence[Sequence[MemberT]], show: Callable[[MemberT], str], where: object
) -> None:
    group_of = {member: number for number, group in enumerate(groups) for member in group}
    clashes: list[str] = []
    for path, members in held.items():
        first: dict[int, MemberT] = {}
        for member in sorted(members):
            group = group_of.get(member)
            if group is not None and first.setdefault(group, member) != member:
                clashes.append(f"{path}: {show(first[group])} and {show(member)}")
    if clashes:
        raise DataError(
            "images carry labels that exclude each other",
            where=str(where),
            found=listed(clashes),
            fix="labels of one group, children of one label, and roots with children exclude each other: keep one",
        )
