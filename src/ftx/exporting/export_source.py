"""The parts that the artifacts of one export share: each is made once, when first needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import Dim, ExportedProgram

from ftx.backbones.split_network import full_model
from ftx.core.errors import ExportError
from ftx.core.progress import Progress
from ftx.core.third_parties import no_telemetry, quiet_third_parties
from ftx.data.dataset import Entry
from ftx.data.image_store import ImageStore
from ftx.data.loader import load_pixels_many
from ftx.data.preprocess import Pixels, Preprocess, normalise
from ftx.explaining.reciprocam import exclusive_groups, explained
from ftx.exporting.chosen_images import calibration_images, make_reference
from ftx.exporting.openvino import convert_body
from ftx.exporting.separate_qkv import separate_qkv, with_split_weights
from ftx.runs.artifacts import DENSE
from ftx.runs.card_json import Card
from ftx.runs.dense import load_dense
from ftx.runs.reference_safetensors import ReferenceFile
from ftx.runs.run import Run
from ftx.runs.trained import load_trained

with no_telemetry():
    import openvino as ov

if TYPE_CHECKING:
    from ftx.exporting.int8.search import QuantizedBody

# With a batch of 1 torch would treat the 1 as a constant of the model.
EXAMPLE_BATCH = 2


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

    @cached_property
    def int8(self) -> QuantizedBody:
        """The int8 body, which int8 and int8-checked share."""
        return self.quantized(overflow_safe=False)

    def quantized(self, *, overflow_safe: bool) -> QuantizedBody:
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


def trace(module: nn.Module, pre: Preprocess) -> ExportedProgram:
    """Record the module's operations.

    torch.export and not torch.jit.trace: the latter is deprecated, ONNX needs the former anyway, and
    OpenVINO makes the same model of both (same logits, same speed, same INT8 error to the last digit).
    Shape: normalised f32 [N, 3, H, W] -> logits [N, C], and the module's other outputs.
    Raises: ExportError if torch cannot follow the model with a free batch size.
    """
    example_NCHW = torch.zeros(EXAMPLE_BATCH, 3, pre.height, pre.width)
    try:
        with quiet_third_parties(), torch.no_grad():
            return torch.export.export(module.eval(), (example_NCHW,), dynamic_shapes=({0: Dim("batch")},))
    except Exception as error:  # torch raises a dozen unrelated classes here, some private
        raise ExportError(
            "torch cannot export this model with a dynamic batch size",
            found=str(error).partition("\n")[0],
            fix="train with another --model, or report this as a bug in ftx",
        ) from error
