"""Asking a model in each view, and how long one image takes it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ftx.core.errors import ImageError
from ftx.core.progress import ProgressTask
from ftx.data.image_store import EncodedImage, ImageLike
from ftx.data.preprocess import Pixels, Preprocess, load_pixels
from ftx.runtimes.predictor import BATCH_IMAGES, Predictor, feed_files
from ftx.tasks.thresholds import Floats

# The first calls allocate and compile for a new shape; nine more give a median that one disturbance does not move.
WARM_UP = 2
TIMED = 9


def ask_graph(predictor: Predictor, pixels_NHWC: Pixels, progress: ProgressTask) -> Floats:
    """Logits in the graph view. Shape: [N, H, W, 3] of the network's size -> [N, C]."""
    parts: list[Floats] = []
    for start in range(0, len(pixels_NHWC), BATCH_IMAGES):
        parts.append(predictor.logits(pixels_NHWC[start : start + BATCH_IMAGES]))
        progress.advance(len(parts[-1]))
    return np.concatenate(parts)


def ask_graph_of_files(
    predictor: Predictor, images: Sequence[ImageLike], pre: Preprocess, progress: ProgressTask
) -> Floats:
    """The graph view of files: resized and cropped by the training path, a batch in memory at a time. Shape: [N, C].

    Raises: as ``ask_files``.
    """
    decode = partial(load_pixels, pre=pre)
    return _stacked(feed_files(images, decode, predictor.logits), progress)


def ask_files(predictor: Predictor, images: Sequence[ImageLike], progress: ProgressTask) -> Floats:
    """Logits in the view from files. Shape: [N, C].

    Raises: ImageError for an image that cannot be read, DataError for one that has changed since the run was made.
    """
    return _stacked(predictor.logits_from_files(images), progress)


def _stacked(answers: Iterable[Floats | ImageError], progress: ProgressTask) -> Floats:
    rows: list[Floats] = []
    for answer in answers:
        if isinstance(answer, ImageError):
            raise answer
        rows.append(answer)
        progress.advance()
    return np.stack(rows)


def graph_latency_ms(predictor: Predictor, pixels_NHWC: Pixels) -> float:
    """Median time of one image whose pixels are in memory."""
    return _median_ms([lambda i=i: predictor.logits(pixels_NHWC[i : i + 1]) for i in range(len(pixels_NHWC))])


def files_latency_ms(predictor: Predictor, images: Sequence[ImageLike]) -> float:
    """Median time of one image from its file, decoding included, but no hash: a device knows none to check."""
    plain = [replace(EncodedImage.of(image), sha256=None) for image in images]
    return _median_ms([lambda image=image: list(predictor.logits_from_files([image])) for image in plain])


def _median_ms(calls: Sequence[Callable[[], object]]) -> float:
    times: list[float] = []
    for index in range(WARM_UP + TIMED):
        start = time.perf_counter()
        calls[index % len(calls)]()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[WARM_UP:])
