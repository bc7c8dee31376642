"""What every runtime computes, and how files are fed to one in batches.

Shapes: N images, H × W pixels, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from traceback import clear_frames
from typing import Literal, Protocol, TypeVar, runtime_checkable

import numpy as np

from ftx.core.errors import ImageError
from ftx.core.processors import cores
from ftx.data.image_store import ImageLike
from ftx.data.preprocess import Pixels, Preprocess
from ftx.data.threads import in_threads
from ftx.runs.artifacts import RuntimeName
from ftx.runs.compute_precision import ComputePrecision
from ftx.runtimes.uncertainty import Uncertainty
from ftx.tasks.base import Task
from ftx.tasks.thresholds import Floats

# The names of a model's input and of its first output.
INPUT = "image"
LOGITS = "logits"
# Model API's name for the maps of a model that was exported with them.
MAPS = "saliency_map"
# In this order; a model without maps has only the first. Model API finds the others by these names.
OUTPUTS = (LOGITS, MAPS, "feature_vector")
# Enough for the matrix products to fill a CPU's cores: more only takes memory.
BATCH_IMAGES = 16
# Pixels in the batches that are computed at a time: sixteen images of 640 x 480. To resize them a graph takes 24 times
# these bytes (measured).
BATCH_BYTES = 15_000_000
# The most memory for decoding images before the model needs them: two of 24 megapixels.
PREFETCH_BYTES = 500_000_000

_Given = TypeVar("_Given")
_Row = TypeVar("_Row")
_Items = Sequence[Pixels | ImageError]
# Which of its two models predicted an image, in an int8-checked model; None in any other.
RanModel = Literal["int8", "bf16", "fp32"]


class Predictor(Protocol):
    """A model that is ready to run, whatever computes it.

    ``task`` has the labels of its logits, ``preprocess`` is the preprocessing of its training, and ``compute`` the
    precision that it computes in. ``model_info`` is Model API's metadata in the model, empty if its format has none.
    ``uncertainty`` is how sure the model is of an image; None before ``load`` sets it, and if it was not calibrated.
    """

    name: RuntimeName
    task: Task
    preprocess: Preprocess
    compute: ComputePrecision
    model_info: dict[str, str]
    uncertainty: Uncertainty | None

    def logits(self, pixels_NHWC: Pixels) -> Floats:
        """The graph view: logits of pixels that the training's preprocessing has already resized and cropped.

        Shape: [N, H, W, 3] of the network's size -> [N, C].
        """
        ...

    def logits_from_files(self, images: Iterable[ImageLike | ImageError]) -> Iterator[Floats | ImageError]:
        """The view from files, on disk or in memory: one item each, in order, by the runtime's own preprocessing.

        Shape: [C] each; an image that cannot be read gives its error instead.
        Raises: DataError for an image of a run that has changed.
        """
        ...


@runtime_checkable
class RanPredictor(Protocol):
    """A predictor that reports which model ran last for each image."""

    def ran_from_files(
        self, images: Iterable[ImageLike | ImageError]
    ) -> Iterator[tuple[Floats, RanModel | None] | ImageError]:
        """As ``logits_from_files``, with the model that ran. Shape: [C] each."""
        ...


def with_ran(
    predictor: Predictor, images: Iterable[ImageLike | ImageError]
) -> Iterator[tuple[Floats | ImageError, RanModel | None]]:
    """The logits of images, or why there are none; and which model of an int8-checked one computed them."""
    if isinstance(predictor, RanPredictor):
        for one in predictor.ran_from_files(images):
            yield (one, None) if isinstance(one, ImageError) else one
    else:
        for outcome in predictor.logits_from_files(images):
            yield outcome, None


def feed_files(
    images: Iterable[_Given | ImageError],
    decode: Callable[[_Given], Pixels],
    logits: Callable[[Pixels], Iterable[_Row]],
    *,
    mapped: Callable[
        [Callable[[_Items], list[_Row | ImageError]], Iterable[_Items]], Iterable[list[_Row | ImageError]]
    ] = map,
    batch: int = BATCH_IMAGES,
    at_a_time: int = 1,
    size_of: Callable[[_Given | ImageError], int] | None = None,
) -> Iterator[_Row | ImageError]:
    """The logits of images, in order; neighbours of one size share a batch. An error takes the place of its image.

    ``mapped`` runs the model on the batches as they are decoded, and yields in order, as ``map`` does; it may run
    ``at_a_time`` together. ``size_of`` returns the bytes that decoding an image takes, if these may be many.
    """

    def attempt(image: _Given | ImageError) -> Pixels | ImageError:
        try:
            return image if isinstance(image, ImageError) else decode(image)
        except ImageError as error:
            return _without_locals(error)

    def outcomes(items: _Items) -> list[_Row | ImageError]:
        pixels = [item for item in items if not isinstance(item, ImageError)]
        rows = iter(logits(np.stack(pixels)) if pixels else ())
        return [item if isinstance(item, ImageError) else next(rows) for item in items]

    # Decoded in threads while the model computes.
    with closing(
        in_threads(attempt, images, prefetch=cores() + 1, size_of=size_of, most_bytes=PREFETCH_BYTES)
    ) as decoded:
        for computed in mapped(outcomes, _of_one_size(decoded, batch, BATCH_BYTES // at_a_time)):
            yield from computed


def _of_one_size(
    decoded: Iterable[Pixels | ImageError], batch: int, batch_bytes: int
) -> Iterator[list[Pixels | ImageError]]:
    """Group neighbours of one size, up to both limits; an error belongs to the group before it."""
    group: list[Pixels | ImageError] = []
    shape: tuple[int, ...] | None = None
    free = 0
    for item in decoded:
        if not isinstance(item, ImageError):
            if shape is not None and (item.shape != shape or free == 0):
                yield group
                group, shape = [], None
            if shape is None:
                shape, free = item.shape, max(1, min(batch, batch_bytes // item.nbytes))
            free -= 1
        group.append(item)
    if group:
        yield group


def _without_locals(error: ImageError) -> ImageError:
    """The error without the file's bytes in its tracebacks: many errors wait if many broken files follow each other."""
    link: BaseException | None = error
    while link is not None:
        clear_frames(link.__traceback__)
        link = link.__context__
    return error
