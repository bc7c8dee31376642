"""From the bytes that a client sent to the model's outputs: header, pixels and model, in threads, in bounded memory.

Shapes: H x W pixels, C labels.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncGenerator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

import numpy as np
from PIL import Image

from ftx.core.byte_semaphore import AsyncByteSemaphore
from ftx.core.closed_model import ClosedModel
from ftx.core.errors import ImageError
from ftx.core.processors import cores
from ftx.data.decode import read_header
from ftx.data.decode_limits import MAX_ASPECT, LimitedStream, decoding_bytes, too_narrow
from ftx.data.image_store import open_image
from ftx.data.preprocess import Pixels, Preprocess
from ftx.evaluating.predict import Prediction, failed_prediction, to_prediction
from ftx.explaining.overlay import overlay
from ftx.runtimes.openvino import TWICE, graph_input
from ftx.runtimes.predictor import LOGITS, MAPS, PREFETCH_BYTES, RanModel
from ftx.serving.batching import ImageOutputs
from ftx.serving.registry import Version

_T = TypeVar("_T")
# For a picture with a map, which people look at: edges stay sharp.
JPEG_QUALITY = 85
# For each of max_pixels: what decoding a JPEG takes at most. WebP and JPEG 2000 take more, so their limit is lower.
_BYTES_A_PIXEL = 12


class Saliency(ClosedModel):
    """What supports a label, drawn over the image, as a data URL."""

    label: str
    score: float
    picture: str


class ServedPrediction(Prediction):
    """The prediction of ``ftx predict``, with saliency maps if the client wants them."""

    saliency: list[Saliency] | None = None


class Images:
    """Decodes images and runs models on them; one for a server."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(cores(), thread_name_prefix="ftx-decode")
        self.memory = AsyncByteSemaphore.of_memory(PREFETCH_BYTES)

    def close(self) -> None:
        """Start no more work."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def in_thread(self, function: Callable[..., _T], *given: object) -> _T:
        """Run a function that would block other clients."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *given)

    async def outputs(self, version: Version, image: bytes | Pixels, kept: Collection[str]) -> ImageOutputs:
        """The ``kept`` outputs of a model for one image, encoded or as pixels [H, W, 3].

        Raises: ImageError.
        """
        if isinstance(image, np.ndarray):
            self._check(image.shape[1], image.shape[0])
            outputs = await self._run(version, image)
        else:
            async with self._decoded(image) as decoded:
                outputs = await self._run(version, decoded)
        return {name: array for name, array in outputs.items() if name in kept}

    async def prediction(
        self, version: Version, name: str, image: bytes, *, scores: bool = False, saliency: bool = False
    ) -> ServedPrediction:
        """The prediction for one image, or its error."""
        maps = None
        try:
            async with self._decoded(image) as decoded:
                outputs = await self._run(version, decoded)
                predictor = version.predictor
                ran, sure = _ran(outputs, predictor.quick), predictor.uncertainty
                plain = to_prediction(name, outputs[LOGITS], predictor.task, scores=scores, ran=ran, sure=sure)
                if saliency and plain.error is None and MAPS in outputs:
                    maps = await self.in_thread(_draw, version, plain, decoded, outputs)
        except ImageError as error:
            plain = failed_prediction(name, error)
        return ServedPrediction(**dict(plain), saliency=maps)

    async def _run(self, version: Version, image: Image.Image | Pixels) -> ImageOutputs:
        height, width = image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)
        if not version.resizes(height, width):
            image = await self.in_thread(_resized, image, version.predictor.preprocess)
        elif not isinstance(image, np.ndarray):
            image = await self.in_thread(np.asarray, image)
        return await asyncio.wrap_future(version.batcher.submit(image))

    @asynccontextmanager
    async def _decoded(self, image: bytes) -> AsyncGenerator[Image.Image, None]:
        """The decoded image, for the block."""
        width, height, size_bytes = await self.in_thread(_size, image)
        self._check(width, height)
        if size_bytes > (most_bytes := _BYTES_A_PIXEL * self._max_pixels):
            found = f"{width} x {height}, {size_bytes / 1e6:,.0f} MB to decode, of at most {most_bytes / 1e6:,.0f}"
            raise ImageError("the image is too large for its format", found=found, fix="save it as JPEG or PNG")
        async with self.memory.holding(size_bytes):
            yield await self.in_thread(open_image, image)

    def _check(self, width: int, height: int) -> None:
        """Raise ImageError for too many pixels, or too long a strip."""
        if width * height > self._max_pixels:
            found = f"{width} x {height}, {width * height / 1e6:.0f} megapixels of at most {self._max_pixels / 1e6:g}"
            raise ImageError("the image is too large", found=found, fix="scale it down")
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise too_narrow(width, height)


def _ran(outputs: ImageOutputs, quick: RanModel | None) -> RanModel | None:
    """The model of int8-checked that predicted an image; None for any other model."""
    return ("fp32" if outputs[TWICE] else quick) if TWICE in outputs else None


def _size(content: bytes) -> tuple[int, int, int]:
    """Width, height, and the bytes that decoding takes, from the header.

    Raises: ImageError if this is no image.
    """
    try:
        header = read_header(LimitedStream(content))
        return header.width, header.height, decoding_bytes(header)
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers raise struct, value and memory errors on broken files
        found = str(error)[:200] or type(error).__name__
        raise ImageError("the image cannot be read", found=found, fix="save it again as JPEG or PNG") from error


def _resized(image: Image.Image | Pixels, preprocess: Preprocess) -> Pixels:
    """An image in the model's input size, for which the graph's own resize and crop change nothing."""
    return graph_input(Image.fromarray(image) if isinstance(image, np.ndarray) else image, preprocess, most_pixels=0)


def _draw(version: Version, prediction: Prediction, image: Image.Image, outputs: ImageOutputs) -> list[Saliency]:
    """A picture for each predicted label; if there is none, for the label with the highest score."""
    task, preprocess = version.predictor.task, version.predictor.preprocess
    scores_C = task.scores(outputs[LOGITS][None])[0]
    names = [label.name for label in prediction.labels] or [task.labels.names[int(scores_C.argmax())]]
    found: list[Saliency] = []
    for name in names:
        index = task.labels.names.index(name)
        written = io.BytesIO()
        overlay(image, outputs[MAPS][index], preprocess).save(written, format="JPEG", quality=JPEG_QUALITY)
        url = f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"
        found.append(Saliency(label=name, score=float(scores_C[index]), picture=url))
    return found
