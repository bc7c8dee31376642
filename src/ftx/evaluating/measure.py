"""The logits of an exported model and of the trained one for the same images, as values.

Which images (of a run, or of an exported folder), which view, which kernels and which instruction set: all of these are
inputs. Shapes: N images, C labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ftx.core.errors import ImageError
from ftx.core.progress import SILENT, Progress, ProgressTask
from ftx.data.dataset import Entry, groups_of
from ftx.data.image_store import ImageLike
from ftx.data.preprocess import Pixels, Preprocess, load_pixels
from ftx.evaluating.comparison import Comparison, Reference, Subject, compare
from ftx.evaluating.judge import ParityJudgement, judge
from ftx.evaluating.latency import files_latency_ms, graph_latency_ms
from ftx.evaluating.logit_bounds import FREE, Bounds
from ftx.evaluating.parity_images import ParityImages, certifying_rows, folder_images, read_reference
from ftx.evaluating.stated_labels import identity_faults, metadata_faults, preprocessing_faults
from ftx.runs.artifacts import DENSE, IR_FP32, IR_INT8_CHECKED, TRAINED, Artifact
from ftx.runs.compute_precision import F32, Compute, ComputePrecision
from ftx.runs.machine import CPU
from ftx.runs.proof_json import ReferenceLogits
from ftx.runs.run import Run
from ftx.runs.views import VIEW_OF, KernelPath, View
from ftx.runtimes import load_artifact, load_with_all_tokens
from ftx.runtimes.device import repeated
from ftx.runtimes.openvino import OpenVinoPredictor, default_compute, kernel_paths
from ftx.runtimes.other_release import OtherRelease
from ftx.runtimes.predictor import BATCH_IMAGES, Predictor, feed_files
from ftx.tasks.thresholds import Floats

if TYPE_CHECKING:
    from ftx.runtimes.torch import TorchPredictor


def graph_logits(predictor: Predictor, pixels_NHWC: Pixels, progress: ProgressTask) -> Floats:
    """Logits in the graph view. Shape: [N, H, W, 3] of the network's size -> [N, C]."""
    parts: list[Floats] = []
    for start in range(0, len(pixels_NHWC), BATCH_IMAGES):
        parts.append(predictor.logits(pixels_NHWC[start : start + BATCH_IMAGES]))
        progress.advance(len(parts[-1]))
    return np.concatenate(parts)


def graph_logits_of_files(
    predictor: Predictor, images: Sequence[ImageLike], pre: Preprocess, progress: ProgressTask
) -> Floats:
    """The graph view of files: resized and cropped as in training, a batch in memory at a time. Shape: [N, C].

    Raises: as ``file_logits``.
    """
    decode = partial(load_pixels, pre=pre)
    return stacked(feed_files(images, decode, predictor.logits), progress)


def file_logits(predictor: Predictor, images: Sequence[ImageLike], progress: ProgressTask) -> Floats:
    """Logits in the view from files. Shape: [N, C].

    Raises: ImageError for an image that cannot be read, DataError for one that has changed since the run was made.
    """
    return stacked(predictor.logits_from_files(images), progress)


def stacked(outputs: Iterable[Floats | ImageError], progress: ProgressTask) -> Floats:
    """One array of all. Shape: [C] each, to [N, C]. Raises: ImageError for an image that cannot be read."""
    rows: list[Floats] = []
    for output in outputs:
        if isinstance(output, ImageError):
            raise output
        rows.append(output)
        progress.advance()
    return np.stack(rows)


@dataclass(frozen=True)
class Measurement:
    """The logits of one model in one view: of these rows of all images, and then of the tinted ones if ``tinted``."""

    subject: Subject
    rows: Sequence[int]
    tinted: bool
    logits_NC: Floats

    def without(self, rows: Set[int]) -> Measurement:
        """The same without some of the images, unless that leaves none."""
        kept = [at for at, row in enumerate(self.rows) if row not in rows] or list(range(len(self.rows)))
        tinted = range(len(self.rows), len(self.logits_NC))
        left = [self.rows[at] for at in kept]
        return Measurement(self.subject, left, self.tinted, self.logits_NC[[*kept, *tinted]])


def measure(
    artifact: Artifact,
    predictor: Predictor,
    images: ParityImages,
    view: View,
    progress: ProgressTask,
    *,
    timed: bool = True,
) -> Measurement:
    """Run a model, opened with the kernels of the view. A latency that is not ``timed`` is zero."""
    tints, rows = images.tints(artifact), images.chosen
    if view == "files":
        tints, rows = tints[:0], range(len(images.files))
        logits_NC = file_logits(predictor, images.files, progress)
        latency_ms = files_latency_ms(predictor, images.files)
    else:
        if images.by_files(artifact, predictor.compute):
            rows = range(len(images.files))
            logits_NC = graph_logits_of_files(predictor, images.files, images.preprocess, progress)
        else:
            logits_NC = graph_logits(predictor, images.pixels, progress)
        if len(tints):
            logits_NC = np.concatenate([logits_NC, graph_logits(predictor, tints, progress)])
        latency_ms = graph_latency_ms(predictor, images.pixels) if timed else 0.0
    kernels = predictor.kernels() if isinstance(predictor, OpenVinoPredictor | OtherRelease) else None
    return Measurement(Subject(artifact, view, predictor.compute, latency_ms, kernels), rows, len(tints) > 0, logits_NC)


