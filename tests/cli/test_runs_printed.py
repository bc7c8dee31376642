"""`ftx runs` in a narrow terminal, and the comparison that it suggests."""

from __future__ import annotations

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
        assert "0.8125" in line
        assert len(line.rstrip()) <= columns
    assert ("openvino/int8" in lines[1]) == (columns >= 120)
    assert ("1:01:40" in lines[1]) == (columns >= 80)


@pytest.mark.parametrize("columns", [80, 250])
def test_what_is_left_out_is_said(columns: int) -> None:
    with terminal(columns=columns) as shown:
        print_runs(RunsReport(runs=[run(name) for name in NAMES]), named=False)
        said = shown.getvalue()
    assert ("not enough columns for: size, model, started, epochs, holds" in said) == (columns == 80)


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
