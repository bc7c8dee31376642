"""The time of one image, on an idle machine: from its file, or from its pixels."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ftx.data.image_store import EncodedImage, ImageLike
from ftx.data.preprocess import Pixels
from ftx.runtimes.predictor import Predictor

# The first calls allocate and compile for a new shape; nine more give a median that one disturbance does not change.
WARM_UP = 2
TIMED = 9


def graph_latency_ms(predictor: Predictor, pixels_NHWC: Pixels) -> float:
    """Median time of one image whose pixels are in memory."""
    return _median_ms([lambda i=i: predictor.logits(pixels_NHWC[i : i + 1]) for i in range(len(pixels_NHWC))])


def files_latency_ms(predictor: Predictor, images: Sequence[ImageLike]) -> float:
    """Median time of one image from its file, decoding included, but no hash: a device has none to check."""
    plain = [replace(EncodedImage.of(image), sha256=None) for image in images]
    return _median_ms([lambda image=image: list(predictor.logits_from_files([image])) for image in plain])


def _median_ms(calls: Sequence[Callable[[], object]]) -> float:
    times: list[float] = []
    for index in range(WARM_UP + TIMED):
        start = time.perf_counter()
        calls[index % len(calls)]()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[WARM_UP:])
