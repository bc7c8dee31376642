"""``ftx report``: what a run is worth, on one page that needs nothing beside it."""

from __future__ import annotations

from pathlib import Path

from ftx.core.command_report import CommandReport
from ftx.core.errors import FtxError, InputError
from ftx.core.files import write_atomic
from ftx.core.pages import render
from ftx.core.progress import SILENT, Progress
from ftx.reporting.facts import REPORT_FILE, RunFacts, gather
from ftx.reporting.headline import headline
from ftx.reporting.held_out import HeldOut, held_out
from ftx.reporting.page_values import page_values
from ftx.runs.run import Run
from ftx.runtimes.choose_artifact import furthest
from ftx.runtimes.open_model import artifact_named

TEMPLATE = Path(__file__).with_name("report.html")
# By it a file is known as one that may be written again.
MARK = b'<meta name="generator" content="ftx report">'


class ReportReport(CommandReport):
    """Where the page lies, how large it is, its verdict, what the run lacks, and what in it does not hold.

    ``notes`` says what the page does not show, and why. ``ok`` is false where the verdict is not to use the run.
    """

    verb: str = "report"
    path: str
    size_bytes: int
    verdict: str
    lacks: list[str]
    faults: list[str]
    notes: list[str]


def report(
    run: Run | Path | str | None = None,
    *,
    out: Path | None = None,
    artifact: str | None = None,
    data: Path | None = None,
    progress: Progress = SILENT,
) -> ReportReport:
    """Write the page of a run: into it, as reports/report.html, or to ``out``.

    Answers are those of ``artifact``, the run's best IR by default. ``data`` says where the run's images are now.
    Raises: RunError for what is no finished run; InputError if ``out`` is a file of another kind.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    if out is not None:
        check_report_path(out)
    facts = gather(run)
    answers, why_none = answers_of(facts, artifact, data, progress)
    said = headline(facts, answers)
    values, notes = page_values(facts, answers, why_none, data, progress)
    content = render(TEMPLATE, mark=MARK.decode(), said=said, manifest=facts.manifest, notes=notes, **values).encode()
    path = out if out is not None else run.path / REPORT_FILE
    if out is None:
        run.write_file(REPORT_FILE.as_posix(), content, progress)
    else:
        write_atomic(out, content)
    return ReportReport(
        run=str(run.path),
        ok=said.kind != "bad",
        path=str(path),
        size_bytes=len(content),
        verdict=f"{said.word}: {said.sentence}",
        lacks=[lack.what for lack in facts.lacks],
        faults=list(facts.faults),
        notes=notes,
    )


def check_report_path(out: Path) -> None:
    """Raise InputError if a file is there that is no report: it would be lost."""
    if out.is_dir():
        fix = f"--out {out / 'report.html'}"
        raise InputError("a report is one file, and this is a folder", where=f"--out {out}", fix=fix)
    if out.is_file():
        with out.open("rb") as file:
            head = file.read(4096)
        if MARK not in head:
            raise InputError("a file that is no report of ftx is in the way", where=f"--out {out}", fix="name another")


def answers_of(
    facts: RunFacts, artifact: str | None, data: Path | None, progress: Progress
) -> tuple[HeldOut | None, list[str]]:
    """The answers for the held-out images; None, and why, where the run cannot give them."""
    run = facts.run
    if artifact is not None:  # never another one than that, and never a page without it
        chosen = artifact_named(run, artifact)
        run.require(chosen)
        return held_out(run, chosen, data, progress), []
    try:
        chosen = furthest(run)
        run.require(chosen)
        return held_out(run, chosen, data, progress), []
    except FtxError as error:
        return None, [f"There are no answers to show: {str(error).replace(chr(10), ';')}."]
