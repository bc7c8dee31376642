"""Batches of what waits, each image's answer its own, whatever else is asked for at the time."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import colour_logits, colour_pixels

from ftx.core.errors import ExportError
from ftx.runtimes.openvino import OpenVinoPredictor
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


@pytest.mark.representative
def test_the_first_images_of_a_process_come_to_two_streams_at_once(colour_ir: Path) -> None:
    program = f"""
from pathlib import Path
import numpy as np
from ftx.runtimes.openvino import OpenVinoPredictor
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


def test_a_model_that_fails_tells_each_and_goes_on(colour_ir: Path) -> None:
    batcher = Batcher(OpenVinoPredictor(colour_ir, streams=1), lambda images: None)
    with pytest.raises(ExportError, match="does not take these images"):
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
