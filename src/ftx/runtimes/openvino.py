"""The OpenVINO runtime on the CPU: an exported folder that stands alone, without torch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ftx.core.errors import ExportError, ImageError, listed
from ftx.core.processors import processors
from ftx.core.third_parties import no_telemetry
from ftx.data.image_store import ImageLike, LoadedImage
from ftx.data.preprocess import Pixels, Preprocess, resize_crop
from ftx.runs.artifacts import IR_FILE, IR_WEIGHTS, RuntimeName
from ftx.runs.card_json import REFERENCE_FILE, Card, read_card
from ftx.runs.compute_precision import Compute, ComputePrecision, Dtype
from ftx.runs.instruction_sets import Kernels, is_held
from ftx.runs.machine import cpu_flags, this_set
from ftx.runs.parity_json import KernelPath
from ftx.runtimes.compiled_network import CompiledNetwork, ask, core, has_single_kernels
from ftx.runtimes.predictor import BATCH_IMAGES, LOGITS, MAPS, feed_files
from ftx.runtimes.single_kernels import image_path
from ftx.tasks.thresholds import Floats

with no_telemetry():
    import openvino

# A larger image is resized by Pillow, as in training. A graph takes 72 bytes a pixel for it, and more time: 20 ms of 1
# megapixel where Pillow takes 15, 282 of 50 where Pillow takes 246.
MOST_GRAPH_PIXELS = 1_000_000


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
        kernels: KernelPath = "batch",
    ) -> None:
        """Open and compile the model after its card and hashes hold.

        What is not said stays what OpenVINO chooses on the machine, but for a container that is paid fewer processors
        than it sees. ``batch`` is the most images of one size that share a request where files are answered, ``cache``
        where OpenVINO keeps what it compiled. With ``kernels`` single int8 is compiled for one image at a time, where
        that is faster for one.
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
            properties = _properties(compute, threads, streams, cache)
            self._network = CompiledNetwork(model, self.card.preprocess, properties, path, this_set(), kernels=kernels)
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
        self.outputs = _outputs(model)
        self.task = self.card.meaning.open()
        dtype: Dtype = self._network.compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.compute = ComputePrecision(dtype, chosen_by_runtime=compute == "auto")

    @property
    def preprocess(self) -> Preprocess:
        return self.card.preprocess

    @property
    def threads(self) -> int:
        """How many threads compute, those of all streams together."""
        return int(self._network.compiled.get_property("INFERENCE_NUM_THREADS"))

    @property
    def streams(self) -> int:
        """How many requests are computed at a time."""
        return self._network.streams

    @property
    def kernel_path(self) -> KernelPath:
        """By which kernels it computes; with those for single images a batch is taken image by image."""
        return self._network.kernel_path

    def kernels(self) -> Kernels:
        """What computes the products: convolutions, linear layers, attention; of a network for one image the body's."""
        found: Counter[str] = Counter()
        for node in self._network.compiled.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            if _is_product(info["layerType"].astype(str), info["originalLayersNames"].astype(str)):
                found[info["primitiveType"].astype(str)] += 1
        return Kernels(this_set(), is_held(cpu_flags()), dict(sorted(found.items())))

    def in_flight(self, batches: Iterable[Pixels]) -> Iterator[tuple[Floats, float]]:
        """Logits of each batch and the milliseconds that it took, in order; as many batches at a time as streams.

        Shape: [N, H, W, 3] each, of any one size -> [N, C].
        """
        return self._network.in_flight(batches)

    @property
    def folder(self) -> Path:
        """Where the model lies."""
        return self._path.parent

    def request(self) -> Callable[[Pixels], Mapping[str, Floats]]:
        """A request for one thread, which may ask again and again: all that the model answers.

        Shape: [N, H, W, 3], of any one size, to N of each of ``outputs``.
        """
        asked, names = self._network.request(), tuple(self.outputs)
        return lambda pixels_NHWC: dict(zip(names, asked(pixels_NHWC), strict=True))

    def logits(self, pixels_NHWC: Pixels) -> Floats:
        """As ``Predictor`` says; by one request, so one thread asks at a time."""
        (logits_NC,) = self._logits_request(frame(pixels_NHWC, self.preprocess))
        return logits_NC

    @cached_property
    def _logits_request(self) -> Callable[[Pixels], list[Floats]]:
        return self._network.request(outputs=1)

    @cached_property
    def _whole_request(self) -> Callable[[Pixels], Mapping[str, Floats]]:
        return self.request()

    def normalised(self, pixels_NHWC: Pixels) -> Floats | None:
        """Images as the body is given them, by the model's own resize, crop and normalisation; None if it names none.

        Shape: [N, H, W, 3] to [N, 3, R, C].
        """
        return None if self._image_path is None else ask(self._image_path, pixels_NHWC)

    @cached_property
    def _image_path(self) -> openvino.CompiledModel | None:
        path = image_path(core().read_model(self._path))
        return path and core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    @property
    def has_maps(self) -> bool:
        """Whether the model was exported with a map for each label."""
        return MAPS in self.outputs

    def explain(self, pixels_NHWC: Pixels) -> tuple[Floats, Floats]:
        """Logits, and the map of each label in [0, 1]; one thread asks at a time.

        Shape: [N, H, W, 3] to [N, C] and [N, C, h, w].
        """
        assert self.has_maps
        answered = self._whole_request(frame(pixels_NHWC, self.preprocess))
        return answered[LOGITS], answered[MAPS]

    def logits_from_files(self, images: Iterable[ImageLike | ImageError]) -> Iterator[Floats | ImageError]:
        """Resize, crop and normalisation are part of the graph; of images that are too large for it only the last."""

        def decode(image: LoadedImage) -> Pixels:
            return graph_input(image.decode(), self.preprocess)

        timed = self._network.timed()
        return feed_files(
            map(LoadedImage, images),
            decode,
            lambda pixels_NHWC: timed(pixels_NHWC)[0],
            mapped=self._network.in_streams,
            batch=self.batch,
            at_a_time=self.streams,
            size_of=_size_bytes,
        )


