"""What was measured of a run's models: each step from the trained model to the device, and how long an image takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ftx.evaluating.logit_bounds import rests_on_labels
from ftx.reporting.facts import RunFacts
from ftx.reporting.figures import bars
from ftx.runs.artifacts import TRAINED, Artifact
from ftx.runs.parity_json import ParityRow, View, latency_rows

HopState = Literal["reference", "proved", "unproved", "failed", "not validated"]

_VIEWS: dict[View, str] = {
    "graph": "of the same pixels",
    "files": "each with its own image path",
    "one_image": "of the same pixels, as for one image",
}
_HEADS = "artifact,compute,batch,threads,streams,p50 ms,p90 ms,p99 ms,images/s,MB".split(",")


@dataclass(frozen=True)
class Hop:
    """One artifact under one precision: its verdict, and the figures of its least favourable row."""

    name: str
    compute: str
    state: HopState
    figures: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Latency:
    """A figure, its numbers as a table, and a sentence on what was timed where."""

    figure: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    summary: str


def chain(facts: RunFacts) -> list[Hop]:
    """Every artifact of the run in the order of the pipeline, each under every precision that was validated."""
    hops: list[Hop] = []
    for artifact in facts.run.artifacts():
        if artifact == TRAINED:
            hops.append(Hop(artifact.name, "f32", "reference", [("stands for", "the trained model")]))
            continue
        rows = facts.rows_of(artifact)
        for compute in dict.fromkeys(str(row.compute) for row in rows):
            own = [row for row in rows if str(row.compute) == compute]
            (timed,) = latency_rows(row for row in rows if row.compute.dtype == own[0].compute.dtype)
            hops.append(_hop(artifact, compute, own, timed.latency_ms))
        if not rows:
            hops.append(Hop(artifact.name, "-", "not validated", []))
    return hops


def _hop(artifact: Artifact, compute: str, rows: Sequence[ParityRow], latency_ms: float) -> Hop:
    """What was measured next to what was allowed."""
    order = {"failed": 0, "unproved": 1, "proved": 2}
    row = min(rows, key=lambda row: (order[row.verdict], row.view != "graph"))
    if row.max_abs is None:
        largest = "not a number"
    else:
        largest = f"{row.max_abs:.2g}" + (f" of {row.bound.max_abs:.2g} allowed" if row.bound.max_abs else "")
    figures = [
        (f"largest difference of a logit, {_VIEWS[row.view]}", largest),
        ("same labels", f"{100 * row.agreement:.2f} % of {row.images} images"),
    ]
    if rests_on_labels(row.subject, row.compute) and row.drop is not None and row.drop_high is not None:
        lost = f"{100 * row.drop:.2f} points, at most {100 * row.drop_high:.2f}; {100 * row.max_drop:g} allowed"
        figures.append(("accuracy lost", lost))
    if row.isa is not None:
        figures.append(("instruction set", row.isa + (" (emulated)" if row.emulated else "")))
    return Hop(artifact.name, compute, row.verdict, [*figures, ("an image", f"{latency_ms:.1f} ms")])


def set_rows(facts: RunFacts) -> list[tuple[str, str, str, str]]:
    """What was found of each model on each instruction set: artifact, set, verdict, summary."""
    if facts.parity is None:
        return []
    return [(one.artifact, one.isa, str(one), one.summary) for one in facts.parity.sets]


def latency(facts: RunFacts) -> Latency | None:
    """By ``ftx bench`` if it was run; else what ``ftx validate`` measured briefly; None without both."""
    if (found := facts.bench) is not None:
        shown = [row for row in found.rows if row.batch == 1 and row.streams == 1] or found.rows
        sets = ", ".join(sorted({row.isa for row in found.rows if row.isa})) or "unknown instruction set"
        return Latency(
            _bars([(f"{row.artifact}, {row.compute}", row.p50_ms) for row in shown]),
            _HEADS,
            [
                [row.artifact, *map(str, (row.compute, row.batch, row.threads, row.streams))]
                + [f"{ms:.1f}" for ms in (row.p50_ms, row.p90_ms, row.p99_ms, row.images_per_s)]
                + [f"{row.peak_bytes / 1e6:.0f}"]
                for row in found.rows
            ],
            f"Measured by ftx bench at {found.image_size} px on {found.machine.cpu} with {found.processors} processors "
            f"({sets}), {found.rounds} processes a row: medians; bars are requests of one image.",
        )
    rows = [row for row in latency_rows(facts.parity.own_rows if facts.parity else []) if row.subject != TRAINED]
    if facts.parity is None or not rows:
        return None
    return Latency(
        _bars([(f"{row.artifact}, {row.compute}", row.latency_ms) for row in rows]),
        ("artifact", "compute", "ms"),
        [(row.artifact, str(row.compute), f"{row.latency_ms:.1f}") for row in rows],
        f"A short look by ftx validate on {facts.parity.machine}; ftx bench measures it with care.",
    )


def _bars(rows: Sequence[tuple[str, float]]) -> str:
    description = "; ".join(f"{name} {ms:.1f}" for name, ms in rows)
    return bars("latency", f"Milliseconds an image: {description}", rows, "milliseconds, one image")
