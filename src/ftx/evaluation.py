"""``ftx eval``: how well an artifact of a run answers on the held-out images, class by class.

Shapes: N images, C labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ftx.errors import GateFailed, ImageError
from ftx.progress import SILENT, Progress
from ftx.reports import VerbReport
from ftx.run import Run
from ftx.runtimes import load_artifact
from ftx.runtimes.base import RuntimeName
from ftx.runtimes.opening import IR_BY_SPEED, best_ir
from ftx.statistics import wilson_interval
from ftx.tasks.base import Floats

Counts = NDArray[np.int64]


class ClassScore(BaseModel):
    """One label: shares in [0, 1], 0 where nothing was predicted or nothing is there; ``support`` in images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    precision: float
    recall: float
    f1: float
    support: int


class EvalReport(VerbReport):
    """Accuracy with Wilson's 95 % interval, macro F1, a score a label, and who is taken for whom.

    ``confusion[i][j]`` counts images of label i that were called j, in the order of ``classes``.
    """

    verb: str = "eval"
    artifact: str
    runtime: RuntimeName
    compute: str
    split: str
    images: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    macro_f1: float
    classes: list[ClassScore]
    confusion: list[list[int]]


def evaluate(
    run: Run | Path | str | None = None,
    artifact: str | None = None,
    *,
    data: Path | None = None,
    progress: Progress = SILENT,
) -> EvalReport:
    """Ask an artifact about every held-out image, from its file, in the precision that it is deployed in.

    ``artifact`` is the run's best IR by default, ``dense`` or ``trained`` where there is none yet.
    The run gets ``reports/eval.json``.
    Raises: RunError, DataError; GateFailed if an answer is not a finite number.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    chosen = artifact or _furthest(run)
    predictor = load_artifact(run, chosen)
    entries = run.report_entries()
    root = run.data_root(data)
    paths = [entry.locate(root) for entry in entries]
    rows: list[Floats] = []
    with progress.track(f"evaluating {chosen}", len(paths)) as bar:
        for path, answer in zip(paths, predictor.logits_from_files(paths), strict=True):
            if isinstance(answer, ImageError):
                raise answer
            if not np.isfinite(answer).all():
                raise GateFailed(f"{chosen} answers with a number that is not finite", where=path)
            rows.append(answer)
            bar.advance()
    logits_NC = np.stack(rows)
    task = run.task
    targets_NC = task.targets([entry.labels for entry in entries])
    right = int(task.right(logits_NC, targets_NC).sum())
    confusion = confusion_matrix(targets_NC.argmax(axis=1), logits_NC.argmax(axis=1), len(run.manifest.labels))
    low, high = wilson_interval(right, len(entries))
    report = EvalReport(
        run=str(run.path),
        artifact=chosen,
        runtime=predictor.name,
        compute=predictor.compute,
        split=entries[0].split,
        images=len(entries),
        accuracy=right / len(entries),
        accuracy_low=low,
        accuracy_high=high,
        macro_f1=macro_f1(confusion),
        classes=class_scores(confusion, run.manifest.labels.names),
        confusion=confusion.tolist(),
    )
    run.keep_report("eval", report, progress)
    return report


def confusion_matrix(truth_N: Counts, called_N: Counts, labels: int) -> Counts:
    """How often label i was called j. Shape: [C, C]."""
    flat = np.bincount(truth_N * labels + called_N, minlength=labels * labels)
    return flat.reshape(labels, labels)


def class_scores(confusion_CC: Counts, names: tuple[str, ...]) -> list[ClassScore]:
    """Precision, recall and F1 of each label."""
    hits_C, support_C, called_C = np.diag(confusion_CC), confusion_CC.sum(axis=1), confusion_CC.sum(axis=0)
    return [
        ClassScore(
            name=name,
            precision=_share(hits, called),
            recall=_share(hits, support),
            # 2pr / (p + r) without the division by zero of p = r = 0.
            f1=_share(2 * hits, called + support),
            support=support,
        )
        for name, hits, called, support in zip(
            names, hits_C.tolist(), called_C.tolist(), support_C.tolist(), strict=True
        )
    ]


def macro_f1(confusion_CC: Counts) -> float:
    """The mean F1 of the labels that occur, in truth or in answers: another has none."""
    occurring_C = confusion_CC.sum(axis=0) + confusion_CC.sum(axis=1)
    f1_C = 2 * np.diag(confusion_CC) / np.maximum(occurring_C, 1)
    return float(f1_C[occurring_C > 0].mean())


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _furthest(run: Run) -> str:
    if any(run.has(name) for name in IR_BY_SPEED):
        return best_ir(run)[0]
    return "dense" if run.has("dense") else "trained"
