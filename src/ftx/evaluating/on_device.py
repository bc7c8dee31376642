"""The exported models of a run on another device than the CPU: the same images and verdicts as on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ftx.core.errors import ExportError
from ftx.core.progress import SILENT, Progress
from ftx.evaluating.measure import Measurements
from ftx.evaluating.parity_images import ParityImages
from ftx.evaluating.releases import Cell, measure_cell
from ftx.runs.artifacts import Artifact
from ftx.runs.machine import this_machine, this_set
from ftx.runtimes.openvino import OpenVinoPredictor


def measure_on_device(
    folders: Mapping[Artifact, Path],
    device: str,
    images: ParityImages,
    here: Measurements,
    progress: Progress = SILENT,
) -> Iterator[Cell]:
    """Each model on the device, in the precision that the device chooses; AUTO twice, as it may change the device.

    Raises: InputError, EnvironmentFault if there is no such device; DataError, ImageError for an image.
    """
    isa, openvino = this_set(), this_machine().openvino
    assert isa is not None, "OpenVINO runs only on CPUs with AVX2"
    plain = replace(images, tinted=images.tinted[:0])
    with progress.track(f"Validating on {device}", len(folders)) as bar:
        for artifact, folder in folders.items():
            try:
                predictor = OpenVinoPredictor(folder, device=device)
                held = measure_cell(artifact, predictor, plain, here, device)
                yield Cell(artifact, isa, openvino, held, device=device)
            except ExportError as error:
                yield Cell(artifact, isa, openvino, None, f"{error.what}: {error.found}", device)
            bar.advance(artifact=artifact.name)
