"""How long an image takes, as it was measured, and on what."""

from __future__ import annotations

from dataclasses import dataclass

from ftx.reporting.facts import RunFacts
from ftx.reporting.figures import bars
from ftx.runs.artifacts import TRAINED
from ftx.runs.parity_json import latency_rows

_HEADS = tuple("artifact,compute,batch,threads,streams,p50 ms,p90 ms,p99 ms,images/s,MB".split(","))


@dataclass(frozen=True)
class Latency:
    """A figure, its numbers as rows, and in words what was timed where."""

    figure: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]
    said: str


def latency(facts: RunFacts) -> Latency | None:
    """By ``ftx bench`` where it was run; else what ``ftx validate`` took a look at on its way; None without both."""
    if facts.bench is not None:
        found = facts.bench
        shown = [row for row in found.rows if row.batch == 1 and row.streams == 1] or found.rows
        sets = ", ".join(sorted({row.isa for row in found.rows if row.isa})) or "unknown instruction set"
        said = (
            f"Measured by ftx bench at {found.image_size} px on {found.machine.cpu} with {found.processors} processors "
            f"({sets}), {found.rounds} processes a row: medians; bars are requests of one image."
        )
        named = [(f"{row.artifact}, {row.compute}", row.p50_ms) for row in shown]
        return Latency(
            figure=bars("latency", f"Milliseconds an image: {_list(named)}", named, "milliseconds, one image"),
            heads=_HEADS,
            rows=[
                (
                    row.artifact,
                    str(row.compute),
                    str(row.batch),
                    str(row.threads),
                    str(row.streams),
                    f"{row.p50_ms:.1f}",
                    f"{row.p90_ms:.1f}",
                    f"{row.p99_ms:.1f}",
                    f"{row.images_per_s:.1f}",
                    f"{row.peak_bytes / 1e6:.0f}",
                )
                for row in found.rows
            ],
            said=said,
        )
    if facts.parity is None:
        return None
    rows = [row for row in latency_rows(facts.parity.own_rows) if row.subject != TRAINED]
    if not rows:
        return None
    named = [(f"{row.artifact}, {row.compute}", row.latency_ms) for row in rows]
    return Latency(
        figure=bars("latency", f"Milliseconds an image: {_list(named)}", named, "milliseconds, one image"),
        heads=("artifact", "compute", "ms"),
        rows=[(row.artifact, str(row.compute), f"{row.latency_ms:.1f}") for row in rows],
        said=f"A short look by ftx validate on {facts.parity.machine}; ftx bench measures it with care.",
    )


def _list(named: list[tuple[str, float]]) -> str:
    return "; ".join(f"{name} {ms:.1f}" for name, ms in named)
