"""``ftx report A B ...``: several runs next to each other, and which is better on the images that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftx.core.command_report import CommandReport
from ftx.core.errors import InputError
from ftx.core.files import write_atomic
from ftx.core.pages import render
from ftx.core.progress import SILENT, Progress
from ftx.core.statistics import PairedCounts
from ftx.data.dataset import groups_of
from ftx.reporting.calibration import calibration
from ftx.reporting.facts import RunFacts, gather
from ftx.reporting.figures import compared_curves
from ftx.reporting.headline import Headline, Tile, headline, tiles
from ftx.reporting.held_out import HeldOutPredictions, class_scores_of
from ftx.reporting.report import MARK, check_report_path, find_predictions
from ftx.runs.parity_json import Unit, latency_rows
from ftx.runs.run import Run

COMPARISON_FILE = Path("comparison.html")
TEMPLATE = Path(__file__).with_name("comparison.html")
# Each end of an interval of 95 %.
CONFIDENCE = 0.975


@dataclass(frozen=True)
class ComparedRun:
    """One run: its facts, its predictions (None, with the reason in ``notes``, if it has none) and its verdict."""

    name: str
    facts: RunFacts
    predictions: HeldOutPredictions | None
    notes: Sequence[str]
    headline: Headline
    latency_ms: float | None
    size_bytes: int | None
    ece: float | None
    tiles: Sequence[Tile] = ()

    @property
    def accuracy(self) -> tuple[float, float, float] | None:
        """The fraction of images that are wholly correct, and the ends of its 95 % interval."""
        if self.predictions is None:
            return None
        correct, images, low, high = self.predictions.accuracy()
        return correct / images, low, high


@dataclass(frozen=True)
class RunPair:
    """Two runs on the held-out images of both: of ``units``, how many only one of them predicts correctly.

    A ``unit`` is an image or, if the first run's table names any, a group, whose images count as fractions of it.
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
    def summary(self) -> str:
        """Which one is better, if the images show it; without a full stop."""
        if not self.units:
            return "no test or validation image has the same labels in both, so their accuracies cannot be compared"
        gain, low, high = (100 * one for one in ((self.gained - self.lost) / self.units, self.gain_low, self.gain_high))
        if low > 0:
            return f"{self.second} is better by {gain:.1f} points of accuracy (95 % interval {low:.1f} to {high:.1f})"
        if high < 0:
            return f"{self.first} is better by {-gain:.1f} points of accuracy (95 % interval {-high:.1f} to {-low:.1f})"
        difference = f"{self.second} has {gain:+.1f} points of accuracy (95 % interval {low:+.1f} to {high:+.1f})"
        return f"neither is proved to be better: {difference}"


def comparison_headline(pairs: Sequence[RunPair]) -> str:
    """Which runs are better than the first one, or that none is proved to be; without a full stop."""
    first = pairs[0].first
    better = [pair.second for pair in pairs if pair.gain_low > 0]
    if better:
        return f"{', '.join(better)} {'is' if len(better) == 1 else 'are'} better than {first}"
    if all(pair.gain_high < 0 for pair in pairs):
        return f"{first} is better than {', '.join(pair.second for pair in pairs)}"
    if not any(pair.units for pair in pairs):
        return "The accuracies of these runs cannot be compared"
    return f"No run is proved to be better than {first}"


class ComparisonReport(CommandReport):
    """A page that compares several runs."""

    verb: str = "report"
    path: str
    """The path of the page."""
    size_bytes: int
    """The size of the page in bytes."""
    verdicts: dict[str, str]
    """The verdict on each run, by the name of its folder; ``ok`` is false if you must not use one of them yet."""
    pairs: list[str]
    """For each other run, whether it is better than the first one, in a sentence."""


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
        raise InputError(
            "a run is named twice", found=", ".join(str(run.path) for run in opened), fix="name each run once"
        )
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
        headline=comparison_headline(pairs),
        pairs=pairs,
        class_rows=_class_rows(compared),
        curves=compared_curves(epochs) if epochs else None,
    ).encode()
    write_atomic(path, content)
    return ComparisonReport(
        ok=all(one.headline.kind != "bad" for one in compared),
        path=str(path),
        size_bytes=len(content),
        verdicts={one.name: one.headline.text for one in compared},
        pairs=[f"{pair.second} compared with {pair.first}: {pair.summary}" for pair in pairs],
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names; with as many of the folders above them as make all different."""
    for depth in range(1, max(len(folder.parts) for folder in folders)):
        names = [Path(*folder.parts[-depth:]).as_posix() for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _compared(run: Run, name: str, artifact: str | None, data: Path | None, progress: Progress) -> ComparedRun:
    facts = gather(run)
    predictions, notes = find_predictions(facts, artifact, data, progress)
    top = headline(facts, predictions)
    if predictions is None:
        shown = tiles(facts, None)
        return ComparedRun(name, facts, None, notes, top, latency_ms=None, size_bytes=None, ece=None, tiles=shown)
    found = calibration(*predictions.confidences())
    timed = latency_rows(facts.rows_of(predictions.artifact))
    weights = run.folder(predictions.artifact).glob(predictions.artifact.weights)
    return ComparedRun(
        name,
        facts,
        predictions,
        notes,
        top,
        latency_ms=next((row.latency_ms for row in timed if row.compute == predictions.compute), None),
        size_bytes=sum(path.stat().st_size for path in weights),
        ece=found.ece if found else None,
        tiles=tiles(facts, predictions),
    )


def _class_rows(compared: Sequence[ComparedRun]) -> list[list[str]]:
    """F1 of each label in each run, in percent; "-" if a run does not have the label."""
    found: dict[str, dict[str, str]] = {}
    for one in compared:
        for score in class_scores_of(one.predictions):
            found.setdefault(score.name, {})[one.name] = f"{100 * score.f1:.1f}"
    return [[label, *(by_run.get(one.name, "-") for one in compared)] for label, by_run in found.items()]


def _pair(first: ComparedRun, second: ComparedRun) -> RunPair:
    """On the images that both held out, identified by their bytes, if their labels are the same."""
    one, other = first.predictions, second.predictions
    if one is None or other is None or one.task_name != other.task_name:
        return RunPair(first.name, second.name, "image", 0, 0, 0, -1, 1)
    rows = {entry.sha256: row for row, entry in enumerate(other.entries)}
    shared = {
        entry.sha256: (row, rows[entry.sha256])
        for row, entry in enumerate(one.entries)
        if entry.sha256 in rows and set(entry.labels) == set(other.entries[rows[entry.sha256]].labels)
    }
    groups = groups_of([one.entries[row] for row, _ in shared.values()])
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
