"""Each step from what was trained to what runs on a device, with how far its answers moved and what was allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ftx.evaluating.logit_bounds import rests_on_labels
from ftx.reporting.facts import RunFacts
from ftx.runs.artifacts import TRAINED, Artifact
from ftx.runs.parity_json import ParityRow, View, latency_rows

HopState = Literal["reference", "proved", "unproved", "failed", "not validated"]

_VIEWS: dict[View, str] = {
    "graph": "of the same pixels",
    "files": "each with its own image path",
    "one_image": "of the same pixels, as for one image",
}


@dataclass(frozen=True)
class Hop:
    """One artifact under one precision: its verdict, and the figures of the row that says least in its favour."""

    name: str
    compute: str
    state: HopState
    figures: Sequence[tuple[str, str]]


def chain(facts: RunFacts) -> list[Hop]:
    """Every artifact of the run in the order of the pipeline, each under every precision that was validated."""
    hops: list[Hop] = []
    for artifact in facts.run.artifacts():
        if artifact == TRAINED:
            hops.append(Hop(artifact.name, "f32", "reference", [("stands for", "what was trained")]))
            continue
        rows = _rows(facts, artifact)
        for compute in dict.fromkeys(str(row.compute) for row in rows):
            own = [row for row in rows if str(row.compute) == compute]
            (timed,) = latency_rows(row for row in rows if row.compute.dtype == own[0].compute.dtype)
            hops.append(_hop(artifact, compute, own, timed.latency_ms))
        if not rows:
            hops.append(Hop(artifact.name, "-", "not validated", []))
    return hops


def _rows(facts: RunFacts, artifact: Artifact) -> list[ParityRow]:
    if facts.parity is None or facts.verdict(artifact) is None:
        return []
    return [row for row in facts.parity.own_rows if row.artifact == artifact.name]


def _hop(artifact: Artifact, compute: str, rows: Sequence[ParityRow], latency_ms: float) -> Hop:
    order = {"failed": 0, "unproved": 1, "proved": 2}
    row = min(rows, key=lambda row: (order[row.verdict], row.view != "graph"))
    return Hop(artifact.name, compute, row.verdict, _figures(row, latency_ms))


def _figures(row: ParityRow, latency_ms: float) -> list[tuple[str, str]]:
    """What was measured beside what was allowed."""
    figures = [
        (
            f"largest difference of a logit, {_VIEWS[row.view]}",
            "not a number"
            if row.max_abs is None
            else f"{row.max_abs:.2g}" + (f" of {row.bound.max_abs:.2g} allowed" if row.bound.max_abs else ""),
        ),
        ("same labels", f"{100 * row.agreement:.2f} % of {row.images} images"),
    ]
    if rests_on_labels(row.subject, row.compute) and row.drop is not None and row.drop_high is not None:
        figures.append(
            (
                "accuracy lost",
                f"{100 * row.drop:.2f} points, at most {100 * row.drop_high:.2f}; {100 * row.max_drop:g} allowed",
            )
        )
    if row.isa is not None:
        figures.append(("instruction set", row.isa + (" (emulated)" if row.emulated else "")))
    figures.append(("an image", f"{latency_ms:.1f} ms"))
    return figures


def set_rows(facts: RunFacts) -> list[tuple[str, str, str, str]]:
    """What was found of each model on each instruction set: artifact, set, verdict, in words."""
    if facts.parity is None:
        return []
    return [(one.artifact, one.isa, str(one), one.summary) for one in facts.parity.sets]
