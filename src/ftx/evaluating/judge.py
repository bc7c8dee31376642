"""Verdicts: proved, unproved or failed, for each row and each artifact, by one table.

Where weights and arithmetic are f32 the bound on logits is the proof, as long as no more than the margin is seen to be
lost: a difference within the bound changes a label only if two were all but equal. Where they are coarser, labels do
change, and the proof is an interval: the drop of accuracy is at most the margin, with 95 % confidence. Without truth
the fraction of changed labels stands for the drop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ftx.core.statistics import PairedCounts, holm, points_up
from ftx.evaluating.comparison import Comparison
from ftx.evaluating.logit_bounds import rests_on_labels
from ftx.runs.artifacts import TRAINED
from ftx.runs.parity_json import ClassDrop, Family, ParityRow, Verdict

# Of an interval's end, and 1 - the error of all tests of one kind together.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Evidence:
    """What is known of a row or an artifact.

    ``faults`` are messages, one for each bound or margin that is certainly exceeded and each wrong label or
    preprocessing. ``proved``: all images were run and no more than the margin can be lost. ``figures`` state how much;
    ``partial`` is why these images cannot prove it.
    The verdict of another machine is ``same`` if this machine computes the same logits, else ``other``;
    ``there`` states it with the difference of the logits, ``changes`` the labels that change from there to here.
    ``certified`` is why an int8-checked model can lose no more than the margin here, if its float model loses nothing.
    """

    faults: Sequence[str] = ()
    proved: bool = False
    figures: str = ""
    partial: str | None = None
    same: Verdict | None = None
    other: Verdict | None = None
    there: str = ""
    changes: str = ""
    certified: str | None = None


@dataclass(frozen=True)
class Rule:
    """One line of the table."""

    condition: Callable[[Evidence], object]
    verdict: Verdict
    summary: Callable[[Evidence], str]


def _same(found: Evidence) -> str:
    return f"this machine computes the same logits as the one that judged it ({found.there})"


def _other(found: Evidence, here: str) -> str:
    return f"this machine computes other logits than the one that judged it ({found.there}); here {here}"


# The first line whose condition is met gives the verdict.
VERDICTS: tuple[Rule, ...] = (
    Rule(lambda found: found.faults, "failed", lambda found: found.faults[0]),
    # The same logits as on the machine that judged all held-out images.
    Rule(lambda found: found.same == "failed", "failed", _same),
    Rule(lambda found: found.certified and found.other != "failed", "proved", lambda found: found.certified or ""),
    Rule(lambda found: found.same == "proved" and found.partial, "unproved", lambda found: found.figures),
    Rule(lambda found: found.same and (found.proved or found.same == "proved"), "proved", _same),
    Rule(lambda found: found.same, "unproved", _same),
    # Other logits than there.
    Rule(lambda found: found.other and found.proved, "proved", lambda found: _other(found, found.figures)),
    Rule(lambda found: found.other == "failed", "failed", lambda found: _other(found, found.changes)),
    Rule(lambda found: found.other, "unproved", lambda found: _other(found, found.changes)),
    # No verdict from another machine.
    Rule(lambda found: found.proved, "proved", lambda found: found.figures),
    Rule(lambda found: found.partial, "unproved", lambda found: f"{found.figures}; {found.partial}"),
    Rule(lambda found: True, "unproved", lambda found: found.figures),
)


def verdict_on(found: Evidence) -> tuple[Verdict, str]:
    """The verdict of the table and its summary."""
    rule = next(rule for rule in VERDICTS if rule.condition(found))
    return rule.verdict, rule.summary(found)


@dataclass(frozen=True)
class ParityJudgement:
    """The rows with their verdicts; of each artifact the verdict and its summary; and all faults."""

    rows: list[ParityRow]
    verdicts: dict[str, Verdict]
    summary: dict[str, str]
    family: Family
    problems: list[str]


def judge(
    compared: Sequence[Comparison],
    max_drop: float,
    *,
    faults: Mapping[str, Sequence[str]] | None = None,
    partial: str | None = None,
) -> ParityJudgement:
    """Give each row and each artifact its verdict.

    A row fails if its logits exceed a bound, or if the lower end of the drop lies above ``max_drop``; this is
    tested in each row but the trained model's own, so Holm's procedure limits the error of all rows together. It is
    proved if it does not fail and the upper end lies within; in f32, if no more than that is seen to be lost. An
    artifact is proved if all its rows are, which needs no correction; but ``ftx predict`` takes the fastest of those
    that are, so Holm's procedure limits the error over the OpenVINO models whose proof rests on labels.
    ``faults`` are what no row shows, by artifact. ``partial`` is why nothing can be proved.
    """
    tested = [row for row in compared if row.subject.artifact != TRAINED]
    beyond = iter(holm([_stands_for_drop(row).chance_beyond(max_drop) for row in tested], 1 - CONFIDENCE))
    levels = _levels(compared, max_drop)
    found: dict[str, list[str]] = {artifact: list(texts) for artifact, texts in (faults or {}).items()}
    problems = [text for texts in found.values() for text in texts]
    rows: list[ParityRow] = []
    for row in compared:
        artifact, own = row.subject.artifact.name, list(row.exceeded)
        is_beyond, level = (False, 0.0) if row.subject.artifact == TRAINED else next(beyond)
        if is_beyond:
            own.append(_lost_at_least(row, max_drop, 1 - level))
        problems += [f"{row.subject}: {fault}; worst: {', '.join(row.worst[:3])}" for fault in own]
        found.setdefault(artifact, []).extend(own)
        confidence = 1 - levels.get(artifact, 1 - CONFIDENCE)
        rows.append(_parity_row(row, max_drop, confidence, own, partial))
    verdicts: dict[str, Verdict] = {}
    summary: dict[str, str] = {}
    for artifact in dict.fromkeys(row.subject.artifact.name for row in tested):
        own_rows = [row for row in rows if row.artifact == artifact]
        reasons = [fault.removeprefix(f"{artifact}: ") for fault in found[artifact]]
        proved = all(row.verdict == "proved" for row in own_rows)
        figures = "" if reasons else _figures(own_rows)
        verdicts[artifact], summary[artifact] = verdict_on(Evidence(reasons, proved, figures, partial))
    family = Family(alpha=round(1 - CONFIDENCE, 9), artifacts=sorted(levels), rows=len(tested))
    return ParityJudgement(rows, verdicts, summary, family, problems)


def _levels(compared: Sequence[Comparison], max_drop: float) -> dict[str, float]:
    """The level at which each model whose proof rests on labels is tested. Its p-value is the largest of its rows."""
    chances: dict[str, float] = {}
    for row in compared:
        artifact = row.subject.artifact
        if rests_on_labels(artifact, row.subject.compute):
            chance = 1.0 if row.exceeded else _stands_for_drop(row).chance_within(max_drop)
            chances[artifact.name] = max(chances.get(artifact.name, 0.0), chance)
    tested = holm(list(chances.values()), 1 - CONFIDENCE)
    return {artifact: level for artifact, (_, level) in zip(chances, tested, strict=True)}


def _stands_for_drop(row: Comparison) -> PairedCounts:
    return row.labels if row.labels.units else row.changes


def _parity_row(
    row: Comparison, max_drop: float, confidence: float, faults: Sequence[str], partial: str | None
) -> ParityRow:
    subject, labels, units = row.subject, row.labels, _stands_for_drop(row)
    high = units.drop_at_most(confidence)
    wanting = high > max_drop and (rests_on_labels(subject.artifact, subject.compute) or units.drop > max_drop)
    known = labels.units > 0
    accuracy, accuracy_low, accuracy_high = row.accuracy or (None, None, None)
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
        accuracy_low=accuracy_low,
        accuracy_high=accuracy_high,
        latency_ms=subject.latency_ms,
        bound=row.bound,
        ok=not faults,
        verdict=verdict_on(Evidence(faults, proved=not wanting and partial is None))[0],
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
        needed_images=units.units_needed(max_drop, confidence) if wanting and not faults else None,
        worst_class=row.worst_class and _class_drop(*row.worst_class),
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


def _figures(rows: Sequence[ParityRow]) -> str:
    """The figures of an artifact in a sentence: those of the row that proves least."""
    by_labels = [
        row
        for row in rows
        if rests_on_labels(row.subject, row.compute) or (row.verdict == "unproved" and row.needed_images)
    ]
    if by_labels:
        return _interval(max(by_labels, key=lambda row: row.changed_high if row.drop_high is None else row.drop_high))
    row = min(rows, key=lambda row: (row.view != "graph", -(row.max_abs or 0.0)))
    bound = "" if row.bound.max_abs is None else f" (bound {row.bound.max_abs:.1e})"
    tied = f"; {row.tied} of {row.images} images have no bound: two patches tie for the last place" if row.tied else ""
    return f"logits within {row.max_abs or 0:.1e} of the trained model's{bound}, {_changed(row)}{tied}"


def _interval(row: ParityRow) -> str:
    """As ``at most 5.0 points lost (95 % confidence, 154 images): 3 lost, 0 gained; 386 images with ...``."""
    sure = f"{100 * row.confidence:g} % confidence"
    if row.drop_high is None:
        units = f"{row.images:,} images"
        text = f"at most {points_up(row.changed_high)} % of labels changed ({sure}, {units}): {_changed(row)}"
    else:
        most = f"at most {points_up(row.drop_high)} points lost"
        text = f"{most} ({sure}, {row.labelled:,} {row.unit}s): {row.lost:.4g} lost, {row.gained:.4g} gained"
    if row.needed_images is None:
        return text
    needed = f"{row.needed_images:,} {row.unit}s with no further loss"
    return f"{text}; {needed} would prove at most {100 * row.max_drop:g}"


def _lost_at_least(row: Comparison, max_drop: float, confidence: float) -> str:
    units = _stands_for_drop(row)
    what = "points of accuracy are lost" if row.labels.units else "% of labels changed"
    counts = f"{units.lost:.4g} lost, {units.gained:.4g} gained of {units.units} {row.unit}s"
    least = f"{math.floor(1000 * units.drop_at_least(confidence)) / 10:.1f}"
    return f"at least {least} {what} ({100 * confidence:.4g} %): {counts}; the margin is {100 * max_drop:g}"


def _changed(row: ParityRow) -> str:
    return f"{100 * row.changed:.2g} % of labels changed"