@dataclass(frozen=True)
class Measurements:
    """All that a validation measured.

    ``reference`` are the trained model's logits for all images, ``tinted`` those for tinted copies of some. ``faults``
    are what no figure shows, by artifact. ``on_reference`` are each OpenVINO model's own logits for the reference
    images next to it, ``measurements`` what was compared.
    ``notes`` are added to an artifact's summary; ``partial`` is why these images prove nothing.
    ``spent`` are the rows of images that an artifact was made with, which therefore say nothing about it.
    """

    reference: Reference
    table: Bounds
    tinted: Reference | None = None
    partial: str | None = None
    spent: Mapping[Artifact, Set[int]] = field(default_factory=dict[Artifact, Set[int]])
    comparisons: list[Comparison] = field(default_factory=list[Comparison])
    faults: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    notes: dict[str, str] = field(default_factory=dict[str, str])
    on_reference: dict[Artifact, list[ReferenceLogits]] = field(default_factory=dict[Artifact, list[ReferenceLogits]])
    measurements: list[Measurement] = field(default_factory=list[Measurement])

    def add(self, measured: Measurement) -> None:
        """Compare one model in one view with the trained model."""
        measured = measured.without(self.spent.get(measured.subject.artifact, frozenset()))
        reference, subject = self.reference.take(measured.rows), measured.subject
        if measured.tinted and self.tinted is not None:
            reference = reference.followed_by(self.tinted)
        bound = self.table.pick(subject.artifact, subject.view, subject.compute, drops_patches=reference.drops_patches)
        self.comparisons.append(compare(reference, measured.logits_NC, subject, bound))
        self.measurements.append(measured)

    @property
    def from_files(self) -> Mapping[tuple[Artifact, ComputePrecision], Floats]:
        """The logits of all images, each from its file; of no artifact that some were made with. Shape: [N, C]."""
        return {
            (one.subject.artifact, one.subject.compute): one.logits_NC
            for one in self.measurements
            if one.subject.view == "files" and not self.spent.get(one.subject.artifact)
        }

    def judged(self, max_drop: float, partial: str | None = None) -> ParityJudgement:
        """The verdicts of these comparisons; ``partial`` is another reason why they prove nothing."""
        return judge(self.comparisons, max_drop, faults=self.faults, partial=partial or self.partial)


def measure_run(
    run: Run,
    exported: Sequence[Artifact],
    entries: Sequence[Entry],
    images: ParityImages,
    table: Bounds,
    progress: Progress,
) -> Measurements:
    """Run the trained model, the dense one and each exported one on the images of a run.

    Raises: RunError, DataError, ExportError.
    """
    ways = [way for artifact in (DENSE, *exported) for way in _ways(run, artifact)]
    total = len(images.files) + len(images.tinted)
    total += sum(_count(images, artifact, compute, view) for artifact, compute, views in ways for view in views)
    with progress.track("Validating", total) as bar:
        measured = _measure_trained(run, entries, images, table, bar)
        measured = replace(measured, spent={IR_INT8_CHECKED: certifying_rows(run, entries)})
        for artifact, compute, views in ways:
            predictor = load_artifact(run, artifact, compute=compute)
            if compute == "f32":
                measured.faults[artifact.name] = identity_faults(run, artifact, predictor)
            for view in views:
                if view == VIEW_OF["single"]:
                    # The predictor before is dropped.
                    predictor = OpenVinoPredictor(run.folder(artifact), compute, kernels="single")
                found = measure(artifact, predictor, images, view, bar)
                measured.add(found)
                if view != "files" and isinstance(predictor, OpenVinoPredictor):
                    measured.on_reference.setdefault(artifact, []).append(reference_logits(predictor, view))
    if measured.reference.drops_patches:
        measured.notes[DENSE.name] = _with_all_tokens(run, measured.reference.take(images.chosen), images.pixels)
    return measured


def _ways(run: Run, artifact: Artifact) -> Iterator[tuple[Artifact, Compute, list[View]]]:
    """In which precisions an artifact is run, and in which views: of dense both would be the same."""
    if not artifact.tunable:
        yield artifact, "f32", ["graph"] if artifact == DENSE else ["graph", "files"]
        return
    computes: tuple[Compute, ...] = ("f32", "auto")
    for compute in computes:
        single: list[View] = [VIEW_OF[path] for path in kernel_paths(run.folder(artifact), compute) if path == "single"]
        yield artifact, compute, ["graph", "files", *single]


def _count(images: ParityImages, artifact: Artifact, compute: Compute, view: View) -> int:
    by_files = images.by_files(artifact, default_compute() if compute == "auto" else F32)
    if view == "files":
        return len(images.files)
    return len(images.files if by_files else images.chosen) + len(images.tints(artifact))


