"""The labels of a data set: names in logit order, and how they relate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ftx.core.errors import DataError, listed
from ftx.core.untrusted_input import MOST_LABELS, MOST_TREE_LEVELS

LABEL_IMAGES = "label your images, then run: ftx data check DIR"


@dataclass(frozen=True)
class LabelDeclaration:
    """What a data set declares of its labels in addition to its images.

    ``names`` are labels that exist whether or not an image has them; ``groups`` are mutually exclusive classes, None
    if the data set declares none; ``parents`` maps a child to its parent.
    """

    names: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] | None = None
    parents: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Labels:
    """Label names in the order of the logits.

    ``groups`` are sets of mutually exclusive classes (softmax), ``singles`` are independent labels (sigmoid),
    ``parents`` maps a child to its parent. Multiclass is one group.
    """

    names: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...] = ()
    singles: tuple[str, ...] = ()
    parents: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        if len(self.names) > MOST_LABELS:
            raise DataError(
                f"a data set must have at most {MOST_LABELS:,} labels",
                found=f"{len(self.names):,} labels",
                fix="merge labels, or remove some",
            )
        if not self.names or not all(self.groups):
            raise DataError(
                "a group of labels must not be empty" if self.names else "there must be at least one label",
                found=f"{len(self.groups)} groups of {len(self.names)} labels",
                fix="remove the empty group" if self.names else LABEL_IMAGES,
            )
        members = Counter(name for group in self.groups for name in group) + Counter(self.singles)
        named = Counter(self.names)
        if wrong := sorted(name for name in members | named if members[name] != 1 or named[name] != 1):
            raise DataError(
                "every label must be in exactly one group, or be independent",
                found=listed(
                    [
                        f"{name!r}: listed {named[name]} times, in {members[name]} groups or independent"
                        for name in wrong
                    ]
                ),
                fix="list every label once, in one group or as an independent label",
            )
        unknown = sorted({*self.parents.keys(), *self.parents.values()} - set(self.names))
        if unknown:
            raise DataError(
                "the label tree must name only labels that exist",
                found=listed(unknown),
                fix="add these labels, or remove them from the tree",
            )
        self._check_circles()

    def _check_circles(self) -> None:
        """In linear time for every tree: each label is climbed from once."""
        levels: dict[str, int] = {}
        for name in self.parents:
            climbed = [name]
            while (up := self.parents.get(climbed[-1])) is not None and up not in levels:
                climbed.append(up)
                if len(climbed) > MOST_TREE_LEVELS:
                    self.path(name)
            above = 1 if up is None else levels[up] + 1
            if above + len(climbed) - 1 > MOST_TREE_LEVELS:
                self.path(name)
            levels.update((one, above + step) for step, one in enumerate(reversed(climbed)))

    @classmethod
    def multiclass(cls, names: Sequence[str]) -> Labels:
        """One exclusive group of all names."""
        return cls(names=tuple(names), groups=(tuple(names),))

    def index(self, name: str) -> int:
        """The logit of a label."""
        return self._rows[name]

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}

    def path(self, name: str) -> tuple[str, ...]:
        """The label and its ancestors, from the root down.

        Raises: DataError if the tree runs in a circle, or has more levels than one can have.
        """
        return path_in(self.parents, name)

    def __len__(self) -> int:
        return len(self.names)


def path_in(parents: Mapping[str, str], name: str) -> tuple[str, ...]:
    """A label and its ancestors, from the root down; raises as ``Labels.path``."""
    found = [name]
    while (up := parents.get(found[-1])) is not None:
        if up in found:
            raise DataError(
                "a label of a tree must not be its own parent, directly or through other labels",
                found=" -> ".join([*found, up]),
                fix="remove one of these parents",
            )
        found.append(up)
        if len(found) > MOST_TREE_LEVELS:
            raise DataError(
                f"a label tree must have at most {MOST_TREE_LEVELS} levels",
                found=f"{' -> '.join(found[:3])} -> …",
                fix="remove levels from the tree",
            )
    return tuple(reversed(found))


def spaceless_names(names: Sequence[str]) -> tuple[str, ...]:
    """Label names that survive a list separated by spaces: white space becomes ``_``, and no two are equal.

    A name without white space keeps itself; ``a b`` next to ``a_b`` becomes ``a_b_2``.
    """
    used = {name for name in names if _is_spaceless(name)}
    spaceless: list[str] = []
    last: dict[str, int] = {}  # numbers only ever fill up: those in use need no second look
    for name in names:
        if not _is_spaceless(name):
            stem = "_".join(name.split()) or "_"
            number = last.get(stem, 1)
            name = stem if number == 1 else f"{stem}_{number}"
            while name in used:
                number += 1
                name = f"{stem}_{number}"
            last[stem] = number
            used.add(name)
        spaceless.append(name)
    return tuple(spaceless)


def _is_spaceless(name: str) -> bool:
    return name.split() == [name]
