"""``ftx report``: whether the model of a run can be used, on one self-contained page."""

from __future__ import annotations

from pathlib import Path

from ftx.core.command_report import CommandReport
from ftx.core.errors import FtxError, InputError
from ftx.core.files import write_atomic
from ftx.core.pages import render
from ftx.core.progress import SILENT, Progress
from ftx.reporting.facts import REPORT_FILE, RunFacts, gather
from ftx.reporting.headline import headline
from ftx.reporting.held_out import HeldOutPredictions, held_out
from ftx.reporting.page_values import page_values
from ftx.runs.run import Run
from ftx.runtimes.choose_artifact import furthest
from ftx.runtimes.open_model import artifact_named

TEMPLATE = Path(__file__).with_name("report.html")
# A file with this line may be overwritten.
MARK = b'<meta name="generator" content="ftx report">'


class ReportReport(CommandReport):
    """The page of a run."""

    verb: str = "report"
    path: str
    """The path of the page."""
    size_bytes: int
    """The size of the page in bytes."""
    verdict: str
    """The verdict in sentences; ``ok`` is false if you must not use the model yet."""
    lacks: list[str]
    """What the run could still have, for example a benchmark."""
    faults: list[str]
    """The files of the run that are missing or changed, and its stale models."""
    notes: list[str]
    """What the page does not show, and why."""


def report(
    run: Run | Path | str | None = None,
    *,
    out: Path | None = None,
    artifact: str | None = None,
    data: Path | None = None,
    progress: Progress = SILENT,
) -> ReportReport:
    """Write the page of a run: into it, as reports/report.html, or to ``out``.

    Predictions are those of ``artifact``, the run's best IR by default. ``data`` is where the run's images are now.
    Raises: RunError for what is no finished run; InputError if ``out`` is a file of another kind.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    if out is not None:
        check_report_path(out)
    facts = gather(run)
    predictions, why_none = find_predictions(facts, artifact, data, progress)
    top = headline(facts, predictions)
    values, notes = page_values(facts, predictions, why_none, data, progress)
    values |= {"mark": MARK.decode(), "headline": top, "manifest": facts.manifest}
    content = render(TEMPLATE, notes=notes, **values).encode()
    path = out if out is not None else run.path / REPORT_FILE
    if out is None:
        run.write_file(REPORT_FILE.as_posix(), content, progress)
    else:
        write_atomic(out, content)
    return ReportReport(
        run=str(run.path),
        ok=top.kind != "bad",
        path=str(path),
        size_bytes=len(content),
        verdict=top.text,
        lacks=[lack.what for lack in facts.lacks],
        faults=list(facts.faults),
        notes=notes,
    )


def check_report_path(out: Path) -> None:
    """Raise InputError if a file is there that is no report: it would be lost."""
    if out.is_dir():
        fix = f"name a file in it: --out {out / 'report.html'}"
        raise InputError("--out must be a file, not a folder", where=out, fix=fix)
    if out.is_file():
        with out.open("rb") as file:
            head = file.read(4096)
        if MARK not in head:
            fix = "choose another file for --out, or move the existing one"
            raise InputError("--out must be a new file, or a report of ftx", where=out, fix=fix)


def find_predictions(
    facts: RunFacts, artifact: str | None, data: Path | None, progress: Progress
) -> tuple[HeldOutPredictions | None, list[str]]:
    """The predictions for the held-out images; None, and why, if the run has none. A named artifact must have them."""
    run = facts.run
    try:
        chosen = furthest(run) if artifact is None else artifact_named(run, artifact)
        run.require(chosen)
        return held_out(run, chosen, data, progress), []
    except FtxError as error:
        if artifact is not None:
            raise
        return None, [f"There are no predictions to show: {str(error).replace(chr(10), ';')}."]
