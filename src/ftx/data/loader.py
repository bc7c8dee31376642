"""Batches of pixels: random views for training, the plain image path for everything else."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial

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


class TrainingImages:
    """The training images, kept decoded and reduced in memory as far as a budget allows.

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
        """Decode what fits into ``budget_bytes``, by default a quarter of the memory that is free.

        Raises: ImageError for an image that cannot be read.
        """
        assert len(images) == len(targets_NC), f"{len(images)} images, {len(targets_NC)} rows of targets"
        self.images = tuple(EncodedImage.of(image) for image in images)
        self.targets_NC = targets_NC
        self.pre = pre
        self.seed = seed
        self.augment: Augment = augment
        self._kept: list[Pixels] = []
        self._keep(available_bytes() // 4 if budget_bytes is None else budget_bytes, progress)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def kept(self) -> int:
        """How many images are in memory: the first so many."""
        return len(self._kept)

    def batches(
        self, indices: Sequence[int] | NDArray[np.intp], batch_size: int, *, epoch: int, skipped: int = 0
    ) -> Generator[tuple[Pixels, Targets], None, None]:
        """Views of the images in the order of ``indices``, prepared two batches ahead; the last may be smaller.

        How an image is varied hangs on the seed, the epoch and the image, not on threads, on memory or on the
        ``skipped`` batches in front, which are not made. Whoever stops early calls ``close``.
        Shape: uint8 [B, H, W, 3] and float32 [B, C].
        """
        order = [int(index) for index in indices]
        drawn_before = occurrences(order)

        def prepare(start: int) -> tuple[Pixels, Targets]:
            chosen = order[start : start + batch_size]
            pixels_BHWC = np.empty((len(chosen), self.pre.height, self.pre.width, 3), dtype=np.uint8)
            for row, index in enumerate(chosen):
                pixels_BHWC[row] = self._view(index, epoch, drawn_before[start + row])
            return pixels_BHWC, self.targets_NC[chosen]

        starts = range(skipped * batch_size, len(order), batch_size)
        return in_threads(prepare, starts, workers=BATCHES_AHEAD, ahead=BATCHES_AHEAD)

    def _view(self, index: int, epoch: int, occurrence: int) -> Pixels:
        reduced_HWC = self._kept[index] if index < self.kept else self._decode(self.images[index])
        if self.augment == "none":
            return reduced_HWC
        rng = view_generator(self.seed, epoch, self.images[index].key, occurrence)
        return random_view(Image.fromarray(reduced_HWC), self.pre, rng)

    def _decode(self, image: ImageLike) -> Pixels:
        decoded = open_image(image)
        if self.augment == "none":  # the final pixels: reducing first would change them
            return resize_crop(decoded, self.pre)
        return np.asarray(reduce(decoded, KEPT_TO_RESIZE, self.pre))

    def _keep(self, budget_bytes: int, progress: Progress) -> None:
        used_bytes = 0
        decoding = progress.track("Decoding training images", len(self))
        with closing(in_threads(self._decode, self.images)) as decoded, decoding as task:
            for pixels_HWC in decoded:
                used_bytes += pixels_HWC.nbytes
                if used_bytes > budget_bytes:
                    break
                self._kept.append(pixels_HWC)
                task.advance()
        if self.kept < len(self):
            progress.note(
                f"{self.kept} of {len(self)} training images fit into {budget_bytes / 1e9:.1f} GB of memory;"
                " the others are decoded each time"
            )


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


def iter_pixels(images: Sequence[ImageLike], pre: Preprocess, batch_size: int) -> Generator[Pixels, None, None]:
    """As ``load_pixels_many``, a batch at a time, for more images than memory holds.

    Shape: [B, H, W, 3]; the last batch may be smaller.
    """

    def load(start: int) -> Pixels:
        return np.stack([load_pixels(image, pre) for image in images[start : start + batch_size]])

    return in_threads(load, range(0, len(images), batch_size), ahead=2 * BATCHES_AHEAD)
