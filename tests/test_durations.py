"""What a test may take, which file begins, and which tests a change reaches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests import durations
from tests.changed import module_of, ranked, within
from tests.durations import Duration, by_file, over_limits, slower

ROOT = Path(__file__).parents[1]


def lasting(seconds: float, kind: str, shared: float = 0.0) -> Duration:
    return Duration(seconds=seconds, shared=shared, kind=kind)


def test_each_kind_of_test_has_its_own_limit() -> None:
    tests = {
        "a::quick": lasting(5.9, "quick", shared=9),
        "a::slower": lasting(6.1, "quick"),
        "a::typical": lasting(29.9, "representative"),
        "a::longer": lasting(30.1, "representative"),
        "a::long": lasting(100, "slow"),
    }
    assert [line.split()[2] for line in over_limits(tests, 1.0)] == ["a::slower", "a::longer"]
    assert list(over_limits(tests, 1.1)) == []


def test_limits_grow_with_a_slower_machine_and_shrink_on_none() -> None:
    before = {f"{number}.py": {"quick": 4.0, "slow": 10.0} for number in range(10)}
    measured = {name: {"quick": 6.0, "slow": 16.0} for name in before}
    assert slower(measured, before) == pytest.approx(1.55)  # the median of ten times 1.5 and ten times 1.6
    assert slower({name: {"quick": 2.0} for name in before}, before) == 1.0
    assert slower({"0.py": {"quick": 40.0}}, before) == 1.0  # one file says nothing
    assert slower(measured, {name: {"quick": 1.0} for name in before}) == 1.0  # nor do short ones


def test_what_was_shared_counts_for_the_file() -> None:
    assert by_file(
        {"a.py::x": lasting(1, "quick", 4), "a.py::y": lasting(2, "slow"), "b.py::x": lasting(3, "quick")}
    ) == {
        "a.py": {"quick": 5, "slow": 2},
        "b.py": {"quick": 3},
    }


SUITE = """
import time, pytest
@pytest.fixture(scope="module")
def shared(): time.sleep(6.2)
def test_that_is_first_to_share(shared): pass
def test_that_takes_long(): time.sleep(6.1)
@pytest.mark.representative
def test_that_may(): time.sleep(6.1)
@pytest.mark.slow
def test_that_may_too(): time.sleep(6.1)
times = iter([6.1, 0])
def test_that_takes_long_once(): time.sleep(next(times))
"""


@pytest.mark.slow
def test_a_test_that_takes_too_long_twice_fails_the_suite(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_addoption, pytest_configure\n")
    (tmp_path / "test_suite.py").write_text(SUITE)
    words = ["-q", "-o", "markers=slow\nrepresentative", "--rootdir", tmp_path, "--durations-to=to.json", tmp_path]
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # of this worker
    environment = {**outer, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    command = [sys.executable, "-m", "pytest", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "5 passed" in done.stdout
    over = done.stdout.partition("tests over their limit")[2].splitlines()[1:-2]
    assert [line.split()[2] for line in over] == ["test_suite.py::test_that_takes_long"]
    tests = json.loads((tmp_path / "to.json").read_text())
    assert tests["test_suite.py::test_that_is_first_to_share"]["shared"] > 2


def test_the_file_that_takes_longest_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"a.py": {"quick": 1, "slow": 9}, "b.py": {"quick": 3}}
    monkeypatch.setattr(durations, "kept", lambda: known)

    class Item:
        def __init__(self, nodeid: str, *keywords: str) -> None:
            self.nodeid, self.keywords = nodeid, keywords

    def order(*items: Item) -> list[str]:
        given = list(items)
        durations.longest_first(given)  # pyright: ignore[reportArgumentType]
        return [item.nodeid for item in given]

    quick = Item("a.py::1"), Item("b.py::2"), Item("new.py::3"), Item("a.py::4")
    assert order(*quick) == ["b.py::2", "a.py::1", "a.py::4", "new.py::3"]
    assert order(*quick, Item("a.py::5", "slow"))[0] == "a.py::1"


def test_a_changed_file_is_the_module_that_others_import() -> None:
    assert module_of("src/ftx/core/files.py") == "ftx.core.files"
    assert module_of("src/ftx/core/__init__.py") == "ftx.core"
    assert module_of("src/ftx/core/shipped/architectures.json") == "ftx.core.shipped"
    assert module_of("tests/core/test_files.py") is None


def reached(*paths: str) -> dict[str, int]:
    found = {name: away for away, name in ranked(paths)}
    assert found.pop("tests/test_documentation.py") == 0  # whatever has changed
    return found


def test_tests_of_the_changed_package_come_first_and_then_those_that_import_it() -> None:
    found = reached("src/ftx/runs/card_json.py")
    assert found["tests/runs/test_run.py"] == 1
    assert found["tests/exporting/test_openvino.py"] > 1  # reads a card
    assert (
        found["tests/effects/test_flags.py"] > found["tests/exporting/test_openvino.py"]
    )  # by way of the command line
    assert "tests/core/test_durations.py" not in found


def test_a_changed_test_runs_alone_and_a_helper_with_all_that_lie_beside_it() -> None:
    assert reached("tests/core/test_files.py") == {"tests/core/test_files.py": 0}
    lab = reached("tests/effects/lab.py")
    assert lab == {"tests/effects/test_flags.py": 1, "tests/effects/test_recipe_keys.py": 1}
    assert set(reached("tests/written/v1/README.md")) == {"tests/written/test_written.py"}
    assert reached("tests/durations.json") == {}
    every = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    assert set(reached("tests/conftest.py")) == every - {"tests/test_documentation.py"}
    assert "tests/test_lowest.py" in reached("pyproject.toml")


def test_the_nearest_fit_into_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"a": {"quick": 40, "slow": 900}, "b": {"representative": 50}, "c": {"quick": 20}}
    monkeypatch.setattr(durations, "kept", lambda: known)
    assert within(100, [(3, "c"), (2, "b"), (1, "a")]) == (["a", "b"], 1)
    assert within(10, [(3, "c"), (0, "a")]) == (["a"], 1)  # what was changed runs in any case