def _size_bytes(image: LoadedImage | ImageError) -> int:
    return 0 if isinstance(image, ImageError) else image.size_bytes


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


def _is_product(kind: str, made_of: str) -> bool:
    """Whether a node of a compiled model multiplies matrices; attention in one piece is a subgraph made of one."""
    return kind in ("FullyConnected", "Convolution", "MatMul", "ScaledDotProductAttention") or (
        kind == "Subgraph" and "scaled_dot_product" in made_of
    )


def default_compute() -> ComputePrecision:
    """The precision that OpenVINO chooses for float models on this machine."""
    dtype: Dtype = core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    return ComputePrecision(dtype, chosen_by_runtime=True)


def kernel_paths(folder: Path, compute: Compute) -> tuple[KernelPath, ...]:
    """By which kernels this machine may run an exported model; nothing is compiled to tell.

    Pinned to f32 only by those for batches if the CPU chooses f32 anyway: the same was computed before.
    """
    pinned = compute != "auto" and default_compute().dtype == "f32"
    return ("batch",) if pinned or not _has_single_kernels(folder) else ("batch", "single")


def _has_single_kernels(folder: Path) -> bool:
    card = read_card(folder)
    if card.artifact.precision != "int8":
        return False
    try:
        model = core().read_model(folder / IR_FILE)
    except RuntimeError:  # opening it says why
        return False
    return has_single_kernels(model, card.preprocess, this_set())


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


def graph_input(image: Image.Image, preprocess: Preprocess, most_pixels: int = MOST_GRAPH_PIXELS) -> Pixels:
    """An image as the graph takes it: as it is, or with more than ``most_pixels`` resized and cropped as in training.

    Shape: [H, W, 3].
    """
    if image.width * image.height <= most_pixels:
        return np.asarray(image)
    return frame(resize_crop(image, preprocess)[None], preprocess)[0]


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


def _outputs(model: openvino.Model) -> Mapping[str, tuple[int, ...]]:
    """What a model answers with, logits first. Shape: of each, -1 where it is not known before."""
    shapes = [
        tuple(side.get_length() if side.is_static else -1 for side in port.get_partial_shape())
        for port in model.outputs
    ]
    names = [LOGITS, *(port.get_any_name() for port in model.outputs[1:])]
    return dict(zip(names, shapes, strict=True))


def _model_info(model: Any) -> dict[str, str]:
    """What the model itself says about its labels and image path (Model API's metadata)."""
    if not model.has_rt_info(["model_info"]):
        return {}
    entries: Any = model.get_rt_info(["model_info"]).value
    if not isinstance(entries, dict):
        return {}
    return {name: str(getattr(value, "value", value)) for name, value in entries.items()}
