"""A network that OpenVINO compiled, and its requests: one after the other, or as many at a time as there are streams.

Most take a batch of images of any size as it is. One in 8 bits is compiled for one image, and takes a batch image by
image, through an image path of its own.

Shapes: N images of H x W pixels.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftx.core.errors import ExportError
from ftx.core.memory import is_out_of_memory
from ftx.core.telemetry import no_telemetry
from ftx.data.preprocess import Pixels, Preprocess
from ftx.runs.machine import this_set
from ftx.runtimes.one_image import for_one_image
from ftx.tasks.thresholds import Floats

with no_telemetry():
    import openvino

# All that a network answers for a batch, logits first. Shape: [N, ...] each.
Answers = list[Floats]


@cache
def core() -> openvino.Core:
    """The one of this process, which it keeps to its end.

    The CPU plugin gives the thread that loads it a stack for signals (AMX needs a large one) and takes it away again
    when the last model that it compiled is dropped. Dropped by another thread, as the garbage collector may, the stack
    is gone and still in use: the next Ctrl-C would end the process with a segmentation fault (2026.4.1).
    """
    return openvino.Core()


class CompiledNetwork:
    """An exported network on the CPU: raw uint8 images [N, H, W, 3] in, all that it answers out."""

    def __init__(self, model: openvino.Model, preprocess: Preprocess, properties: Mapping[str, Any], path: Path):
        """Compile it; ``path`` is where it was read.

        Raises: RuntimeError if OpenVINO refuses it.
        """
        self._path = path
        parted = for_one_image(model, preprocess, this_set())
        self._image_path: openvino.CompiledModel | None = None
        if parted is not None:
            in_f32 = {**properties, "INFERENCE_PRECISION_HINT": "f32"}
            self._image_path = core().compile_model(parted.image_path, "CPU", in_f32)
        self.compiled = core().compile_model(model if parted is None else parted.body, "CPU", dict(properties))

    @property
    def is_for_one_image(self) -> bool:
        """Whether a batch is taken image by image."""
        return self._image_path is not None

    @property
    def streams(self) -> int:
        """How many requests are computed at a time."""
        return int(self.compiled.get_property("NUM_STREAMS"))

    def request(self) -> Callable[[Pixels], Answers]:
        """A request for one thread, which may ask again and again. Shape: [N, H, W, 3], of any one size."""
        taken_by_network, request = self._taken(), self.compiled.create_infer_request()
        # Asked for here once: two threads that ask for the first time at the same moment both define the type of these
        # lists' iterators, and one of them is refused its own (2026.4.1: Object of type 'iterator' is not an instance).
        assert len(request.input_tensors) == 1
        assert len(request.output_tensors) == len(self.compiled.outputs)

        def ask(pixels_NHWC: Pixels) -> Answers:
            parts: list[Answers] = []
            with self._asked(pixels_NHWC.shape):
                for images in taken_by_network(pixels_NHWC):
                    request.start_async([images], share_inputs=False)
                    request.wait()  # other threads go on meanwhile
                    parts.append([_copy(tensor.data) for tensor in request.output_tensors])
            return self._together(parts)

        return ask

    def in_flight(self, batches: Iterable[Pixels]) -> Iterator[tuple[Answers, float]]:
        """The answers to each batch and the milliseconds that it took, in order; as many requests at a time as streams.

        Shape: [N, H, W, 3] each, of any one size.
        """
        # Without a callback: one in Python ends in OpenVINO's thread after the answer is there, and where the process
        # ends in between, waiting for the interpreter, that thread aborts it.
        queue = openvino.AsyncInferQueue(self.compiled, self.streams)
        taken_by_network = self._taken()
        waiting: deque[_Batch] = deque()
        running: dict[int, tuple[_Batch, int, float]] = {}  # of each request its batch, which part, since when

        def keep(handle: int) -> None:
            request, (batch, part, since) = queue[handle], running.pop(handle)
            batch.parts[part] = [_copy(tensor.data) for tensor in request.output_tensors]
            batch.ended = max(batch.ended, since + request.latency / 1e3)

        def idle_request() -> int:
            idle = queue.get_idle_request_id()  # waits where all streams are busy
            for handle in [handle for handle in running if handle == idle or queue[handle].wait_for(0)]:
                keep(handle)
            return idle

        shape: tuple[int, ...] = ()
        for pixels_NHWC in batches:
            shape = pixels_NHWC.shape
            with self._asked(shape):
                idle = idle_request()
                batch = _Batch(time.perf_counter())
                waiting.append(batch)
                for part, images in enumerate(taken_by_network(pixels_NHWC)):
                    idle = idle if part == 0 else idle_request()
                    batch.parts[part] = None
                    running[idle] = batch, part, time.perf_counter()
                    queue.start_async([images])  # by the one that is idle
            while waiting and waiting[0].is_whole:
                yield self._answered(waiting.popleft())
        with self._asked(shape):
            queue.wait_all()
        for handle in list(running):
            keep(handle)
        while waiting:
            yield self._answered(waiting.popleft())

    def _taken(self) -> Callable[[Pixels], Iterable[NDArray[Any]]]:
        """What requests of the network are given for a batch: the batch, or its images one by one, normalised."""
        if self._image_path is None:
            return lambda pixels_NHWC: [pixels_NHWC]
        request = self._image_path.create_infer_request()

        def normalised(pixels_NHWC: Pixels) -> Iterator[NDArray[Any]]:
            request.start_async([pixels_NHWC], share_inputs=False)
            request.wait()
            images_N3RC = request.output_tensors[0].data
            return (images_N3RC[number : number + 1] for number in range(len(images_N3RC)))

        return normalised

    def _answered(self, batch: _Batch) -> tuple[Answers, float]:
        return self._together([part for part in batch.parts.values() if part]), 1e3 * (batch.ended - batch.began)

    def _together(self, parts: list[Answers]) -> Answers:
        if len(parts) == 1:
            return parts[0]
        if not parts:  # a batch without images, of a network that takes them one by one
            return [np.zeros((0, *list(port.get_shape())[1:]), np.float32) for port in self.compiled.outputs]
        return [np.concatenate(rows) for rows in zip(*parts, strict=True)]

    @contextmanager
    def _asked(self, shape: tuple[int, ...]) -> Iterator[None]:
        """Raise ExportError for what OpenVINO refuses about images of this shape."""
        try:
            yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise ExportError(
                "the model does not take these images",
                where=self._path,
                found=f"{'x'.join(map(str, shape))}: {str(error).strip()[:200]}",
                fix="export it again",
            ) from error


@dataclass
class _Batch:
    """A batch that is computed, in one request or several: what each answered, and when it began and ended."""

    began: float
    ended: float = 0.0
    parts: dict[int, Answers | None] = field(default_factory=dict[int, "Answers | None"])

    @property
    def is_whole(self) -> bool:
        """Whether all requests have answered."""
        return all(part is not None for part in self.parts.values())


def ask(compiled: openvino.CompiledModel, images: NDArray[Any]) -> Floats:
    """The first output for a batch.

    Both are copied: the answer lies in memory that the next call overwrites, and of a free shape OpenVINO keeps an
    array that it shares as the graph's own input, into which it copies the images of the next request.
    """
    return _copy(compiled(images, share_inputs=False)[0])


def _copy(output: NDArray[Any]) -> Floats:
    return np.array(output, dtype=np.float32)
