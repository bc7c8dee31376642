"""Images inside the page: small, as JPEG in data URIs, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from ftx.core.errors import FtxError
from ftx.core.progress import SILENT, Progress
from ftx.data.dataset import Entry
from ftx.data.image_store import ImageStore, open_image
from ftx.data.preprocess import resize_crop
from ftx.data.threads import in_threads
from ftx.explaining.explain import Explainer
from ftx.explaining.overlay import overlay

# Pixels of the longer side: a sample of a class, and an image that one looks at to see why it was predicted wrongly.
SAMPLE, CASE = 96, 176
# Together they stay below 5 MB with the rest of the page; base64 makes 4 bytes of 3.
BUDGET_BYTES = 3_300_000
# Samples of a class, and of all classes.
EACH, MOST = 6, 160


@dataclass
class PictureBudget:
    """Bytes that are left for pictures; ``left_out`` counts those that were left out."""

    left: int = BUDGET_BYTES
    left_out: int = 0

    def take(self, uri: str) -> bool:
        """Use its bytes if they are left; False if not."""
        if len(uri) > self.left:
            self.left_out += 1
            return False
        self.left -= len(uri)
        return True


def data_uri(image: Image.Image, side: int) -> str:
    """The image as a JPEG; its longer side has ``side`` pixels."""
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    stream = io.BytesIO()
    # Small images grow in steps, so that their pixels are seen as they are.
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    image.resize(size, how).save(stream, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def samples(
    entries: Sequence[Entry], names: Sequence[str], store: ImageStore, budget: PictureBudget
) -> dict[str, list[tuple[str, str]]]:
    """A few training images of each label, spread over them, as path and data URI; as long as the budget lasts."""
    each = max(1, min(EACH, MOST // max(1, len(names))))
    of_label: dict[str, list[Entry]] = {name: [] for name in names}
    for entry in entries:
        for name in entry.labels:
            of_label[name].append(entry)
    chosen: list[tuple[str, Entry]] = []
    for name in names[:MOST]:
        own = of_label[name]
        count = min(each, len(own))
        chosen += [(name, own[number * len(own) // count]) for number in range(count)]
    found: dict[str, list[tuple[str, str]]] = {}
    for (name, entry), uri in zip(chosen, in_threads(lambda one: _square(store, one[1]), chosen), strict=True):
        if uri is not None and budget.take(uri):
            found.setdefault(name, []).append((entry.path, uri))
    return found


def _square(store: ImageStore, entry: Entry) -> str | None:
    try:
        image = open_image(store[entry])
    except FtxError:
        return None
    side = min(image.size)
    return data_uri(ImageOps.fit(image, (side, side)), SAMPLE)


@dataclass(frozen=True)
class Case:
    """An image as it is, and with the map of each label that was or should have been predicted; all as data URIs."""

    uri: str
    maps: Sequence[tuple[str, str]] = ()


def cases(
    rows: Sequence[tuple[Entry, Sequence[str]]],
    store: ImageStore,
    explainer: Explainer | None,
    budget: PictureBudget,
    progress: Progress = SILENT,
) -> dict[str, Case]:
    """Images to look at, by path, each with maps for its labels; what cannot be read is left out."""
    found: dict[str, Case] = {}
    with progress.track("drawing maps", len(rows)) as bar:
        for entry, labels in rows:
            case = _case(entry, labels, store, explainer)
            if case is not None and budget.take("".join([case.uri, *(uri for _, uri in case.maps)])):
                found[entry.path] = case
            bar.advance()
    return found


def _case(entry: Entry, labels: Sequence[str], store: ImageStore, explainer: Explainer | None) -> Case | None:
    try:
        image = open_image(store[entry])
    except FtxError:
        return None
    uri = data_uri(image, CASE)
    if explainer is None or not labels:
        return Case(uri)
    pre, names = explainer.preprocess, explainer.task.labels.names
    _, maps_NChw = explainer.explain(resize_crop(image, pre)[None])
    if not np.isfinite(maps_NChw).all():
        return Case(uri)
    drawn = ((label, overlay(image, maps_NChw[0, names.index(label)], pre)) for label in labels)
    return Case(uri, [(label, data_uri(picture, CASE)) for label, picture in drawn])
