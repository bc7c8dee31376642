"""``ftx validate IR_FOLDER``: an exported folder proves itself from its own reference, without torch.

Its 64 reference images prove little by themselves; but where the model answers them as it did on the machine that
judged it on all held-out images, that verdict holds here as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ftx.card import REFERENCE
from ftx.progress import SILENT, Progress
from ftx.recipe import MAX_DROP
from ftx.runtimes.machine import this_machine
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.statistics import Paired
from ftx.tasks.base import Floats, Task
from ftx.validation.asking import ask_graph, graph_latency_ms
from ftx.validation.comparison import Compared, Subject, compare
from ftx.validation.identity import metadata_faults
from ftx.validation.proof import Proof, RunProof, keep_transfer, read_proof, read_reference
from ftx.validation.report import ParityReport, Transfer, Verdict
from ftx.validation.tolerance import Bounds
from ftx.validation.verdict import CONFIDENCE, Judged, judge, rests_on_labels

# In units of max(1, max|logit|), as fp32.graph: the same kernels on another machine of the kind differ by the order of
# sums at most, and other kernels by far more (0.01 to 0.06 in int8, docs/decisions/0008-verdict.md).
SAME_SHARE = 1e-4


def validate_folder(
    folder: Path, table: Bounds, max_drop: float | None = None, progress: Progress = SILENT
) -> ParityReport:
    """Compare an exported folder with the trained model's answers, and with its own where it was judged; graph view.

    The margin is the run's unless one is given. ``proof.json`` keeps what was found, by machine.
    Raises: ExportError if the folder is not whole, altered, or its reference or proof does not hold.
    """
    proof = read_proof(folder)
    asked = ask_folder(folder, table, progress)
    margin = max_drop if max_drop is not None else proof.run.max_drop if proof.run else MAX_DROP
    judged = asked.judge(margin, None if table == Bounds.of(None) else "bounds of your own prove nothing")
    found = _transfer(asked, judged, proof)
    keep_transfer(folder, proof, found, progress)
    return ParityReport(
        folder=str(folder),
        ok=found.verdict != "failed",
        reference=f"{REFERENCE}: the trained model in torch f32, before its merge",
        whole=table == Bounds.of(None),
        split="reference",
        max_drop=margin,
        machine=found.machine,
        family=judged.family,
        verdicts={asked.artifact: found.verdict},
        said={asked.artifact: found.said},
        rows=judged.rows,
        problems=judged.problems,
        faulty=[asked.artifact] if found.verdict == "failed" else [],
        digests={},
        transfer=found,
    )


@dataclass(frozen=True)
class AskedFolder:
    """A folder's answers to its reference images: measured, and as they are by precision. Shape: [N, C]."""

    artifact: str
    compared: list[Compared]
    mistaken: list[str]
    answers: dict[str, Floats]
    task: Task

    def judge(self, max_drop: float, partial: str | None = None) -> Judged:
        """The verdict that these images give by themselves."""
        return judge(self.compared, max_drop, mistaken={self.artifact: self.mistaken}, partial=partial)


def ask_folder(folder: Path, table: Bounds, progress: Progress = SILENT) -> AskedFolder:
    """Ask an exported folder about its reference images, in f32 and in the precision that the CPU chooses.

    Raises: ExportError if the folder is not whole, altered, or its reference does not hold.
    """
    pinned = OpenVinoPredictor(folder, "f32")
    artifact = f"openvino/{pinned.card.precision}"
    reference, pixels = read_reference(folder, pinned)
    compared: list[Compared] = []
    answers: dict[str, Floats] = {}
    with progress.track("validating", 2 * len(pixels)) as bar:
        for predictor in (pinned, OpenVinoPredictor(folder, "auto")):
            answers[predictor.compute] = ask_graph(predictor, pixels, bar)
            latency_ms = graph_latency_ms(predictor, pixels)
            subject = Subject(artifact, predictor.name, "graph", predictor.compute, latency_ms)
            bound = table.pick(artifact, "graph", predictor.compute)
            compared.append(compare(reference, answers[predictor.compute], subject, bound))
    faults = [f"{artifact}: {fault}" for fault in metadata_faults(pinned)]
    return AskedFolder(artifact, compared, faults, answers, pinned.task)


