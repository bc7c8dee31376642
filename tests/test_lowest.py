"""What ftx says it runs with is what was tested: lower bounds are those of ``tests/lowest.txt``, to the last digit."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def version(text: str) -> tuple[int, ...]:
    """Without the zeros at its end: 2.1 is 2.1.0."""
    parts = [int(part) for part in text.split(".")]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def test_lower_bounds_are_those_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared: dict[str, tuple[int, ...]] = {}
    for requirement in [*project["dependencies"], *extras["train"], *extras["serve"]]:
        found = re.fullmatch(r"([A-Za-z0-9_.-]+)>=([0-9.]+)(?:,<[0-9.]+)?", requirement)
        assert found is not None, f"{requirement} has no plain lower bound"
        declared[found[1]] = version(found[2])
    del declared["ftx-vit-models"]  # made of this commit, as ftx is: tests/test_packages.py holds what it requires
    lines = (ROOT / "tests" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert {name: version(text) for name, text in tested.items()} == declared
