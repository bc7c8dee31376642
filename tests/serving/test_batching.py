"""Batches of what waits, each image's answer its own, whatever else is asked for at the time."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import colour_logits, colour_pixels

from ftx.core.errors import ExportError
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.serving import batching
from ftx.serving.batching import Batcher

# The model's own sums are in f32: a few units of the last place of numbers up to 6.
LOGITS = 1e-5


def test_each_image_gets_its_own_answer_in_batches_of_one_size(colour_ir: Path) -> None:
    counts: list[int] = []
    batcher = Batcher(OpenVinoPredictor(colour_ir, streams=1, batch=4), counts.append)
    sizes = [(16, 16), (16, 16), (24, 40)]
    images = [colour_pixels(index % 3, *sizes[index % 3], index) for index in range(300)]
    answers = [batcher.submit(image) for image in images]
    for image, answer in zip(images, answers, strict=True):
        np.testing.assert_allclose(answer.result(30)["logits"], colour_logits(image[None])[0], rtol=0, atol=LOGITS)
        assert answer.result()["saliency_map"].shape == (3, 2, 2)
    assert sum(counts) == 300
    assert max(counts) == 4
    assert len(counts) < 150  # neighbours of one size went together
    batcher.close()


def test_what_waits_is_answered_after_the_queue_is_closed(colour_ir: Path) -> None:
    batcher = Batcher(OpenVinoPredictor(colour_ir, streams=2, batch=2), lambda images: None)
    answers = [batcher.submit(colour_pixels(0, 16, 16, seed)) for seed in range(50)]
    batcher.close()
    assert not wait(answers, 30).not_done
    assert all(answer.exception() is None for answer in answers)


def test_whoever_went_away_is_not_computed(colour_ir: Path) -> None:
    counts: list[int] = []
    busy, goes_on = threading.Event(), threading.Event()

    def counted(images: int) -> None:  # called by the one stream, which others wait for meanwhile
        counts.append(images)
        busy.set()
        assert goes_on.wait(30)

    batcher = Batcher(OpenVinoPredictor(colour_ir, streams=1, batch=4), counted)
    first = batcher.submit(colour_pixels(0, 16, 16, 0))
    assert busy.wait(30)
    answers = [batcher.submit(colour_pixels(0, 8, 8, seed)) for seed in range(40)]
    cancelled = [answer for answer in answers[20:] if answer.cancel()]
    goes_on.set()
    first.result(30)
    batcher.close()
    assert not wait([answer for answer in answers if answer not in cancelled], 30).not_done
    assert len(cancelled) == 20
    assert sum(counts) == 1 + 20


def test_a_batch_that_all_have_given_up_ends_no_thread(colour_ir: Path) -> None:
    busy, goes_on = threading.Event(), threading.Event()

    def counted(images: int) -> None:
        busy.set()
        assert goes_on.wait(30)

    batcher = Batcher(OpenVinoPredictor(colour_ir, streams=1, batch=4), counted)
    first = batcher.submit(colour_pixels(0, 16, 16, 0))
    assert busy.wait(30)
    given_up = [batcher.submit(colour_pixels(0, 8, 8, seed)) for seed in range(4)]  # a whole batch
    assert all(answer.cancel() for answer in given_up)
    last = batcher.submit(colour_pixels(0, 16, 16, 1))
    goes_on.set()
    first.result(30)
    last.result(30)
    assert not batcher.ended
    batcher.close()


class Gate:
    """Told of each batch; streams stop at it until it opens."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self._entered, self._open = threading.Semaphore(0), threading.Event()

    def __call__(self, images: int) -> None:
        self.counts.append(images)
        self._entered.release()
        assert self._open.wait(30)

    def answered(self, batcher: Batcher, streams: int, images: Sequence[np.ndarray]) -> tuple[list[int], list[int]]:
        """How many went together of images that wait while all streams are busy, and in which order they ended."""
        first: list[Future[batching.ImageOutputs]] = []
        for _ in range(streams):
            first.append(batcher.submit(colour_pixels(0, 4, 4, 0)))
            assert self._entered.acquire(timeout=30)
        ended: list[int] = []
        answers = [batcher.submit(image) for image in images]
        for place, answer in enumerate(answers):
            answer.add_done_callback(lambda _done, place=place: ended.append(place))
        assert len(batcher) == len(images)
        self._open.set()
        batcher.close()
        batcher.join()
        for image, answer in zip(images, answers, strict=True):
            np.testing.assert_allclose(answer.result()["logits"], colour_logits(image[None])[0], rtol=0, atol=LOGITS)
        return self.counts[streams:], ended


