"""The four figures at the top of a run's page: how often it is right, what export may have cost, its time, its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from ftx.core.statistics import wilson_interval
from ftx.reporting.facts import RunFacts
from ftx.reporting.headline import deployed, is_exported
from ftx.reporting.held_out import HeldOut
from ftx.runs.artifacts import IR_FILE, IR_WEIGHTS, Artifact
from ftx.runs.parity_json import ParityRow, latency_rows

UNKNOWN = "-"


@dataclass(frozen=True)
class Tile:
    """A figure, and what it is of."""

    figure: str
    said: str


def tiles(facts: RunFacts, answers: HeldOut | None) -> list[Tile]:
    """Those of what ``ftx predict`` would take; a dash where nobody measured."""
    artifact = deployed(facts)
    if artifact is None:
        nothing = "every exported model failed" if is_exported(facts) else "not exported for a device yet"
        return [_right(answers), Tile(UNKNOWN, nothing), Tile(UNKNOWN, nothing), Tile(UNKNOWN, nothing)]
    return [_right(answers), _lost(facts, artifact), _time(facts, artifact), _size(facts, artifact)]


def rows_of(facts: RunFacts, artifact: Artifact) -> Sequence[ParityRow]:
    """What was compared of an artifact as it is now, on this CPU's own instruction set."""
    if facts.parity is None or facts.verdict(artifact) is None:
        return []
    return [row for row in facts.parity.own_rows if row.subject == artifact]


def _right(answers: HeldOut | None) -> Tile:
    if answers is None:
        return Tile(UNKNOWN, "correct: there are no predictions")
    right, images = int(answers.correct.sum()), len(answers.correct)
    low, high = wilson_interval(right, images)
    return Tile(
        f"{100 * right / images:.0f} %",
        f"of {images:,} {answers.split} images correct (95 %: {100 * low:.0f} to {100 * high:.0f})",
    )


def _lost(facts: RunFacts, artifact: Artifact) -> Tile:
    """The upper end that says least in its favour: of the points lost, or without truth of the labels that changed."""
    rows = rows_of(facts, artifact)
    ends = [row.drop_high for row in rows if row.drop_high is not None]
    if ends:
        return Tile(f"≤ {_up(max(ends))} points", f"lost by export ({artifact}, 95 %)")
    if rows:
        most = max(row.changed_high for row in rows)
        return Tile(f"≤ {_up(most)} %", f"of labels changed by export ({artifact}, 95 %)")
    return Tile(UNKNOWN, f"lost by export: {artifact} is not validated")


def _up(share: float) -> str:
    return f"{max(ceil(1000 * share - 1e-9), 0) / 10:.1f}"


def _time(facts: RunFacts, artifact: Artifact) -> Tile:
    """One image at a time: by ``ftx bench``, else what ``ftx validate`` took; the fastest way that it runs."""
    if facts.bench is not None:
        timed = [row.p50_ms for row in facts.bench.rows if row.artifact == artifact.name and row.batch == 1]
        by = "ftx bench"
    else:
        timed = [row.latency_ms for row in latency_rows(rows_of(facts, artifact)) if row.latency_ms]
        by = "ftx validate"
    return Tile(f"{min(timed):.1f} ms", f"for one image ({by})") if timed else Tile(UNKNOWN, "for one image: not timed")


def _size(facts: RunFacts, artifact: Artifact) -> Tile:
    files = [facts.run.folder(artifact) / name for name in (IR_FILE, IR_WEIGHTS)]
    if not all(file.is_file() for file in files):
        return Tile(UNKNOWN, f"the model for the device: {artifact} is not whole")
    return Tile(f"{sum(file.stat().st_size for file in files) / 1e6:,.1f} MB", f"the model for the device, {artifact}")
