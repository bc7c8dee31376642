"""A network that OpenVINO compiled, and its requests: one by one, or as many at a time as there are streams.

Most networks take a batch of images of any size. One in 8 bits may be compiled for one image, and so is one for an NPU:
it then takes a batch image by image. Its preprocessing, and that of a network for a GPU, is compiled separately.

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
from ftx.runs.artifacts import EXPORT_IR
from ftx.runs.machine import CPU, InstructionSet
from ftx.runs.views import KernelPath
from ftx.runtimes.device import property_of, takes_one_image
from ftx.runtimes.single_kernels import ALWAYS, device_parts, single_parts
from ftx.tasks.thresholds import Floats

with no_telemetry():
    import openvino

# All outputs of a network for a batch, logits first. Shape: [N, ...] each.
EXPORT_AGAIN = f"export it again: {EXPORT_IR}"
NetworkOutputs = list[Floats]
# A request for one thread. Shape: [N, H, W, 3], of any one size, to [N, ...] each.
NetworkRequest = Callable[[Pixels], NetworkOutputs]


@cache
def core() -> openvino.Core:
    """The only one of this process, kept to its end.

    The CPU plugin gives the thread that loads it a stack for signals (AMX needs a large one) and frees it when the last
    model that it compiled is dropped. If another thread drops that model, as the garbage collector may, the stack is
    freed while it is in use: the next Ctrl-C would end the process with a segmentation fault (2026.4.1).
    """
    # The first thread that makes a tensor of numbers, or reads one, imports numpy, fills a table of OpenVINO's types,
    # and releases the interpreter in between. A second thread then waits for the table while it holds the interpreter:
    # a deadlock (2026.4.1), seen in one of five processes of `ftx predict`. So the table is filled here.
    _ = openvino.Tensor(np.zeros(1, np.uint8)).data
    return openvino.Core()


_Given = TypeVar("_Given")
_Computed = TypeVar("_Computed")


class CompiledNetwork:
    """An exported network on a device: raw uint8 images [N, H, W, 3] in, all its outputs out.

    ``streams`` is how many requests are computed at a time. With the ``kernel_path`` single, a batch is computed image
    by image.
    """

    def __init__(
        self,
        model: openvino.Model,
        preprocess: Preprocess,
        properties: Mapping[str, Any],
        path: Path,
        isa: InstructionSet | None,
        *,
        kernels: KernelPath,
        device: str = CPU,
    ) -> None:
        """Compile it; ``path`` is where it was read, ``isa`` the instruction set of this process.

        ``kernels`` single: most requests have one image. On a CPU with only AVX2, int8 always has these kernels.
        Raises: RuntimeError if OpenVINO cannot compile it.
        """
        self._path = path
        if device != CPU:
            parts = device_parts(model, preprocess, one_image=takes_one_image(device))
        else:
            parts = single_parts(model, preprocess, isa) if kernels == "single" or isa == ALWAYS else None
        in_f32 = {**properties, "INFERENCE_PRECISION_HINT": "f32"}
        self._preprocessing = parts and core().compile_model(parts.preprocessing, "CPU", in_f32)
        self.compiled = core().compile_model(parts.body if parts else model, device, dict(properties))
        one_by_one = parts is not None and parts.body.input(0).partial_shape[0].is_static
        self.kernel_path: KernelPath = "single" if one_by_one else "batch"
        self.streams = int(property_of(self.compiled, "NUM_STREAMS") or 1)

    def request(self, outputs: int | None = None) -> Callable[[Pixels], NetworkOutputs]:
        """A request for one thread, which may run it many times: the first few outputs, or all.

        Shape: [N, H, W, 3], of any one size, to [N, ...] each.
        """
        inputs_of, request = self._inputs(), self.compiled.create_infer_request()
        shapes = [port.get_partial_shape() for port in self.compiled.outputs][:outputs]
        # Read here once: two threads that read these lists for the first time at the same moment both define the type
        # of their iterators, and one of the threads fails (2026.4.1: Object of type 'iterator' is not an instance).
        assert len(request.input_tensors) == 1
        assert len(request.output_tensors) == len(self.compiled.outputs)

        def run(pixels_NHWC: Pixels) -> NetworkOutputs:
            parts: list[NetworkOutputs] = []
            try:
                for images in inputs_of(pixels_NHWC):
                    request.start_async([images], share_inputs=False)
                    request.wait()  # other threads run meanwhile
                    parts.append([_copy(tensor.data) for tensor in request.output_tensors[:outputs]])
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                raise ExportError(
                    "the model cannot run on these images",
                    where=self._path,
                    found=f"{'x'.join(map(str, pixels_NHWC.shape))}: {str(error).strip()[:200]}",
                    fix=EXPORT_AGAIN,
                ) from error
            if not parts:  # no image, in a network that takes them one by one: all its shapes are known
                return [np.zeros((0, *list(shape.get_shape())[1:]), np.float32) for shape in shapes]
            return parts[0] if len(parts) == 1 else [np.concatenate(rows) for rows in zip(*parts, strict=True)]

        return run

    def in_flight(
        self, batches: Iterable[Pixels], requests: Callable[[], NetworkRequest] | None = None
    ) -> Iterator[tuple[Floats, float]]:
        """The first output for each batch and the milliseconds that it took, in order; as many at a time as streams.

        ``requests`` makes a request of another kind. Shape: [N, H, W, 3] each, of any one size -> [N, C].
        """

        def timed() -> Callable[[Pixels], tuple[Floats, float]]:
            request = requests() if requests else self.request(outputs=1)

            def run(pixels_NHWC: Pixels) -> tuple[Floats, float]:
                started = time.perf_counter()
                outputs = request(pixels_NHWC)
                return outputs[0], 1e3 * (time.perf_counter() - started)

            return run

        return self.in_streams(self.any_idle(timed), batches)

    def in_streams(self, function: Callable[[_Given], _Computed], given: Iterable[_Given]) -> Iterator[_Computed]:
        """As ``map``, with as many calls at a time as streams."""
        # One more than there are streams, so that no stream waits until the oldest result is read.
        return in_threads(function, given, workers=self.streams, prefetch=self.streams + 1)

    def any_idle(self, requests: Callable[[], Callable[[Pixels], _Computed]]) -> Callable[[Pixels], _Computed]:
        """A function for as many threads as streams: each call runs a request that is idle, of those that were made."""
        # A thread for each and no callback: a Python callback ends in OpenVINO's thread after the output is there. If
        # the process ends in between, while that thread waits for the interpreter, it aborts the process.
        idle: SimpleQueue[Callable[[Pixels], _Computed]] = SimpleQueue()
        for _ in range(self.streams):
            idle.put(requests())

        def run(pixels_NHWC: Pixels) -> _Computed:
            request = idle.get()
            try:
                return request(pixels_NHWC)
            finally:
                idle.put(request)

        return run

    def _inputs(self) -> Callable[[Pixels], Iterable[NDArray[Any]]]:
        """The network's inputs for a batch: the batch itself; or its images, normalised, together or one by one."""
        if self._preprocessing is None:
            return lambda pixels_NHWC: [pixels_NHWC]
        request = self._preprocessing.create_infer_request()

        def normalised(pixels_NHWC: Pixels) -> Iterator[NDArray[Any]]:
            request.start_async([pixels_NHWC], share_inputs=False)
            request.wait()
            images_N3RC = request.output_tensors[0].data
            if self.kernel_path == "batch":
                return iter([images_N3RC])
            return (images_N3RC[number : number + 1] for number in range(len(images_N3RC)))

        return normalised


def has_single_kernels(model: openvino.Model, preprocess: Preprocess, isa: InstructionSet | None) -> bool:
    """Whether a network has other kernels for single images than for batches."""
    return isa != ALWAYS and single_parts(model, preprocess, isa) is not None


def first_output(compiled: openvino.CompiledModel, images: NDArray[Any]) -> Floats:
    """The first output for a batch.

    Both are copied: the next call overwrites the memory of the output. And for a free shape OpenVINO keeps a shared
    input array as the graph's own input, and copies the images of the next request into it.
    """
    return _copy(compiled(images, share_inputs=False)[0])


def _copy(output: NDArray[Any]) -> Floats:
    return np.array(output, dtype=np.float32)
