"""``ftx validate IR_FOLDER``: an exported folder proves itself from its own reference, without torch.

Its 64 reference images prove little by themselves; but where the model answers them as it did on the machine that
judged it on all held-out images, that verdict holds here as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ftx.core.progress import SILENT, Progress
from ftx.core.statistics import PairedCounts
from ftx.evaluating.answers import ask_graph, graph_latency_ms
from ftx.evaluating.logit_bounds import FREE, Bounds
from ftx.evaluating.parity_row import Compared, Reference, Subject, compare, rows_of
from ftx.evaluating.read_reference import read_reference
from ftx.evaluating.stated_labels import image_path_faults, metadata_faults
from ftx.evaluating.verdict import CONFIDENCE, Judged, judge, rests_on_labels
from ftx.recipe.sections import MAX_DROP
from ftx.runs.artifacts import Artifact
from ftx.runs.card_json import REFERENCE_FILE
from ftx.runs.compute_precision import Compute
from ftx.runs.machine import this_machine, this_set
from ftx.runs.parity_json import VIEW_OF, KernelPath, ParityReport, PixelView, Transfer, Verdict
from ftx.runs.proof_json import Answers, Proof, RunProof, keep_transfer, read_proof
from ftx.runtimes.openvino import OpenVinoPredictor, kernel_paths
from ftx.tasks.thresholds import Flags, Floats

# In units of max(1, max|logit|), as fp32.graph: the same kernels on another machine of the kind differ by the order of
# sums at most, and other kernels by far more (0.01 to 0.06 in int8, docs/decisions/0008-verdict.md).
SAME_SHARE = 1e-4


def validate_folder(
    folder: Path, table: Bounds, max_drop: float | None = None, progress: Progress = SILENT
) -> ParityReport:
    """Compare an exported folder with the trained model's answers to the same pixels, and with its own from elsewhere.

    The margin is the run's unless one is given. ``proof.json`` keeps what was found, by machine.
    Raises: ExportError if the folder is not whole, altered, or its reference or proof does not hold.
    """
    proof = read_proof(folder, progress)
    asked = ask_folder(folder, table, progress)
    margin = max_drop if max_drop is not None else proof.run.max_drop if proof.run else MAX_DROP
    own_bounds = table != Bounds.of(None)
    judged = asked.judge(margin, "bounds of your own prove nothing" if own_bounds else None)
    found = transferred(asked, judged, proof, margin)
    if own_bounds and found.verdict == "proved":
        found = found.model_copy(update={"verdict": "unproved", "summary": judged.summary[asked.artifact.name]})
    if not own_bounds:
        keep_transfer(folder, proof, found, progress)
    return ParityReport(
        folder=str(folder),
        ok=found.verdict != "failed",
        reference=f"{REFERENCE_FILE}: the trained model in torch f32, before its merge",
        whole=not own_bounds,
        split="reference",
        max_drop=margin,
        machine=found.machine,
        family=judged.family,
        verdicts={asked.artifact.name: found.verdict},
        summary={asked.artifact.name: found.summary},
        rows=judged.rows,
        problems=judged.problems,
        faulty=[asked.artifact.name] if found.verdict == "failed" else [],
        digests={},
        transfer=found,
    )


class Role(NamedTuple):
    """How a model was asked: whether in the precision that the runtime chose, and in which view."""

    deployed: bool
    view: PixelView


@dataclass(frozen=True)
class AskedFolder:
    """A folder's answers to its reference images: measured, and as they are by precision and view. Shape: [N, C]."""

    artifact: Artifact
    reference: Reference
    compared: list[Compared]
    mistaken: list[str]
    answers: dict[Role, Floats]
    # Why the reference proves nothing, where it does not.
    partial: str | None = None

    @property
    def changes(self) -> PairedCounts:
        """Whose labels are not the trained model's: as deployed, in the view with most."""
        deployed = [row.changes for row in self.compared if row.subject.compute.chosen_by_runtime]
        return max(deployed, key=lambda changes: changes.drop)

    def judge(self, max_drop: float, partial: str | None = None) -> Judged:
        """The verdict that these images give by themselves."""
        return judge(
            self.compared, max_drop, mistaken={self.artifact.name: self.mistaken}, partial=partial or self.partial
        )