def test_a_batch_takes_no_more_bytes_than_are_its_streams(colour_ir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = colour_pixels(0, 16, 16, 0), colour_pixels(1, 40, 32, 0)
    predictor = OpenVinoPredictor(colour_ir, streams=2, batch=5)
    streams = predictor.streams  # of one core one
    # Each stream has room for three small images, and for less than one of the large ones, which go alone.
    monkeypatch.setattr(batching, "BATCH_BYTES", streams * (4 * small.nbytes - 1))
    gate = Gate()
    counts, _ = gate.answered(Batcher(predictor, gate), streams, 10 * [small])
    assert sorted(counts) == [1, 3, 3, 3]
    gate = Gate()
    counts, _ = gate.answered(Batcher(predictor, gate), streams, 4 * [large])
    assert counts == [1, 1, 1, 1]


def test_whoever_came_first_is_answered_first_whatever_the_sizes(colour_ir: Path) -> None:
    sizes = ((16, 16), (8, 24), (24, 8))
    images = [colour_pixels(number % 3, *sizes[size], number) for number, size in enumerate((0, 1, 2, 1, 0, 2, 1, 0))]
    gate = Gate()
    counts, ended = gate.answered(Batcher(OpenVinoPredictor(colour_ir, streams=1, batch=2), gate), 1, images)
    # The oldest and the next of its size; what was passed over keeps its place.
    assert ended == [0, 4, 1, 3, 2, 5, 6, 7]
    assert counts == [2, 2, 2, 1, 1]


def test_few_are_passed_over_in_the_search_for_one_size(colour_ir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "LOOKED_AT", 2)
    images = [colour_pixels(0, height, 8, height) for height in (8, 9, 8, 10, 11, 8, 9)]
    gate = Gate()
    counts, ended = gate.answered(Batcher(OpenVinoPredictor(colour_ir, streams=1, batch=4), gate), 1, images)
    assert ended == [0, 2, 1, 3, 4, 5, 6]
    assert counts == [2, 1, 1, 1, 1, 1]


@pytest.mark.representative
def test_the_first_images_of_a_process_come_to_two_streams_at_once(colour_ir: Path) -> None:
    program = f"""
from pathlib import Path
import numpy as np
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.serving import batching
from ftx.serving.batching import Batcher
batcher = Batcher(OpenVinoPredictor(Path({str(colour_ir)!r}), streams=2, batch=1), lambda images: None)
for answer in [batcher.submit(np.zeros((8, 8, 3), np.uint8)) for _ in range(20)]:
    answer.result(30)
batcher.close()
batcher.join()
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr


def test_two_streams_may_look_numpy_up_at_once(colour_ir: Path) -> None:
    """In a process of its own, on a machine that is so busy that the first to look it up is interrupted."""
    program = f"""
import faulthandler, time
from pathlib import Path
import numpy as np
from numpy.lib import NumpyVersion
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.serving.batching import Batcher
really = NumpyVersion.__init__
def slowly(self, text):
    time.sleep(0.3)
    really(self, text)
NumpyVersion.__init__ = slowly
faulthandler.dump_traceback_later(20, exit=True)
batcher = Batcher(OpenVinoPredictor(Path({str(colour_ir)!r}), streams=2, batch=1), lambda images: None)
for answer in [batcher.submit(np.zeros((8, 8, 3), np.uint8)) for _ in range(4)]:
    answer.result(30)
batcher.close()
batcher.join()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_model_that_fails_tells_each_and_goes_on(colour_ir: Path) -> None:
    batcher = Batcher(OpenVinoPredictor(colour_ir, streams=1), lambda images: None)
    with pytest.raises(ExportError, match="cannot run on these images"):
        batcher.submit(np.zeros((4, 4, 2), np.uint8)).result(30)
    assert batcher.submit(colour_pixels(0, 4, 4, 0)).result(30)["logits"].argmax() == 0
    batcher.close()


def test_many_threads_ask_at_a_time(colour_ir: Path) -> None:
    batcher = Batcher(OpenVinoPredictor(colour_ir, streams=2, batch=4), lambda images: None)

    def ask(seed: int) -> bool:
        image = colour_pixels(seed % 3, 16, 16, seed)
        return int(batcher.submit(image).result(30)["logits"].argmax()) == seed % 3

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(ask, range(500)))
    batcher.close()
