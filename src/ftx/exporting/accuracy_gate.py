"""The gate of ``ftx export``: what certainly does not answer as the trained model did never gets its name."""

from __future__ import annotations

from pathlib import Path

from ftx.core.errors import GateFailed
from ftx.evaluating.comparison import Reference, Subject, compare
from ftx.evaluating.judge import Judged, judge
from ftx.evaluating.logit_bounds import Bounds
from ftx.evaluating.measure import graph_logits, measure_folder
from ftx.exporting.shared_parts import Source
from ftx.runs.artifacts import DENSE, Artifact, finer_variants
from ftx.runs.parity_json import Verdict
from ftx.runtimes.onnx import OnnxPredictor


def refuse_what_failed(source: Source, artifact: Artifact, staged: Path) -> tuple[Verdict, str]:
    """The verdict on a model that is about to get its name, by the reference images alone, and its figures.

    Raises: GateFailed if it does not answer as the trained model did.
    """
    max_drop = source.run.recipe().validation.max_drop
    if artifact.runtime == "onnx":
        judged = _judge_onnx(source, artifact, staged, max_drop)
    else:
        measured = measure_folder(staged, Bounds.of(None), source.progress, timed=False)
        judged = judge(measured.comparisons, max_drop, faults=measured.faults, partial=measured.partial)
    verdict, summary = judged.verdicts[artifact.name], judged.summary[artifact.name]
    if verdict == "failed":
        finer = finer_variants(artifact)
        raise GateFailed(
            f"{artifact} does not answer as the trained model did, and is not kept",
            where=source.run.path,
            found=summary,
            fix=f"export in a finer precision ({', '.join(finer)})"
            if finer
            else f"merge again: {DENSE.made_by}; if it stays, this is a bug of ftx",
        )
    return verdict, summary


def _judge_onnx(source: Source, artifact: Artifact, folder: Path, max_drop: float) -> Judged:
    """By the reference images, which an IR carries and an ONNX folder does not."""
    task, known = source.run.task, source.reference
    predictor = OnnxPredictor(folder, source.manifest.preprocess, task)
    with source.progress.track("validating", len(known.paths)) as bar:
        logits_NC = graph_logits(predictor, known.pixels_NHWC, bar)
    expected = Reference(known.paths, known.logits_NC, known.targets_NC, task, known.groups, known.clear_N)
    subject = Subject(artifact, "graph", predictor.compute)
    bound = Bounds.of(None).pick(artifact, "graph", predictor.compute, drops_patches=expected.drops_patches)
    return judge([compare(expected, logits_NC, subject, bound)], max_drop)
