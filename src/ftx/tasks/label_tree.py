"""From the labels that images carry to a label tree: exclusive groups, singles, parents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import TypeVar

from ftx.core.errors import DataError, listed
from ftx.core.untrusted_input import MOST_TREE_LEVELS
from ftx.tasks.base import ImageLabels, RelatedLabels
from ftx.tasks.labels import LABEL_IMAGES, LabelDeclaration, Labels, path_in

LabelPath = tuple[str, ...]
MemberT = TypeVar("MemberT", str, LabelPath)


def tree_of(samples: ImageLabels, declared: LabelDeclaration, where: object) -> RelatedLabels:
    """The tree that a data set declares, or the one that its labels spell as paths: ``animal/cat``.

    Raises: DataError naming the images that carry mutually exclusive labels, or if no image has a label.
    """
    if not any(samples.values()):
        raise DataError("at least one image must have a label", where=str(where), fix=LABEL_IMAGES)
    if declared.groups is not None:
        return _declared(samples, declared, where)
    if declared.parents:
        paths = {path: [path_in(declared.parents, name) for name in names] for path, names in samples.items()}
        return _spelt(paths, (), where)
    nodes = {path: [_node(name, path) for name in names] for path, names in samples.items()}
    return _spelt(nodes, [(name,) for name in declared.names], where)


def _node(name: str, path: str) -> LabelPath:
    parts = tuple(part.strip() for part in name.split("/"))
    if not all(parts):
        raise DataError(
            "a label path must not have an empty part", where=path, found=name, fix="write it as in animal/cat"
        )
    if len(parts) > MOST_TREE_LEVELS:
        raise DataError(
            f"a label path must have at most {MOST_TREE_LEVELS} levels",
            where=path,
            found=f"{len(parts)} levels",
            fix="shorten the path",
        )
    return parts


def _declared(samples: ImageLabels, declared: LabelDeclaration, where: object) -> RelatedLabels:
    """Groups as they were declared, of the labels that occur; every other label is independent."""
    held = {
        path: {above for name in names for above in path_in(declared.parents, name)} for path, names in samples.items()
    }
    occurring = {name for names in held.values() for name in names}
    kept = [tuple(name for name in group if name in occurring) for group in declared.groups or ()]
    groups = tuple(group for group in kept if len(group) > 1)
    _check_one_of_a_group(held, groups, str, where)
    grouped = {name for group in groups for name in group}
    singles = tuple(sorted(occurring - grouped))
    parents = {name: up for name, up in declared.parents.items() if name in occurring}
    names = tuple(name for group in groups for name in group) + singles
    return Labels(names, groups, singles, parents), list(samples.values())


def _spelt(samples: Mapping[str, Sequence[LabelPath]], more: Sequence[LabelPath], where: object) -> RelatedLabels:
    """Children of one label are mutually exclusive, and so are the roots, except for those that must be independent.

    A root without children that occurs with another root in some image may be an independent label: see
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
    # A group of one would always be predicted: such a child is an independent label.
    singles = sorted(singles + [members[0] for members in groups.values() if len(members) == 1])
    exclusive = [
        members
        for _, members in sorted(groups.items(), key=lambda group: (len(group[0]), group[0]))
        if len(members) > 1
    ]
    _check_one_of_a_group(held, exclusive, "/".join, where)
    name_of = _names(nodes)
    groups_named = tuple(tuple(name_of[node] for node in members) for members in exclusive)
    singles_named = tuple(name_of[node] for node in singles)
    labels = Labels(
        names=tuple(name for members in groups_named for name in members) + singles_named,
        groups=groups_named,
        singles=singles_named,
        parents={name_of[node]: name_of[node[:-1]] for node in nodes if len(node) > 1},
    )
    return labels, [tuple(name_of[node] for node in carried) for carried in samples.values()]


def _not_exclusive(roots: Sequence[set[LabelPath]], has_children: set[LabelPath]) -> list[LabelPath]:
    """Roots without children that are independent labels, so that no image has two of the others.

    One after the other, the root that is most rarely the only one: an attribute such as *new* never is, a class is.
    """
    neighbours: dict[LabelPath, set[LabelPath]] = {}
    seen, only = Counter[LabelPath](), Counter[LabelPath]()
    for sample in roots:
        seen.update(sample)
        if len(sample) == 1:
            only.update(sample)
        for node in sample:
            neighbours.setdefault(node, set()).update(sample - {node})
    # By how rarely it is the only one, then by its neighbours, of which there are fewer as independent labels leave: an
    # entry can only have become too good, and goes back with what it is now.
    free = [(only[node] / seen[node], -len(others), node) for node, others in neighbours.items()]
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
        for other in neighbours.pop(single):
            neighbours[other].discard(single)
    return found


def _names(nodes: Sequence[LabelPath]) -> Mapping[LabelPath, str]:
    """A node's own name where it is the only one so called, else its whole path."""
    counted = Counter(node[-1] for node in nodes)
    return {node: node[-1] if counted[node[-1]] == 1 else "/".join(node) for node in nodes}


def _check_one_of_a_group(
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
            "an image must not have mutually exclusive labels",
            where=str(where),
            found=listed(clashes),
            fix="keep one label of each group, one child of each label, and one root that has children",
        )
