"""Images that wait for a model, and the batches that are made of them.

As many threads as the model has streams: each takes the image that has waited longest, and with it others of its size,
as many as one request holds. Nobody waits for a batch to fill: while all streams are busy those that wait become one.

Shapes: N images of one size in a batch, H x W pixels, C labels.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from ftx.data.preprocess import Pixels
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.runtimes.predictor import BATCH_BYTES
from ftx.tasks.thresholds import Floats

# All outputs of a model for one image, by their names.
Outputs = Mapping[str, Floats]
# Images of other sizes that are passed over in the search for those of one: with more, searching would cost too much.
LOOKED_AT = 256
# Told of each batch: how many images.
Counted = Callable[[int], None]


@dataclass(frozen=True)
class _Waiting:
    pixels_HWC: Pixels
    answer: Future[Outputs]


class Batcher:
    """The queue before one model, and the threads that empty it."""

    def __init__(self, predictor: OpenVinoPredictor, counted: Counted) -> None:
        self._batch, self._counted = predictor.batch, counted
        self._batch_bytes = BATCH_BYTES // predictor.streams
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(predictor.request(),), name=f"ftx-stream-{number}", daemon=True)
            for number in range(predictor.streams)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """How many images wait."""
        return len(self._waiting)

    def submit(self, pixels_HWC: Pixels) -> Future[Outputs]:
        """All outputs for one image. Shape: [H, W, 3] to the shapes of ``outputs``, without N."""
        answer: Future[Outputs] = Future()
        with self._changed:
            assert not self._closed
            self._waiting.append(_Waiting(pixels_HWC, answer))
            self._changed.notify()
        return answer

    def close(self) -> None:
        """Take no more: what waits is answered, then the threads end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self) -> None:
        """Wait until the threads of a closed queue have ended.

        Where the process ends before, Python ends them while they are in OpenVINO's code, which aborts it.
        """
        for thread in self._threads:
            thread.join()

    @property
    def ended(self) -> bool:
        """Whether no thread is left."""
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self, ask: Callable[[Pixels], Outputs]) -> None:
        while batch := self._next():
            try:
                answers = ask(np.stack([one.pixels_HWC for one in batch]))
            except Exception as error:
                for one in batch:
                    one.answer.set_exception(error)
                continue
            self._counted(len(batch))
            for row, one in enumerate(batch):
                one.answer.set_result({name: array[row] for name, array in answers.items()})
            del batch, answers  # not kept while nothing waits

    def _next(self) -> list[_Waiting]:
        """The next batch, once there is one; none once the queue is closed and empty."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return []
                # Whoever asked may have gone meanwhile.
                if batch := [one for one in self._take() if one.answer.set_running_or_notify_cancel()]:
                    return batch

    def _take(self) -> list[_Waiting]:
        """The oldest, and others of its size in their order."""
        first = self._waiting[0].pixels_HWC
        room = max(1, min(self._batch, self._batch_bytes // first.nbytes))
        taken: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        while self._waiting and len(taken) < room and len(left) < LOOKED_AT:
            one = self._waiting.popleft()
            (taken if one.pixels_HWC.shape == first.shape else left).append(one)
        self._waiting.extendleft(reversed(left))
        return taken
