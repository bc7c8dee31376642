"""The faults of by_hand.toml, as mutants: each a change that somebody could make, and what a user would see of it.

An entry names a file below src/ftx and the text ``old`` that ``new`` stands for there; ``old`` is in the file once.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

from tests.mutants.sample import HERE, Mutant, Place, digest

FAULTS = HERE / "by_hand.toml"
BY_HAND = "by hand"


def read_faults(root: Path, path: Path = FAULTS) -> tuple[list[tuple[Mutant, Place]], list[Mutant]]:
    """Those that the source still has, each with its place, and those that no longer apply."""
    found: list[tuple[Mutant, Place]] = []
    gone: list[Mutant] = []
    for entry in tomllib.loads(path.read_text(encoding="utf-8"))["fault"]:
        mutant = _mutant(**entry)
        file = root / "src" / "ftx" / mutant.module
        source = file.read_text(encoding="utf-8") if file.is_file() else ""
        if source.count(entry["old"]) == 1:
            found.append((mutant, _place(file, source, source.replace(entry["old"], entry["new"]))))
        else:
            gone.append(mutant)
    return found, gone


def package_of(module: str) -> str:
    """As the table calls it: the folder of a module."""
    return f"{BY_HAND}: {Path(module).parts[0].removesuffix('.py')}"


def _mutant(file: str, effect: str, old: str, new: str) -> Mutant:
    named = digest(file, old, new)[:6]
    return Mutant(package_of(file), file, BY_HAND, named, old.strip().splitlines()[0].strip(), 0, effect)


def _place(file: Path, source: str, becomes: str) -> Place:
    before = source.splitlines()
    changed = [*_changed(before, becomes.splitlines())]
    # Of a comment nobody knows which tests run it.
    line = next((at for at in changed if before[at].strip()[:1] not in ("", "#")), changed[0]) + 1
    bodies = [
        range(node.body[0].lineno, (node.end_lineno or 0) + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    imported = not any(line in body for body in bodies)  # a line of a class is, too
    return Place(file, 0, line, line, imported=imported, function=range(0), becomes=becomes)


def _changed(before: list[str], after: list[str]) -> Iterator[int]:
    """The lines of ``before`` that are others afterwards, or are gone; where lines were added, the one they precede."""
    for tag, first, end, _, _ in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            yield from range(first, end) if end > first else [min(first, len(before) - 1)]