def ask_folder(
    folder: Path, table: Bounds, progress: Progress = SILENT, *, timed: bool = True, f32_images: int | None = None
) -> AskedFolder:
    """Ask an exported folder about its reference images, in f32 and in the precision that the CPU chooses.

    One in 8 bits is asked as it runs for one image as well, where that is by other kernels.
    Latencies stay zero where nobody asks for them (``timed``). ``f32_images`` asks the first so many in f32 alone, and
    none where the CPU chooses f32 anyway.
    Raises: ExportError if the folder is not whole, altered, or its reference does not hold.
    """
    chosen = OpenVinoPredictor(folder, "auto")
    artifact = chosen.card.artifact
    reference, pixels = read_reference(chosen)
    precisions: list[tuple[Compute, int]] = [("auto", len(pixels))]
    if f32_images is None or chosen.compute.dtype != "f32":
        precisions.insert(0, ("f32", min(f32_images or len(pixels), len(pixels))))
    asked: list[tuple[Compute, KernelPath, int]] = [
        (compute, path, images) for compute, images in precisions for path in kernel_paths(folder, compute)
    ]
    compared: list[Compared] = []
    answers: dict[Role, Floats] = {}
    with progress.track("validating", sum(images for *_, images in asked)) as bar:
        for compute, path, images in asked:
            opened_already, view = (compute, path) == ("auto", "batch"), VIEW_OF[path]
            predictor = chosen if opened_already else OpenVinoPredictor(folder, compute, kernels=path)
            logits_NC = ask_graph(predictor, pixels[:images], bar)
            latency_ms = graph_latency_ms(predictor, pixels) if timed else 0.0
            subject = Subject(artifact, view, predictor.compute, latency_ms, predictor.kernels())
            bound = table.pick(artifact, view, predictor.compute, drops_patches=reference.drops_patches)
            compared.append(compare(rows_of(reference, range(images)), logits_NC, subject, bound))
            answers[Role(predictor.compute.chosen_by_runtime, view)] = logits_NC
    faults = [f"{artifact}: {fault}" for fault in [*metadata_faults(chosen), *image_path_faults(chosen)]]
    update = chosen.card.update
    own_answers = update is not None and update.sequence is None
    partial = "its adapter came without the trained model's answers: ftx export --as-update" if own_answers else None
    return AskedFolder(artifact, reference, compared, faults, answers, partial)


def transferred(asked: AskedFolder, judged: Judged, proof: Proof, max_drop: float) -> Transfer:
    """What the verdict from elsewhere is worth here; without one, the reference's own."""
    own, own_summary = judged.verdicts[asked.artifact.name], judged.summary[asked.artifact.name]
    if proof.run is None:
        summary = (
            own_summary
            if own != "unproved"
            else f"{own_summary}; on the server, `ftx validate` asks all held-out images"
        )
        return _found(own, summary, asked.changes, max_drop)
    finite = asked.reference.logits[np.isfinite(asked.reference.logits)]
    bound = SAME_SHARE * max(1.0, float(np.abs(finite).max(initial=0.0)))
    there, off = _nearest_proof(asked, [proof.run, *proof.sets], bound)
    verdict_there, changes = _verdict_for(there, max_drop), _changes(asked, there)
    same = off is not None and off <= bound
    as_what = f", which was held to {there.isa}" if there.emulated else ""
    judged_there = f"there{as_what} {verdict_there}: {there.summary}"
    if off is None:
        distance = "its answers have another shape, or it was not asked there in each way that it runs here"
    else:
        distance = f"logits within {off:.1e}, bound {bound:.1e}"
    verdict: Verdict = "unproved"
    if own == "failed":
        verdict, summary = "failed", own_summary
    elif same:
        verdict = "proved" if own == "proved" and verdict_there != "failed" else verdict_there
        summary = f"this machine answers as the one that judged it ({distance}; {judged_there})"
    else:
        summary = f"this machine does not answer as the one that judged it ({distance}; {judged_there}); here "
        verdict = own if own == "proved" else "failed" if verdict_there == "failed" else "unproved"
        if own == "proved" or changes is None:
            summary += own_summary
        else:
            summary += f"{changes.lost:.4g} of {changes.units} reference images change their labels: "
            summary += f"at most {100 * changes.drop_at_most(CONFIDENCE):.1f} % would ({100 * CONFIDENCE:g} %)"
    return _found(verdict, summary, changes or asked.changes, max_drop, same=same, max_abs=off, bound=bound)


