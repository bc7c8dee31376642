"""What every runtime answers, and how files are fed to one in batches.

Shapes: N images, H × W pixels, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from traceback import clear_frames
from typing import Literal, Protocol

import numpy as np

from ftx.core.errors import ImageError
from ftx.data.image_store import ImageLike
from ftx.data.preprocess import Pixels, Preprocess
from ftx.data.threads import cores, in_threads
from ftx.runs.artifacts import RuntimeName
from ftx.runs.compute_precision import ComputePrecision
from ftx.tasks.base import Task
from ftx.tasks.thresholds import Floats

# f32: pinned, for comparisons. auto: whatever the runtime chooses on this machine, as it is deployed.
Compute = Literal["f32", "auto"]

# Enough for the matrix products to fill a CPU's cores; more only costs memory.
BATCH_IMAGES = 16
# Decoded photographs that wait for a batch: two of 12 megapixels. As many as there are cores are being decoded.
BATCH_BYTES = 80_000_000
# Those that are being decoded, or are decoded and wait for their turn: sixteen and more of 20 megapixels.
AHEAD_BYTES = 1_000_000_000


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

    def logits(self, pixels_NHWC: Pixels) -> Floats:
        """The graph view: answers to pixels that the training path has already resized and cropped.

        Shape: [N, H, W, 3] of the network's size -> [N, C].
        """
        ...

    def logits_from_files(self, images: Iterable[ImageLike]) -> Iterator[Floats | ImageError]:
        """The view from files, on disk or sent as bytes: one answer each, in order, by the runtime's own image path.

        Shape: [C] each; an image that cannot be read gives its error instead.
        Raises: DataError for an image of a run that has changed.
        """
        ...


def feed_files(
    images: Iterable[ImageLike],
    decode: Callable[[ImageLike], Pixels],
    answer: Callable[[Pixels], Floats],
    *,
    weigh: Callable[[ImageLike], int] | None = None,
) -> Iterator[Floats | ImageError]:
    """Answer files in order; neighbours of one size share a batch, for a batch holds images of one size only.

    ``weigh`` tells the bytes that ``decode`` will give, where these may be many.
    """

    def attempt(image: ImageLike) -> Pixels | ImageError:
        try:
            return decode(image)
        except ImageError as error:
            return _without_locals(error)

    waiting: list[Pixels | ImageError] = []
    shape: tuple[int, ...] | None = None
    room = 0
    # Decoded in threads while the model computes.
    with closing(in_threads(attempt, images, ahead=cores() + 1, weigh=weigh, most_bytes=AHEAD_BYTES)) as decoded:
        for item in decoded:
            if not isinstance(item, ImageError):
                if item.shape != shape or room == 0:
                    yield from _answer_waiting(waiting, answer)
                    waiting, shape = [], item.shape
                    room = max(1, min(BATCH_IMAGES, BATCH_BYTES // item.nbytes))
                room -= 1
            waiting.append(item)
    yield from _answer_waiting(waiting, answer)


def _without_locals(error: ImageError) -> ImageError:
    """The error, whose tracebacks no longer hold the file's bytes: of many broken files in a row, all errors wait."""
    link: BaseException | None = error
    while link is not None:
        clear_frames(link.__traceback__)
        link = link.__context__
    return error


def _answer_waiting(
    waiting: list[Pixels | ImageError], answer: Callable[[Pixels], Floats]
) -> Iterator[Floats | ImageError]:
    images = [item for item in waiting if not isinstance(item, ImageError)]
    answers = iter(answer(np.stack(images)) if images else ())
    for item in waiting:
        yield item if isinstance(item, ImageError) else next(answers)
