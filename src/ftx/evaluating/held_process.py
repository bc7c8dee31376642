"""One OpenVINO model, measured in a process limited to an instruction set: ``python -m`` this, by ``measure_in_sets``.

An int8 model that is proved here is not proved for a CPU without VNNI, where products saturate. A younger CPU runs the
kernels of an older set as they are, so their logits are those of the older CPU; their speed is a hint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ftx.core.child_process import reply_on_stdout, run_in_child
from ftx.core.closed_model import ClosedModel
from ftx.core.progress import SILENT, Progress
from ftx.evaluating.calibrate import calibrate_run, is_calibrated
from ftx.evaluating.calibrate_device import prepare_device
from ftx.evaluating.certify import certify_run, is_certified
from ftx.evaluating.comparison import Subject
from ftx.evaluating.measure import Measurement, Measurements, measure, reference_logits
from ftx.evaluating.parity_images import folder_images, run_images
from ftx.runs.artifacts import IR_INT8_CHECKED, Artifact
from ftx.runs.card_json import read_card
from ftx.runs.compute_precision import Compute
from ftx.runs.machine import InstructionSet, Kernels, cpu_flags, environment, sets_of, this_set
from ftx.runs.proof_json import ReferenceLogits
from ftx.runs.run import Run
from ftx.runs.views import VIEW_OF
from ftx.runtimes.openvino import OpenVinoPredictor, default_compute, kernel_paths

MODULE = "ftx.evaluating.held_process"


class HeldModel(ClosedModel):
    """An exported folder, and which of a run's held-out images it takes (``images``; None: all).

    Without a run it takes the reference images next to it.
    """

    folder: Path
    run: Path | None = None
    data: Path | None = None
    images: int | None = None
    # Only of a folder without a run: the images that certify and calibrate it.
    prepare_on: Path | None = None


class HeldRow(ClosedModel):
    """Its logits for these rows of the images, and for the reference images next to it, in one precision and view."""

    isa: InstructionSet
    emulated: bool
    primitives: dict[str, int]
    latency_ms: float
    rows: list[int]
    logits: ReferenceLogits
    on_reference: ReferenceLogits


class HeldRows(ClosedModel):
    """A row for each precision and kernel path."""

    rows: list[HeldRow]


def measure_here(model: HeldModel) -> HeldRows:
    """Measure it in this process.

    Raises: RunError, DataError, ExportError as the validation of a run does.
    """
    _prepare(model)
    if model.run is None:
        _, images = folder_images(OpenVinoPredictor(model.folder))
    else:
        _, images = run_images(Run(model.run), model.data, model.images)
    images = replace(images, tinted=images.tinted[:0])
    # In f32 a run's model is measured only where the set would not choose f32 anyway.
    pinned: tuple[Compute, ...] = () if model.run and default_compute().dtype == "f32" else ("f32",)
    rows: list[HeldRow] = []
    for compute in (*pinned, "auto"):
        for path in kernel_paths(model.folder, compute):
            predictor, view = OpenVinoPredictor(model.folder, compute, kernels=path), VIEW_OF[path]
            with SILENT.track("", None) as bar:
                found = measure(predictor.card.artifact, predictor, images, view, bar)
            kernels = found.subject.kernels
            assert kernels is not None
            assert kernels.isa is not None, "a process that is limited to a set has one"
            logits = ReferenceLogits.of(predictor.compute, found.logits_NC, view)
            row = HeldRow(
                isa=kernels.isa,
                emulated=kernels.emulated,
                primitives=dict(kernels.primitives),
                latency_ms=found.subject.latency_ms,
                rows=list(found.rows),
                logits=logits,
                # Without a run the images are the reference images.
                on_reference=reference_logits(predictor, view) if model.run else logits,
            )
            rows.append(row)
    return HeldRows(rows=rows)


def _prepare(model: HeldModel) -> None:
    """Certify and calibrate it for the kernels of this process."""
    if model.prepare_on is not None:
        prepare_device(model.folder, model.prepare_on)
    elif model.run is not None:
        checked = read_card(model.folder).artifact == IR_INT8_CHECKED
        if checked and not is_certified(model.folder):
            certify_run(Run(model.run), model.folder, model.data)
        if not is_calibrated(model.folder):
            calibrate_run(Run(model.run), model.folder, model.data)


def measure_in_sets(
    models: dict[Artifact, HeldModel], sets: Sequence[InstructionSet], here: Measurements, progress: Progress
) -> Iterator[tuple[Artifact, InstructionSet, Measurements | None]]:
    """Each model in each set other than this machine's own; no measurements if this CPU lacks the set."""
    others: list[InstructionSet] = [isa for isa in dict.fromkeys(sets) if isa != this_set()]
    if not others:
        return
    with progress.track("Comparing instruction sets", len(others) * len(models)) as bar:
        for isa in others:
            known = isa in sets_of(cpu_flags())
            for artifact, model in models.items():
                yield artifact, isa, _measure_in_set(artifact, model, isa, here) if known else None
                bar.advance(isa=isa, artifact=artifact.name)


def _measure_in_set(artifact: Artifact, model: HeldModel, isa: InstructionSet, here: Measurements) -> Measurements:
    measured = Measurements(here.reference, here.table, partial=here.partial, spent=here.spent)
    for row in run_in_child(MODULE, model, HeldRows, environment(isa)).rows:
        kernels = Kernels(row.isa, row.emulated, row.primitives)
        subject = Subject(artifact, row.logits.view, row.logits.compute, row.latency_ms, kernels)
        measured.add(Measurement(subject, row.rows, tinted=False, logits_NC=row.logits.array))
        measured.on_reference.setdefault(artifact, []).append(row.on_reference)
    return measured


if __name__ == "__main__":
    reply_on_stdout(HeldModel, measure_here)
