"""The parts that the artifacts of one export share: each is made once, when first needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram

from ftx.backbones.split_network import full_model
from ftx.core.errors import ExportError
from ftx.core.progress import SILENT, Progress
from ftx.core.third_parties import no_telemetry
from ftx.data.dataset import Entry, groups_of
from ftx.data.image_store import ImageStore
from ftx.data.loader import load_pixels_many
from ftx.data.preprocess import Pixels, Preprocess, normalise
from ftx.evaluating.measure import graph_logits
from ftx.explaining.reciprocam import exclusive_groups, explained
from ftx.exporting.openvino import convert_body
from ftx.exporting.separate_qkv import separate_qkv, with_split_weights
from ftx.exporting.tracing import trace
from ftx.runs.artifacts import DENSE, IR_INT8, finer_variants
from ftx.runs.card_json import Card
from ftx.runs.dense import load_dense
from ftx.runs.reference_safetensors import ReferenceFile
from ftx.runs.run import Run
from ftx.runs.trained import load_trained
from ftx.runtimes.torch import TorchPredictor
from ftx.tasks.thresholds import Floats

with no_telemetry():
    import openvino as ov

if TYPE_CHECKING:
    from ftx.exporting.int8.search import Quantized

REFERENCE_IMAGES = 64
# NNCF's default of 300 gave no smaller error than 100 (0.152 and 0.150 on the model of the search in
# ftx.exporting.int8.search) and takes three times as long.
CALIBRATION_IMAGES = 128
# Enough to compare the settings: 32 and 96 images gave each the same error within 5 %.
CHOOSING_IMAGES = 32


@dataclass(frozen=True)
class NormalisedImages:
    """Images that are normalised one at a time as they are read, again in each pass."""

    pixels_NHWC: Pixels
    pre: Preprocess

    def __len__(self) -> int:
        return len(self.pixels_NHWC)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for row in range(len(self)):
            yield normalise(self.pixels_NHWC[row : row + 1], self.pre)


class Source:
    """A run's dense model, traced and converted, and the images to calibrate and compare it with."""

    def __init__(self, run: Run, data: Path | None, progress: Progress, *, explain: bool = False) -> None:
        self.run = run
        self.data = data
        self.progress = progress
        self.explain = explain
        self.manifest = run.manifest

    @cached_property
    def program(self) -> ExportedProgram:
        """The dense model, traced: with its maps, or of its last block only what the head reads, as in training."""
        dense, pre = load_dense(self.run.require(DENSE)), self.manifest.preprocess
        return trace(
            explained(dense, exclusive_groups(self.manifest.labels), pre) if self.explain else full_model(dense), pre
        )

    @cached_property
    def reference(self) -> ReferenceFile:
        """Held-out images and the trained model's logits, before its merge."""
        return make_reference(self.run, load_trained(self.run), self.data, self.progress)

    @cached_property
    def body(self) -> ov.Model:
        """The converted model in f32, without preprocessing; nobody changes it."""
        return convert_body(self.program, self.manifest.preprocess, self.manifest.architecture)

    @cached_property
    def parted(self) -> ov.Model:
        """The same, with three products for queries, keys and values whose weights are constants: NNCF needs those."""
        return with_split_weights(separate_qkv(self.body))

    def quantized(self, *, overflow_safe: bool) -> Quantized:
        """Calibrated on training images, its setting chosen on others of them.

        So no held-out image has chosen anything about the model.
        """
        from ftx.exporting.int8.search import quantize_body

        calibration, choosing = calibration_images(self.run.entries("train"))
        images = (self._batches(calibration), self._batches(choosing))
        return quantize_body(
            self.parted,
            *images,
            overflow_safe=overflow_safe,
            predicted=self.run.task.predicted,
            max_drop=self.run.recipe().validation.max_drop,
            progress=self.progress,
        )

    def _batches(self, entries: tuple[Entry, ...]) -> NormalisedImages:
        pre = self.manifest.preprocess
        return NormalisedImages(load_pixels_many([self._store[entry] for entry in entries], pre, self.progress), pre)

    @cached_property
    def _store(self) -> ImageStore:
        return ImageStore(self.run.data_root(self.data))


def card_of(run: Run, precision: str, weights_digest: str) -> Card:
    """The card of an IR of this run; the hashes of its files follow when it is written."""
    manifest = run.manifest
    return Card(
        task=manifest.task,
        architecture=manifest.architecture,
        precision=precision,
        labels=manifest.labels,
        thresholds=manifest.thresholds,
        preprocess=manifest.preprocess,
        dense_digest=weights_digest,
        keep_tokens=run.recipe().model.token_fractions,
        files={},
    )


def calibration_images(entries: Sequence[Entry]) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """Training images to calibrate INT8 with, and others to choose its setting by.

    The classes take turns; the first turns calibrate, the last choose.

    Raises: ExportError if there are fewer than two different images.
    """
    # Copies of an image on both sides would let it choose what it calibrated.
    distinct = {entry.sha256: entry for entry in entries}.values()
    some = balanced(list(distinct), CALIBRATION_IMAGES + CHOOSING_IMAGES)
    if len(some) < 2:
        raise ExportError(
            "INT8 needs images to calibrate with and others to choose by",
            found=f"{len(some)} different images for training in the run's data",
            fix=f"export in {' or '.join(finer_variants(IR_INT8))}",
        )
    choosing = max(1, len(some) * CHOOSING_IMAGES // (CALIBRATION_IMAGES + CHOOSING_IMAGES))
    return some[:-choosing], some[-choosing:]


def make_reference(
    run: Run, trained: nn.Module, data: Path | None = None, progress: Progress = SILENT
) -> ReferenceFile:
    """Run the trained model on up to 64 held-out images of a run, spread over the classes.

    Raises: DataError if an image is gone or has changed.
    """
    store, pre = ImageStore(run.data_root(data)), run.manifest.preprocess
    chosen = balanced(run.report_entries(), REFERENCE_IMAGES)
    pixels_NHWC = load_pixels_many([store[entry] for entry in chosen], pre, progress)
    logits_NC, clear_N = reference_logits(TorchPredictor(trained, pre, run.task), pixels_NHWC, progress)
    return ReferenceFile(
        paths=tuple(entry.path for entry in chosen),
        pixels_NHWC=pixels_NHWC,
        logits_NC=logits_NC,
        targets_NC=run.task.targets([entry.labels for entry in chosen]),
        groups=groups_of(chosen),
        clear_N=clear_N,
    )


def reference_logits(
    predictor: TorchPredictor, pixels_NHWC: Pixels, progress: Progress = SILENT
) -> tuple[Floats, NDArray[np.bool_] | None]:
    """Logits in torch f32, and whether the patches of each image were chosen clearly, if the model drops some.

    Shape: [N, H, W, 3] -> [N, C] and [N].
    """
    with progress.track("Reference logits", len(pixels_NHWC)) as bar, predictor.choice_margins() as margins:
        return graph_logits(predictor, pixels_NHWC, bar), margins.clear()


def balanced(entries: Sequence[Entry], count: int) -> tuple[Entry, ...]:
    """Up to ``count`` images, from each class in turn; within a class in the order of their content hashes.

    That order is as good as random, and gives the same images on every machine.
    """
    classes: dict[tuple[str, ...], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.sha256, entry.path)):
        classes.setdefault(entry.labels, []).append(entry)
    ranked = [
        (turn, labels, entry) for labels, members in sorted(classes.items()) for turn, entry in enumerate(members)
    ]
    ranked.sort(key=lambda item: item[:2])
    return tuple(entry for _, _, entry in ranked[:count])
