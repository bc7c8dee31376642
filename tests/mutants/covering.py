"""Which tests run which lines, recorded once, and the fewest of them for a mutant."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from tests import durations
from tests.mutants import children
from tests.mutants.sample import PACKAGES, Mutant, Place

# Of recorded tests, for one mutant. With 60 one mutant of 264 lived that a test kills (evaluate's macro_f1).
TEST_SECONDS = 100.0
RECORD_LIMIT_S = 1800.0
CONTEXT = "FTX_MUTANTS_TEST"
SUBPROCESSES = """[run]
parallel = true
data_file = {data}
include = {tree}/src/ftx/*
context = ${{{variable}}}
"""


def state_of(root: Path) -> str:
    """A digest of the source and its tests: what a recording, and a result, belongs to."""
    digest = hashlib.sha256()
    for path in sorted([*(root / "src").rglob("*.py"), *(root / "tests").rglob("*.py")]):
        name = path.relative_to(root).as_posix()
        if not name.startswith("tests/mutants/"):
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def shared_fixtures(item: pytest.Item) -> list[str]:
    """Those of wider scope than one test: what they run belongs to each test that asks for them."""
    info = getattr(item, "_fixtureinfo", None)
    found = info.name2fixturedefs if info else {}
    return [f"{each[-1].baseid}::{name}" for name, each in found.items() if each[-1].scope != "function"]


def _cpu_s() -> float:
    return sum(os.times()[:4])


@dataclass(eq=False)
class Recorder:
    """A pytest plugin that gives each test, and each shared fixture, a coverage context of its own."""

    folder: Path
    tree: Path
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    fixtures: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from coverage import Coverage

        data = self.folder / "coverage"
        config = self.folder / "coverage.ini"
        config.write_text(SUBPROCESSES.format(data=data, tree=self.tree, variable=CONTEXT), encoding="utf-8")
        os.environ["COVERAGE_PROCESS_START"] = str(config)
        os.environ[CONTEXT] = ""
        self.coverage = Coverage(str(data), data_suffix="main", include=[f"{self.tree}/src/ftx/*"], config_file=False)
        self.coverage.start()
        self.within: list[str] = [""]

    def _enter(self, context: str) -> None:
        self.within.append(context)
        self.coverage.switch_context(context)
        os.environ[CONTEXT] = context

    def _leave(self) -> None:
        self.within.pop()
        self.coverage.switch_context(self.within[-1])
        os.environ[CONTEXT] = self.within[-1]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._enter(item.nodeid)
        before, shared = _cpu_s(), sum(self.fixtures.values())
        try:
            return (yield)
        finally:
            own = _cpu_s() - before - (sum(self.fixtures.values()) - shared)
            self.tests[item.nodeid] = {"cost": round(own, 3), "fixtures": shared_fixtures(item)}
            self._leave()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[Any]:
        if fixturedef.scope == "function":
            return (yield)
        name = f"{fixturedef.baseid}::{fixturedef.argname}"
        self._enter("fixture:" + name)
        before = _cpu_s()
        try:
            return (yield)
        finally:
            self.fixtures[name] = max(self.fixtures.get(name, 0.0), _cpu_s() - before)
            self._leave()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome == "failed":
            self.failed[report.nodeid] = str(report.longrepr)[-600:]
        elif report.outcome == "skipped":
            self.failed.setdefault(report.nodeid, "skipped")

    def listed(self) -> dict[str, Any]:
        from coverage import CoverageData
        from coverage.exceptions import DataError

        self.coverage.stop()
        self.coverage.save()
        lines: defaultdict[str, defaultdict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for path in self.folder.glob("coverage.*"):
            if path.suffix == ".ini":
                continue
            data = CoverageData(str(path))
            try:
                data.read()
            except DataError:  # of a process that its test killed as it wrote: its lines count as not run
                if path.suffix == ".main":
                    raise
                continue
            for file in data.measured_files():
                module = Path(file).relative_to(self.tree / "src" / "ftx").as_posix()
                for line, contexts in data.contexts_by_lineno(file).items():
                    lines[module][line].update(filter(None, contexts))
        plain = {module: {line: sorted(names) for line, names in found.items()} for module, found in lines.items()}
        return {"tests": self.tests, "fixtures": self.fixtures, "failed": self.failed, "lines": plain}


@dataclass
class Covering:
    """What a recording says, and the choice of tests by it."""

    root: Path
    tests: dict[str, dict[str, Any]]
    fixtures: dict[str, float]
    failed: dict[str, str]
    lines: dict[str, dict[int, set[str]]]

    def chosen(self, mutant: Mutant, place: Place) -> list[str]:
        """The tests to run, in order: of the mutant's room first, the fastest first, within ``TEST_SECONDS``.

        What runs at import has no test that is known to run it: those of its own file come before all others, and then
        those of its package.
        """
        exact, near = self._running(mutant, place)

        def order(name: str) -> tuple[bool, bool, bool, bool, float, str]:
            elsewhere = not self._of_room(name, mutant)
            other_file = place.imported and not self._of_file(name, mutant)
            return other_file, place.imported and elsewhere, name not in exact, elsewhere, self.cost(name), name

        ranked = sorted(exact | near, key=order)
        # Where the cheapest is dear (a fixture that exports a model), those that share its fixture come with it.
        within_s = max(TEST_SECONDS, min(map(self.cost, ranked), default=0.0) + TEST_SECONDS / 2)
        picked, total, paid = [], 0.0, set[str]()
        for name in ranked:
            fixtures = set(self.tests[name]["fixtures"])
            extra = self.tests[name]["cost"] + sum(self.fixtures.get(each, 0.0) for each in fixtures - paid)
            if total + extra <= within_s:
                picked.append(name)
                total, paid = total + extra, paid | fixtures
        return picked

    def cost(self, name: str) -> float:
        test = self.tests[name]
        return test["cost"] + sum(self.fixtures.get(each, 0.0) for each in test["fixtures"])

    def seconds(self, names: Iterable[str]) -> float:
        names = list(names)
        fixtures = {each for name in names for each in self.tests[name]["fixtures"]}
        return sum(self.tests[name]["cost"] for name in names) + sum(self.fixtures.get(each, 0) for each in fixtures)

    def _running(self, mutant: Mutant, place: Place) -> tuple[set[str], set[str]]:
        covered = self.lines.get(mutant.module, {})
        # A function that is called while a module is imported has a line that ran, and no test that ran it.
        if not place.imported and covered.get(place.line) != set():
            found = self._tests(covered.get(place.line, ())) or self._tests(covered.get(place.statement, ()))
            return found, set()
        # What runs at import has no test of its own: those of the function whose default it is, or of the lines that
        # name it, and then those of the whole module.
        near = self._tests(name for found in covered.values() for name in found)
        # A class may be all that a test looks at, long after its module was imported.
        near |= self._tests(name for name in self.tests if self._of_file(name, mutant))
        exact = self._tests(name for line in place.function for name in covered.get(line, ()))
        if word := re.match(r"(\w+)\s*(?::.*)?=[^=]", mutant.line):
            named = self.naming.get(word[1], ())
            exact = exact or self._tests(name for module, line in named for name in self.lines[module][line])
        return exact, near

    def _tests(self, contexts: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for context in contexts:
            if context.startswith("fixture:"):
                found |= self.users.get(context.removeprefix("fixture:"), set())
            elif context in self.tests:
                found.add(context)
        return {name for name in found if name not in self.failed}

    @cached_property
    def users(self) -> dict[str, set[str]]:
        found: defaultdict[str, set[str]] = defaultdict(set)
        for name, test in self.tests.items():
            for fixture in test["fixtures"]:
                found[fixture].add(name)
        return found

    @cached_property
    def naming(self) -> dict[str, list[tuple[str, int]]]:
        """The covered lines that hold a word."""
        found: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
        for module, covered in self.lines.items():
            source = (self.root / "src" / "ftx" / module).read_text(encoding="utf-8").splitlines()
            for line in covered:
                for word in set(re.findall(r"[A-Za-z_]\w+", source[line - 1])) if line <= len(source) else ():
                    found[word].append((module, line))
        return found

    @staticmethod
    def _of_file(test: str, mutant: Mutant) -> bool:
        return test.split("::")[0].endswith(f"/test_{Path(mutant.module).stem}.py")

    @staticmethod
    def _of_room(test: str, mutant: Mutant) -> bool:
        rooms = {path.removesuffix(".py").split("/")[0] for path in PACKAGES.get(mutant.package, (mutant.module,))}
        parts = re.split(r"[/.]", test.split("::")[0])
        return any(room in parts or f"test_{room}" in parts for room in rooms)


def record(root: Path, build: Path, workers: int, say: Any) -> Covering:
    """The recording for this state of the source; made anew where there is none."""
    kept = build / "covering.json"
    state = state_of(root)
    if kept.exists() and (document := json.loads(kept.read_text())).pop("state") == state:
        return _covering(root, [document])
    files = [path.relative_to(root).as_posix() for path in (root / "tests").rglob("test_*.py")]
    parts_of: list[list[str]] = [[] for _ in range(workers)]
    seconds = [0.0] * workers
    # The longest first, each to the worker that has least to do.
    for cost, file in sorted(((durations.in_make_test(file), file) for file in files), reverse=True):
        if not file.startswith("tests/mutants/"):
            least = seconds.index(min(seconds))
            parts_of[least].append(file)
            seconds[least] += cost
    running: list[children.Child] = []
    for number in range(workers):
        tree = children.copy_tree(root, build / "trees" / str(number))
        folder, mine = build / "record" / str(number), parts_of[number]

        def arguments(folder: Path = folder, tree: Path = tree, mine: list[str] = mine) -> tuple[list[str], Recorder]:
            return [*mine, "-m", "not slow"], Recorder(folder, tree)

        running.append(children.fork_pytest(tree, folder, arguments, RECORD_LIMIT_S))
    parts: list[dict[str, Any]] = []
    while running:
        time.sleep(1)
        for child in list(running):
            child.watch()
            if (told := child.poll()) is not None:
                running.remove(child)
                if told.get("status") not in (0, 1):
                    raise SystemExit(f"the tests could not be recorded: see {child.folder / 'log.txt'}")
                say(f"recorded {len(told['tests'])} tests in {told['cpu_s']:.0f} s of a core")
                parts.append(told)
    covering = _covering(root, parts)
    plain = {module: {line: sorted(names) for line, names in found.items()} for module, found in covering.lines.items()}
    document = {"state": state, "tests": covering.tests, "fixtures": covering.fixtures, "failed": covering.failed}
    kept.write_text(json.dumps(document | {"lines": plain}), encoding="utf-8")
    return covering


def _covering(root: Path, parts: list[dict[str, Any]]) -> Covering:
    whole = Covering(root, {}, {}, {}, {})
    for part in parts:
        whole.tests |= part["tests"]
        whole.fixtures |= part["fixtures"]
        whole.failed |= part["failed"]
        for module, found in part["lines"].items():
            mine = whole.lines.setdefault(module, {})
            for line, names in found.items():
                mine.setdefault(int(line), set()).update(names)
    return whole
