"""Batches of pixels: random views for training, the plain image path for everything else."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ftx.core.byte_store import ByteStore
from ftx.core.progress import SILENT, Progress, Stopwatch
from ftx.data.augment import random_view
from ftx.data.image_store import EncodedImage, ImageLike
from ftx.data.pixel_store import PixelStore
from ftx.data.preprocess import Pixels, Preprocess, load_pixels
from ftx.data.random_draws import occurrences, view_generator
from ftx.data.threads import in_threads
from ftx.recipe.sections import Augment
from ftx.tasks.base import Targets

# Two batches are prepared while one trains: one core's worth of work each, more would only take memory.
PREFETCHED_BATCHES = 2


class ImageView(NamedTuple):
    """How an image is to be seen: as the ``occurrence``-th time in an epoch, or in epoch 0 as it is."""

    image: int
    epoch: int
    occurrence: int = 0


class TrainingImages:
    """Images of a split, each decoded at its first need and kept, reduced, as far as the store allows.

    The others are decoded again for each view, with the same result: which images are kept changes only the speed.
    """

    def __init__(
        self,
        images: Sequence[ImageLike],
        targets_NC: Targets,
        pre: Preprocess,
        *,
        seed: int = 0,
        augment: Augment = "light",
        pixels: PixelStore | None = None,
    ) -> None:
        """Images to be kept in ``pixels``, by default in a file without a name, for as long as this object lives."""
        assert len(images) == len(targets_NC), f"{len(images)} images, {len(targets_NC)} rows of targets"
        self.images = tuple(EncodedImage.of(image) for image in images)
        self.targets_NC = targets_NC
        self.pre = pre
        self.seed = seed
        self.augment: Augment = augment
        # While whoever computes has nothing to compute on.
        self.waiting = Stopwatch()
        self._pixels = PixelStore(pre, ByteStore(None, math.inf)) if pixels is None else pixels

    def __len__(self) -> int:
        return len(self.images)

    def seen(self, order: Sequence[int] | NDArray[np.intp], epoch: int) -> list[ImageView]:
        """How the images of an epoch are to be seen, in its order.

        How an image is augmented depends on the seed, the epoch and the image, not on threads or on memory.
        """
        indices = [int(index) for index in order]
        return [ImageView(index, epoch, before) for index, before in zip(indices, occurrences(indices), strict=True)]

    def views(self, chunks: Sequence[Sequence[ImageView]]) -> Generator[Pixels, None, None]:
        """The pixels of each chunk of views, two chunks of them prefetched; call ``close`` to stop early.

        Shape: uint8 [B, H, W, 3].
        Raises: ImageError for an image that cannot be read.
        """
        with closing(
            in_threads(self._chunk, chunks, workers=PREFETCHED_BATCHES, prefetch=PREFETCHED_BATCHES)
        ) as prepared:
            for _ in chunks:
                with self.waiting:
                    pixels_BHWC = next(prepared)
                yield pixels_BHWC

    def _chunk(self, views: Sequence[ImageView]) -> Pixels:
        pixels_BHWC = np.empty((len(views), self.pre.height, self.pre.width, 3), dtype=np.uint8)
        for row, view in enumerate(views):
            pixels_BHWC[row] = self._view(view)
        return pixels_BHWC

    def _view(self, view: ImageView) -> Pixels:
        image = self.images[view.image]
        if view.epoch == 0 or self.augment == "none":
            return self._pixels.get(image, "final")
        rng = view_generator(self.seed, view.epoch, image.key, view.occurrence)
        return random_view(Image.fromarray(self._pixels.get(image, "reduced")), self.pre, rng)


def in_batches(views: Sequence[ImageView], batch_size: int, skipped: int) -> list[Sequence[ImageView]]:
    """Views in batches, but for the first ``skipped``; the last may be smaller."""
    return [views[start : start + batch_size] for start in range(skipped * batch_size, len(views), batch_size)]


def load_pixels_many(images: Sequence[ImageLike], pre: Preprocess, progress: Progress = SILENT) -> Pixels:
    """All images through the image path, decoded in threads.

    Shape: [N, H, W, 3], at the network's size.
    Raises: ImageError for the first image that cannot be read.
    """
    pixels_NHWC = np.empty((len(images), pre.height, pre.width, 3), dtype=np.uint8)
    with progress.track("Reading images", len(images)) as task:
        for row, pixels_HWC in enumerate(in_threads(partial(load_pixels, pre=pre), images)):
            pixels_NHWC[row] = pixels_HWC
            task.advance()
    return pixels_NHWC
