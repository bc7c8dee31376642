"""A time in milliseconds is one: the clock of the test is a model that sleeps."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import Listener

from ftx.data.image_store import ImageLike
from ftx.data.preprocess import Pixels, Preprocess
from ftx.evaluating.latency import files_latency_ms, graph_latency_ms
from ftx.evaluating.measure import graph_logits
from ftx.runs.artifacts import RuntimeName
from ftx.runs.compute_precision import F32, ComputePrecision
from ftx.runtimes.predictor import BATCH_IMAGES
from ftx.tasks.base import Task
from ftx.tasks.labels import Labels
from ftx.tasks.multiclass import Multiclass
from ftx.tasks.thresholds import Floats, Thresholds

SLEEP_S = 0.01


@dataclass
class Sleeper:
    """A model that does nothing, for so long."""

    task: Task
    preprocess: Preprocess
    name: RuntimeName = "torch"
    compute: ComputePrecision = F32

    def logits(self, pixels_NHWC: Pixels) -> Floats:
        time.sleep(SLEEP_S)
        return np.zeros((len(pixels_NHWC), 2), np.float32)

    def logits_from_files(self, images: Iterable[ImageLike]) -> Iterator[Floats]:
        for _ in images:
            yield self.logits(np.zeros((1, 4, 4, 3), np.uint8))[0]


def test_a_latency_is_that_of_one_image_in_milliseconds() -> None:
    pre = Preprocess(height=4, width=4, resize=4, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))
    sleeper = Sleeper(Multiclass(Labels.multiclass("ab"), Thresholds()), pre)
    # No sleep is shorter than what was asked for; a busy machine makes it longer, but not a hundred times.
    for latency_ms in (
        graph_latency_ms(sleeper, np.zeros((3, 4, 4, 3), np.uint8)),
        files_latency_ms(sleeper, [Path("a.png"), Path("b.png")]),
    ):
        assert 1000 * SLEEP_S <= latency_ms < 100 * 1000 * SLEEP_S


class Counting(Sleeper):
    """Answers with the first pixel of each image, and counts what it is asked for at a time."""

    def __init__(self, pre: Preprocess) -> None:
        super().__init__(Multiclass(Labels.multiclass("ab"), Thresholds()), pre)
        self.asked: list[int] = []

    def logits(self, pixels_NHWC: Pixels) -> Floats:
        self.asked.append(len(pixels_NHWC))
        return np.repeat(pixels_NHWC[:, 0, 0, :1].astype(np.float32), 2, axis=1)


def test_images_are_asked_about_in_batches_and_answered_in_order() -> None:
    pre = Preprocess(height=4, width=4, resize=4, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))
    model, listener = Counting(pre), Listener()
    count = 2 * BATCH_IMAGES + 3
    pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 3))
    found = graph_logits(model, pixels, listener)
    assert model.asked == [BATCH_IMAGES, BATCH_IMAGES, 3]
    assert found[:, 0].tolist() == list(range(count))
    assert listener.steps == count


def test_a_latency_is_the_median_behind_the_first_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first are slow, and one in between was disturbed: neither is what an image takes."""
    seconds = iter([900, 800, 5, 1, 2, 3, 4, 700, 6, 7, 8])
    now = 0.0

    class Slow(Counting):
        def logits(self, pixels_NHWC: Pixels) -> Floats:
            nonlocal now
            now += next(seconds)
            return super().logits(pixels_NHWC)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    pre = Preprocess(height=4, width=4, resize=4, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))
    model = Slow(pre)
    assert graph_latency_ms(model, np.zeros((3, 4, 4, 3), np.uint8)) == 5000
    assert set(model.asked) == {1}
    assert next(seconds, None) is None
