"""Images inside the page: small, as JPEG in data URIs, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps

from ftx.core.errors import FtxError
from ftx.core.progress import SILENT, Progress
from ftx.data.dataset import Entry
from ftx.data.image_store import ImageStore, open_image
from ftx.data.preprocess import resize_crop
from ftx.data.threads import in_threads
from ftx.explaining.explain import Explainer, open_explainer
from ftx.explaining.overlay import overlay
from ftx.runs.run import Run

# Pixels of the longer side: a sample of a class, and an image that one looks at to see why it was answered wrongly.
SAMPLE, CASE = 96, 176
# Together they stay below 5 MB with the rest of the page; base64 makes 4 bytes of 3.
BUDGET_BYTES = 3_300_000
# Samples of a class, and of all classes.
EACH, MOST = 6, 160


@dataclass(frozen=True)
class PagePicture:
    """A data URI, and the path of the image that it shows."""

    path: str
    uri: str


@dataclass
class PictureBudget:
    """Bytes that are left for pictures; ``refused`` counts those that were left out."""

    left: int = BUDGET_BYTES
    refused: int = 0

    def take(self, uri: str) -> bool:
        """Whether there is room for it; if so, it is taken."""
        if len(uri) > self.left:
            self.refused += 1
            return False
        self.left -= len(uri)
        return True


def data_uri(image: Image.Image, side: int) -> str:
    """The image with its longer side brought to so many pixels, as a JPEG."""
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    stream = io.BytesIO()
    # Small images grow in steps, so that their pixels are seen as they are.
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    image.resize(size, how).save(stream, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def samples(
    entries: Sequence[Entry], names: Sequence[str], store: ImageStore, budget: PictureBudget
) -> dict[str, list[PagePicture]]:
    """A few training images of each label, spread over them; of as many labels as there is room for."""
    each = max(1, min(EACH, MOST // max(1, len(names))))
    wanted: list[tuple[str, Entry]] = []
    carrying: dict[str, list[Entry]] = {name: [] for name in names}
    for entry in entries:
        for name in entry.labels:
            carrying[name].append(entry)
    for name in names[:MOST]:
        own = carrying[name]
        wanted += [(name, own[number * len(own) // min(each, len(own))]) for number in range(min(each, len(own)))]
    found: dict[str, list[PagePicture]] = {}
    pictures = in_threads(lambda one: _square(store, one[1]), wanted)
    for (name, entry), uri in zip(wanted, pictures, strict=True):
        if uri is not None and budget.take(uri):
            found.setdefault(name, []).append(PagePicture(entry.path, uri))
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
    """An image as it is, and with the map of each label that it was given or should have been."""

    image: PagePicture
    maps: Sequence[tuple[str, PagePicture]] = field(default=())


def cases(
    rows: Iterable[tuple[Entry, Sequence[str]]],
    store: ImageStore,
    explainer: Explainer | None,
    budget: PictureBudget,
    progress: Progress = SILENT,
) -> dict[str, Case]:
    """Images to look at, by path, each with maps for its labels; what cannot be read is left out."""
    found: dict[str, Case] = {}
    wanted = list(rows)
    with progress.track("drawing maps", len(wanted)) as bar:
        for entry, labels in wanted:
            case = _case(entry, labels, store, explainer)
            uris = [case.image.uri, *(picture.uri for _, picture in case.maps)] if case else []
            if case is not None and budget.take("".join(uris)):
                found[entry.path] = case
            bar.advance()
    return found


def _case(entry: Entry, labels: Sequence[str], store: ImageStore, explainer: Explainer | None) -> Case | None:
    try:
        image = open_image(store[entry])
    except FtxError:
        return None
    picture = PagePicture(entry.path, data_uri(image, CASE))
    if explainer is None or not labels:
        return Case(picture)
    pre = explainer.preprocess
    _, maps_NChw = explainer.ask(resize_crop(image, pre)[None])
    if not np.isfinite(maps_NChw).all():
        return Case(picture)
    names = explainer.task.labels.names
    drawn = [
        (label, PagePicture(entry.path, data_uri(overlay(image, maps_NChw[0, names.index(label)], pre), CASE)))
        for label in labels
    ]
    return Case(picture, drawn)


def explainer_of(run: Run, progress: Progress) -> tuple[Explainer | None, str | None]:
    """What draws maps of the run's model; else None, and why there are no maps of its network."""
    try:
        return open_explainer(run, "reciprocam", progress), None
    except FtxError as error:
        return None, error.what
