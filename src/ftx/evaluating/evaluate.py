"""``ftx eval``: how well an artifact of a run predicts the held-out images, class by class.

Shapes: N images, C labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ftx.core.closed_model import ClosedModel
from ftx.core.command_report import CommandReport
from ftx.core.errors import GateFailed, ImageError, shell_command
from ftx.core.progress import SILENT, Progress
from ftx.core.statistics import wilson_interval
from ftx.data.image_store import ImageStore
from ftx.evaluating.calibrate import set_quality
from ftx.evaluating.parity_images import certifying_rows
from ftx.runs.artifacts import Artifact, RuntimeName
from ftx.runs.compute_precision import ComputeField
from ftx.runs.kept_logits import KeptLogits, keep_logits
from ftx.runs.machine import this_machine
from ftx.runs.run import Run
from ftx.runs.set_quality import SetQuality
from ftx.runtimes import load_artifact
from ftx.runtimes.choose_artifact import furthest
from ftx.runtimes.open_model import artifact_named, uncertainty_of
from ftx.runtimes.predictor import Predictor
from ftx.tasks.base import Targets
from ftx.tasks.metrics import average_precision, f1_of
from ftx.tasks.thresholds import Flags, Floats

Counts = NDArray[np.int64]


class ClassScore(ClosedModel):
    """How well one label is predicted."""

    name: str
    """The label."""
    precision: float
    """The fraction of its predictions that are correct; 0 if it is never predicted."""
    recall: float
    """The fraction of its images for which it is predicted; 0 if it has no images."""
    f1: float
    """The harmonic mean of precision and recall, from 0 to 1."""
    false_positive_rate: float
    """The fraction of the other images for which it is predicted."""
    average_precision: float | None
    """The average precision over all thresholds, from 0 to 1; null if no image has the label."""
    support: int
    """The number of images with the label."""


class EvalReport(CommandReport):
    """How well a model predicts the held-out images."""

    verb: str = "eval"
    artifact: str
    """The model of the run, for example ``openvino/int8``."""
    runtime: RuntimeName
    """The library that ran the model."""
    compute: ComputeField
    """The precision that it computed in: ``f32``, or for example ``auto:bf16`` if the runtime chose bf16."""
    split: str
    """The split of the images: ``test``, or ``val`` if there are no test images."""
    images: int
    """The number of images."""
    accuracy: float
    """The fraction of images with all labels correct, from 0 to 1."""
    accuracy_low: float
    """The lower end of the 95 % confidence interval of ``accuracy``."""
    accuracy_high: float
    """The upper end of that interval."""
    metrics: dict[str, float]
    """The metrics of the task by name, from 0 to 1."""
    macro_f1: float
    """The mean F1 of the labels that occur or are predicted, from 0 to 1."""
    sets: SetQuality | None = None
    """The prediction sets; null if the model was not calibrated."""
    classes: list[ClassScore]
    """The scores of each label."""
    confusion: list[list[int]] | None
    """The number of images by true label (row) and predicted label (column), in the order of ``classes``. null unless
    each image has exactly one true and one predicted label.
    """


def evaluate(
    run: Run | Path | str | None = None,
    artifact: str | None = None,
    *,
    data: Path | None = None,
    progress: Progress = SILENT,
) -> EvalReport:
    """Run an artifact on every held-out image, from its file, in the precision that it is deployed in.

    ``artifact`` is the run's best IR by default, ``dense`` or ``trained`` where there is none yet.
    The run gets ``reports/eval.json``.
    Raises: RunError, DataError; GateFailed if a logit is not a finite number.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    chosen = artifact_named(run, artifact) if artifact else furthest(run)
    entries = run.report_entries()
    predictor, task = load_artifact(run, chosen), run.task
    logits_NC = _held_out_logits(run, chosen, predictor, data, progress)
    targets_NC = task.targets([entry.labels for entry in entries])
    correct = int(task.correct(logits_NC, targets_NC).sum())
    low, high = wilson_interval(correct, len(entries))
    # What the truth does not say, as the label below a node that is all that is known, is no mistake.
    predicted_NC, true_NC = task.predicted(logits_NC) & task.known(targets_NC), targets_NC > 0
    one_each = bool((true_NC.sum(axis=1) == 1).all() and (predicted_NC.sum(axis=1) == 1).all())
    report = EvalReport(
        run=str(run.path),
        artifact=chosen.name,
        runtime=chosen.runtime,
        compute=predictor.compute,
        split=entries[0].split,
        images=len(entries),
        accuracy=correct / len(entries),
        accuracy_low=low,
        accuracy_high=high,
        metrics=task.metrics(logits_NC, targets_NC),
        macro_f1=f1_of(predicted_NC, true_NC)[0],
        sets=_set_quality(run, predictor, logits_NC, targets_NC),
        classes=class_scores(predicted_NC, true_NC, task.scores(logits_NC), task.labels.names),
        confusion=confusion_matrix(true_NC, predicted_NC).tolist() if one_each else None,
    )
    run.keep_report("eval", report, progress)
    return report


