"""The top of a run's page: the verdict in one sentence, and four figures, for whoever decides whether it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from operator import itemgetter
from typing import Literal

from ftx.core.errors import FtxError
from ftx.reporting.facts import RunFacts
from ftx.reporting.held_out import HeldOutPredictions
from ftx.runs.artifacts import IR_FILE, IR_WEIGHTS, IRS, Artifact
from ftx.runs.parity_json import ParityReport, latency_rows
from ftx.runtimes.choose_artifact import best_ir, why_not_here
from ftx.tasks.task_names import TASK_FACTS


@dataclass(frozen=True)
class Headline:
    """``kind`` is also the colour: ok if the deployed model is proved, warn if something is open, bad if it must not be
    used.
    """

    kind: Literal["ok", "warn", "bad"]
    word: str
    sentence: str


@dataclass(frozen=True)
class Tile:
    """A figure, and its caption; a dash if nobody measured it."""

    caption: str
    figure: str = "-"


def headline(facts: RunFacts, predictions: HeldOutPredictions | None) -> Headline:
    """How often the model is correct on images not seen in training, and whether the model for the device is proved."""
    if facts.faults:
        more = f", and {len(facts.faults) - 1} more faults below" if len(facts.faults) > 1 else ""
        return Headline("bad", "Do not use it", f"This run was changed after it was made: {facts.faults[0]}{more}.")
    accuracy = _accuracy(predictions) if predictions is not None else "Nobody knows how often this model is right"
    artifact = deployed(facts)
    if artifact is None:
        if is_exported(facts):
            failed = f"{accuracy}, but every model that was exported for a device failed."
            return Headline("bad", "Do not use it", failed)
        return Headline("warn", "Not ready", f"{accuracy}; it is not exported for a device yet.")
    verdict, parity = facts.verdict(artifact), facts.parity
    if verdict is None or parity is None:
        return Headline("warn", "Not proved", f"{accuracy}; nobody has validated the exported model ({artifact}) yet.")
    summary = parity.summary[artifact.name]
    if verdict == "failed":
        return Headline("bad", "Do not use it", f"{accuracy}, but {artifact} failed: {summary}.")
    if verdict == "unproved":
        if (wanting := _none_lost(parity, artifact)) is not None:
            return Headline("warn", "No loss seen", f"{accuracy}; {artifact} lost none of {wanting}.")
        return Headline("warn", "Not proved", f"{accuracy}; that {artifact} keeps this is not proved: {summary}.")
    if (reason := why_not_here(parity, facts.run)) is not None:
        return Headline("warn", "Not proved here", f"{accuracy}; {artifact} is proved, but {reason}.")
    if predictions is None:
        return Headline("warn", "Not known", f"{accuracy}; {artifact} is proved to be the trained model.")
    return Headline(
        "ok",
        "Ready",
        f"{accuracy}; the version for the device, {artifact}, is proved to get at most {100 * parity.max_drop:g} more "
        "in 100 wrong than the trained model.",
    )


def _accuracy(predictions: HeldOutPredictions) -> str:
    correct, images, low, high = predictions.accuracy()
    details = f"{correct} of {images}, by {predictions.artifact}; 95 % interval {100 * low:.0f} to {100 * high:.0f}"
    details += predictions.task.more_figures(predictions.logits_NC, predictions.targets_NC)
    fraction = f"{TASK_FACTS[predictions.task_name].correct_means} {100 * correct / images:.0f} of 100 images"
    return f"The model {fraction} that training did not see ({details})"


def _none_lost(parity: ParityReport, artifact: Artifact) -> str | None:
    """Of an artifact that lost nothing, how many images that is of and how many more would prove it; None of others."""
    rows = [row for row in parity.own_rows if row.subject == artifact and row.labelled]
    unproved = [row for row in rows if row.verdict == "unproved"]
    missing = [(row.needed_images - row.labelled, row) for row in unproved if row.needed_images is not None]
    if not missing or any(row.lost for row in rows):
        return None
    more, row = max(missing, key=itemgetter(0))
    return f"{row.labelled:,} {row.unit}s; {more:,} more {row.unit}s would prove it" if more > 0 else None


def is_exported(facts: RunFacts) -> bool:
    """Whether the run has a model for a device, whatever its verdict."""
    return any(facts.run.has(ir) for ir in IRS.values())


def deployed(facts: RunFacts) -> Artifact | None:
    """What ``ftx predict`` would load; None if the run has nothing for it."""
    try:
        return best_ir(facts.run)[0]
    except FtxError:
        return None


def tiles(facts: RunFacts, predictions: HeldOutPredictions | None) -> Sequence[Tile]:
    """Accuracy, and of the model that ``ftx predict`` would load its loss, time and size."""
    artifact = deployed(facts)
    if artifact is None:
        nothing = "every exported model failed" if is_exported(facts) else "not exported for a device yet"
        return [_correct(predictions), Tile(nothing), Tile(nothing), Tile(nothing)]
    return [_correct(predictions), _lost(facts, artifact), _time(facts, artifact), _size(facts, artifact)]


def _correct(predictions: HeldOutPredictions | None) -> Tile:
    if predictions is None:
        return Tile("correct: there are no predictions")
    correct, images, low, high = predictions.accuracy()
    caption = f"of {images:,} {predictions.split} images correct (95 %: {100 * low:.0f} to {100 * high:.0f})"
    return Tile(caption, f"{100 * correct / images:.0f} %")


def _lost(facts: RunFacts, artifact: Artifact) -> Tile:
    """The least favourable upper end: of the points lost, or without truth of the labels that changed."""
    rows = facts.rows_of(artifact)
    ends = [row.drop_high for row in rows if row.drop_high is not None]
    if ends:
        return Tile(f"lost by export ({artifact}, 95 %)", f"≤ {_up(max(ends))} points")
    if rows:
        most = max(row.changed_high for row in rows)
        return Tile(f"of labels changed by export ({artifact}, 95 %)", f"≤ {_up(most)} %")
    return Tile(f"lost by export: {artifact} is not validated")


def _up(fraction: float) -> str:
    return f"{max(ceil(1000 * fraction - 1e-9), 0) / 10:.1f}"


def _time(facts: RunFacts, artifact: Artifact) -> Tile:
    """One image at a time: by ``ftx bench``, else as ``ftx validate`` measured; the fastest way that it runs."""
    if facts.bench is not None:
        timed = [row.p50_ms for row in facts.bench.rows if row.artifact == artifact.name and row.batch == 1]
        by = "ftx bench"
    else:
        timed = [row.latency_ms for row in latency_rows(facts.rows_of(artifact)) if row.latency_ms]
        by = "ftx validate"
    return Tile(f"for one image ({by})", f"{min(timed):.1f} ms") if timed else Tile("for one image: not timed")


def _size(facts: RunFacts, artifact: Artifact) -> Tile:
    files = [facts.run.folder(artifact) / name for name in (IR_FILE, IR_WEIGHTS)]
    if not all(file.is_file() for file in files):
        return Tile(f"the model for the device: {artifact} is not whole")
    return Tile(f"the model for the device, {artifact}", f"{sum(file.stat().st_size for file in files) / 1e6:,.1f} MB")
