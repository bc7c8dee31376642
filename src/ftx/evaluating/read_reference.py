"""``reference.safetensors`` of an exported folder, and the model's own answers to its images.

Shapes: N images, C labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
from safetensors import SafetensorError, safe_open

from ftx.core.errors import ExportError
from ftx.core.progress import SILENT
from ftx.core.untrusted_input import parse_json
from ftx.data.preprocess import Pixels
from ftx.evaluating.answers import ask_graph
from ftx.evaluating.parity_row import Reference
from ftx.runs.card_json import REFERENCE_FILE
from ftx.runs.parity_json import VIEW_OF, KernelPath
from ftx.runs.proof_json import Answers
from ftx.runtimes.openvino import OpenVinoPredictor


def reference_answers(predictor: OpenVinoPredictor, kernels: KernelPath = "batch") -> Answers:
    """The model's own answers to the reference images beside it; ``kernels`` are those it was opened with."""
    _, pixels = read_reference(predictor)
    with SILENT.track("", None) as task:
        return Answers.of(predictor.compute, ask_graph(predictor, pixels, task), VIEW_OF[kernels])


def read_reference(predictor: OpenVinoPredictor) -> tuple[Reference, Pixels]:
    """The reference images beside a model and the trained model's answers to them.

    Shape: pixels [N, H, W, 3].
    Raises: ExportError if the file is malformed or fits another model.
    """
    path = predictor.folder / REFERENCE_FILE
    try:
        with safe_open(path, framework="np") as file:
            images, logits, targets_NC = (file.get_tensor(name) for name in ("images", "logits", "targets"))
            clear_N = file.get_tensor("clear") if "clear" in set(file.keys()) else None
            metadata: dict[str, str] = file.metadata() or {}
        names, groups = (_listed(metadata.get(key, default)) for key, default in (("paths", ""), ("groups", "[]")))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ExportError(
            "the reference of the exported model does not hold", where=path, found=str(error), fix="export it again"
        ) from error
    size, labels = (predictor.preprocess.height, predictor.preprocess.width, 3), predictor.task.labels
    fits = (
        images.dtype == np.uint8
        and (images.ndim, logits.ndim, logits.dtype.kind, targets_NC.dtype.kind) == (4, 2, "f", "f")
        and images.shape[1:] == size
        and len(images) == len(logits) == len(names) > 0
        and len(groups) in (0, len(names))
        and logits.shape == (len(images), len(labels))
        and targets_NC.shape in (logits.shape, (0, len(labels)))
        and bool(np.isin(targets_NC, (0, 1)).all())
        and (clear_N is None or (clear_N.dtype == np.bool_ and clear_N.shape == (len(images),)))
    )
    if not fits:
        raise ExportError(
            "the reference belongs to another model than the card",
            where=path,
            found=f"images {images.shape}, logits {logits.shape}, targets {targets_NC.shape}, {len(names)} names",
            fix="export it again",
        )
    known = (logits.astype(np.float32), targets_NC.astype(np.float32))
    return Reference(names, *known, predictor.task, groups, clear_N), images


def reference_names(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the images of a reference are called, and what each is of (nothing where no groups are known).

    Raises: ExportError if the file is malformed.
    """
    path = folder / REFERENCE_FILE
    try:
        with safe_open(path, framework="np") as file:
            metadata: dict[str, str] = file.metadata() or {}
        return _listed(metadata.get("paths", "")), _listed(metadata.get("groups", "[]"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ExportError(
            "the reference of the exported model does not hold", where=path, found=str(error), fix="export it again"
        ) from error


def _listed(text: str) -> tuple[str, ...]:
    """The texts of a JSON list.

    Raises: JsonError if it is none.
    """
    found = parse_json(text)
    return tuple(str(item) for item in cast("list[object]", found)) if isinstance(found, list) else ()
