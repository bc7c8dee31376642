"""Each mutant against its tests, and what became of it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.mutants import children
from tests.mutants.children import Child
from tests.mutants.covering import Covering
from tests.mutants.sample import Mutant, Place, mutated

START_S = 30.0  # of CPU, until the first test runs
SPARE_S = 10.0
SLOWER = 5.0  # than recorded: one test
FILES_S = 600.0  # where files of tests are named


@dataclass(eq=False)
class Chosen:
    """A pytest plugin that runs the chosen tests in their order, each within its limit of CPU time."""

    limits_s: dict[str, float]  # by test, in the order to run
    killer: str = ""
    said: str = ""
    ran: int = 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        by_name = {item.nodeid: item for item in items}
        items[:] = [by_name[name] for name in self.limits_s if name in by_name]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        # Without a handler: an endless loop in C ends by it as well.
        signal.setitimer(signal.ITIMER_PROF, self.limits_s[item.nodeid])
        self.ran += 1
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome == "failed" and not self.killer:
            self._killed(report.nodeid, report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome == "failed" and not self.killer:
            self._killed(f"{report.nodeid} (import)", report)

    def _killed(self, name: str, report: Any) -> None:
        crash = getattr(report.longrepr, "reprcrash", None)
        self.killer, self.said = name, (crash.message if crash else str(report.longrepr)[-300:])[:300]

    def listed(self) -> dict[str, Any]:
        return {"test": self.killer, "said": self.said, "ran": self.ran}


@dataclass
class Job:
    """A mutant at work, or with ``found`` the test that killed it, run once more on the source as it is."""

    child: Child
    mutant: Mutant
    place: Place
    without: frozenset[str]
    found: dict[str, Any] | None = None


@dataclass
class Runner:
    """The queue of mutants, and as many children at work as there are workers.

    A kill counts where the same test passes without the mutant, in the same place and under the same load.
    """

    root: Path
    build: Path
    covering: Covering
    workers: int
    state: str
    tests: Sequence[str] = ()  # files to run in place of the chosen tests; what they find is not kept
    running: dict[int, Job] = field(default_factory=dict)
    trusted: set[str] = field(default_factory=set)

    @property
    def results(self) -> Path:
        return self.build / "results.jsonl"

    def past(self) -> dict[str, dict[str, Any]]:
        """The last result of each mutant, from any state of the source."""
        lines = self.results.read_text(encoding="utf-8").splitlines() if self.results.exists() else []
        whole = (line for line in lines if line.endswith("}"))  # the last one is not where the machine went down
        return {entry["id"]: entry for entry in map(json.loads, whole)}

    def run(self, queue: Sequence[tuple[Mutant, Place]]) -> Iterator[dict[str, Any]]:
        """One result after the other, each written down as it comes."""
        trees = [children.copy_tree(self.root, self.build / "trees" / str(each)) for each in range(self.workers)]
        waiting = list(reversed(queue))
        seen = time.monotonic()
        try:
            while waiting or self.running:
                for slot, tree in enumerate(trees):
                    if slot in self.running:
                        if (result := self._ended(slot, tree)) is not None:
                            yield result
                    elif waiting and (result := self._begin(slot, tree, *waiting.pop())) is not None:
                        yield result
                time.sleep(0.02)
                if time.monotonic() - seen > 1:
                    seen = time.monotonic()
                    for job in self.running.values():
                        job.child.watch()
        finally:
            for job in self.running.values():
                job.child.stop("interrupted")
                os.waitpid(job.child.pid, 0)

    def _begin(
        self,
        slot: int,
        tree: Path,
        mutant: Mutant,
        place: Place,
        without: frozenset[str] = frozenset(),
    ) -> dict[str, Any] | None:
        names = [] if self.tests else [name for name in self.covering.chosen(mutant, place) if name not in without]
        if not names and not self.tests:
            said = f"no other test runs its line than {min(without)}" if without else "no test runs its line"
            return self._keep(mutant, {"outcome": "survived", "said": said, "cpu_s": 0.0})
        self._write(tree, mutant, mutated(mutant, place))
        self.running[slot] = Job(self._fork(slot, tree, names), mutant, place, without)
        return None

    def _fork(self, slot: int, tree: Path, names: Sequence[str]) -> Child:
        limits_s = {name: SLOWER * self.covering.cost(name) + SPARE_S for name in names}
        files = list(dict.fromkeys(name.split("::")[0] for name in names))

        def arguments() -> tuple[list[str], Chosen]:
            signal.setitimer(signal.ITIMER_PROF, START_S)
            return ([*self.tests, "-x"], Every()) if self.tests else ([*files, "-x"], Chosen(limits_s))

        whole_s = FILES_S if self.tests else 3 * self.covering.seconds(names) + START_S
        return children.fork_pytest(tree, self.build / "child" / str(slot), arguments, whole_s)

    def _ended(self, slot: int, tree: Path) -> dict[str, Any] | None:
        job = self.running[slot]
        told = job.child.poll()
        if told is None:
            return None
        del self.running[slot]
        self._write(tree, job.mutant, job.place.path.read_text(encoding="utf-8"))
        result = _outcome(told)
        if job.found is None:
            killer = result.get("test", "")
            if result["outcome"] != "killed" or killer not in self.covering.tests or killer in self.trusted:
                return self._keep(job.mutant, result)
            again = self._fork(slot, tree, [killer])
            self.running[slot] = Job(again, job.mutant, job.place, job.without, found=result)
            return None
        killer = job.found["test"]
        if result["outcome"] == "survived":
            if "imeout" not in job.found["said"]:  # what waits for a clock is a matter of the load each time
                self.trusted.add(killer)
            return self._keep(job.mutant, job.found)
        return self._begin(slot, tree, job.mutant, job.place, job.without | {killer})

    @staticmethod
    def _write(tree: Path, mutant: Mutant, text: str) -> None:
        path = tree / "src" / "ftx" / mutant.module
        path.write_text(text, encoding="utf-8")
        # Python takes compiled code for the source's by size and whole seconds: both can be alike.
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()

    def _keep(self, mutant: Mutant, result: dict[str, Any]) -> dict[str, Any]:
        entry = {"id": mutant.id, "package": mutant.package, "state": self.state, **result}
        if not self.tests:
            with self.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        return entry


class Every(Chosen):
    """All tests of the files that were named, without limits of their own."""

    def __init__(self) -> None:
        super().__init__({})

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        self.limits_s = {item.nodeid: 120.0 for item in items}


def _outcome(told: dict[str, Any]) -> dict[str, Any]:
    stopped, status = told.pop("stopped"), told.pop("status", None)
    if stopped == "time":
        return told | {"outcome": "timed out"}
    if stopped:
        return told | {"outcome": "killed", "said": f"ended by {stopped}"}
    if status is None:
        return told | {"outcome": "killed", "said": "pytest did not end"}
    return told | {"outcome": "survived" if status in (0, 5) else "killed"}


def apply(sample: Iterable[Mutant], everything: dict[Any, tuple[Mutant, Place]]) -> list[tuple[Mutant, Place]]:
    """Those that the source still has, each with its place."""
    return [(mutant, everything[mutant.identity][1]) for mutant in sample if mutant.identity in everything]
