"""Batches of pixels: random views for training, the plain image path for everything else."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ftx.core.memory import available_bytes
from ftx.core.progress import SILENT, Progress
from ftx.data.augment import random_view
from ftx.data.image_store import EncodedImage, ImageLike, open_image
from ftx.data.preprocess import Pixels, Preprocess, load_pixels, resize_crop
from ftx.data.random_draws import occurrences, view_generator
from ftx.data.threads import in_threads
from ftx.recipe.sections import Augment
from ftx.tasks.base import Targets

# An image is kept at most so large that it covers this many times the network's resize: the smallest crop
# (0.6 of the area, so 0.77 of a side) is then still reduced, by 1.16, and never blown up.
KEPT_TO_RESIZE = 1.5

# Two batches are prepared while one trains: one core's worth of work each, more would only take memory.
BATCHES_AHEAD = 2


class View(NamedTuple):
    """How an image is to be seen: as the ``occurrence``-th time in an epoch, or in epoch 0 as it is."""

    image: int
    epoch: int
    occurrence: int = 0


class TrainingImages:
    """The training images, each decoded at its first need and kept, reduced, as far as a budget of memory allows.

    What is over the budget is decoded anew for each view, with the same result: which images fit
    changes the speed and nothing else.
    """

    def __init__(
        self,
        images: Sequence[ImageLike],
        targets_NC: Targets,
        pre: Preprocess,
        *,
        seed: int = 0,
        augment: Augment = "light",
        budget_bytes: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """Images of a split, to be kept in ``budget_bytes``, by default a quarter of the memory that is free."""
        assert len(images) == len(targets_NC), f"{len(images)} images, {len(targets_NC)} rows of targets"
        self.images = tuple(EncodedImage.of(image) for image in images)
        self.targets_NC = targets_NC
        self.pre = pre
        self.seed = seed
        self.augment: Augment = augment
        # How long whoever computes has waited for pixels until now.
        self.waited_s = 0.0
        self._kept: dict[int, Pixels] = {}
        self._budget_bytes = available_bytes() // 4 if budget_bytes is None else budget_bytes
        self._left_bytes, self._full, self._keeping = self._budget_bytes, False, Lock()
        self._progress, self._told = progress, False

    def __len__(self) -> int:
        return len(self.images)

    @property
    def kept(self) -> int:
        """How many images are in memory."""
        return len(self._kept)

    def batches(
        self, indices: Sequence[int] | NDArray[np.intp], batch_size: int, *, epoch: int, skipped: int = 0
    ) -> Generator[tuple[Pixels, Targets], None, None]:
        """Views of the images in the order of ``indices``, prepared two batches ahead; the last may be smaller.

        How an image is varied hangs on the seed, the epoch and the image, not on threads, on memory or on the
        ``skipped`` batches in front, which are not made. Whoever stops early calls ``close``.
        Shape: uint8 [B, H, W, 3] and float32 [B, C].
        Raises: ImageError for an image that cannot be read.
        """
        order = [int(index) for index in indices]
        seen = [View(index, epoch, before) for index, before in zip(order, occurrences(order), strict=True)]
        chunks = in_batches(seen, batch_size, skipped)
        with closing(self.views(chunks)) as batches:
            for pixels_BHWC, chunk in zip(batches, chunks, strict=True):
                yield pixels_BHWC, self.targets_NC[[view.image for view in chunk]]

    def views(self, chunks: Sequence[Sequence[View]]) -> Generator[Pixels, None, None]:
        """The pixels of each chunk of views, prepared two chunks ahead. Shape: uint8 [B, H, W, 3]."""
        started = time.perf_counter()
        with closing(in_threads(self._chunk, chunks, workers=BATCHES_AHEAD, ahead=BATCHES_AHEAD)) as prepared:
            for pixels_BHWC in prepared:
                self.waited_s += time.perf_counter() - started
                self._tell_what_is_not_kept()
                yield pixels_BHWC
                started = time.perf_counter()

    def _chunk(self, views: Sequence[View]) -> Pixels:
        pixels_BHWC = np.empty((len(views), self.pre.height, self.pre.width, 3), dtype=np.uint8)
        for row, view in enumerate(views):
            pixels_BHWC[row] = self._view(view)
        return pixels_BHWC

    def _view(self, view: View) -> Pixels:
        image = self.images[view.image]
        if view.epoch == 0 and self.augment != "none":
            return load_pixels(image, self.pre)  # what is kept is reduced, which changes the pixels
        reduced_HWC = self._kept.get(view.image)
        if reduced_HWC is None:
            reduced_HWC = self._decode(image)
            self._keep(view.image, reduced_HWC)
        if self.augment == "none":
            return reduced_HWC
        rng = view_generator(self.seed, view.epoch, image.key, view.occurrence)
        return random_view(Image.fromarray(reduced_HWC), self.pre, rng)

    def _decode(self, image: ImageLike) -> Pixels:
        decoded = open_image(image)
        if self.augment == "none":  # the final pixels: reducing first would change them
            return resize_crop(decoded, self.pre)
        return np.asarray(reduce(decoded, KEPT_TO_RESIZE, self.pre))

    def _keep(self, index: int, pixels_HWC: Pixels) -> None:
        with self._keeping:
            if index in self._kept:
                return
            if pixels_HWC.nbytes > self._left_bytes:
                self._full = True
                return
            self._left_bytes -= pixels_HWC.nbytes
            self._kept[index] = pixels_HWC

    def _tell_what_is_not_kept(self) -> None:
        """Say once, and not from a thread, that memory is too small for all images."""
        if self._full and not self._told:
            self._told = True
            self._progress.note(
                f"{len(self)} images do not fit into {self._budget_bytes / 1e9:.1f} GB of memory, {self.kept} so far:"
                " the others are decoded each time"
            )


def in_batches(views: Sequence[View], batch_size: int, skipped: int) -> list[Sequence[View]]:
    """Views in batches, but for the first ``skipped``; the last may be smaller."""
    return [views[start : start + batch_size] for start in range(skipped * batch_size, len(views), batch_size)]


def reduce(image: Image.Image, times: float, pre: Preprocess) -> Image.Image:
    """The image so small that it just covers the resize so many times, in the recipe's interpolation, antialiased."""
    box_height, box_width = (int(side * times) for side in pre.box)
    scale = max(box_height / image.height, box_width / image.width)
    if scale >= 1:
        return image
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return image.resize(size, Image.Resampling[pre.interpolation.upper()])


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
