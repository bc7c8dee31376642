"""Calibrate an exported model on this machine, in each way that it runs here: what its prediction sets rest on.

Shapes: N images, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from ftx.core.progress import SILENT, Progress
from ftx.data.image_store import ImageLike, ImageStore
from ftx.evaluating.measure import Measurements, file_logits
from ftx.evaluating.parity_images import certifying_images
from ftx.runs.artifacts import IR_INT8_CHECKED, Artifact
from ftx.runs.calibration import COVERAGE, Calibration, KernelWay, set_scores
from ftx.runs.card_json import read_card
from ftx.runs.compute_precision import Compute
from ftx.runs.machine import CPU, this_machine, this_set
from ftx.runs.proof_json import keep_calibrations, read_proof
from ftx.runs.run import Run
from ftx.runs.set_quality import SetQuality, SetRow
from ftx.runs.views import PATH_OF, KernelPath
from ftx.runtimes.openvino import OpenVinoPredictor, default_compute, kernel_paths
from ftx.runtimes.uncertainty import Uncertainty
from ftx.tasks.base import Targets, Task
from ftx.tasks.thresholds import Floats


def calibrate_run(run: Run, folder: Path, data: Path | None, progress: Progress = SILENT) -> None:
    """Calibrate a model of a run on images that neither trained it nor are reported on; nothing without such images.

    Raises: as ``calibrate``.
    """
    entries, source = certifying_images(run)
    if entries:
        store = ImageStore(run.data_root(data))
        targets_NC = run.task.targets([entry.labels for entry in entries])
        found = calibrate(folder, [store[entry] for entry in entries], targets_NC, source, progress)
        keep_calibrations(folder, found, progress)


def calibrate(
    folder: Path, images: Sequence[ImageLike], targets_NC: Targets, source: str, progress: Progress = SILENT
) -> list[Calibration]:
    """A calibration for each way in which this machine runs a model. Nothing is written.

    Raises: ExportError for the folder; ImageError, DataError for an image.
    """
    ways = calibrated_ways(folder)
    found: list[Calibration] = []
    with progress.track("Calibrating", len(ways) * len(images)) as bar:
        for compute, path in ways:
            predictor = OpenVinoPredictor(folder, compute, kernels=path)
            scores = set_scores(predictor.task, file_logits(predictor, images, bar), targets_NC)
            found.append(
                Calibration(
                    machine=this_machine(),
                    isa=this_set(),
                    compute=predictor.compute,
                    kernels=predictor.kernel_path,
                    source=source,
                    sets=scores,
                )
            )
    return found


def is_calibrated(folder: Path) -> bool:
    """Whether each way in which this process may run a model is calibrated."""
    here = this_set(), this_machine().openvino, CPU
    found = [one for one in read_proof(folder).calibrations if (one.isa, *one.way[3:]) == here]
    # By number: with only AVX2, a model that is opened for batches has the kernels for single images too.
    return len(found) >= len(calibrated_ways(folder))


def calibrated_ways(folder: Path) -> list[tuple[Compute, KernelPath]]:
    """How this machine may run a model: in fp32 too if it chooses another precision."""
    only_auto = default_compute().dtype == "f32" or read_card(folder).artifact == IR_INT8_CHECKED
    computes: list[Compute] = ["auto"] if only_auto else ["auto", "f32"]
    return [(compute, path) for compute in computes for path in kernel_paths(folder, compute)]


def set_rows(folder: Path, artifact: Artifact, measured: Measurements, spent: Set[int]) -> Iterator[SetRow]:
    """How often the sets of a model are right on labelled images, in each way that it was run and calibrated.

    ``spent`` are the rows of images that calibrated it.
    """
    known, task = {one.way: one for one in read_proof(folder).calibrations}, measured.reference.task
    for one in measured.measurements:
        subject, path = one.subject, PATH_OF.get(one.subject.view)
        rows = [at for at, row in enumerate(one.rows) if row not in spent and row < measured.reference.labelled]
        if subject.artifact != artifact or path is None or not rows or not subject.compute.chosen_by_runtime:
            continue
        isa = None if subject.kernels is None else subject.kernels.isa
        # With only AVX2, a model that is opened for batches has the kernels for single images too.
        kernels: tuple[KernelPath, ...] = (path, "single")
        ways: list[KernelWay] = [(isa, subject.compute.dtype, name, this_machine().openvino, CPU) for name in kernels]
        found = next((known[way] for way in ways if way in known), None)
        targets_NC = measured.reference.targets[[one.rows[at] for at in rows]]
        quality = found and set_quality(task, one.logits_NC[rows], targets_NC, Uncertainty(task, found, COVERAGE))
        if quality:
            yield SetRow(artifact=artifact.name, isa=isa, compute=subject.compute, kernels=path, **dict(quality))


def set_quality(task: Task, logits_NC: Floats, targets_NC: Targets, sure: Uncertainty) -> SetQuality | None:
    """How often the sets of labelled images are right; None with too few calibration images. Shape: [N, C] each."""
    if sure.thresholds_C is None:
        return None
    sets_NC = task.prediction_set(logits_NC, sure.thresholds_C)
    return SetQuality(
        images=len(sets_NC),
        coverage=1 - float(task.missed(sets_NC, targets_NC).mean()),
        size=float(sets_NC.sum(axis=1).mean()),
        guarantee=sure.guarantee,
    )
