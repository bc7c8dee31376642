"""The top of a run's page: a headline for whoever decides whether the model is used, and four figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from ftx.core.errors import FtxError
from ftx.core.statistics import points_up
from ftx.evaluating.logit_bounds import rests_on_labels
from ftx.reporting.facts import RunFacts
from ftx.reporting.held_out import HeldOutPredictions
from ftx.runs.artifacts import DENSE, IR_FILE, IR_WEIGHTS, IRS, TRAINED, Artifact
from ftx.runs.parity_json import ParityReport, ParityRow, latency_rows
from ftx.runtimes.choose_artifact import best_ir, why_not_here
from ftx.tasks.task_names import TASK_FACTS

# How a reader calls the images of a split.
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Headline:
    """``kind`` is also the colour: ok if the deployed model is verified, warn if something is open, bad if it must not
    be used.

    ``word`` is the verdict in two or three words, ``finding`` the reason in a few more, without a full stop.
    ``evidence`` and ``accuracy`` are whole sentences.
    """

    kind: Literal["ok", "warn", "bad"]
    word: str
    finding: str
    evidence: str
    accuracy: str

    @property
    def text(self) -> str:
        """All of it in one paragraph."""
        return " ".join(filter(None, (f"{self.word}: {self.finding}.", self.evidence, self.accuracy)))


@dataclass(frozen=True)
class Tile:
    """A figure, and its caption; a dash if it was not measured."""

    caption: str
    figure: str = "-"


def headline(facts: RunFacts, predictions: HeldOutPredictions | None) -> Headline:
    """Whether the model for the device is verified, and how often it is correct on images not seen in training."""
    kind, word, finding, evidence = _verdict(facts, predictions)
    return Headline(kind, word, finding, evidence, _accuracy(predictions))


def _verdict(
    facts: RunFacts, predictions: HeldOutPredictions | None
) -> tuple[Literal["ok", "warn", "bad"], str, str, str]:
    """The parts of a headline but its accuracy. The first case that applies decides."""
    if facts.faults:
        others = len(facts.faults) - 1
        more = f", and {others} more {'fault' if others == 1 else 'faults'} below" if others else ""
        return "bad", "Do not use yet", "this run was changed after it was made", f"{facts.faults[0]}{more}."
    artifact = deployed(facts)
    if artifact is None:
        if not is_exported(facts):
            return "warn", "Not ready", "the model is not exported for a device yet", ""
        failed = [ir for ir in IRS.values() if facts.run.has(ir)]
        finding = (
            f"{failed[0].variant} failed verification"
            if len(failed) == 1
            else "every exported model failed verification"
        )
        return "bad", "Do not use yet", finding, f"{_failures(facts, failed)} Export it again with other settings."
    name, verdict, parity = artifact.variant, facts.verdict(artifact), facts.parity
    if verdict is None or parity is None:
        finding = f"{name} is not compared with the trained model yet"
        return "warn", "Not proved", finding, "To do this, run ftx validate."
    if verdict == "failed":
        return "bad", "Do not use yet", f"{name} failed verification", _failures(facts, [artifact])
    if verdict == "unproved":
        return "warn", "Not proved", *_unproved(facts, parity, artifact)
    lost = " ".join(filter(None, (_verified(facts, parity, artifact), _others(facts, artifact))))
    if (reason := why_not_here(parity, facts.run)) is not None:
        finding = f"{name} must be verified again"
        return "warn", "Not proved here", finding, f"The last proof does not count here, because {reason}."
    if predictions is None:
        return "warn", "Not known", f"{name} is verified, but its accuracy was not measured", lost
    return "ok", "Ready to use", f"{name} is verified", lost


def _failures(facts: RunFacts, failed: Sequence[Artifact]) -> str:
    summary = facts.parity.summary if facts.parity else {}
    return " ".join(f"{ir.variant}: {summary[ir.name]}." for ir in failed if ir.name in summary)


def _verified(facts: RunFacts, parity: ParityReport, artifact: Artifact) -> str:
    """The loss that the proof permits at most."""
    row = _least_favourable(facts, artifact)
    if row is None:
        return ""
    if not rests_on_labels(artifact, row.compute):
        return f"It computes the outputs of the trained model, up to rounding ({row.images:,} images)."
    return _at_most(parity, row)


def _at_most(parity: ParityReport, row: ParityRow) -> str:
    # Several models are tested together, so the end of each is stricter than what holds for all of them.
    confidence = f"{100 * (1 - parity.family.alpha):g} % confidence"
    if row.drop_high is None:
        return f"At most {points_up(row.changed_high)} % of its labels changed ({confidence}, {row.images:,} images)."
    return f"At most {points_up(row.drop_high)} points of accuracy lost ({confidence}, {row.labelled:,} {row.unit}s)."


def _unproved(facts: RunFacts, parity: ParityReport, artifact: Artifact) -> tuple[str, str]:
    """What is missing for a proof: more images if that is all, else what ``ftx validate`` reported."""
    rows = [row for row in facts.rows_of(artifact) if row.verdict == "unproved" and row.needed_images and row.labelled]
    row = max(rows, key=lambda row: (row.needed_images or 0) - row.labelled, default=None)
    if row is None or row.drop_high is None or not parity.whole:
        return f"{artifact.variant} is not verified", f"ftx validate reports: {parity.summary[artifact.name]}."
    more = (row.needed_images or 0) - row.labelled
    return f"there are too few test images to verify {artifact.variant}", (
        f"{_at_most(parity, row)} The limit is {100 * parity.max_drop:g} points. "
        f"{more:,} more {row.unit}s with no further loss would prove it."
    )


def _others(facts: RunFacts, deployed: Artifact) -> str:
    """A sentence on each other exported model that is not verified: nobody may take it for the one that is."""
    words = {"failed": "failed: do not use it", "unproved": "is not proved", None: "is not validated"}
    others = [ir for ir in IRS.values() if facts.run.has(ir) and ir != deployed]
    found = [(ir.variant, facts.verdict(ir)) for ir in others]
    return " ".join(f"{name} {words[verdict]}." for name, verdict in found if verdict != "proved")


def _accuracy(predictions: HeldOutPredictions | None) -> str:
    if predictions is None:
        return "How often the model is correct is not known, because there are no predictions."
    correct, images, low, high = predictions.accuracy()
    details = (
        f"{correct} of {images}, by the {predictions.artifact} model; 95 % interval {100 * low:.0f} to {100 * high:.0f}"
    )
    details += predictions.task.more_figures(predictions.logits_NC, predictions.targets_NC)
    fraction = f"{TASK_FACTS[predictions.task_name].correct_means} {100 * correct / images:.0f} of 100 images"
    return f"The model {fraction} not seen in training ({details})."


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
    """Accuracy, and of the model that ``ftx predict`` would load its loss, time and size.

    Without such a model the time is that of training, and the size that of the model before export.
    """
    artifact = deployed(facts)
    if artifact is None:
        nothing = "every exported model failed" if is_exported(facts) else "the model is not exported yet"
        lost = Tile(f"accuracy lost by export: {nothing}")
        return [_correct(predictions), lost, _training_time(facts), _size_before_export(facts)]
    return [_correct(predictions), _lost(facts, artifact), _time(facts, artifact), _size(facts, artifact)]


def _correct(predictions: HeldOutPredictions | None) -> Tile:
    if predictions is None:
        return Tile("accuracy: there are no predictions")
    correct, images, low, high = predictions.accuracy()
    of_images = f"{images:,} {SPLIT_NAMES[predictions.split]} images"
    return Tile(
        f"accuracy on {of_images} (95 % interval: {100 * low:.0f} to {100 * high:.0f} %)",
        f"{100 * correct / images:.0f} %",
    )


def _least_favourable(facts: RunFacts, artifact: Artifact) -> ParityRow | None:
    """The row with the largest upper end of its loss, among those that are proved by labels if there are any."""
    rows = facts.rows_of(artifact)
    by_labels = [row for row in rows if rests_on_labels(row.subject, row.compute)]
    return max(
        by_labels or rows, key=lambda row: row.changed_high if row.drop_high is None else row.drop_high, default=None
    )


def _lost(facts: RunFacts, artifact: Artifact) -> Tile:
    """The most points that can be lost; the labels that changed without truth, or if logits are the proof."""
    row = _least_favourable(facts, artifact)
    if row is None:
        return Tile(f"accuracy lost by export: {artifact.variant} is not validated")
    if not rests_on_labels(artifact, row.compute):
        return Tile(f"predictions changed by export to {artifact.variant}", f"{100 * row.changed:.1f} %")
    if row.drop_high is None:
        return Tile(f"predictions changed by export to {artifact.variant} (95 %)", f"≤ {points_up(row.changed_high)} %")
    return Tile(
        f"accuracy lost by export to {artifact.variant} (95 % confidence)", f"≤ {points_up(row.drop_high)} points"
    )


def _time(facts: RunFacts, artifact: Artifact) -> Tile:
    """One image at a time: by ``ftx bench``, else as ``ftx validate`` measured; the fastest way that it runs."""
    if facts.bench is not None:
        timed = [row.p50_ms for row in facts.bench.rows if row.artifact == artifact.name and row.batch == 1]
        by = "ftx bench"
    else:
        timed = [row.latency_ms for row in latency_rows(facts.rows_of(artifact)) if row.latency_ms]
        by = "ftx validate"
    return Tile(f"time per image ({by})", f"{min(timed):.1f} ms") if timed else Tile("time per image: not measured")


def _size(facts: RunFacts, artifact: Artifact) -> Tile:
    folder = facts.run.folder(artifact)
    files = [*folder.glob("*.xml"), *folder.glob(artifact.weights)]
    if not all((folder / name).is_file() for name in (IR_FILE, IR_WEIGHTS)):
        return Tile(f"size of the {artifact.variant} model: its files are incomplete")
    return Tile(f"size of the {artifact.variant} model", f"{sum(file.stat().st_size for file in files) / 1e6:,.1f} MB")


def _training_time(facts: RunFacts) -> Tile:
    if not facts.epochs:
        return Tile("time per image: not measured")
    epochs = len(facts.epochs)
    caption = f"training time ({epochs} {'epoch' if epochs == 1 else 'epochs'})"
    return Tile(caption, f"{sum(map(attrgetter('seconds'), facts.epochs)):,.0f} s")


def _size_before_export(facts: RunFacts) -> Tile:
    artifact = DENSE if facts.run.has(DENSE) else TRAINED
    weights = facts.run.folder(artifact).glob(artifact.weights)
    what = "merged model" if artifact == DENSE else "trained weights"
    return Tile(f"size of the {what}", f"{sum(file.stat().st_size for file in weights) / 1e6:,.1f} MB")
