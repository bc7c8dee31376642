"""``ftx report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.shared_options import DataOption, JsonFlag, open_run, run_of_artifact
from ftx.runs.artifacts import ARTIFACTS

if TYPE_CHECKING:
    from ftx.reporting.compare_runs import ComparisonReport
    from ftx.reporting.report import ReportReport


def command(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN",
            show_default=False,
            help="A run folder; several are compared with each other.  [default: your newest run, runs/latest]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="The file to write.  [default: reports/report.html in the run; comparison.html for several]",
        ),
    ] = None,
    artifact: Annotated[
        str | None,
        typer.Option(
            "--artifact",
            metavar="NAME|PATH",
            help=f"The model whose predictions are shown: {', '.join(ARTIFACTS)}; or its folder.  [default: the "
            "fastest verified model]",
        ),
    ] = None,
    data: DataOption = None,
    json: JsonFlag = False,
) -> int:
    """Show a run on one HTML page: verdict, data, errors, export, speed. Or compare several runs.

    The page is one file and needs no network. The exit status is 1 if the conclusion of the page is "Do not
    use yet".
    """
    progress = console.TerminalProgress()
    if not runs or len(runs) == 1:
        run, artifact = run_of_artifact(runs[0] if runs else None, artifact)
        runs = [run] if run is not None else None
    for run in runs or [None]:
        open_run(run, data)
    if runs is not None and len(runs) > 1:
        from ftx.reporting.compare_runs import compare_runs

        compared = compare_runs(runs, out=out, artifact=artifact, data=data, progress=progress)
        return console.show(compared, print_comparison, json=json)
    from ftx.reporting.report import report

    found = report(runs[0] if runs else None, out=out, artifact=artifact, data=data, progress=progress)
    return console.show(found, print_report, json=json)


def print_report(found: ReportReport) -> None:
    """The verdict, what is missing, and where the page is."""
    console.print_note(found.verdict, "strong")
    for fault in found.faults:
        console.print_note(f"problem: {fault}", "bad")
    for note in [*(f"missing: {lack}" for lack in found.lacks), *found.notes]:
        console.print_note(note)
    console.print_facts([("page", found.path), ("size", f"{found.size_bytes / 1e6:.1f} MB")])


def print_comparison(found: ComparisonReport) -> None:
    """Each run's verdict, which is better, and where the page is."""
    for name, verdict in found.verdicts.items():
        console.print_note(f"{name}: {verdict}")
    for pair in found.pairs:
        console.print_note(pair, "strong")
    console.print_facts([("page", found.path), ("size", f"{found.size_bytes / 1e6:.1f} MB")])
