"""The verdict on a run, in one sentence for whoever decides whether the model is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ftx.core.errors import FtxError
from ftx.core.statistics import wilson_interval
from ftx.reporting.facts import RunFacts
from ftx.reporting.held_out import HeldOut
from ftx.runs.artifacts import IRS, Artifact
from ftx.runs.parity_json import ParityReport
from ftx.runtimes.choose_artifact import best_ir, why_not_here
from ftx.tasks.task_names import TASK_FACTS


@dataclass(frozen=True)
class Headline:
    """``kind`` is also the colour: ok where what is deployed is proved, warn where something is open, bad where not."""

    kind: Literal["ok", "warn", "bad"]
    word: str
    sentence: str


def headline(facts: RunFacts, answers: HeldOut | None) -> Headline:
    """How often the model is right on images that it had not seen, and whether what goes to the device is proved."""
    if facts.faults:
        more = f", and {len(facts.faults) - 1} more faults below" if len(facts.faults) > 1 else ""
        return Headline("bad", "Do not use it", f"This run was changed after it was made: {facts.faults[0]}{more}.")
    said = _accuracy(answers) if answers is not None else "Nobody knows how often this model is right"
    artifact = deployed(facts)
    if artifact is None:
        if is_exported(facts):
            return Headline("bad", "Do not use it", f"{said}, but every model that was exported for a device failed.")
        return Headline("warn", "Not ready", f"{said}; it is not exported for a device yet.")
    verdict, parity = facts.verdict(artifact), facts.parity
    if verdict is None or parity is None:
        return Headline("warn", "Not proved", f"{said}; nobody has validated the exported model ({artifact}) yet.")
    if verdict == "failed":
        return Headline("bad", "Do not use it", f"{said}, but {artifact} failed: {parity.summary[artifact.name]}.")
    if verdict == "unproved":
        if (wanting := _none_lost(parity, artifact)) is not None:
            return Headline("warn", "No loss seen", f"{said}; {artifact} lost none of {wanting}.")
        return Headline(
            "warn", "Not proved", f"{said}; that {artifact} keeps this is not proved: {parity.summary[artifact.name]}."
        )
    if (reason := why_not_here(parity, facts.run)) is not None:
        return Headline("warn", "Not proved here", f"{said}; {artifact} is proved, but {reason}.")
    if answers is None:
        return Headline("warn", "Not known", f"{said}; {artifact} is proved to be what was trained.")
    return Headline(
        "ok",
        "Ready",
        f"{said}; the version for the device, {artifact}, is proved to get at most {100 * parity.max_drop:g} more in "
        "100 wrong than what was trained.",
    )


def _none_lost(parity: ParityReport, artifact: Artifact) -> str | None:
    """Of an artifact that lost nothing, how many images that is of and how many more would prove it; None of others."""
    rows = [row for row in parity.own_rows if row.subject == artifact and row.labelled]
    wanting = [row for row in rows if row.verdict == "unproved" and row.needed_images is not None]
    if not wanting or any(row.lost for row in rows) or any(row.needed_images is None for row in wanting):
        return None
    row = max(wanting, key=lambda one: (one.needed_images or 0) - one.labelled)
    more = (row.needed_images or 0) - row.labelled
    return f"{row.labelled:,} {row.unit}s; {more:,} more {row.unit}s would prove it" if more > 0 else None


def is_exported(facts: RunFacts) -> bool:
    """Whether the run holds a model for a device, whatever was found of it."""
    return any(facts.run.has(ir) for ir in IRS.values())


def deployed(facts: RunFacts) -> Artifact | None:
    """What ``ftx predict`` would take; None where the run has nothing that it would."""
    try:
        return best_ir(facts.run)[0]
    except FtxError:
        return None


def _accuracy(answers: HeldOut) -> str:
    right, images = int(answers.correct.sum()), len(answers.correct)
    low, high = wilson_interval(right, images)
    known = f"{right} of {images}, by {answers.artifact}; 95 % interval {100 * low:.0f} to {100 * high:.0f}"
    known += answers.task.more_figures(answers.logits_NC, answers.targets_NC)
    share = f"{TASK_FACTS[answers.task_name].correct_means} {100 * right / images:.0f} of 100 images"
    return f"The model {share} that training did not see ({known})"
