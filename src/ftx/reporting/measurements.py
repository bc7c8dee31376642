"""Measurements of a run's models: each step from the trained model to the device, and the time per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ftx.evaluating.logit_bounds import rests_on_labels
from ftx.reporting.facts import RunFacts
from ftx.reporting.figures import bars
from ftx.runs.artifacts import TRAINED, Artifact
from ftx.runs.compute_precision import ComputePrecision
from ftx.runs.machine import INSTRUCTION_SETS
from ftx.runs.parity_json import ParityRow, latency_rows
from ftx.runs.views import View

HopState = Literal["reference", "proved", "unproved", "failed", "not validated"]

_VIEWS: dict[View, str] = {
    "graph": "same pixels",
    "files": "each with its own preprocessing",
    "one_image": "same pixels, one image at a time",
}
_HEADS = "model,precision,batch,threads,streams,median ms,p90 ms,p99 ms,images/s,peak MB".split(",")


@dataclass(frozen=True)
class Hop:
    """One artifact under one precision: its verdict, and the figures of its least favourable row.

    ``compute`` is that precision as a page names it; empty if the artifact was not validated.
    """

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
            hops.append(Hop(artifact.name, "fp32", "reference", [("role", "all others are compared with it")]))
            continue
        rows = facts.rows_of(artifact)
        for compute in dict.fromkeys(str(row.compute) for row in rows):
            own = [row for row in rows if str(row.compute) == compute]
            (timed,) = latency_rows(row for row in rows if row.compute.dtype == own[0].compute.dtype)
            hops.append(_hop(artifact, own, timed.latency_ms))
        if not rows:
            hops.append(Hop(artifact.name, "", "not validated", []))
    return hops


def shown_precision(compute: ComputePrecision) -> str:
    """A precision as a page names it."""
    return compute.title + (" (chosen by OpenVINO)" if compute.chosen_by_runtime else "")


def _hop(artifact: Artifact, rows: Sequence[ParityRow], latency_ms: float) -> Hop:
    """What was measured next to the limit for it."""
    order = {"failed": 0, "unproved": 1, "proved": 2}
    row = min(rows, key=lambda row: (order[row.verdict], row.view != "graph"))
    if row.max_abs is None:
        largest = "not a number"
    else:
        largest = f"{row.max_abs:.2g}" + (f" (limit {row.bound.max_abs:.2g})" if row.bound.max_abs else "")
    figures = [
        (f"largest difference of a logit ({_VIEWS[row.view]})", largest),
        ("same predictions", f"{100 * row.agreement:.2f} % of {row.images} images"),
    ]
    if rests_on_labels(row.subject, row.compute) and row.drop is not None and row.drop_high is not None:
        change = f"{abs(100 * row.drop):.2f} points {'gained' if row.drop < 0 else 'lost'}"
        figures.append(("accuracy", f"{change}, at most {100 * row.drop_high:.2f} lost (limit {100 * row.max_drop:g})"))
    if row.isa is not None:
        figures.append(("instruction set", row.isa + (" (emulated)" if row.emulated else "")))
    figures.append(("time per image", f"{latency_ms:.1f} ms"))
    return Hop(artifact.name, shown_precision(row.compute), row.verdict, figures)


def set_rows(facts: RunFacts) -> list[tuple[str, str, str, str]]:
    """The verdict on each model for each instruction set: artifact, set, verdict, summary."""
    if facts.parity is None:
        return []
    return [(one.artifact, one.isa, str(one), one.summary) for one in facts.parity.sets]


@dataclass(frozen=True)
class VerdictMatrix:
    """The verdicts by instruction set, for each model and version of OpenVINO; "" where nothing was run."""

    sets: list[str]
    rows: list[tuple[str, str, list[str]]]


def verdict_matrix(facts: RunFacts) -> VerdictMatrix | None:
    """This version of OpenVINO first, then the others, and devices; None if only this one was run."""
    if facts.parity is None or not facts.parity.releases:
        return None
    here, verdicts = facts.parity.machine.openvino, facts.parity.verdicts
    own: dict[tuple[str, str, str], str] = {
        (row.artifact, here, row.isa): verdicts[row.artifact] for row in facts.parity.own_rows if row.isa is not None
    }
    own |= {(one.artifact, here, one.isa): one.verdict for one in facts.parity.sets if one.verdict != "not_run"}
    others = {(one.artifact, one.runtime, one.isa): one.verdict for one in facts.parity.releases}
    found = own | others | own  # --openvino may name this version too: its verdict here is the one of the other tables
    found = {cell: verdict for cell, verdict in found.items() if verdict != "not_run"}
    sets = [isa for isa in INSTRUCTION_SETS if any(isa == of for *_, of in found)]
    ways = sorted(dict.fromkeys((artifact, runtime) for artifact, runtime, _ in found), key=lambda way: way[0])
    return VerdictMatrix(list(sets), [(*way, [found.get((*way, isa), "") for isa in sets]) for way in ways])


def certificate_rows(facts: RunFacts) -> list[tuple[str, str, str, str, str]]:
    """What is certified of int8-checked: instruction set, first model, kernels, certificate, its cost."""
    known = facts.parity.certificates if facts.parity else []
    return [(one.isa or "none", one.quick, one.kernels, one.summary, one.cost) for one in known]


def latency(facts: RunFacts) -> Latency | None:
    """As ``ftx bench`` measured it, else as ``ftx validate`` did; None if neither was run."""
    if (found := facts.bench) is not None:
        shown = [row for row in found.rows if row.batch == 1 and row.streams == 1] or found.rows
        sets = ", ".join(sorted({row.isa for row in found.rows if row.isa})) or "unknown instruction set"
        return Latency(
            _bars([(f"{row.artifact}, {row.compute.title}", row.p50_ms) for row in shown]),
            _HEADS,
            [
                [row.artifact, row.compute.title, *map(str, (row.batch, row.threads, row.streams))]
                + [f"{ms:.1f}" for ms in (row.p50_ms, row.p90_ms, row.p99_ms, row.images_per_s)]
                + [f"{row.peak_bytes / 1e6:.0f}"]
                for row in found.rows
            ],
            f"Measured by ftx bench with images of {found.image_size} px on {found.machine.cpu} "
            f"with {found.processors} processors ({sets}). A row is the median of {found.rounds} processes. "
            "A bar is the time for one image at a time.",
        )
    rows = [row for row in latency_rows(facts.parity.own_rows if facts.parity else []) if row.subject != TRAINED]
    if facts.parity is None or not rows:
        return None
    return Latency(
        _bars([(f"{row.artifact}, {shown_precision(row.compute)}", row.latency_ms) for row in rows]),
        ("model", "precision", "ms per image"),
        [(row.artifact, shown_precision(row.compute), f"{row.latency_ms:.1f}") for row in rows],
        f"Measured briefly by ftx validate on {facts.parity.machine}. For exact figures, run ftx bench.",
    )


def _bars(rows: Sequence[tuple[str, float]]) -> str:
    description = "; ".join(f"{name} {ms:.1f}" for name, ms in rows)
    return bars("latency", f"Milliseconds per image: {description}", rows, "milliseconds per image")
