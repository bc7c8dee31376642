"""A time in milliseconds is one: the clock of the test is a model that sleeps."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ftx.data.image_store import ImageLike
from ftx.data.preprocess import Pixels, Preprocess
from ftx.evaluating.answers import files_latency_ms, graph_latency_ms
from ftx.runs.artifacts import RuntimeName
from ftx.runs.compute_precision import F32, ComputePrecision
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
