"""Durations of tests: record them, fail a run if a test exceeds its limit, and start the slowest files first.

``pytest --durations-to=FILE`` writes the duration of each test; `make test` and `make test-slow` use it. It fails if a
test takes three times as long as it may, twice: 2 seconds without a mark, 10 seconds with the mark ``representative``.
On a slower machine the limits grow.

``python -m tests.durations [FILE ...]`` prints the 30 slowest test files. With ``--keep`` it also writes
tests/durations.json. The next run starts the slowest files first.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from math import inf
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

import pytest
from _pytest.runner import runtestprotocol

KEPT = Path(__file__).with_suffix(".json")
BUILD = Path(__file__).parents[1] / "build" / "durations"
LIMITS_S = {"quick": 2.0, "representative": 10.0}  # of a test without a mark, and with that one
LARGEST = 30
TOLERANCE = 3  # what chance does on a machine that others share fails nobody
# Fewer files say too little of how fast a machine is, and shorter ones are mostly noise.
COMPARED_FILES, COMPARED_S = 10, 2.0


class Duration(TypedDict):
    """One test."""

    seconds: float  # without what it shares with others
    shared: float  # seconds in which it made that, where it was the first to need it
    kind: str


def kind_of(keywords: Any) -> str:
    """``quick``, ``representative`` or ``slow``: how long a test may take."""
    return next((kind for kind in ("representative", "slow") if kind in keywords), "quick")


_depth = 0
_shared_s = 0.0


@contextmanager
def shared() -> Iterator[None]:
    """Time spent within is not the test's own: it makes something that other tests use as well."""
    global _depth, _shared_s
    began = time.perf_counter()
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            _shared_s += time.perf_counter() - began


class Clock:
    """Times each test in a worker, without shared fixtures.

    Runs a test that exceeds its limit a second time, because another program may have used the processor. The shorter
    time counts. It is less than the first where that filled a cache, or imported a library for all tests.
    """

    def __init__(self) -> None:
        self.tests: dict[str, Duration] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if self.exceeds(item, reports) and all(one.passed for one in reports):
            second = runtestprotocol(item, nextitem=nextitem, log=False)
            if all(one.passed for one in second):
                reports = min(reports, second, key=_seconds)
        for report in reports:
            add(self.tests, report)
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[Any]:
        if fixturedef.scope == "function":
            return (yield)
        with shared():
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[Any]:
        global _shared_s
        report = yield
        report.shared_s, _shared_s = _shared_s, 0.0  # xdist hands attributes on
        return report

    def exceeds(self, item: pytest.Item, reports: list[pytest.TestReport]) -> bool:
        """Whether a test took longer than its kind may, on a machine as slow as this one has shown itself so far."""
        limit = TOLERANCE * LIMITS_S.get(kind_of(item.keywords), inf)
        seconds = _seconds(reports)
        return seconds > limit and seconds > limit * slower(by_file(self.tests), kept())


