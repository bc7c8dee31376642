"""The OpenVINO runtime on the CPU: an exported folder that stands alone, without torch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftx.core.errors import ExportError, ImageError, listed
from ftx.core.memory import is_out_of_memory
from ftx.core.processors import processors
from ftx.core.telemetry import no_telemetry
from ftx.data.image_store import ImageLike, open_image, pixel_bytes
from ftx.data.preprocess import Pixels, Preprocess
from ftx.runs.artifacts import RuntimeName
from ftx.runs.card_json import IR_FILE, IR_WEIGHTS, REFERENCE_FILE, Card, read_card
from ftx.runs.compute_precision import Compute, ComputePrecision, Dtype
from ftx.runs.instruction_sets import Kernels, is_held
from ftx.runs.machine import cpu_flags, this_set
from ftx.runtimes.predictor import BATCH_IMAGES, LOGITS, MAPS, feed_files
from ftx.tasks.thresholds import Floats

with no_telemetry():
    import openvino


@cache
def core() -> openvino.Core:
    """The one of this process, which it keeps to its end.

    The CPU plugin gives the thread that loads it a stack for signals (AMX needs a large one) and takes it away again
    when the last model that it compiled is dropped. Dropped by another thread, as the garbage collector may, the stack
    is gone and still in use: the next Ctrl-C would end the process with a segmentation fault (2026.4.1).
    """
    return openvino.Core()


def read_into_memory() -> None:
    """Let models that are opened from now on be read whole, instead of page by page when a page is needed.

    A file that is cut while it is read so ends the process (SIGBUS); of one that runs for months that happens.
    """
    core().set_property({"ENABLE_MMAP": False})


class OpenVinoPredictor:
    """An IR folder: raw uint8 images [N, H, W, 3] of any size in, logits out; it resizes by itself."""

    name: RuntimeName = "openvino"

    def __init__(
        self,
        folder: Path,
        compute: Compute = "auto",
        *,
        threads: int | None = None,
        streams: int | None = None,
        batch: int = BATCH_IMAGES,
        cache: Path | None = None,
    ) -> None:
        """Open and compile the model after its card and hashes hold.

        What is not said stays what OpenVINO chooses on the machine, but for a container that is paid fewer processors
        than it sees. ``batch`` is the most images of one size that share a request where files are answered, ``cache``
        where OpenVINO keeps what it compiled.
        Raises: ExportError if the folder is not whole or OpenVINO refuses the model.
        """
        self.card: Card = read_card(folder)
        _check_complete(folder, self.card)
        if self.card.base is not None:
            raise ExportError(
                "this is a base, with a head that nobody trained",
                where=folder,
                fix=f"merge an update into it: ftx apply UPDATE {folder} OUT",
            )
        path = self._path = folder / IR_FILE
        self.batch = batch
        started = time.perf_counter()
        try:
            model = core().read_model(path)
            _check_ports(model, path)
            self._compiled = core().compile_model(model, "CPU", _properties(compute, threads, streams, cache))
        except RuntimeError as error:
            raise ExportError(
                "OpenVINO cannot open this model", where=path, found=str(error), fix="export it again"
            ) from error
        self.compile_ms = 1e3 * (time.perf_counter() - started)
        width = model.output(0).get_partial_shape()[1]
        if not width.is_static or width.get_length() != len(self.card.labels):
            raise ExportError(
                "the model answers with another number of logits than the card has labels",
                where=path,
                found=f"{width} logits, {len(self.card.labels)} labels",
                fix="export it again",
            )
        self.model_info = _model_info(model)
        self.task = self.card.meaning.open()
        dtype: Dtype = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.compute = ComputePrecision(dtype, chosen_by_runtime=compute == "auto")

    @property
    def preprocess(self) -> Preprocess:
        return self.card.preprocess

    @property
    def threads(self) -> int:
        """How many threads compute, those of all streams together."""
        return int(self._compiled.get_property("INFERENCE_NUM_THREADS"))

    @property
    def streams(self) -> int:
        """How many requests are computed at a time."""
        return int(self._compiled.get_property("NUM_STREAMS"))

    def kernels(self) -> Kernels:
        """What computes the products: convolutions, linear layers, attention."""
        found: Counter[str] = Counter()
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            if _is_product(info["layerType"].astype(str), node.get_friendly_name()):
                found[info["primitiveType"].astype(str)] += 1
        return Kernels(this_set(), is_held(cpu_flags()), dict(sorted(found.items())))

    def in_flight(self, batches: Iterable[Pixels]) -> Iterator[tuple[Floats, float]]:
        """Logits of each batch and the milliseconds that its request took, in order; as many at a time as streams.

        Shape: [N, H, W, 3] each, of any one size -> [N, C].
        """
        # Without a callback: one in Python ends in OpenVINO's thread after the answer is there, and where the process
        # ends in between, waiting for the interpreter, that thread aborts it.
        queue = openvino.AsyncInferQueue(self._compiled, self.streams)
        running: dict[int, int] = {}  # which batch each request was given last
        answers: dict[int, tuple[Floats, float]] = {}

        def keep(handle: int) -> None:
            request = queue[handle]
            answers[running.pop(handle)] = _copy(request.output_tensors[0].data), request.latency

        taken = 0
        shape: tuple[int, ...] = ()
        for number, pixels_NHWC in enumerate(batches):
            try:
                idle = queue.get_idle_request_id()  # waits where all streams are busy
                for handle in [handle for handle in running if handle == idle or queue[handle].wait_for(0)]:
                    keep(handle)
                queue.start_async([pixels_NHWC])  # by the one that is idle
            except RuntimeError as error:
                raise self._refused(error, pixels_NHWC.shape) from error
            shape = pixels_NHWC.shape
            running[idle] = number
            while taken in answers:
                yield answers.pop(taken)
                taken += 1
        try:
            queue.wait_all()
        except RuntimeError as error:
            raise self._refused(error, shape) from error
        for handle in list(running):
            keep(handle)
        for number in sorted(answers):
            yield answers[number]

    @property
    def folder(self) -> Path:
        """Where the model lies."""
        return self._path.parent

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """What the model answers with, logits first. Shape: of each, -1 where it is not known before."""
        shapes = [
            tuple(side.get_length() if side.is_static else -1 for side in port.get_partial_shape())
            for port in self._compiled.outputs
        ]
        names = [LOGITS, *(port.get_any_name() for port in self._compiled.outputs[1:])]
        return dict(zip(names, shapes, strict=True))

    def request(self) -> Callable[[Pixels], Mapping[str, Floats]]:
        """A request for one thread, which may ask again and again: all that the model answers.

        Shape: [N, H, W, 3], of any one size, to N of each of ``outputs``.
        """
        request, names = self._compiled.create_infer_request(), tuple(self.outputs)
        # Asked for here once: two threads that ask for the first time at the same moment both define the type of these
        # lists' iterators, and one of them is refused its own (2026.4.1: Object of type 'iterator' is not an instance).
        assert len(request.input_tensors) == 1
        assert len(request.output_tensors) == len(names)

        def ask_all(pixels_NHWC: Pixels) -> Mapping[str, Floats]:
            try:
                request.start_async([pixels_NHWC], share_inputs=False)
                request.wait()  # other threads go on meanwhile
                tensors = request.output_tensors
            except RuntimeError as error:
                raise self._refused(error, pixels_NHWC.shape) from error
            return {name: _copy(tensor.data) for name, tensor in zip(names, tensors, strict=True)}

        return ask_all

    def logits(self, pixels_NHWC: Pixels) -> Floats:
        return self._infer(frame(pixels_NHWC, self.preprocess))

    @property
    def has_maps(self) -> bool:
        """Whether the model was exported with a map for each label."""
        return any(MAPS in port.get_names() for port in self._compiled.outputs)

    def explain(self, pixels_NHWC: Pixels) -> tuple[Floats, Floats]:
        """Logits, and the map of each label in [0, 1]. Shape: [N, H, W, 3] to [N, C] and [N, C, h, w]."""
        assert self.has_maps
        framed = frame(pixels_NHWC, self.preprocess)
        try:
            answered = self._compiled(framed, share_inputs=False)
        except RuntimeError as error:
            raise self._refused(error, framed.shape) from error
        return _copy(answered[0]), _copy(answered[MAPS])

    def logits_from_files(self, images: Iterable[ImageLike]) -> Iterator[Floats | ImageError]:
        """The image is only decoded here; resize, crop and normalisation are part of the graph."""
        return feed_files(images, _decode, self._answered, batch=self.batch, at_a_time=self.streams, weigh=pixel_bytes)

    def _answered(self, batches: Iterator[Pixels]) -> Iterator[Floats]:
        return (logits_NC for logits_NC, _ in self.in_flight(batches))

    def _infer(self, pixels_NHWC: Pixels) -> Floats:
        try:
            return ask(self._compiled, pixels_NHWC)
        except RuntimeError as error:
            raise self._refused(error, pixels_NHWC.shape) from error

    def _refused(self, error: RuntimeError, shape: tuple[int, ...]) -> Exception:
        if is_out_of_memory(error):
            return error
        return ExportError(
            "the model does not take these images",
            where=self._path,
            found=f"{'x'.join(map(str, shape))}: {str(error).strip()[:200]}",
            fix="export it again",
        )


def ask(compiled: openvino.CompiledModel, images: NDArray[Any]) -> Floats:
    """The first output for a batch.

    Both are copied: the answer lies in memory that the next call overwrites, and of a free shape OpenVINO keeps an
    array that it shares as the graph's own input, into which it copies the images of the next request.
    """
    return _copy(compiled(images, share_inputs=False)[0])


def _copy(output: NDArray[Any]) -> Floats:
    return np.array(output, dtype=np.float32)


def _properties(compute: Compute, threads: int | None, streams: int | None, cache: Path | None) -> dict[str, Any]:
    paid = processors().usable
    if threads is None and paid < processors().allowed:
        threads = paid  # OpenVINO would start a thread for each that it sees
    chosen = {
        "INFERENCE_PRECISION_HINT": "f32" if compute == "f32" else None,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
        "CACHE_DIR": cache and str(cache),
    }
    return {name: value for name, value in chosen.items() if value is not None}


def _is_product(kind: str, name: str) -> bool:
    """Whether a node of a compiled model multiplies matrices; attention in one piece is a subgraph with its name."""
    return kind in ("FullyConnected", "Convolution", "MatMul", "ScaledDotProductAttention") or (
        kind == "Subgraph" and "scaled_dot_product" in name
    )


def default_compute() -> ComputePrecision:
    """The precision that OpenVINO chooses for float models on this machine."""
    dtype: Dtype = core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    return ComputePrecision(dtype, chosen_by_runtime=True)


def frame(pixels_NHWC: Pixels, preprocess: Preprocess) -> Pixels:
    """Lay black around cropped images so that the graph's resize does nothing and its crop gives them back.

    The graph resizes until the image covers the box and crops the centre; where the crop is smaller
    than the box, the cropped image alone would be enlarged first.
    Shape: [N, H, W, 3] -> [N, box height, box width, 3].
    """
    box_height, box_width = preprocess.box
    missing_y = box_height - preprocess.height
    missing_x = box_width - preprocess.width
    if missing_y <= 0 and missing_x <= 0:
        return pixels_NHWC
    # The crop's own offsets: half the rest, rounded half to even.
    top, left = round(missing_y / 2), round(missing_x / 2)
    return np.pad(pixels_NHWC, ((0, 0), (top, missing_y - top), (left, missing_x - left), (0, 0)))


def _decode(image: ImageLike) -> Pixels:
    return np.asarray(open_image(image))


def _check_complete(folder: Path, card: Card) -> None:
    unlisted = [name for name in (IR_FILE, IR_WEIGHTS, REFERENCE_FILE) if name not in card.files]
    if unlisted:
        raise ExportError(
            "card.json has no hash of some files",
            where=folder,
            found=f"no hash of {', '.join(unlisted)}",
            fix="export it again",
        )


def _check_ports(model: openvino.Model, path: Path) -> None:
    """Raise ExportError unless one image of uint8 goes in and rows of logits come out first."""
    inputs = [
        (str(port.get_element_type().to_string()), len(port.get_partial_shape()))
        for port in model.inputs
        if port.get_partial_shape().rank.is_static
    ]
    outputs = [len(port.get_partial_shape()) for port in model.outputs[:1] if port.get_partial_shape().rank.is_static]
    if inputs != [("u8", 4)] or len(model.inputs) != 1 or outputs != [2]:
        raise ExportError(
            "this is no model that ftx exported",
            where=path,
            found=f"inputs {listed([str(port) for port in model.inputs])[:200] or 'none'}; "
            f"outputs {listed([str(port) for port in model.outputs])[:200] or 'none'}",
            fix="export it again: an image of uint8 goes in, and logits of every image come out first",
        )


def _model_info(model: Any) -> dict[str, str]:
    """What the model itself says about its labels and image path (Model API's metadata)."""
    if not model.has_rt_info(["model_info"]):
        return {}
    entries: Any = model.get_rt_info(["model_info"]).value
    if not isinstance(entries, dict):
        return {}
    return {name: str(getattr(value, "value", value)) for name, value in entries.items()}
