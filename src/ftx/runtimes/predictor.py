"""What every runtime answers, and how files are fed to one in batches.

Shapes: N images, H × W pixels, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from traceback import clear_frames
from typing import Protocol, TypeVar

import numpy as np

from ftx.core.errors import ImageError
from ftx.core.processors import cores
from ftx.data.image_store import ImageLike
from ftx.data.preprocess import Pixels, Preprocess
from ftx.data.threads import in_threads
from ftx.runs.artifacts import RuntimeName
from ftx.runs.compute_precision import ComputePrecision
from ftx.tasks.base import Task
from ftx.tasks.thresholds import Floats

# What a model calls its input and its first output.
INPUT = "image"
LOGITS = "logits"
# What a model that was exported with maps calls them, as Model API does.
MAPS = "saliency_map"
# Enough for the matrix products to fill a CPU's cores; more only costs memory.
BATCH_IMAGES = 16
# Pixels in the batches that are computed at a time: sixteen images of 640 x 480. To resize them a graph takes 24 times
# these bytes (measured).
BATCH_BYTES = 15_000_000
# What decoding takes of the images that are being decoded, or wait for their turn: two of 24 megapixels.
AHEAD_BYTES = 500_000_000

_Given = TypeVar("_Given")
_Items = Sequence[Pixels | ImageError]
_Outcomes = list[Floats | ImageError]


class Predictor(Protocol):
    """A model that is ready to answer, whatever computes it."""

    @property
    def name(self) -> RuntimeName:
        """The runtime."""
        ...

    @property
    def task(self) -> Task:
        """What its logits mean, and the labels they are for."""
        ...

    @property
    def preprocess(self) -> Preprocess:
        """The image path that the model was trained with."""
        ...

    @property
    def compute(self) -> ComputePrecision:
        """The precision it computes in."""
        ...

    @property
    def model_info(self) -> Mapping[str, str]:
        """Model API's metadata in the model; empty if its format has none."""
        ...

    def logits(self, pixels_NHWC: Pixels) -> Floats:
        """The graph view: answers to pixels that the training path has already resized and cropped.

        Shape: [N, H, W, 3] of the network's size -> [N, C].
        """
        ...

    def logits_from_files(self, images: Iterable[ImageLike | ImageError]) -> Iterator[Floats | ImageError]:
        """The view from files, on disk or sent as bytes: one answer each, in order, by the runtime's own image path.

        Shape: [C] each; an image that cannot be read gives its error instead.
        Raises: DataError for an image of a run that has changed.
        """
        ...


def feed_files(
    images: Iterable[_Given | ImageError],
    decode: Callable[[_Given], Pixels],
    logits: Callable[[Pixels], Floats],
    *,
    mapped: Callable[[Callable[[_Items], _Outcomes], Iterable[_Items]], Iterable[_Outcomes]] = map,
    batch: int = BATCH_IMAGES,
    at_a_time: int = 1,
    size_of: Callable[[_Given | ImageError], int] | None = None,
) -> Iterator[Floats | ImageError]:
    """The logits of images, in order; neighbours of one size share a batch. An error takes the place of its image.

    ``mapped`` runs the model on the batches as they are decoded, and yields in order, as ``map`` does; it may run
    ``at_a_time`` together. ``size_of`` returns the bytes that decoding an image takes, if these may be many.
    """

    def attempt(image: _Given | ImageError) -> Pixels | ImageError:
        try:
            return image if isinstance(image, ImageError) else decode(image)
        except ImageError as error:
            return _without_locals(error)

    def outcomes(items: _Items) -> _Outcomes:
        pixels = [item for item in items if not isinstance(item, ImageError)]
        rows = iter(logits(np.stack(pixels)) if pixels else ())
        return [item if isinstance(item, ImageError) else next(rows) for item in items]

    # Decoded in threads while the model computes.
    with closing(in_threads(attempt, images, prefetch=cores() + 1, size_of=size_of, most_bytes=AHEAD_BYTES)) as decoded:
        for computed in mapped(outcomes, _of_one_size(decoded, batch, BATCH_BYTES // at_a_time)):
            yield from computed


def _of_one_size(
    decoded: Iterable[Pixels | ImageError], batch: int, batch_bytes: int
) -> Iterator[list[Pixels | ImageError]]:
    """Neighbours of one size together, at most so many and so many bytes; an error goes with those before it."""
    group: list[Pixels | ImageError] = []
    shape: tuple[int, ...] | None = None
    room = 0
    for item in decoded:
        if not isinstance(item, ImageError):
            if shape is not None and (item.shape != shape or room == 0):
                yield group
                group, shape = [], None
            if shape is None:
                shape, room = item.shape, max(1, min(batch, batch_bytes // item.nbytes))
            room -= 1
        group.append(item)
    if group:
        yield group


def _without_locals(error: ImageError) -> ImageError:
    """The error, whose tracebacks no longer hold the file's bytes: of many broken files in a row, all errors wait."""
    link: BaseException | None = error
    while link is not None:
        clear_frames(link.__traceback__)
        link = link.__context__
    return error
