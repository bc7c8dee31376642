"""Images that wait for a model, and the batches that they form.

There are as many threads as the model has streams. Each takes the image that has waited longest, and others of its
size, up to the batch size. Nobody waits for a batch to fill: while all streams are busy, the next one grows.

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
ImageOutputs = Mapping[str, Floats]
# Images of other sizes that are skipped in the search for images of one size: further search would cost too much.
LOOKED_AT = 256
# Called for each batch, with its number of images.
CountBatch = Callable[[int], None]


@dataclass(frozen=True)
class _WaitingRequest:
    pixels_HWC: Pixels
    outputs: Future[ImageOutputs]


class Batcher:
    """The queue of one model, and the threads that run the model."""

    def __init__(self, predictor: OpenVinoPredictor, counted: CountBatch) -> None:
        self._batch, self._counted = predictor.batch, counted
        self._batch_bytes = BATCH_BYTES // predictor.streams
        self._waiting: deque[_WaitingRequest] = deque()
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

    def submit(self, pixels_HWC: Pixels) -> Future[ImageOutputs]:
        """All outputs for one image. Shape: [H, W, 3] to the shapes of ``outputs``, without N."""
        outputs: Future[ImageOutputs] = Future()
        with self._changed:
            assert not self._closed
            self._waiting.append(_WaitingRequest(pixels_HWC, outputs))
            self._changed.notify()
        return outputs

    def close(self) -> None:
        """Accept no more images. The threads end after those that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self) -> None:
        """Wait until the threads of a closed queue have ended.

        If the process ended before, Python would stop them inside OpenVINO's code, which aborts the process.
        """
        for thread in self._threads:
            thread.join()

    @property
    def ended(self) -> bool:
        """Whether all threads have ended."""
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self, model: Callable[[Pixels], ImageOutputs]) -> None:
        while batch := self._next():
            try:
                outputs = model(np.stack([one.pixels_HWC for one in batch]))
            except Exception as error:
                for one in batch:
                    one.outputs.set_exception(error)
                continue
            self._counted(len(batch))
            for row, one in enumerate(batch):
                one.outputs.set_result({name: array[row] for name, array in outputs.items()})
            del batch, outputs  # not kept in memory while nothing waits

    def _next(self) -> list[_WaitingRequest]:
        """The next batch, once there is one; empty if the queue is closed and empty."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return []
                # Clients may have disconnected meanwhile.
                if batch := [one for one in self._take() if one.outputs.set_running_or_notify_cancel()]:
                    return batch

    def _take(self) -> list[_WaitingRequest]:
        """The oldest image, and others of its size, in their order."""
        first = self._waiting[0].pixels_HWC
        most = max(1, min(self._batch, self._batch_bytes // first.nbytes))
        batch: list[_WaitingRequest] = []
        left: deque[_WaitingRequest] = deque()
        while self._waiting and len(batch) < most and len(left) < LOOKED_AT:
            one = self._waiting.popleft()
            (batch if one.pixels_HWC.shape == first.shape else left).append(one)
        self._waiting.extendleft(reversed(left))
        return batch
