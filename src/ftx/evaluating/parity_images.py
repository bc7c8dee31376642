"""The images that models are compared on: the held-out ones of a run, or the reference images of an exported folder.

Shapes: N images, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from safetensors import SafetensorError, safe_open

from ftx.core.errors import ExportError
from ftx.core.untrusted_input import parse_json
from ftx.data.dataset import Entry
from ftx.data.image_store import EncodedImage, ImageStore
from ftx.data.preprocess import Pixels, Preprocess, load_pixels
from ftx.evaluating.comparison import Reference
from ftx.evaluating.logit_bounds import rests_on_labels
from ftx.runs.artifacts import EXPORT_IR, Artifact
from ftx.runs.card_json import REFERENCE_FILE
from ftx.runs.compute_precision import ComputePrecision
from ftx.runs.run import Run
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.runtimes.other_release import OtherRelease

# The graph view in f32 compares numbers, and a fault in a graph changes the logits of any image: this many, spread
# over the held-out ones, show it. What rests on labels is run on them all, as the view from files is.
GRAPH_IMAGES = 128
TINTED_IMAGES = 8
# Grey images have the same logits with their channels swapped, so copies of some are tinted: the factors of R, G and B.
TINT = np.array([1.0, 0.75, 0.5])


@dataclass(frozen=True)
class ParityImages:
    """Images as files (a folder has none), and those whose pixels are in memory: the rows ``chosen`` of all.

    Shape: pixels [chosen, H, W, 3], tinted [tinted, H, W, 3].
    """

    files: tuple[EncodedImage, ...]
    chosen: tuple[int, ...]
    pixels: Pixels
    tinted: Pixels
    preprocess: Preprocess

    def by_files(self, artifact: Artifact, compute: ComputePrecision) -> bool:
        """Whether an artifact takes all images in the graph view, and not only the chosen ones."""
        return bool(self.files) and rests_on_labels(artifact, compute)

    def tints(self, artifact: Artifact) -> Pixels:
        """The tinted copies for an artifact. Int8 is calibrated on grey data: its logits for colour prove nothing."""
        return self.tinted[:0] if artifact.precision == "int8" else self.tinted


def run_images(run: Run, data: Path | None, images: int | None) -> tuple[tuple[Entry, ...], ParityImages]:
    """All held-out images of a run, or ``images`` of them, spread evenly; ``data`` is the folder they are in now.

    Raises: RunError, DataError if they are not what training saw.
    """
    entries, preprocess = run.report_entries(), run.manifest.preprocess
    entries = tuple(entries[index] for index in _spread(len(entries), images or len(entries)))
    store = ImageStore(run.data_root(data))
    files = tuple(store[entry] for entry in entries)
    chosen = _spread(len(files), GRAPH_IMAGES)
    pixels = np.stack([load_pixels(files[index], preprocess) for index in chosen])
    grey = bool((pixels == pixels[..., :1]).all())
    tinted = np.rint(pixels[:TINTED_IMAGES] * TINT).astype(np.uint8) if grey else pixels[:0]
    return entries, ParityImages(files, chosen, pixels, tinted, preprocess)


def _spread(count: int, most: int) -> tuple[int, ...]:
    """At most that many of the first ``count`` numbers, evenly, in order."""
    most = min(most, count)
    return tuple(index * count // most for index in range(most))


def certifying_images(run: Run) -> tuple[tuple[Entry, ...], str]:
    """Validation images that bound an int8-checked model, and what they are: half of them if no test images exist.

    Reports use the other half then. Of each group (a patient, a part) one image is taken, because its others are no
    new evidence; and none that training has seen.
    """
    seen = {entry.sha256 for entry in run.entries("train")}
    every = sorted(run.entries("val"), key=lambda entry: (entry.sha256, entry.path))
    distinct = {_content(entry): entry for entry in every if entry.sha256 not in seen}
    some = tuple(distinct.values())
    return (some, "val") if run.entries("test") else (some[1::2], "half of val")


def certifying_rows(run: Run, entries: Sequence[Entry]) -> frozenset[int]:
    """The rows of the images with what bounds an int8-checked model: those certify it, and so cannot judge it."""
    certifying = {_content(entry) for entry in certifying_images(run)[0]}
    return frozenset(row for row, entry in enumerate(entries) if _content(entry) in certifying)


def _content(entry: Entry) -> str:
    return entry.group or entry.sha256


def folder_images(predictor: OpenVinoPredictor) -> tuple[Reference, ParityImages]:
    """The reference images next to a model.

    Raises: ExportError if the file is malformed or fits another model.
    """
    reference, pixels = read_reference(predictor)
    rows = tuple(range(len(pixels)))
    return reference, ParityImages((), rows, pixels, pixels[:0], predictor.preprocess)


def read_reference(predictor: OpenVinoPredictor | OtherRelease) -> tuple[Reference, Pixels]:
    """The reference images next to a model and the trained model's logits for them.

    Shape: pixels [N, H, W, 3].
    Raises: ExportError if the file is malformed or fits another model.
    """
    path = predictor.folder / REFERENCE_FILE
    try:
        with safe_open(path, framework="np") as file:
            images, logits, targets_NC = (file.get_tensor(name) for name in ("images", "logits", "targets"))
            clear_N = file.get_tensor("clear") if "clear" in set(file.keys()) else None
            names, groups = _names(file.metadata())
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _malformed(path, error) from error
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
            "the reference must be of the same model as the card",
            where=path,
            found=f"images {images.shape}, logits {logits.shape}, targets {targets_NC.shape}, {len(names)} names",
            fix=f"export it again: {EXPORT_IR}",
        )
    known = (logits.astype(np.float32), targets_NC.astype(np.float32))
    return Reference(names, *known, predictor.task, groups, clear_N), images


def reference_names(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the images of a reference, and what each is of (nothing if no groups are known).

    Raises: ExportError if the file is malformed.
    """
    path = folder / REFERENCE_FILE
    try:
        with safe_open(path, framework="np") as file:
            return _names(file.metadata())
    except (SafetensorError, OSError, ValueError) as error:
        raise _malformed(path, error) from error


def _malformed(path: Path, error: Exception) -> ExportError:
    return ExportError(
        "the reference of the exported model is damaged",
        where=path,
        found=str(error),
        fix=f"export it again: {EXPORT_IR}",
    )


def _names(metadata: Mapping[str, str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names and the groups: JSON lists of texts.

    Raises: JsonError if one is none.
    """
    texts = ((metadata or {}).get(key, default) for key, default in (("paths", ""), ("groups", "[]")))
    names, groups = (
        tuple(str(item) for item in cast("list[object]", found)) if isinstance(found, list) else ()
        for found in map(parse_json, texts)
    )
    return names, groups
