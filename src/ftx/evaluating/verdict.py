"""From measured rows to verdicts: proved, unproved or failed, for each row and each artifact.

Where weights and arithmetic are f32 the bound on logits is the proof, as long as no more than the margin is seen to be
lost: what lies within it changes a label only where two were all but equal. Where they are coarser, labels do change,
and the proof is an interval: the drop of accuracy is at most the margin, with 95 % confidence. Without truth the share
of changed labels stands for the drop.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ftx.core.statistics import PairedCounts, holm
from ftx.evaluating.logit_bounds import coarsest_rounding
from ftx.evaluating.parity_row import Compared
from ftx.runs.artifacts import TRAINED, Artifact
from ftx.runs.compute_precision import ComputePrecision
from ftx.runs.parity_json import ClassDrop, Family, ParityRow, Verdict

# Of an interval's end, and 1 - the error of all tests of one kind together.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Judged:
    """The rows with their verdicts; of each artifact the verdict and its figures in words; what does not hold."""

    rows: list[ParityRow]
    verdicts: dict[str, Verdict]
    summary: dict[str, str]
    family: Family
    problems: list[str]


def judge(
    compared: Sequence[Compared],
    max_drop: float,
    *,
    mistaken: Mapping[str, Sequence[str]] | None = None,
    partial: str | None = None,
) -> Judged:
    """Give each row and each artifact its verdict.

    A row fails where its logits exceed a bound, or where the lower end of the drop lies above ``max_drop``; this is
    tested in each row but the trained model's own, so Holm's procedure holds the error of all rows together. It is
    proved where it does not fail and the upper end lies within; in f32, where no more than that is seen to be lost. An
    artifact is proved where all its rows are, which needs no correction; but ``ftx predict`` takes the fastest of those
    that are, so Holm's procedure holds the error over the OpenVINO models whose proof rests on labels.
    ``mistaken`` says in words what no row shows, by artifact, and fails it. ``partial`` is why nothing can be proved.
    """
    mistaken = mistaken or {}
    tested = [row for row in compared if row.subject.artifact != TRAINED]
    failing = iter(holm([_stands_for_drop(row).chance_beyond(max_drop) for row in tested], 1 - CONFIDENCE))
    levels = _levels(compared, max_drop)
    rows: list[ParityRow] = []
    problems = [text for artifact in mistaken for text in mistaken[artifact]]
    reasons: dict[str, list[str]] = {artifact: list(texts) for artifact, texts in mistaken.items() if texts}
    for row in compared:
        artifact = row.subject.artifact.name
        is_beyond, level = (False, 1 - CONFIDENCE) if row.subject.artifact == TRAINED else next(failing)
        faults = list(row.exceeded)
        if is_beyond:
            faults.append(_lost_at_least(row, max_drop, 1 - level))
        if faults:
            problems += [f"{row.subject}: {fault}; worst: {', '.join(row.worst[:3])}" for fault in faults]
            reasons.setdefault(artifact, []).extend(faults)
        confidence = 1 - levels.get(artifact, 1 - CONFIDENCE)
        rows.append(_parity_row(row, max_drop, confidence, failed=bool(faults), partial=partial is not None))
    verdicts: dict[str, Verdict] = {}
    summary: dict[str, str] = {}
    for artifact in dict.fromkeys(row.artifact for row in rows if row.subject != TRAINED):
        own = [row for row in rows if row.artifact == artifact]
        if artifact in reasons:
            verdicts[artifact], summary[artifact] = "failed", reasons[artifact][0].removeprefix(f"{artifact}: ")
        else:
            verdicts[artifact] = "proved" if all(row.verdict == "proved" for row in own) else "unproved"
            summary[artifact] = figures(own) + (f"; {partial}" if partial and verdicts[artifact] == "unproved" else "")
    family = Family(alpha=round(1 - CONFIDENCE, 9), artifacts=sorted(levels), rows=len(tested))
    return Judged(rows, verdicts, summary, family, problems)


def passes(verdicts: Collection[Verdict], *, require_proof: bool) -> bool:
    """Whether a validation ends well: nothing failed, and all is proved where that is asked for."""
    return set(verdicts) <= ({"proved"} if require_proof else {"proved", "unproved"})


def rests_on_labels(artifact: Artifact, compute: ComputePrecision) -> bool:
    """Whether an artifact's proof under a precision is an interval: anything coarser than f32 changes labels."""
    return coarsest_rounding(artifact, compute) != "fp32"


def figures(rows: Sequence[ParityRow]) -> str:
    """The figures of an artifact in a sentence: those of the row that proves least."""
    by_labels = [
        row
        for row in rows
        if rests_on_labels(row.subject, row.compute) or (row.verdict == "unproved" and row.needed_images)
    ]
    if by_labels:
        return _interval(max(by_labels, key=lambda row: row.changed_high if row.drop_high is None else row.drop_high))
    (row, *_) = sorted(rows, key=lambda row: (row.view != "graph", -(row.max_abs or 0.0)))
    held = "" if row.bound.max_abs is None else f" (bound {row.bound.max_abs:.1e})"
    tied = (
        f"; {row.tied} of {row.images} images are held to none: two patches tie for the last place" if row.tied else ""
    )
    return f"logits within {row.max_abs or 0:.1e} of the trained model's{held}, {_changed(row)}{tied}"


