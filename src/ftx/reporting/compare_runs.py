"""``ftx report A B ...``: several runs beside each other, and which is better on the images that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftx.core.command_report import CommandReport
from ftx.core.errors import InputError
from ftx.core.files import write_atomic
from ftx.core.pages import render
from ftx.core.progress import SILENT, Progress
from ftx.core.statistics import PairedCounts, wilson_interval
from ftx.data.dataset import groups_of
from ftx.reporting.calibration import calibration
from ftx.reporting.facts import RunFacts, gather
from ftx.reporting.figures import curves_beside
from ftx.reporting.headline import Headline, headline
from ftx.reporting.held_out import HeldOut, class_scores_of
from ftx.reporting.report import MARK, answers_of, check_report_path
from ftx.runs.parity_json import Unit, latency_rows
from ftx.runs.run import Run

COMPARISON_FILE = Path("comparison.html")
TEMPLATE = Path(__file__).with_name("comparison.html")
# Each end of an interval of 95 %.
CONFIDENCE = 0.975


@dataclass(frozen=True)
class ComparedRun:
    """One run: its facts, its answers (None, with the reason, where it gives none) and its verdict."""

    name: str
    facts: RunFacts
    answers: HeldOut | None
    notes: Sequence[str]
    headline: Headline
    latency_ms: float | None
    size_bytes: int | None
    ece: float | None

    @property
    def accuracy(self) -> tuple[float, float, float] | None:
        """The share of images that are wholly right, and the ends of its 95 % interval."""
        if self.answers is None:
            return None
        right, images = int(self.answers.correct.sum()), len(self.answers.correct)
        return right / images, *wilson_interval(right, images)


@dataclass(frozen=True)
class RunPair:
    """Two runs on the held-out images of both: of so many, how many only one answers rightly.

    A ``unit`` is an image or, where the first run's table names any, a group, whose images count as shares of it.
    """

    first: str
    second: str
    unit: Unit
    units: int
    lost: float
    gained: float
    gain_low: float
    gain_high: float

    @property
    def said(self) -> str:
        """In a sentence: which is better, if either is shown to be."""
        if not self.units:
            return "they share no held-out image with the same labels, so their shares cannot be compared"
        gain = (self.gained - self.lost) / self.units
        figures = f"{100 * gain:+.1f} points, 95 % interval {100 * self.gain_low:+.1f} to {100 * self.gain_high:+.1f}"
        if self.gain_low > 0:
            return f"{self.second} is better: {figures}"
        if self.gain_high < 0:
            return f"{self.first} is better: {figures}"
        return f"neither is shown to be better: {figures}"


class ComparisonReport(CommandReport):
    """Where the page lies, and what it says of each run and of each pair with the first.

    ``ok`` is false where the verdict on one of them is not to use it.
    """

    verb: str = "report"
    path: str
    size_bytes: int
    verdicts: dict[str, str]
    pairs: list[str]


def compare_runs(
    runs: Sequence[Run | Path | str],
    *,
    out: Path | None = None,
    artifact: str | None = None,
    data: Path | None = None,
    progress: Progress = SILENT,
) -> ComparisonReport:
    """Write the page of several runs; the first is what the others are compared with.

    Raises: RunError; InputError if a run is named twice, or ``out`` is a file of another kind.
    """
    opened = [run if isinstance(run, Run) else Run.open(run) for run in runs]
    folders = [run.path.resolve() for run in opened]
    if len(set(folders)) < len(folders):
        raise InputError("a run is named twice", found=", ".join(str(run.path) for run in opened), fix="name others")
    path = out or COMPARISON_FILE
    check_report_path(path)
    compared = [
        _compared(run, name, artifact, data, progress) for run, name in zip(opened, _names(folders), strict=True)
    ]
    pairs = [_pair(compared[0], other) for other in compared[1:]]
    epochs = [(one.name, one.facts.epochs) for one in compared if one.facts.epochs]
    content = render(
        TEMPLATE,
        mark=MARK.decode(),
        compared=compared,
        pairs=pairs,
        class_rows=_class_rows(compared),
        curves=curves_beside(epochs) if epochs else None,
    ).encode()
    write_atomic(path, content)
    return ComparisonReport(
        ok=all(one.headline.kind != "bad" for one in compared),
        path=str(path),
        size_bytes=len(content),
        verdicts={one.name: f"{one.headline.word}: {one.headline.sentence}" for one in compared},
        pairs=[f"{pair.second} against {pair.first}: {pair.said}" for pair in pairs],
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names; with so many of the folders above them as tell all apart."""
    for depth in range(1, max(len(folder.parts) for folder in folders)):
        names = [Path(*folder.parts[-depth:]).as_posix() for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _compared(run: Run, name: str, artifact: str | None, data: Path | None, progress: Progress) -> ComparedRun:
    facts = gather(run)
    answers, notes = answers_of(facts, artifact, data, progress)
    size = latency_ms = None
    if answers is not None:
        weights = run.folder(answers.artifact).glob(answers.artifact.weights)
        size = sum(path.stat().st_size for path in weights)
        rows = facts.parity.own_rows if facts.parity and facts.verdict(answers.artifact) else []
        of_it = [row for row in latency_rows(rows) if row.subject == answers.artifact]
        latency_ms = next((row.latency_ms for row in of_it if row.compute == answers.compute), None)
    found = calibration(*answers.confidences()) if answers else None
    return ComparedRun(
        name, facts, answers, notes, headline(facts, answers), latency_ms, size, found.ece if found else None
    )


def _class_rows(compared: Sequence[ComparedRun]) -> list[list[str]]:
    """F1 of each label in each run, in percent; "-" where a run does not know the label."""
    found: dict[str, dict[str, str]] = {}
    for one in compared:
        for score in class_scores_of(one.answers):
            found.setdefault(score.name, {})[one.name] = f"{100 * score.f1:.1f}"
    return [[label, *(by_run.get(one.name, "-") for one in compared)] for label, by_run in found.items()]


def _pair(first: ComparedRun, second: ComparedRun) -> RunPair:
    """By the images that both held out, known by their bytes, where their labels are the same."""
    one, other = first.answers, second.answers
    if one is None or other is None or one.task_name != other.task_name:
        return RunPair(first.name, second.name, "image", 0, 0, 0, -1, 1)
    rows = {entry.sha256: row for row, entry in enumerate(other.entries)}
    shared = {
        entry.sha256: (row, rows[entry.sha256])
        for row, entry in enumerate(one.entries)
        if entry.sha256 in rows and set(entry.labels) == set(other.entries[rows[entry.sha256]].labels)
    }
    entries = [one.entries[row] for row, _ in shared.values()]
    groups = groups_of(entries)
    units: dict[str, list[tuple[bool, bool]]] = {}
    for unit, (row, same) in zip(groups or shared, shared.values(), strict=True):
        units.setdefault(unit, []).append((bool(one.correct[row]), bool(other.correct[same])))
    paired = PairedCounts(
        lost=sum(sum(was and not now for was, now in each) / len(each) for each in units.values()),
        gained=sum(sum(now and not was for was, now in each) / len(each) for each in units.values()),
        units=len(units),
    )
    return RunPair(
        first=first.name,
        second=second.name,
        unit="group" if groups else "image",
        units=paired.units,
        lost=paired.lost,
        gained=paired.gained,
        gain_low=-paired.drop_at_most(CONFIDENCE),
        gain_high=-paired.drop_at_least(CONFIDENCE),
    )
