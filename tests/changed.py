"""The tests that a change affects, nearest first: ``python -m tests.changed [--base COMMIT]``.

A change affects every module that imports the changed one, directly or through others. Test files are ordered by the
number of imports between them and the change; test files of the changed package come first. It prints the first files
up to three minutes by tests/durations.json, and changed test files in any case. It counts the rest, which `make test`
runs. What a test reaches through tests/conftest.py or a new process is not seen: it is found by its package alone.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from tests.durations import in_make_test

ROOT = Path(__file__).parents[1]
SECONDS = 250.0  # of two workers together: 300 took three minutes
FARTHEST = 1_000
ALWAYS = ("tests/test_documentation.py",)  # pages list what the program has, and it takes no time


def changed_paths(base: str) -> list[str]:
    """What differs from a commit, new files included, by its path in the repository."""
    commands = (["diff", "--name-only", base], ["ls-files", "--others", "--exclude-standard"])
    lists = [
        subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True) for words in commands
    ]
    return sorted({line for one in lists for line in one.stdout.splitlines()})


def module_of(path: str) -> str | None:
    """``ftx.core.files`` for ``src/ftx/core/files.py``; for another file the module it lies beside."""
    parts = Path(path).with_suffix("").parts
    if parts[:2] != ("src", "ftx"):
        return None
    if not path.endswith(".py") or parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts[1:])


def distances(changed: Iterable[str]) -> Mapping[str, int]:
    """How many imports lead from each module of ftx to the nearest changed one."""
    import grimp

    graph = grimp.build_graph("ftx")
    found: dict[str, int] = {}
    steps, front = 0, {module for module in changed if module in graph.modules}
    while front:
        found |= dict.fromkeys(front, steps)
        steps += 1
        front = {above for module in front for above in graph.find_modules_that_directly_import(module)} - found.keys()
    return found


@cache
def imports(path: Path) -> frozenset[str]:
    """The ftx modules that a test file imports, directly or through helper modules below tests/."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            own = (ROOT / name.replace(".", "/")).with_suffix(".py")
            if name.startswith("tests.") and own.is_file() and own.name != "conftest.py":
                found |= imports(own)
            elif name.partition(".")[0] == "ftx":
                found.add(name)
    return frozenset(found)


def used(file: Path) -> frozenset[str]:
    """What a test file imports, and the fixtures of its own folder."""
    fixtures = file.with_name("conftest.py")
    return imports(file) | (imports(fixtures) if fixtures.exists() and file.parent.name != "tests" else frozenset())


def ranked(paths: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Each test file that the change affects, and how far it is away."""
    paths = list(paths)
    modules = {module for path in paths if (module := module_of(path))}
    away = distances(modules)
    packages = {module.split(".")[1] for module in modules if "." in module}
    helpers = {folder_of_tests(path) for path in paths if path.startswith("tests/") and _helps(path)}
    elsewhere = any(not path.startswith(("src/", "tests/")) for path in paths)
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        name = file.relative_to(ROOT).as_posix()
        folder = str(Path(name).parent)
        if name in paths or name in ALWAYS:
            yield 0, name
        elif packages & set(Path(name).parts) or any(Path(name).is_relative_to(helper) for helper in helpers):
            yield 1, name
        elif elsewhere and folder == "tests":
            yield 2, name
        elif (steps := min((away.get(module, FARTHEST) for module in used(file)), default=FARTHEST)) < FARTHEST:
            yield 2 + steps, name


def _helps(path: str) -> bool:
    """Whether the file is not a test but tests use it: a fixture, a table, or a folder written by an earlier ftx."""
    return not Path(path).name.startswith("test_") and path != "tests/durations.json"


def folder_of_tests(path: str) -> str:
    """The nearest folder above a file that holds tests."""
    return next(str(one) for one in Path(path).parents if any((ROOT / one).rglob("test_*.py")))


def within(seconds: float, files: Iterable[tuple[int, str]]) -> tuple[list[str], int]:
    """The nearest files until the time is used up, changed ones in any case; and the number of others."""
    chosen: list[str] = []
    left = 0
    for away, name in sorted(files, key=lambda pair: pair[0]):
        seconds -= in_make_test(name)
        if away and seconds < 0:
            left += 1
        else:
            chosen.append(name)
    return chosen, left


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.changed", description="The tests that a change affects.")
    parser.add_argument("--base", default="HEAD", help="compare with this commit (default: HEAD)")
    given = parser.parse_args()
    paths = changed_paths(given.base)
    if not paths:
        print(f"nothing differs from {given.base}: name an earlier commit, as in BASE=HEAD~1", file=sys.stderr)
        return 2
    chosen, left = within(SECONDS, ranked(paths))
    summary = f"files of tests: {len(chosen)}, for changed files: {len(paths)}"
    print(summary + (f"; {left} more are farther away: `make test` runs them" if left else ""), file=sys.stderr)
    print(" ".join(chosen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
