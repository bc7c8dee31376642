"""Connected components: names that links join, directly or through others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

_Name = TypeVar("_Name", str, int)


def least_of_component(links: Iterable[tuple[_Name, _Name]]) -> dict[_Name, _Name]:
    """The least name in the component of each name that a link has."""
    parent: dict[_Name, _Name] = {}

    def root(name: _Name) -> _Name:
        while (up := parent.setdefault(name, name)) != name:
            parent[name] = parent[up]  # shorter with each visit
            name = up
        return name

    for one, other in links:
        least, joined = sorted((root(one), root(other)))
        parent[joined] = least
    return {name: root(name) for name in parent}