def held_out_logits(
    run: Run, artifact: Artifact, *, data: Path | None = None, progress: Progress = SILENT
) -> KeptLogits:
    """The logits of an artifact for every held-out image, from its file; the run keeps them.

    Raises: RunError, DataError; GateFailed if a logit is not a finite number.
    """
    predictor = load_artifact(run, artifact)
    logits_NC = _held_out_logits(run, artifact, predictor, data, progress)
    return KeptLogits(logits_NC, predictor.compute, this_machine())


def _held_out_logits(
    run: Run, artifact: Artifact, predictor: Predictor, data: Path | None, progress: Progress
) -> Floats:
    entries = run.report_entries()
    store = ImageStore(run.data_root(data))
    images = [store[entry] for entry in entries]
    rows: list[Floats] = []
    with progress.track(f"Evaluating {artifact}", len(images)) as bar:
        for image, logits_C in zip(images, predictor.logits_from_files(images), strict=True):
            if isinstance(logits_C, ImageError):
                raise logits_C
            if not np.isfinite(logits_C).all():
                raise GateFailed(
                    f"{artifact} computes NaN or infinity",
                    where=image.name,
                    fix=f"compare it with the trained model: {shell_command('ftx validate', run.path)}",
                )
            rows.append(logits_C)
            bar.advance()
    logits_NC = np.stack(rows)
    keep_logits(run, artifact, predictor.compute, logits_NC, progress)
    return logits_NC


def _set_quality(run: Run, predictor: Predictor, logits_NC: Floats, targets_NC: Targets) -> SetQuality | None:
    """Of the held-out images that did not calibrate the sets; None without any. Shape: [N, C] each."""
    sure = uncertainty_of(predictor)
    spent = certifying_rows(run, run.report_entries())
    rows = [row for row in range(len(logits_NC)) if row not in spent]
    if sure is None or not rows:
        return None
    return set_quality(run.task, logits_NC[rows], targets_NC[rows], sure)


def confusion_matrix(true_NC: Flags, predicted_NC: Flags) -> Counts:
    """How often an image of label i has the prediction j. Shape: [C, C]."""
    return true_NC.astype(np.int64).T @ predicted_NC.astype(np.int64)


def class_scores(predicted_NC: Flags, true_NC: Flags, scores_NC: Floats, names: tuple[str, ...]) -> list[ClassScore]:
    """Precision, recall, F1 and average precision of each label."""
    found: list[ClassScore] = []
    for row, name in enumerate(names):
        hits = int((predicted_NC[:, row] & true_NC[:, row]).sum())
        predicted, support = int(predicted_NC[:, row].sum()), int(true_NC[:, row].sum())
        score = ClassScore(
            name=name,
            precision=_share(hits, predicted),
            recall=_share(hits, support),
            # 2pr / (p + r) without the division by zero of p = r = 0.
            f1=_share(2 * hits, predicted + support),
            false_positive_rate=_share(predicted - hits, len(true_NC) - support),
            average_precision=average_precision(scores_NC[:, row], true_NC[:, row]),
            support=support,
        )
        found.append(score)
    return found


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
