"""The verdicts of ``ftx validate`` on instruction sets, and with other releases of OpenVINO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftx.cli import console
from ftx.cli.verdict_words import VERDICT_STYLES, VERDICT_WORDS, in_table
from ftx.runs.machine import CPU

if TYPE_CHECKING:
    from ftx.evaluating import ParityReport, ParityRow
    from ftx.runs.machine import InstructionSet


def print_sets(report: ParityReport) -> None:
    """A row a model and instruction set, in the precision that OpenVINO chooses there."""
    if not report.sets:
        return
    from ftx.runs.parity_json import latency_rows

    deployed = [row for row in report.rows if row.view != "files" and row.compute.chosen_by_runtime]
    times = {_of_set(row): row.latency_ms for row in latency_rows(deployed)}
    # Of several ways that it runs there the least favourable one.
    rows = {_of_set(row): row for row in sorted(deployed, key=lambda row: (row.verdict == "failed", row.changed))}
    cells: list[tuple[str, ...]] = []
    for one in report.sets:
        of_set = (one.artifact, one.isa, one.emulated)
        row = rows.get(of_set)
        figures = ("-",) * 5
        if row is not None:
            figures = (
                row.compute.title,
                console.figure(row.max_abs, ".1e"),
                f"{100 * row.changed:.1f}",
                f"{times[of_set]:.0f}",
                _most_used(row),
            )
        cells.append((one.isa, one.artifact, *figures, str(one)))
    console.print_table(
        ("set", "artifact", "compute", "max |d|", "changed %", "ms", "kernels", ""),
        cells,
        styles=["bad" if one.verdict == "failed" else "plain" for one in report.sets],
        title="instruction sets: what their kernels compute on this CPU; the speed of emulated ones is a hint",
    )
    for one in report.sets:
        if one.verdict not in ("proved", "not_run"):
            console.print_note(f"{one.artifact} on {one.isa}: {one}: {one.summary}", VERDICT_STYLES[one.verdict])


def print_coverage(report: ParityReport) -> None:
    """A row for each model, instruction set and kernels: how often its prediction sets are right."""
    if not report.prediction_sets or not (report.sets or console.shows_details()):
        return
    console.print_table(
        ("set", "artifact", "compute", "kernels", "coverage %", "labels", "images"),
        [
            (
                one.isa or "-",
                one.artifact,
                one.compute.title,
                one.kernels,
                f"{100 * one.coverage:.1f}",
                f"{one.size:.2f}",
                f"{one.images:,}",
            )
            for one in report.prediction_sets
        ],
        title="prediction sets: how often they are right, and how many labels they have",
    )
    for guarantee in dict.fromkeys(one.guarantee for one in report.prediction_sets):
        console.print_note(guarantee, "dim")


def print_releases(report: ParityReport) -> None:
    """A row for each model and release of OpenVINO or device, a column for each instruction set."""
    if not report.releases:
        return
    sets = list(dict.fromkeys(one.isa for one in report.releases))
    cells = {(one.artifact, one.runtime, one.isa): one for one in report.releases}
    rows = list(dict.fromkeys((one.artifact, one.runtime) for one in report.releases))
    found = [[cells.get((*row, isa)) for isa in sets] for row in rows]
    console.print_table(
        ("model", "OpenVINO", *sets),
        [
            (*row, *("-" if one is None or one.verdict == "not_run" else in_table(one.verdict) for one in verdicts))
            for row, verdicts in zip(rows, found, strict=True)
        ],
        styles=[
            "bad" if any(one is not None and one.verdict == "failed" for one in verdicts) else "plain"
            for verdicts in found
        ],
        title="other releases of OpenVINO, on instruction sets of this CPU"
        if all(one.device == CPU for one in report.releases)
        else "other releases of OpenVINO, and devices",
    )
    for one in report.releases:
        if one.verdict not in ("proved", "not_run"):
            where = f"{one.artifact} on {one.isa} with OpenVINO {one.runtime}"
            console.print_note(f"{where}: {VERDICT_WORDS[one.verdict]}, {one.summary}", VERDICT_STYLES[one.verdict])


def _of_set(row: ParityRow) -> tuple[str, InstructionSet | None, bool]:
    return row.artifact, row.isa, row.emulated


def _most_used(row: ParityRow) -> str:
    """The kernel of most products, and how many others there are."""
    by_use = sorted(row.primitives, key=lambda name: (-row.primitives[name], name))
    return f"{by_use[0]}, +{len(by_use) - 1}" if len(by_use) > 1 else "".join(by_use) or "-"