def _levels(compared: Sequence[Compared], max_drop: float) -> dict[str, float]:
    """At which level each OpenVINO model whose proof rests on labels is tested: its least sure row is its p-value."""
    chances: dict[str, float] = {}
    for row in compared:
        artifact = row.subject.artifact
        if rests_on_labels(artifact, row.subject.compute):
            chance = 1.0 if row.exceeded else _stands_for_drop(row).chance_within(max_drop)
            chances[artifact.name] = max(chances.get(artifact.name, 0.0), chance)
    tested = holm(list(chances.values()), 1 - CONFIDENCE)
    return {artifact: level for artifact, (_, level) in zip(chances, tested, strict=True)}


def _stands_for_drop(row: Compared) -> PairedCounts:
    return row.labels if row.labels.units else row.changes


def _parity_row(row: Compared, max_drop: float, confidence: float, *, failed: bool, partial: bool) -> ParityRow:
    subject, labels, counted = row.subject, row.labels, _stands_for_drop(row)
    by_labels = rests_on_labels(subject.artifact, subject.compute)
    high = counted.drop_at_most(confidence)
    wanting = high > max_drop and (by_labels or counted.drop > max_drop)
    verdict: Verdict = "failed" if failed else "unproved" if partial or wanting else "proved"
    known = labels.units > 0
    accuracy, low, ceiling = row.accuracy or (None, None, None)
    return ParityRow(
        artifact=subject.artifact.name,
        runtime=subject.artifact.runtime,
        view=subject.view,
        compute=subject.compute,
        images=row.images,
        tied=row.tied,
        max_abs=row.max_abs,
        mean_abs=row.mean_abs,
        cosine=row.cosine,
        agreement=row.agreement,
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=ceiling,
        latency_ms=subject.latency_ms,
        bound=row.bound,
        ok=not failed,
        verdict=verdict,
        unit=row.unit,
        labelled=labels.units,
        lost=labels.lost,
        gained=labels.gained,
        drop=labels.drop if known else None,
        drop_low=labels.drop_at_least(confidence) if known else None,
        drop_high=high if known else None,
        changed=row.changes.drop,
        changed_high=row.changes.drop_at_most(confidence),
        confidence=round(confidence, 9),
        max_drop=max_drop,
        needed_images=counted.units_needed(max_drop, confidence) if wanting and not failed else None,
        worst_class=None if row.worst_class is None else _class_drop(*row.worst_class),
        worst=list(row.worst),
        isa=subject.kernels and subject.kernels.isa,
        emulated=bool(subject.kernels and subject.kernels.emulated),
        primitives=dict(subject.kernels.primitives) if subject.kernels else {},
    )


def _class_drop(name: str, units: PairedCounts) -> ClassDrop:
    return ClassDrop(
        name=name,
        labelled=units.units,
        lost=units.lost,
        gained=units.gained,
        drop=units.drop,
        drop_low=units.drop_at_least(CONFIDENCE),
        drop_high=units.drop_at_most(CONFIDENCE),
    )


def _interval(row: ParityRow) -> str:
    """As ``at most 5.0 points lost (95 %): 3 lost, 0 gained of 154; 386 images with no further loss would prove 2``."""
    if row.drop_high is None:
        text = f"at most {_up(row.changed_high)} % of labels changed ({100 * row.confidence:g} %): {_changed(row)}"
    else:
        most = f"at most {_up(row.drop_high)} points lost" if row.drop_high > 0 else "no accuracy lost"
        counts = f"{row.lost:.4g} lost, {row.gained:.4g} gained of {counted(row.labelled, row)}"
        text = f"{most} ({100 * row.confidence:g} %): {counts}"
    if row.needed_images is None:
        return text
    return f"{text}; {row.needed_images:,} {row.unit}s with no further loss would prove {100 * row.max_drop:g}"


def _lost_at_least(row: Compared, max_drop: float, confidence: float) -> str:
    counted_units = _stands_for_drop(row)
    what = "points of accuracy are lost" if row.labels.units else "% of labels changed"
    counts = f"{counted_units.lost:.4g} lost, {counted_units.gained:.4g} gained of {counted_units.units} {row.unit}s"
    least = f"{math.floor(1000 * counted_units.drop_at_least(confidence)) / 10:.1f}"
    return f"at least {least} {what} ({100 * confidence:.4g} %): {counts}; the margin is {100 * max_drop:g}"


def _changed(row: ParityRow) -> str:
    return f"{100 * row.changed:.2g} % of labels changed"


def counted(units: int, row: ParityRow) -> str:
    """A number of units; images are not named, as everything here is of images."""
    return f"{units:,} groups" if row.unit == "group" else f"{units:,}"


def _up(share: float) -> str:
    """An upper end in points, never less than it is: 148 images without a loss prove less than two points."""
    return f"{math.ceil(1000 * share - 1e-9) / 10:.1f}"
