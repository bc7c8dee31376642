"""`ftx runs` in a narrow terminal, and the comparison that it suggests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.cli.test_console import terminal

from ftx.cli.runs import print_runs
from ftx.runs.inventory import ListedRun, RunsReport


def run(name: str, **changed: Any) -> ListedRun:
    given: dict[str, Any] = {
        "run": f"runs/{name}",
        "state": "finished",
        "started": datetime(2026, 11, 3, 12, 30, tzinfo=UTC),
        "task": "multiclass",
        "model": "vit_base_patch14_dinov2",
        "method": "dora",
        "epochs": 9,
        "of_epochs": 12,
        "metric": "accuracy",
        "figures": {"accuracy": 0.8125},
        "seconds": 3700,
        "size_bytes": 123_400_000,
        "artifacts": ["trained", "dense", "openvino/fp32", "openvino/int8"],
        "keys": {"data.image_size": 224, "data.path": "photos"},
    }
    return ListedRun.model_validate(given | changed)


NAMES = ("2026-11-03-screws-front-dora", "2026-11-02-screws-front-and-back-lora")


@pytest.mark.parametrize("columns", [60, 80, 100, 120, 200])
def test_no_name_is_broken(columns: int) -> None:
    with terminal(columns=columns) as shown:
        print_runs(RunsReport(runs=[run(name) for name in NAMES], latest=f"runs/{NAMES[0]}"), named=False)
        lines = shown.getvalue().splitlines()
    assert lines[0].split()[0] == "run"
    for line, name in zip(lines[1:3], NAMES, strict=True):
        assert f"runs/{name}" in line
        assert "81.2 %" in line
        assert len(line.rstrip()) <= columns
    assert ("openvino/int8" in lines[1]) == (columns >= 120)
    assert ("1:01:40" in lines[1]) == (columns >= 80)


@pytest.mark.parametrize("columns", [80, 250])
def test_what_is_left_out_is_said(columns: int) -> None:
    with terminal(columns=columns) as shown:
        print_runs(RunsReport(runs=[run(name) for name in NAMES]), named=False)
        said = shown.getvalue()
    assert ("the terminal is too narrow: size, model, started, epochs, holds" in said) == (columns == 80)


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_tokyo")
def test_a_run_began_by_the_clock_on_the_users_wall(capsys: pytest.CaptureFixture[str]) -> None:
    """Nine hours before London's; there is none that was never begun."""
    late = run("late", started=datetime(2026, 11, 3, 20, 30, tzinfo=UTC))
    print_runs(RunsReport(runs=[run("a"), late, run("none", started=None)]), named=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-2:] for line in lines[1:3]] == [["2026-11-03", "21:30"], ["2026-11-04", "05:30"]]
    assert lines[3].split()[-1] == "-"


def test_each_figure_stands_in_its_column(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        run("a", figures={"accuracy": 0.5, "eval.accuracy": 0.25}, artifacts=["trained"], stale=["dense"]),
        run("b", begun_from="runs/a", artifacts=["trained"], epochs=3),
        run("c", state="unreadable", problem="torn", figures={}, seconds=59.6),
        run("d", state="training", epochs=0, of_epochs=0, keys={}, size_bytes=1_260_000),
    ]
    print_runs(RunsReport(runs=runs, latest="runs/b"), named=False)
    said = capsys.readouterr()
    lines = [line.split() for line in said.out.splitlines()]
    assert lines[0] == ["run", "method", "model", "size", "epochs", "accuracy", "time", "MB", "holds", "started"]
    common = ["dora", "vit_base_patch14_dinov2", "224"]
    assert lines[1][:-2] == ["runs/a", *common, "9/12", "50.0", "%", "1:01:40", "123.4", "trained,", "dense", "(stale)"]
    started = ["trained;", "started", "from", "runs/a"]
    assert lines[2][:-2] == ["runs/b", "*", *common, "3/12", "81.2", "%", "1:01:40", "123.4", *started]
    assert lines[3][:-2] == ["runs/c", *common, "9/12", "-", "0:01:00", "123.4", "unreadable:", "torn"]
    assert lines[4][:-2] == ["runs/d", *common[:2], "-", "-", "81.2", "%", "1:01:40", "1.3", "training"]
    assert "*: runs/latest\n" in said.err


def test_figures_of_several_kinds_say_which_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    timed = run("b", metric="bench.p50_ms", figures={"bench.p50_ms": 12.345, "accuracy": 0.5})
    print_runs(RunsReport(runs=[run("a"), timed]), named=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][5] == "metric"
    assert [line[5:7] for line in lines[1:3]] == [["accuracy", "81.2"], ["bench.p50_ms", "12.3"]]


def test_keys_that_differ_stand_below_the_names_of_their_runs(capsys: pytest.CaptureFixture[str]) -> None:
    keys = {"data.path": "photos", "data.image_size": 224, "train.lr": 0.5}
    runs = [run("a", keys=keys), run("b", keys=keys | {"train.lr": 0.25, "adapter.rank": 3})]
    print_runs(RunsReport(runs=runs), named=True)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert lines[-3:] == [["key", "a", "b"], ["train.lr", "0.5", "0.25"], ["adapter.rank", "-", "3"]]
    print_runs(RunsReport(runs=runs), named=False)
    assert "where their recipes differ" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("runs", "pair"),
    [
        ([run("a"), run("b"), run("c")], "runs/a runs/b"),
        ([run("a"), run("b", task="multilabel"), run("c")], "runs/a runs/c"),
        ([run("a"), run("b", keys={"data.path": "other"}), run("c", keys={"data.path": "other"})], "runs/b runs/c"),
        ([run("a", state="training"), run("b"), run("c d")], "runs/b 'runs/c d'"),
        ([run("a"), run("b", task="hierarchical")], None),
        ([run("a")], None),
    ],
)
def test_runs_of_one_task_and_data_are_compared(
    runs: list[ListedRun], pair: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    print_runs(RunsReport(runs=runs), named=False)
    said = capsys.readouterr().err
    assert ("which is better" in said) == (pair is not None)
    assert pair is None or f"which is better, and how surely: ftx report {pair}\n" in said