@dataclass
class Record:
    """In the process that steers the workers: each test's time, written and compared with the limits at the end."""

    target: Path
    tests: dict[str, Duration] = field(default_factory=dict)
    over: list[str] = field(default_factory=list)
    scale: float = 1.0

    def pytest_runtest_logreport(self, report: Any) -> None:
        add(self.tests, report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return  # interrupted: tests are missing
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.target.write_text(json.dumps(self.tests, indent=0) + "\n", encoding="utf-8")
        self.scale = slower(by_file(self.tests), kept())
        self.over = list(over_limits(self.tests, self.scale))
        if self.over and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.over:
            terminalreporter.section("tests over their limit", red=True)
            for line in self.over:
                terminalreporter.line(line)
            terminalreporter.line(
                f"limits: {LIMITS_S['quick']:.0f} s, a representative {LIMITS_S['representative']:.0f} s"
                + (f", times {self.scale:.1f} because this machine is slower" if self.scale > 1 else "")
                + '; see CONTRIBUTING.md, "Add a test"'
            )


def add(tests: dict[str, Duration], report: Any) -> None:
    """Count one phase of a test: its setup, call or teardown."""
    took = tests.setdefault(report.nodeid, Duration(seconds=0.0, shared=0.0, kind=kind_of(report.keywords)))
    made = getattr(report, "shared_s", 0.0)
    took["seconds"] = round(took["seconds"] + report.duration - made, 3)
    took["shared"] = round(took["shared"] + made, 3)


def _seconds(reports: list[pytest.TestReport]) -> float:
    """What a test took itself."""
    return sum(one.duration - getattr(one, "shared_s", 0.0) for one in reports)


def over_limits(tests: dict[str, Duration], scale: float) -> Iterator[str]:
    """A line for each test that takes longer than its kind may."""
    for name, took in tests.items():
        if took["seconds"] > TOLERANCE * LIMITS_S.get(took["kind"], inf) * scale:
            yield f"{took['seconds']:5.1f} s  {name}  ({took['kind']})"


def by_file(tests: dict[str, Duration]) -> dict[str, dict[str, float]]:
    """Seconds of each file of tests, by kind."""
    found: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for name, took in tests.items():
        found[name.partition("::")[0]][took["kind"]] += took["seconds"] + took["shared"]
    return {file: {kind: round(seconds, 2) for kind, seconds in kinds.items()} for file, kinds in found.items()}


@cache
def kept() -> dict[str, dict[str, float]]:
    """Seconds of each test file by kind, from tests/durations.json."""
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}


def in_make_test(file: str) -> float:
    """Seconds that a file of tests takes there, as they are kept; 0 of a new one."""
    return sum(seconds for kind, seconds in kept().get(file, {}).items() if kind != "slow")


def slower(measured: dict[str, dict[str, float]], before: dict[str, dict[str, float]]) -> float:
    """How much slower this machine is than the one that wrote tests/durations.json: a factor of at least 1.

    It is the median over test files.
    """
    ratios = [
        seconds / known
        for file, kinds in measured.items()
        for kind, seconds in kinds.items()
        if (known := before.get(file, {}).get(kind, 0.0)) >= COMPARED_S
    ]
    return max(1.0, median(ratios)) if len(ratios) >= COMPARED_FILES else 1.0


def longest_first(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: else one worker is left with one of them while the other waits."""
    before = kept()
    kinds: defaultdict[str, set[str]] = defaultdict(set)
    for item in items:
        kinds[item.nodeid.partition("::")[0]].add(kind_of(item.keywords))
    expected = {file: sum(before.get(file, {}).get(kind, 0.0) for kind in found) for file, found in kinds.items()}
    items.sort(key=lambda item: -expected[item.nodeid.partition("::")[0]])


def table(tests: dict[str, Duration]) -> Iterator[str]:
    """The slowest test files, a line each."""
    files = sorted(by_file(tests).items(), key=lambda pair: -sum(pair[1].values()))
    total = sum(sum(kinds.values()) for _, kinds in files)
    yield f"{'seconds':>8} {'test':>8} {'slow':>8}  (make test, make test-slow) of {total:.0f} s in {len(tests)} tests"
    for file, kinds in files[:LARGEST]:
        slow = kinds.get("slow", 0.0)
        yield f"{sum(kinds.values()):8.1f} {sum(kinds.values()) - slow:8.1f} {slow:8.1f}  {file}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.durations", description="The tests that take longest.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="by default build/durations/*.json")
    parser.add_argument("--keep", action="store_true", help="write tests/durations.json, which orders the next run")
    given = parser.parse_args()
    # The newest last: a test that became slow counts as what it is now.
    paths = given.files or sorted(BUILD.glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not paths or (given.keep and not given.files and len(paths) < 2):
        print(f"{BUILD} lacks durations: run `make test` and `make test-slow` first", file=sys.stderr)
        return 2
    tests: dict[str, Duration] = {}
    for path in paths:
        tests |= json.loads(path.read_text(encoding="utf-8"))
    print("\n".join(table(tests)))
    if given.keep:
        lines = [f"{json.dumps(file)}: {json.dumps(kinds)}" for file, kinds in sorted(by_file(tests).items())]
        KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
