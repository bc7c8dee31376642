"""The OpenVINO runtime: an exported folder, opened without torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ftx.core.errors import ExportError, ImageError
from ftx.core.processors import processors
from ftx.core.third_parties import no_telemetry
from ftx.data.image_store import ImageLike, OpenImageFile
from ftx.data.preprocess import Pixels, Preprocess, resize_crop
from ftx.runs.artifacts import FLOAT_IR_FILE, IR_FILE, IR_INT8_CHECKED, RuntimeName
from ftx.runs.card_json import Card, read_card
from ftx.runs.certificate import Certificate, QuickModel
from ftx.runs.certificate_json import Certificates, read_certificates
from ftx.runs.compute_precision import Compute, ComputePrecision, Dtype
from ftx.runs.machine import CPU, Kernels, is_emulated, this_machine, this_set
from ftx.runs.views import KernelPath
from ftx.runtimes.check_ir import check_complete, check_ports, check_width, model_info_of, output_shapes
from ftx.runtimes.checked_network import CheckedNetwork
from ftx.runtimes.choice_margins import add_choice_margins
from ftx.runtimes.compiled_network import (
    EXPORT_AGAIN,
    CompiledNetwork,
    NetworkOutputs,
    NetworkRequest,
    core,
    first_output,
    has_single_kernels,
)
from ftx.runtimes.device import check_device, property_of
from ftx.runtimes.predictor import BATCH_IMAGES, LOGITS, MAPS, RanModel, feed_files
from ftx.runtimes.release_process import primitives
from ftx.runtimes.single_kernels import preprocessing
from ftx.runtimes.uncertainty import Uncertainty
from ftx.tasks.thresholds import Flags, Floats

with no_telemetry():
    import openvino

# A larger image is resized by Pillow, as in training. A graph takes 72 bytes a pixel for it, and more time: 20 ms for 1
# megapixel (Pillow 15), 282 for 50 (Pillow 246).
MOST_GRAPH_PIXELS = 1_000_000
IN_F32 = {"INFERENCE_PRECISION_HINT": "f32"}
# The name of what a request adds to the outputs of int8-checked: 1 for an image that also ran in float. Shape: [N].
TWICE = "twice"


def read_into_memory() -> None:
    """Read models that are opened from now on as a whole, instead of page by page when a page is needed.

    If a file is cut while its pages are read, the process ends (SIGBUS). In one that runs for months that happens.
    """
    core().set_property({"ENABLE_MMAP": False})


class OpenVinoPredictor:
    """An IR folder: raw uint8 images [N, H, W, 3] of any size in, logits out; the graph itself resizes.

    ``outputs`` has the shape of each output by its name, logits first; -1 is a dimension that is not known before.
    ``threads`` is how many compute, those of all ``streams`` together, and ``streams`` how many requests are computed
    at a time. With the ``kernel_path`` single, a batch is computed image by image.
    ``quick``, ``checked`` and ``certificate`` are of int8-checked: the model that runs first, what runs both, and the
    bound; that is None if none was measured for how this process runs the quick one.
    """

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
        part: RanModel | None = None,
        quick: QuickModel | None = None,
        device: str = CPU,
    ) -> None:
        """Check the card and the hashes, then open and compile the model.

        OpenVINO chooses what is None, except ``threads`` in a container whose CPU quota is less than the processors
        that it sees. ``batch`` is the most images of one size that share a request if files are predicted, ``cache``
        the folder of what OpenVINO compiled. With ``kernels`` single, int8 is compiled for one image at a time if that
        is faster for one. ``part`` opens only one of the two models of int8-checked; ``quick`` is the one that runs
        first, if not its certificates but the caller chooses it.
        ``device`` is OpenVINO's name of what computes; other devices than the CPU choose ``threads`` and ``streams``.
        Raises: ExportError if the folder is incomplete or OpenVINO cannot read the model; InputError, EnvironmentFault
        for a device that is not there.
        """
        check_device(device, core())
        self.card: Card = read_card(folder)
        check_complete(folder, self.card)
        if self.card.base is not None:
            raise ExportError(
                "a base cannot be used as a model: its head is untrained",
                where=folder,
                fix=f"merge an update into it: ftx apply UPDATE {folder} OUT",
            )
        both = part is None and self.card.artifact == IR_INT8_CHECKED
        known = read_certificates(folder) if both else None
        self.quick: QuickModel | None = known and (quick or _quick_model(known, compute, kernels))
        path = folder / (FLOAT_IR_FILE if (part or self.quick) in ("bf16", "fp32") else IR_FILE)
        self.folder, self.preprocess = folder, self.card.preprocess
        self.batch, self.device = batch, device
        started = time.perf_counter()
        try:
            model = core().read_model(path)
            check_ports(model, path)
            properties = _properties(compute, threads, streams, cache, device)
            if part == "fp32":
                properties |= IN_F32
            self.outputs = output_shapes(model)
            if both and device != CPU:
                raise ExportError(
                    "int8-checked runs only on the CPU, for which its bound was measured",
                    where=folder,
                    found=device,
                    fix=f"use --device {CPU}, or name the fp32 model",
                )
            drops_patches = both and bool(self.card.keep_tokens) and add_choice_margins(model)
            self._network = CompiledNetwork(
                model, self.preprocess, properties, path, this_set(), kernels=kernels, device=device
            )
            exact = _float_network(folder, self.card, properties) if both else None
        except RuntimeError as error:
            raise ExportError(
                "OpenVINO cannot open this model", where=path, found=str(error), fix=EXPORT_AGAIN
            ) from error
        self.compile_ms = 1e3 * (time.perf_counter() - started)
        check_width(model, path, len(self.card.labels))
        self.model_info = model_info_of(model)
        self.task = self.card.meaning.open()
        hint = property_of(self._network.compiled, "INFERENCE_PRECISION_HINT")
        dtype: Dtype = "f32" if hint is None else hint.to_string()
        self.compute = ComputePrecision(dtype, chosen_by_runtime=compute == "auto")
        self.threads = int(property_of(self._network.compiled, "INFERENCE_NUM_THREADS") or 1)
        self.streams = self._network.streams
        self.kernel_path: KernelPath = self._network.kernel_path
        # Whether the model was exported with a map for each label.
        self.has_maps = MAPS in self.outputs
        self.uncertainty: Uncertainty | None = None
        self.checked: CheckedNetwork | None = None
        self.certificate: Certificate | None = None
        if exact is not None and known is not None:
            way, here = (self.quick, self.kernel_path), known.measured(this_set(), dtype, this_machine().openvino)
            self.certificate = next((one for one in here if (one.quick, one.kernels) == way), None)
            bound = known.largest_bound if self.certificate is None else self.certificate.bound
            counts = self.certificate and (self.certificate.twice, self.certificate.images)
            self.checked = CheckedNetwork(self._network, exact, self.task, bound, counts, drops_patches=drops_patches)

    def kernels(self) -> Kernels:
        """What computes the products: convolutions, linear layers, attention; in a network for one image, its body."""
        known = primitives(self._network.compiled) if self.device == CPU else {}
        return Kernels(this_set(), is_emulated(this_set()), known)

    def request(self) -> Callable[[Pixels], Mapping[str, Floats]]:
        """A request for one thread, which may run it many times: all outputs of the model.

        Of int8-checked, ``TWICE`` has whether an image also ran in float. Shape: [N, H, W, 3], of any one size, to N of
        each of ``outputs``.
        """
        run = self._request()

        def named(pixels_NHWC: Pixels) -> Mapping[str, Floats]:
            outputs, twice_N = run(pixels_NHWC)
            found = dict(zip(self.outputs, outputs, strict=True))
            return found if twice_N is None else {**found, TWICE: twice_N.astype(np.float32)}

        return named

    def _request(self, outputs: int | None = None) -> Callable[[Pixels], tuple[NetworkOutputs, Flags | None]]:
        """The first few outputs, or all; and which images also ran in float, None if no float model checks them."""
        if self.checked is not None:
            return self.checked.request(outputs)
        run = self._network.request(outputs)
        return lambda pixels_NHWC: (run(pixels_NHWC), None)

    def in_flight(self, batches: Iterable[Pixels]) -> Iterator[tuple[Floats, float]]:
        """The logits of each batch and the milliseconds that it took, in order; as many at a time as streams.

        Shape: [N, H, W, 3] each, of any one size -> [N, C].
        """
        return self._network.in_flight(batches, lambda: self._plain_request(outputs=1))

    def _plain_request(self, outputs: int) -> NetworkRequest:
        run = self._request(outputs)
        return lambda pixels_NHWC: run(pixels_NHWC)[0]

    def logits(self, pixels_NHWC: Pixels) -> Floats:
        """As in ``Predictor``; there is only one request, so only one thread at a time may call it."""
        (logits_NC,) = self._logits_request(frame(pixels_NHWC, self.preprocess))
        return logits_NC

    @cached_property
    def _logits_request(self) -> NetworkRequest:
        return self._plain_request(outputs=1)

    @cached_property
    def _full_request(self) -> Callable[[Pixels], Mapping[str, Floats]]:
        return self.request()

    def normalised(self, pixels_NHWC: Pixels) -> Floats | None:
        """The input of the body, by the model's own resize, crop and normalisation; None if it names none.

        Shape: [N, H, W, 3] to [N, 3, R, C].
        """
        return None if self._preprocessing is None else first_output(self._preprocessing, pixels_NHWC)

    @cached_property
    def _preprocessing(self) -> openvino.CompiledModel | None:
        path = preprocessing(core().read_model(self.folder / IR_FILE))
        return path and core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def explain(self, pixels_NHWC: Pixels) -> tuple[Floats, Floats]:
        """Logits, and the map of each label in [0, 1]; only one thread at a time may call it.

        Shape: [N, H, W, 3] to [N, C] and [N, C, h, w].
        """
        assert self.has_maps
        outputs = self._full_request(frame(pixels_NHWC, self.preprocess))
        return outputs[LOGITS], outputs[MAPS]

    def logits_from_files(self, images: Iterable[ImageLike | ImageError]) -> Iterator[Floats | ImageError]:
        """The graph resizes, crops and normalises; images that are too large for it are resized and cropped before."""
        return (one if isinstance(one, ImageError) else one[0] for one in self.ran_from_files(images))

    def ran_from_files(
        self, images: Iterable[ImageLike | ImageError]
    ) -> Iterator[tuple[Floats, RanModel | None] | ImageError]:
        """As ``logits_from_files``; of int8-checked with the model that ran last. Shape: [C] each."""
        run = self._network.any_idle(lambda: self._request(outputs=1))

        def decode(image: OpenImageFile) -> Pixels:
            return graph_input(image.decode(), self.preprocess)

        def rows(pixels_NHWC: Pixels) -> list[tuple[Floats, RanModel | None]]:
            (logits_NC,), twice_N = run(pixels_NHWC)
            twice_N = np.zeros(len(logits_NC), dtype=np.bool_) if twice_N is None else twice_N
            return [(row_C, "fp32" if twice else self.quick) for row_C, twice in zip(logits_NC, twice_N, strict=True)]

        return feed_files(
            (one if isinstance(one, ImageError) else OpenImageFile(one) for one in images),
            decode,
            rows,
            mapped=self._network.in_streams,
            batch=self.batch,
            at_a_time=self.streams,
            size_of=_size_bytes,
        )


def _size_bytes(image: OpenImageFile | ImageError) -> int:
    return 0 if isinstance(image, ImageError) else image.size_bytes


def _properties(
    compute: Compute, threads: int | None, streams: int | None, cache: Path | None, device: str
) -> dict[str, Any]:
    quota = processors().usable
    if device != CPU:
        threads = streams = None
    elif threads is None and quota < processors().allowed:
        threads = quota  # OpenVINO would start a thread for each that it sees
    chosen = {
        "INFERENCE_PRECISION_HINT": "f32" if compute == "f32" else None,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
        "CACHE_DIR": cache and str(cache),
    }
    return {name: value for name, value in chosen.items() if value is not None}


def default_compute() -> ComputePrecision:
    """The precision that OpenVINO chooses for float models on this machine."""
    dtype: Dtype = core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    return ComputePrecision(dtype, chosen_by_runtime=True)


def kernel_paths(folder: Path, compute: Compute) -> tuple[KernelPath, ...]:
    """The kernels by which this machine may run an exported model; nothing is compiled to find out.

    If the CPU chooses f32 anyway, a model pinned to f32 has only those for batches: the same was computed before.
    """
    pinned = compute != "auto" and default_compute().dtype == "f32"
    card = read_card(folder)
    if pinned or card.artifact.precision != "int8":
        return ("batch",)
    try:
        model = core().read_model(folder / IR_FILE)
    except RuntimeError:  # opening it raises an error with the reason
        return ("batch",)
    return ("batch", "single") if has_single_kernels(model, card.preprocess, this_set()) else ("batch",)


def frame(pixels_NHWC: Pixels, preprocess: Preprocess) -> Pixels:
    """Pad cropped images with black so that the graph's resize does nothing and its crop returns them.

    The graph resizes until the image covers the box and crops the centre. Without the padding, it would first enlarge
    a crop that is smaller than the box.
    Shape: [N, H, W, 3] -> [N, box height, box width, 3].
    """
    kept = preprocess.height, preprocess.width
    missing = [max(side - own, 0) for side, own in zip(preprocess.box, kept, strict=True)]
    # The crop's own offsets: half the rest, rounded half to even.
    padding = [(round(rest / 2), rest - round(rest / 2)) for rest in missing]
    return np.pad(pixels_NHWC, ((0, 0), *padding, (0, 0))) if any(missing) else pixels_NHWC


def graph_input(image: Image.Image, preprocess: Preprocess, most_pixels: int = MOST_GRAPH_PIXELS) -> Pixels:
    """The input of the graph for an image: unchanged up to ``most_pixels``, else resized and cropped as in training.

    Shape: [H, W, 3].
    """
    if image.width * image.height <= most_pixels:
        return np.asarray(image)
    return frame(resize_crop(image, preprocess)[None], preprocess)[0]


def _quick_model(known: Certificates, compute: Compute, kernels: KernelPath) -> QuickModel:
    """Which model of int8-checked runs first."""
    if compute != "auto":
        return "int8"
    return known.quick_model(this_set(), default_compute().dtype, this_machine().openvino, kernels)


def _float_network(folder: Path, card: Card, properties: Mapping[str, Any]) -> CompiledNetwork:
    """The float model of int8-checked. Raises: RuntimeError if OpenVINO cannot compile it; ExportError."""
    path = folder / FLOAT_IR_FILE
    model = core().read_model(path)
    check_ports(model, path)
    check_width(model, path, len(card.labels))
    return CompiledNetwork(model, card.preprocess, {**properties, **IN_F32}, path, this_set(), kernels="batch")
