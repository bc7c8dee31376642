"""Connected components: what belongs together because links join it, directly or through others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Name = TypeVar("Name", str, int)


def least_of_component(links: Iterable[tuple[Name, Name]]) -> dict[Name, Name]:
    """The least name in the component of each name that a link has."""
    parent: dict[Name, Name] = {}

    def root(name: Name) -> Name:
        while (up := parent.setdefault(name, name)) != name:
            parent[name] = parent[up]  # shorter with each visit
            name = up
        return name

    for one, other in links:
        least, joined = sorted((root(one), root(other)))
        parent[joined] = least
    return {name: root(name) for name in parent}
