"""A network that OpenVINO compiled, and its requests: one after the other, or as many at a time as there are streams.

Most take a batch of images of any size as it is. One in 8 bits is compiled for one image, and takes a batch image by
image, through an image path of its own.

Shapes: N images of H x W pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ftx.core.errors import ExportError
from ftx.core.memory import is_out_of_memory
from ftx.core.third_parties import no_telemetry
from ftx.data.preprocess import Pixels, Preprocess
from ftx.data.threads import in_threads
from ftx.runs.instruction_sets import InstructionSet
from ftx.runs.parity_json import KernelPath
from ftx.runtimes.single_kernels import ALWAYS, single_parts
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
    # The first to make a tensor of numbers, or to read them, looks numpy up and fills a table of OpenVINO's types, and
    # lets go of the interpreter in between. A second thread that comes then waits for the table and holds the
    # interpreter: both stand still for ever (2026.4.1), as the first two requests of `ftx predict` did in one process
    # of five. So it is done here.
    _ = openvino.Tensor(np.zeros(1, np.uint8)).data
    return openvino.Core()


_Given = TypeVar("_Given")
_Computed = TypeVar("_Computed")


class CompiledNetwork:
    """An exported network on the CPU: raw uint8 images [N, H, W, 3] in, all that it answers out."""

    def __init__(
        self,
        model: openvino.Model,
        preprocess: Preprocess,
        properties: Mapping[str, Any],
        path: Path,
        isa: InstructionSet | None,
        *,
        kernels: KernelPath,
    ) -> None:
        """Compile it; ``path`` is where it was read, ``isa`` the instruction set of this process.

        ``kernels`` single: requests are of one image, mostly. On a CPU with AVX2 only, int8 always has these kernels.
        Raises: RuntimeError if OpenVINO refuses it.
        """
        self._path = path
        parts = single_parts(model, preprocess, isa) if kernels == "single" or isa == ALWAYS else None
        self._image_path: openvino.CompiledModel | None = None
        if parts is not None:
            in_f32 = {**properties, "INFERENCE_PRECISION_HINT": "f32"}
            self._image_path = core().compile_model(parts.image_path, "CPU", in_f32)
        self.compiled = core().compile_model(model if parts is None else parts.body, "CPU", dict(properties))

    @property
    def kernel_path(self) -> KernelPath:
        """By which kernels it computes; with those for single images a batch is taken image by image."""
        return "batch" if self._image_path is None else "single"

    @property
    def streams(self) -> int:
        """How many requests are computed at a time."""
        return int(self.compiled.get_property("NUM_STREAMS"))

    def request(self, outputs: int | None = None) -> Callable[[Pixels], Answers]:
        """A request for one thread, which may ask again and again: the first few outputs, or all.

        Shape: [N, H, W, 3], of any one size, to [N, ...] each.
        """
        inputs_of, request = self._inputs(), self.compiled.create_infer_request()
        shapes = [port.get_partial_shape() for port in self.compiled.outputs][:outputs]
        # Asked for here once: two threads that ask for the first time at the same moment both define the type of these
        # lists' iterators, and one of them is refused its own (2026.4.1: Object of type 'iterator' is not an instance).
        assert len(request.input_tensors) == 1
        assert len(request.output_tensors) == len(self.compiled.outputs)

        def asked(pixels_NHWC: Pixels) -> Answers:
            parts: list[Answers] = []
            try:
                for images in inputs_of(pixels_NHWC):
                    request.start_async([images], share_inputs=False)
                    request.wait()  # other threads go on meanwhile
                    parts.append([_copy(tensor.data) for tensor in request.output_tensors[:outputs]])
            except RuntimeError as error:
                raise self._refused(error, pixels_NHWC.shape) from error
            if not parts:  # no image, of a network that takes them one by one: all its shapes are known
                return [np.zeros((0, *list(shape.get_shape())[1:]), np.float32) for shape in shapes]
            return parts[0] if len(parts) == 1 else [np.concatenate(rows) for rows in zip(*parts, strict=True)]

        return asked

    def in_flight(self, batches: Iterable[Pixels]) -> Iterator[tuple[Floats, float]]:
        """The first output for each batch and the milliseconds that it took, in order; as many at a time as streams.

        Shape: [N, H, W, 3] each, of any one size.
        """
        return self.in_streams(self.timed(), batches)

    def in_streams(self, function: Callable[[_Given], _Computed], given: Iterable[_Given]) -> Iterator[_Computed]:
        """As ``map``, with as many calls at a time as streams."""
        # One more than there are streams, so that none waits until the oldest is taken.
        return in_threads(function, given, workers=self.streams, prefetch=self.streams + 1)

    def timed(self) -> Callable[[Pixels], tuple[Floats, float]]:
        """The first output for a batch, and the milliseconds that it took; for as many threads as streams."""
        # A thread each and no callback: one in Python ends in OpenVINO's thread after the answer is there, and where
        # the process ends in between, waiting for the interpreter, that thread aborts it.
        idle: SimpleQueue[Callable[[Pixels], Answers]] = SimpleQueue()
        for _ in range(self.streams):
            idle.put(self.request(outputs=1))

        def timed(pixels_NHWC: Pixels) -> tuple[Floats, float]:
            request = idle.get()
            try:
                started = time.perf_counter()
                answers = request(pixels_NHWC)
                return answers[0], 1e3 * (time.perf_counter() - started)
            finally:
                idle.put(request)

        return timed

    def _inputs(self) -> Callable[[Pixels], Iterable[NDArray[Any]]]:
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

    def _refused(self, error: RuntimeError, shape: tuple[int, ...]) -> Exception:
        if is_out_of_memory(error):
            return error
        return ExportError(
            "the model does not take these images",
            where=self._path,
            found=f"{'x'.join(map(str, shape))}: {str(error).strip()[:200]}",
            fix="export it again",
        )


def has_single_kernels(model: openvino.Model, preprocess: Preprocess, isa: InstructionSet | None) -> bool:
    """Whether a network has other kernels for single images than for batches."""
    return isa != ALWAYS and single_parts(model, preprocess, isa) is not None


def ask(compiled: openvino.CompiledModel, images: NDArray[Any]) -> Floats:
    """The first output for a batch.

    Both are copied: the answer lies in memory that the next call overwrites, and of a free shape OpenVINO keeps an
    array that it shares as the graph's own input, into which it copies the images of the next request.
    """
    return _copy(compiled(images, share_inputs=False)[0])


def _copy(output: NDArray[Any]) -> Floats:
    return np.array(output, dtype=np.float32)