def _nearest_proof(asked: AskedFolder, proofs: list[RunProof], bound: float) -> tuple[RunProof, float | None]:
    """The one whose answers are given here as well, and how far off they are; of none, or of several, this set's."""
    of_this_set_first = sorted(proofs, key=lambda proof: proof.isa != this_set())
    compared = [(one, _furthest(asked, one)) for one in of_this_set_first]
    return next(((one, off) for one, off in compared if off is not None and off <= bound), compared[0])


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


def _found(
    verdict: Verdict,
    summary: str,
    changes: PairedCounts,
    max_drop: float,
    *,
    same: bool = False,
    max_abs: float | None = None,
    bound: float | None = None,
) -> Transfer:
    return Transfer(
        verdict=verdict,
        summary=summary,
        max_drop=max_drop,
        machine=this_machine(),
        same=same,
        max_abs=max_abs,
        bound=bound,
        changed=changes.drop,
        changed_high=changes.drop_at_most(CONFIDENCE),
    )


def _furthest(folder: AskedFolder, there: RunProof) -> float | None:
    """The largest difference of a logit between here and there, each with what was asked there in the same way.

    Of a model that drops patches, over the images whose patches rounding in f32 cannot change.
    None where there is nothing to compare: other shapes, a way that was not asked there, or what is no number.
    """
    here = folder.answers
    elsewhere = {role: other.array for role, other in _by_role(there).items()}
    # A process held to a set was asked in f32 only where OpenVINO would choose another precision.
    asked = {role for role in here if role.deployed} | elsewhere.keys() if there.emulated else here.keys()
    if not asked <= here.keys() & elsewhere.keys():
        return None
    # Here some first images may be all that were asked about in f32.
    elsewhere = {role: elsewhere[role][: len(here[role])] for role in asked}
    if any(here[role].shape != elsewhere[role].shape for role in asked):
        return None
    off = max(_largest(here[role] - elsewhere[role], folder.reference.clear) for role in asked)
    return off if np.isfinite(off) else None


def _largest(difference_NC: Floats, clear_N: Flags | None) -> float:
    """The largest of some first images of a reference, of those that are clear where any is."""
    some_N = None if clear_N is None else clear_N[: len(difference_NC)]
    held_NC = difference_NC if some_N is None or not some_N.any() else difference_NC[some_N]
    return float(np.abs(held_NC).max())


def _changes(asked: AskedFolder, there: RunProof) -> PairedCounts | None:
    """On how many reference images the model gives other labels here than there: as deployed, in the view with most.

    Pinned to f32 where nothing else was asked there; None where it was not asked in any way that it was here.
    """
    elsewhere = _by_role(there)
    common = [role for role in asked.answers if role in elsewhere]
    roles = [role for role in common if role.deployed] or common
    found = [_changed_labels(asked, role, elsewhere[role]) for role in roles]
    return max(found, key=lambda changes: changes.drop, default=None)


def _changed_labels(asked: AskedFolder, role: Role, there: Answers) -> PairedCounts:
    here = asked.answers[role]
    if here.shape != there.array.shape:
        return PairedCounts(len(here), 0, len(here))
    expected = replace(asked.reference, logits=there.array)
    return compare(expected, here, Subject(asked.artifact, role.view, there.compute), FREE).changes


def _by_role(there: RunProof) -> dict[Role, Answers]:
    return {Role(other.compute.chosen_by_runtime, other.view): other for other in there.answers}
