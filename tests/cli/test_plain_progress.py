"""Progress in a log file."""

from __future__ import annotations

import time

from ftx.cli.plain_progress import PlainProgress, PlainTask


def test_long_work_has_a_line_now_and_then_of_the_innermost_part() -> None:
    lines: list[str] = []
    progress = PlainProgress(lines.append, every_s=0.02)
    with progress.track("Exporting", 3) as outer:
        outer.advance(1, artifact="openvino/int8")
        with progress.track("Searching", None):
            wait_for(lambda: any(line.startswith("Searching: ") for line in lines))
        lines.clear()
        wait_for(lambda: bool(lines))
        assert lines[0].startswith("Exporting: 1 of 3, artifact openvino/int8, ")
    lines.clear()
    time.sleep(0.1)
    assert not lines  # nothing is under way


def test_short_work_has_no_line() -> None:
    lines: list[str] = []
    with PlainProgress(lines.append, every_s=10).track("Reading", 5) as task:
        task.advance()
    assert not lines


def test_a_line_says_how_far_the_work_is() -> None:
    task = PlainTask("Training", 2000, began=10.0)
    assert task.line(70.0) == "Training: 0 of 2,000, 60 s"
    task.advance(5, validation_loss="0.5")
    assert task.line(70.4) == "Training: 5 of 2,000, validation loss 0.5, 60 s"
    unknown = PlainTask("Searching", None, began=0.0)
    assert unknown.line(30.0) == "Searching: 30 s"
    unknown.advance(3)
    assert unknown.line(30.0) == "Searching: 3, 30 s"


def wait_for(happened: object) -> None:
    assert callable(happened)
    until = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.005)