def _transfer(asked: AskedFolder, judged: Judged, proof: Proof) -> Transfer:
    """What the verdict from elsewhere is worth here."""
    own, said = judged.verdicts[asked.artifact], judged.said[asked.artifact]
    if proof.run is None:
        changes = asked.compared[-1].changes
        text = said if own != "unproved" else f"{said}; `ftx validate` on the run asks all held-out images"
        return _found(own, text, changes, same=False)
    there = proof.run
    verdict_there = _verdict_for(there, judged.rows[0].max_drop)
    off = _furthest(asked.answers, there)
    changes = _changes(asked, there)
    bound = SAME_SHARE * max(1.0, *(float(np.abs(answers.array).max()) for answers in there.answers))
    same = off is not None and off <= bound
    verdict: Verdict = "unproved"
    if "failed" in (own, verdict_there):
        verdict = "failed"
    elif own == "proved" or (same and verdict_there == "proved"):
        verdict = "proved"
    how = "this machine answers" if same else "this machine does not answer"
    distance = "with other shapes" if off is None else f"logits within {off:.1e}, bound {bound:.1e}"
    text = f"{how} as the one that judged it ({distance}; there {verdict_there}: {there.said})"
    if own == "failed":
        text = said
    elif not same:
        text += f"; here {changes.lost:g} of {changes.units} reference images change their labels: "
        text += f"at most {100 * changes.drop_at_most(CONFIDENCE):.1f} % would ({100 * CONFIDENCE:g} %)"
    return _found(verdict, text, changes, same=same, max_abs=off, bound=bound)


def _verdict_for(there: RunProof, max_drop: float) -> Verdict:
    """The verdict from elsewhere under another margin: a wider one proves no more than was proved, a narrower less."""
    if there.verdict != "proved" or max_drop >= there.max_drop:
        return there.verdict
    highs = [
        row.changed_high if row.drop_high is None else row.drop_high
        for row in there.rows
        if rests_on_labels(row.artifact, row.compute)
    ]
    return "proved" if all(high <= max_drop for high in highs) else "unproved"


def _found(
    verdict: Verdict,
    said: str,
    changes: Paired,
    *,
    same: bool,
    max_abs: float | None = None,
    bound: float | None = None,
) -> Transfer:
    return Transfer(
        verdict=verdict,
        said=said,
        machine=this_machine(),
        same=same,
        max_abs=max_abs,
        bound=bound,
        changed=changes.drop,
        changed_high=changes.drop_at_most(CONFIDENCE),
    )


def _furthest(answers: dict[str, Floats], there: RunProof) -> float | None:
    """The largest difference of a logit between here and there, f32 with f32 and chosen with chosen precision."""
    if any(answers["f32"].shape != other.array.shape for other in there.answers):
        return None
    here = _by_role(answers)
    return max(float(np.abs(here[other.compute == "f32"] - other.array).max()) for other in there.answers)


def _changes(asked: AskedFolder, there: RunProof) -> Paired:
    """On how many reference images the deployed model gives other labels here than there."""
    deployed = next((other for other in there.answers if other.compute != "f32"), there.answers[0])
    here, elsewhere = _by_role(asked.answers)[deployed.compute == "f32"], deployed.array
    if here.shape != elsewhere.shape:
        return Paired(len(here), 0, len(here))
    changed = (asked.task.called(here) != asked.task.called(elsewhere)).any(axis=1)
    return Paired(int(changed.sum()), 0, len(changed))


def _by_role(answers: dict[str, Floats]) -> dict[bool, Floats]:
    """Answers by whether f32 was pinned."""
    return {compute == "f32": logits for compute, logits in answers.items()}
