"""The gate of ``ftx export``: what certainly does not answer as the trained model did never gets its name."""

from __future__ import annotations

from pathlib import Path

from ftx.core.errors import GateFailed
from ftx.evaluating.answers import ask_graph
from ftx.evaluating.bounds import Bounds
from ftx.evaluating.comparison import Reference, Subject, compare
from ftx.evaluating.folder_parity import ask_folder
from ftx.evaluating.parity import margin_of
from ftx.evaluating.parity_report import Verdict
from ftx.evaluating.verdict import Judged, judge
from ftx.exporting.source import Source
from ftx.runtimes.onnx import OnnxPredictor


def refuse_what_failed(source: Source, artifact: str, staged: Path) -> tuple[Verdict, str]:
    """The verdict on a model that is about to get its name, by the reference images alone, and its figures.

    Raises: GateFailed if it does not answer as the trained model did.
    """
    max_drop = margin_of(source.run)
    if artifact == "onnx":
        judged = _judge_onnx(source, staged, max_drop)
    else:
        judged = ask_folder(staged, Bounds.of(None), source.progress, timed=False).judge(max_drop)
    verdict, said = judged.verdicts[artifact], judged.said[artifact]
    if verdict == "failed":
        raise GateFailed(
            f"{artifact} does not answer as the trained model did, and is not kept",
            where=source.run.path,
            found=said,
            mend="export in a finer precision (fp32, fp16)"
            if artifact in ("openvino/int8", "openvino/fp16")
            else "merge again: ftx merge; if it stays, this is a bug of ftx",
        )
    return verdict, said


def _judge_onnx(source: Source, folder: Path, max_drop: float) -> Judged:
    """By the reference images, which an IR carries and an ONNX folder does not."""
    task, known = source.run.task, source.reference
    predictor = OnnxPredictor(folder, source.manifest.preprocess, task)
    with source.progress.track("validating", len(known.paths)) as bar:
        logits_NC = ask_graph(predictor, known.pixels_NHWC, bar)
    expected = Reference(known.paths, known.logits_NC, known.targets_NC, task, known.groups)
    # Nobody asks here how long it takes.
    subject = Subject("onnx", predictor.name, "graph", predictor.compute, latency_ms=0.0)
    bound = Bounds.of(None).pick("onnx", "graph", predictor.compute)
    return judge([compare(expected, logits_NC, subject, bound)], max_drop)
