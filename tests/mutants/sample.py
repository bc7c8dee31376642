"""Which mutants there are, and the sample of them that is kept in list.jsonl.

A mutant is known by its module, the function it is in, the operator, the text of its line, and its place among those
that are alike in all of these: an edit elsewhere in the file leaves it what it was.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import unified_diff
from functools import cache
from pathlib import Path
from typing import Any

import parso
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import mutate_code
from tests.mutants.operators import FAMILY_OF, OPERATORS, allowed

HERE = Path(__file__).parent
LIST = HERE / "list.jsonl"
SEED = "ftx mutants 1"
COUNT = 500
LEAST = 40  # of a package, however small
MOST_OF_A_FAMILY = 0.2  # of a package's mutants

# Paths below src/ftx; a folder stands for all that is in it. The first package that holds a file has it.
PACKAGES: dict[str, tuple[str, ...]] = {
    "edge": (
        "backbones/attention.py",
        "backbones/kept_tokens.py",
        "core/processors.py",
        "evaluating/arrivals.py",
        "evaluating/bench.py",
        "evaluating/bench_process.py",
        "evaluating/held_process.py",
        "exporting/base_ir.py",
        "exporting/int8",
        "exporting/separate_qkv.py",
        "runs/machine.py",
        "runs/tuning_json.py",
        "runs/update_zip.py",
        "runtimes/choose_artifact.py",
        "updating",
    ),
    "adapters": ("adapters",),
    "merging": ("merging",),
    "validation": ("evaluating", "core/statistics.py", "runtimes"),
    "tasks": ("tasks",),
    "training": ("training",),
    "images": (
        "data/preprocess.py",
        "data/decode.py",
        "data/image_store.py",
        "data/random_draws.py",
        "data/split.py",
        "data/near_duplicates.py",
        "data/loader.py",
        "exporting/preprocess_graph.py",
    ),
    "run folder": ("runs", "core/files.py", "core/file_cache.py"),
    "cli": ("cli",),
}


@dataclass(frozen=True)
class Mutant:
    """One change of one line; ``becomes`` is that line after it."""

    package: str
    module: str
    function: str
    operator: str
    line: str
    occurrence: int
    becomes: str

    @property
    def identity(self) -> tuple[str, str, str, str, int]:
        return self.module, self.function, self.operator, self.line, self.occurrence

    @property
    def id(self) -> str:
        return f"{self.module}:{self.function}:{self.operator}:{digest(*self.identity)[:6]}"


@dataclass(frozen=True)
class Place:
    """Where a mutant is in the source as it stands: ``index`` counts the operator's positions in the file."""

    path: Path
    index: int
    line: int
    statement: int
    imported: bool  # runs when the module is imported: a constant, a default, a decorator
    function: range  # the lines of the function that it is in, or whose default or decorator it is
    becomes: str | None = None  # of a fault written by hand, the whole file with it


def digest(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, (SEED, *parts))).encode()).hexdigest()


def files_of(root: Path) -> Iterator[tuple[str, Path]]:
    """Each file of each package."""
    source = root / "src" / "ftx"
    seen: set[Path] = set()
    for package, paths in PACKAGES.items():
        for path in map(source.joinpath, paths):
            for file in sorted(path.rglob("*.py")) if path.is_dir() else [path] * path.is_file():
                if file not in seen:
                    seen.add(file)
                    yield package, file


def mutants_of(root: Path) -> dict[tuple[Any, ...], tuple[Mutant, Place]]:
    """All there are, by identity."""
    found: dict[tuple[Any, ...], tuple[Mutant, Place]] = {}
    for package, path in files_of(root):
        for mutant, place in _mutants_of_file(package, path, path.relative_to(root / "src" / "ftx").as_posix()):
            found[mutant.identity] = mutant, place
    return found


def _mutants_of_file(package: str, path: Path, module: str) -> Iterator[tuple[Mutant, Place]]:
    source = path.read_text(encoding="utf-8")
    lines = source.split("\n")
    tree = parso.parse(source)
    operators = {name: operator() for name, operator in OPERATORS.items()}
    indices: Counter[str] = Counter()
    alike: Counter[tuple[str, ...]] = Counter()
    for node in ast_nodes(tree):
        for name, operator in operators.items():
            for start, _ in operator.mutation_positions(node):
                index = indices[name]
                indices[name] += 1
                leaf = tree.get_leaf_for_position((start[0], start[1] + 1))  # at a boundary parso gives the one before
                if leaf is None or not allowed(leaf, name):
                    continue
                function, imported, extent = _scope(leaf)
                line = lines[start[0] - 1].strip()
                occurrence = alike[function, name, line]
                alike[function, name, line] += 1
                mutant = Mutant(package, module, function, name, line, occurrence, "")
                yield mutant, Place(path, index, start[0], _statement(leaf), imported, extent)