def _measure_trained(
    run: Run, entries: Sequence[Entry], images: ParityImages, table: Bounds, bar: ProgressTask
) -> Measurements:
    """Run the trained model, which all others are compared with, and give it a row of its own."""
    trained, task = cast("TorchPredictor", load_artifact(run, TRAINED)), run.task
    names, groups = tuple(entry.path for entry in entries), groups_of(entries)
    targets_NC = task.targets([entry.labels for entry in entries])
    with trained.choice_margins() as choices:
        logits_NC = file_logits(trained, images.files, bar)
    reference = Reference(names, logits_NC, targets_NC, task, groups, choices.clear())
    tinted = None
    if len(images.tinted):
        copies = reference.take(images.chosen[: len(images.tinted)])
        with trained.choice_margins() as choices:
            tinted_NC = graph_logits(trained, images.tinted, bar)
        tinted = replace(
            copies,
            names=tuple(f"{name} (tinted)" for name in copies.names),
            logits=tinted_NC,
            targets=targets_NC[:0],
            clear=choices.clear(),
        )
    measured = Measurements(reference, table, tinted)
    subject = Subject(TRAINED, "files", F32, files_latency_ms(trained, images.files))
    measured.add(Measurement(subject, range(len(names)), tinted=False, logits_NC=logits_NC))
    return measured


def _with_all_tokens(run: Run, reference: Reference, pixels: Pixels) -> str:
    """What other libraries, which open ``dense/`` with all tokens, compute with a model that drops some."""
    with SILENT.track("", None) as bar:
        logits_NC = graph_logits(load_with_all_tokens(run), pixels, bar)
    changed = 100 * compare(reference, logits_NC, Subject(DENSE, "graph", F32), FREE).changes.drop
    return f"timm and transformers open it with all tokens: {changed:.2g} % of {len(pixels)} labels are others then"


def measure_folder(
    folder: Path,
    table: Bounds,
    progress: Progress = SILENT,
    *,
    timed: bool = True,
    f32_images: int | None = None,
    device: str = CPU,
) -> Measurements:
    """Run an exported folder on its reference images, in f32 and in the precision that the CPU chooses.

    On another ``device``, only in the precision that it chooses.

    An int8 model is run with the kernels for single images as well, if these are others.
    ``f32_images`` runs the first ones only in f32, and none if the CPU chooses f32 anyway.
    Raises: ExportError if the folder is incomplete, altered, or its reference is malformed.
    """
    chosen = OpenVinoPredictor(folder, "auto", device=device)
    artifact, update = chosen.card.artifact, chosen.card.update
    reference, images = folder_images(chosen)
    first = replace(images, chosen=images.chosen[:f32_images], pixels=images.pixels[:f32_images])
    precisions: list[tuple[Compute, ParityImages]] = [("auto", images)]
    if device == CPU and (f32_images is None or chosen.compute.dtype != "f32"):
        precisions.insert(0, ("f32", first))
    ways: list[tuple[Compute, KernelPath, ParityImages]] = [
        (compute, path, some)
        for compute, some in precisions
        for path in (kernel_paths(folder, compute) if device == CPU else ("batch",))
    ]
    partial = "its adapter came without the trained model's logits: ftx export --as-update"
    measured = Measurements(reference, table, partial=partial if update and update.sequence is None else None)
    faults = [*metadata_faults(chosen), *preprocessing_faults(chosen)]
    if artifact == IR_INT8_CHECKED:
        faults += float_faults(folder, reference, images.pixels, table)
    measured.faults[artifact.name] = [f"{artifact}: {fault}" for fault in faults]
    own = measured.on_reference.setdefault(artifact, [])
    with progress.track("Validating", sum(len(some.chosen) for *_, some in ways)) as bar:
        for compute, path, some in ways:
            opened = (compute, path) == ("auto", "batch")
            predictor = chosen if opened else OpenVinoPredictor(folder, compute, kernels=path)
            for _ in repeated(device):
                found = measure(artifact, predictor, some, VIEW_OF[path], bar, timed=timed)
                measured.add(found)
                own.append(ReferenceLogits.of(predictor.compute, found.logits_NC, VIEW_OF[path]))
    return measured


def float_faults(folder: Path, reference: Reference, pixels_NHWC: Pixels, table: Bounds) -> Sequence[str]:
    """By which bounds of fp32 the float model of int8-checked differs from the trained one.

    Shape: [N, H, W, 3], the images of the reference.
    """
    with SILENT.track("", None) as bar:
        logits_NC = graph_logits(OpenVinoPredictor(folder, part="fp32"), pixels_NHWC, bar)
    bound = table.pick(IR_FP32, "graph", F32, drops_patches=reference.drops_patches)
    found = compare(reference, logits_NC, Subject(IR_FP32, "graph", F32), bound)
    return [f"its float model: {fault}" for fault in found.exceeded]


def reference_logits(predictor: OpenVinoPredictor | OtherRelease, view: View) -> ReferenceLogits:
    """A model's own logits for the reference images next to it, opened with the kernels of the view."""
    assert view != "files"
    _, pixels = read_reference(predictor)
    with SILENT.track("", None) as bar:
        return ReferenceLogits.of(predictor.compute, graph_logits(predictor, pixels, bar), view)
