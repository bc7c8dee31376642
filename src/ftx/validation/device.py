"""``ftx validate IR_FOLDER``: an exported folder proves itself from its own reference, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from ftx.card import REFERENCE
from ftx.errors import ExportError
from ftx.progress import SILENT, Progress
from ftx.runtimes.base import Pixels
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.strict_json import parse_json
from ftx.validation.asking import ask_graph, graph_latency_ms
from ftx.validation.comparison import Reference, Subject, compare
from ftx.validation.identity import metadata_faults
from ftx.validation.report import ParityReport, ParityRow
from ftx.validation.tolerance import Bounds


def validate_folder(folder: Path, table: Bounds, progress: Progress = SILENT) -> ParityReport:
    """Compare an exported folder with the trained model's answers that lie in it; the graph view alone.

    Raises: ExportError if the folder is not whole, altered, or its reference does not hold.
    """
    rows: list[ParityRow] = []
    problems: list[str] = []
    pinned = OpenVinoPredictor(folder, "f32")
    artifact = f"openvino/{pinned.card.precision}"
    reference, pixels = read_reference(folder, pinned)
    problems += [f"{artifact}: {fault}" for fault in metadata_faults(pinned)]
    with progress.track("validating", 2 * len(pixels)) as bar:
        for predictor in (pinned, OpenVinoPredictor(folder, "auto")):
            logits_NC = ask_graph(predictor, pixels, bar)
            latency_ms = graph_latency_ms(predictor, pixels)
            subject = Subject(artifact, predictor.name, "graph", predictor.compute, latency_ms)
            row, passed = compare(reference, logits_NC, subject, table.pick(artifact, "graph", predictor.compute))
            rows.append(row)
            problems += passed
    return ParityReport(
        folder=str(folder),
        ok=not problems,
        reference=f"{REFERENCE}: the trained model in torch f32, before its merge",
        whole=True,
        split="reference",
        rows=rows,
        problems=problems,
        faulty=[artifact] if problems else [],
        digests={},
    )


def read_reference(folder: Path, predictor: OpenVinoPredictor) -> tuple[Reference, Pixels]:
    """The reference images and the trained model's answers to them.

    Shape: pixels [N, H, W, 3].
    Raises: ExportError if the file is malformed or fits another model.
    """
    path = folder / REFERENCE
    try:
        with safe_open(path, framework="np") as file:
            images, logits, targets_NC = (file.get_tensor(name) for name in ("images", "logits", "targets"))
            metadata: dict[str, str] = file.metadata() or {}
        paths = parse_json(metadata["paths"])
        names = [str(name) for name in paths] if isinstance(paths, list) else []  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ExportError(
            "the reference of the exported model does not hold", where=path, found=str(error), mend="export it again"
        ) from error
    size, labels = (predictor.preprocess.height, predictor.preprocess.width, 3), predictor.task.labels
    fits = (
        images.dtype == np.uint8
        and (images.ndim, logits.ndim, logits.dtype.kind, targets_NC.dtype.kind) == (4, 2, "f", "f")
        and images.shape[1:] == size
        and len(images) == len(logits) == len(names) > 0
        and logits.shape == targets_NC.shape == (len(images), len(labels))
        and bool(np.isin(targets_NC, (0, 1)).all())
    )
    if not fits:
        raise ExportError(
            "the reference belongs to another model than the card",
            where=path,
            found=f"images {images.shape}, logits {logits.shape}, targets {targets_NC.shape}, {len(names)} names",
            mend="export it again",
        )
    return Reference(tuple(names), logits.astype(np.float32), targets_NC.astype(np.float32), predictor.task), images
