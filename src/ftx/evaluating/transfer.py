"""The verdict of another machine: what it is worth on this one.

The reference images of an exported folder prove little by themselves; but if the model computes the same logits for
them as on the machine that judged it on all held-out images, that verdict holds here as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ftx.core.statistics import PairedCounts
from ftx.evaluating.comparison import compare
from ftx.evaluating.judge import CONFIDENCE, Evidence, ParityJudgement, verdict_on
from ftx.evaluating.logit_bounds import FREE, rests_on_labels
from ftx.evaluating.measure import Measurements
from ftx.runs.machine import InstructionSet, Machine, this_machine, this_set
from ftx.runs.parity_json import Transfer, Verdict
from ftx.runs.proof_json import Proof, ReferenceLogits, RunProof
from ftx.runs.views import PixelView
from ftx.tasks.thresholds import Floats

# In units of max(1, max|logit|), as fp32.graph: the same kernels on another machine of the kind differ by the order of
# sums at most, and other kernels by far more (0.01 to 0.06 in int8, docs/decisions/0008-verdict.md).
SAME_LOGITS = 1e-4


class Way(NamedTuple):
    """How a model was run: whether in the precision that the runtime chose, and in which view."""

    deployed: bool
    view: PixelView


class _Distance(NamedTuple):
    """A verdict from elsewhere, and the largest difference of a logit from there; None without common logits."""

    proof: RunProof
    off: float | None


def transfer(
    measured: Measurements,
    judged: ParityJudgement,
    proof: Proof,
    max_drop: float,
    *,
    machine: Machine | None = None,
    isa: InstructionSet | None = None,
    partial: str | None = None,
    certified: str | None = None,
) -> Transfer:
    """The verdict from elsewhere on an exported folder here; without one, that of its reference images.

    ``machine`` and ``isa`` are those it was measured on, by default this one's. ``partial`` is why nothing is proved,
    ``certified`` why an int8-checked model is.
    """
    ((artifact, own),) = judged.verdicts.items()
    figures = judged.summary[artifact]
    deployed = [row.changes for row in measured.comparisons if row.subject.compute.chosen_by_runtime]
    changed = max(deployed, key=lambda changes: changes.drop)
    evidence = Evidence([figures] if own == "failed" else [], own == "proved", figures, partial)
    off = bound = None
    if proof.run is None:
        evidence = replace(evidence, partial="on the server, `ftx validate` runs all held-out images")
    else:
        logits_NC = measured.reference.logits
        bound = SAME_LOGITS * max(1.0, float(np.abs(logits_NC[np.isfinite(logits_NC)]).max(initial=0.0)))
        there, off = _nearest(measured, [proof.run, *proof.sets], bound, isa or this_set())
        verdict, changes = _verdict_for(there, max_drop), _changes(measured, there)
        changed = changes or changed
        same = off is not None and off <= bound
        evidence = replace(
            evidence,
            same=verdict if same else None,
            other=None if same else verdict,
            there=_there(there, verdict, off, bound),
            changes=figures if changes is None else _count(changes),
        )
    verdict, summary = verdict_on(replace(evidence, certified=None if partial else certified))
    return Transfer(
        verdict=verdict,
        summary=summary,
        max_drop=max_drop,
        machine=machine or this_machine(),
        same=evidence.same is not None,
        max_abs=off,
        bound=bound,
        changed=changed.drop,
        changed_high=changed.drop_at_most(CONFIDENCE),
    )


def _there(there: RunProof, verdict: Verdict, off: float | None, bound: float) -> str:
    distance = "its logits have another shape, or it was not run there in each way that it runs here"
    if off is not None:
        distance = f"logits within {off:.1e}, bound {bound:.1e}"
    held = f", which was limited to {there.isa}" if there.emulated else ""
    return f"{distance}; there{held} {verdict}: {there.summary}"


def _count(changes: PairedCounts) -> str:
    at_most = f"at most {100 * changes.drop_at_most(CONFIDENCE):.1f} % would ({100 * CONFIDENCE:g} %)"
    return f"{changes.lost:.4g} of {changes.units} reference images change their labels: {at_most}"


def _nearest(measured: Measurements, proofs: Sequence[RunProof], bound: float, isa: InstructionSet | None) -> _Distance:
    """The verdict from where the logits are the same; of none, or of several, that of this instruction set
    and version of OpenVINO.
    """
    openvino = this_machine().openvino
    nearest_first = sorted(proofs, key=lambda one: (one.isa != isa, one.machine.openvino != openvino))
    found = [_Distance(proof, _furthest(measured, proof)) for proof in nearest_first]
    return next((one for one in found if one.off is not None and one.off <= bound), found[0])


def _verdict_for(there: RunProof, max_drop: float) -> Verdict:
    """The verdict from elsewhere under another margin, by the counts of its rows."""
    if max_drop == there.max_drop:
        return there.verdict
    failed = [row for row in there.rows if row.verdict == "failed"]
    if there.verdict == "failed" and (not failed or any(row.bound.exceeded(row.max_abs, row.cosine) for row in failed)):
        return "failed"  # by its logits, or by what no row shows: no margin fixes that
    units = [(row, PairedCounts(row.lost, row.gained, row.labelled)) for row in there.rows if row.labelled]
    # Of several rows one may fail by chance: Bonferroni's level is the strictest of Holm's.
    level = 1 - (1 - CONFIDENCE) / max(there.family.rows, 1)
    if any(one.drop_at_least(level) > max_drop for _, one in units):
        return "failed"
    by_labels = [(row, one) for row, one in units if rests_on_labels(row.subject, row.compute)]
    proved = there.whole and all(one.drop_at_most(row.confidence) <= max_drop for row, one in by_labels)
    return "proved" if proved and (by_labels or there.verdict == "proved") else "unproved"


def _furthest(measured: Measurements, there: RunProof) -> float | None:
    """The largest difference of a logit between here and there, each way of running it by itself.

    Of a model that drops patches, over the images whose patches rounding in f32 cannot change.
    None if there is nothing to compare: other shapes, a way that it was not run in there, logits that are not finite.
    """
    here, elsewhere = _by_way(*measured.on_reference.values()), _by_way(there.answers)
    # A process limited to a set ran in f32 only where OpenVINO would choose another precision.
    ways = {way for way in here if way.deployed} | elsewhere.keys() if there.emulated else here.keys()
    if not ways <= here.keys() & elsewhere.keys():
        return None
    # Here the first images may be all that were run in f32.
    pairs = [(here[way], elsewhere[way][: len(here[way])]) for way in ways]
    if any(found_NC.shape != expected_NC.shape for found_NC, expected_NC in pairs):
        return None
    off = max(_largest(found_NC - expected_NC, measured) for found_NC, expected_NC in pairs)
    return off if np.isfinite(off) else None


def _largest(difference_NC: Floats, measured: Measurements) -> float:
    """The largest difference over the first images of a reference, over those that are clear if any is."""
    clear = measured.reference.clear
    clear_N = np.ones(len(difference_NC), bool) if clear is None else clear[: len(difference_NC)]
    return float(np.abs(difference_NC[clear_N] if clear_N.any() else difference_NC).max())


def _changes(measured: Measurements, there: RunProof) -> PairedCounts | None:
    """On how many reference images the model has other labels here than there: as deployed, in the view with most.

    Pinned to f32 if it was run in no other way there; None if in no way that it was here.
    """
    here, elsewhere = _by_way(*measured.on_reference.values()), _by_way(there.answers)
    common = [way for way in here if way in elsewhere]
    found = [
        _changed_labels(measured, way, here[way], elsewhere[way])
        for way in [way for way in common if way.deployed] or common
    ]
    return max(found, key=lambda changes: changes.drop, default=None)


def _changed_labels(measured: Measurements, way: Way, here_NC: Floats, there_NC: Floats) -> PairedCounts:
    if here_NC.shape != there_NC.shape:
        return PairedCounts(len(here_NC), 0, len(here_NC))
    expected = replace(measured.reference, logits=there_NC)
    return compare(expected, here_NC, measured.comparisons[0].subject, FREE).changes


def _by_way(logits: Sequence[ReferenceLogits]) -> dict[Way, Floats]:
    return {Way(one.compute.chosen_by_runtime, one.view): one.array for one in logits}