def _scope(leaf: Any) -> tuple[str, bool, range]:
    """The dotted name of the function or class around a leaf, whether the leaf runs at import, the function's lines."""
    names: list[str] = []
    imported, extent = True, range(0)
    node = leaf
    while node.parent is not None:
        child, node = node, node.parent
        inner = node
        if node.type == "decorated" and child is not node.children[-1]:  # a decorator belongs to what it decorates
            inner = node.children[-1]
            inner = inner.children[-1] if inner.type.startswith("async") else inner
        if inner.type in ("funcdef", "classdef"):
            names.insert(0, inner.name.value)
        if inner.type == "funcdef":
            extent = extent or range(inner.start_pos[0] + 1, inner.end_pos[0])
            imported = imported and child is not inner.children[-1]
    return ".".join(names) or "module", imported, extent


def _statement(leaf: Any) -> int:
    """The first line of the statement that a leaf stands in."""
    node = leaf
    while node.parent is not None and node.parent.type not in ("suite", "file_input"):
        node = node.parent
    return node.start_pos[0]


def _source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _mutated(source: str, operator: str, index: int) -> str:
    text = mutate_code(source, OPERATORS[operator](), index)
    assert text is not None, f"{operator} {index}"
    return text


def mutated(mutant: Mutant, place: Place) -> str:
    """The whole file with the change."""
    if place.becomes is not None:
        return place.becomes
    return _mutated(_source(place.path), mutant.operator, place.index)


def diff(mutant: Mutant, place: Place, context: int = 2) -> str:
    name = f"src/ftx/{mutant.module}"
    before, after = _source(place.path).splitlines(), mutated(mutant, place).splitlines()
    return "\n".join(unified_diff(before, after, name, name, lineterm="", n=context))


def draw(root: Path, kept: Sequence[Mutant], count: int = COUNT) -> tuple[list[Mutant], list[Mutant]]:
    """The sample, and those of ``kept`` that no longer apply and gave their place to others."""
    everything = mutants_of(root)
    stays = [_described(*everything[mutant.identity]) for mutant in kept if mutant.identity in everything]
    gone = [mutant for mutant in kept if mutant.identity not in everything]
    sample: list[Mutant] = []
    for package, quota in quotas(root, count).items():
        mine = [mutant for mutant in stays if mutant.package == package]
        sample += _filled(mine, quota, [pair for pair in everything.values() if pair[0].package == package])
    return sample, gone


def quotas(root: Path, count: int) -> dict[str, int]:
    """By package: in proportion to its lines of code, and at least ``LEAST``."""
    lines: Counter[str] = Counter()
    for package, path in files_of(root):
        lines[package] += sum(bool(line.strip()) for line in path.read_text(encoding="utf-8").splitlines())
    shares = {package: count * number / lines.total() for package, number in lines.items()}
    small = {package for package, share in shares.items() if share < LEAST}
    left, large = count - LEAST * len(small), sum(lines[package] for package in lines if package not in small)
    return {package: LEAST if package in small else round(left * lines[package] / large) for package in PACKAGES}


def _filled(mine: list[Mutant], quota: int, pairs: Iterable[tuple[Mutant, Place]]) -> list[Mutant]:
    """Add the next by digest until the quota is full: one of a source line, and not too many of a family."""
    sample = list(mine)
    texts = Counter((mutant.module, mutant.function, mutant.line) for mutant in sample)
    families = Counter(FAMILY_OF[mutant.operator] for mutant in sample)
    for mutant, place in sorted(pairs, key=lambda pair: digest(*pair[0].identity)):
        if len(sample) >= quota:
            break
        text, family = (mutant.module, mutant.function, mutant.line), FAMILY_OF[mutant.operator]
        if texts[text] or families[family] >= MOST_OF_A_FAMILY * quota or not _compiles(mutant, place):
            continue
        texts[text] += 1
        families[family] += 1
        sample.append(_described(mutant, place))
    return sample


def _compiles(mutant: Mutant, place: Place) -> bool:
    try:
        compile(mutated(mutant, place), str(place.path), "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return mutated(mutant, place) != _source(place.path)


def _described(mutant: Mutant, place: Place) -> Mutant:
    added = [line[1:].strip() for line in diff(mutant, place, 0).split("\n")[2:] if line.startswith("+")]
    return replace(mutant, becomes=" ".join(added))


def read_list(path: Path = LIST) -> list[Mutant]:
    if not path.exists():
        return []
    entries = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [Mutant(**{key: value for key, value in entry.items() if key != "id"}) for entry in entries]


def write_list(sample: Iterable[Mutant], path: Path = LIST) -> None:
    entries = ({"id": mutant.id, **asdict(mutant)} for mutant in sample)
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")


def interleaved(pairs: Iterable[tuple[Mutant, Place]]) -> list[tuple[Mutant, Place]]:
    """So that any first part of a run is a fair sample of all packages."""
    by_package: defaultdict[str, list[tuple[Mutant, Place]]] = defaultdict(list)
    for pair in pairs:
        by_package[pair[0].package].append(pair)
    placed = [((at + 0.5) / len(mine), pair) for mine in by_package.values() for at, pair in enumerate(mine)]
    return [pair for _, pair in sorted(placed, key=lambda each: each[0])]
