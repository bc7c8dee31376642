"""From what a client sent to what the model answers: sizes first, then pixels, in threads, within a bound of memory.

Shapes: H x W pixels, C labels.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from ftx.core.errors import ImageError
from ftx.core.memory import available_bytes
from ftx.core.processors import cores
from ftx.data.decode import read_header
from ftx.data.decode_limits import MAX_ASPECT, LimitedStream, decoding_bytes
from ftx.data.image_store import open_image
from ftx.data.preprocess import Pixels, Preprocess
from ftx.evaluating.predict import Prediction, to_prediction
from ftx.explaining.overlay import overlay
from ftx.runtimes.openvino import graph_input
from ftx.runtimes.predictor import AHEAD_BYTES, LOGITS, MAPS
from ftx.serving.batching import Outputs
from ftx.serving.registry import Version

Result = TypeVar("Result")
# Of a picture with a map, which is looked at: no edge shows.
JPEG_QUALITY = 85
# Of max_pixels, for decoding one image: what JPEG takes at most. WebP and JPEG 2000 take more, so theirs are smaller.
_BYTES_A_PIXEL = 12


class Saliency(BaseModel):
    """What speaks for a label, drawn over the image, as a data URL."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str
    score: float
    picture: str


class ServedPrediction(Prediction):
    """What ``ftx predict`` says of an image, and pictures of why, where they were asked for."""

    saliency: list[Saliency] | None = None


@dataclass(frozen=True)
class Wanted:
    """What is asked of each image beside its labels."""

    scores: bool = False
    saliency: bool = False


class Room:
    """Bytes of images and numbers that are being decoded, or are decoded, for all requests; more wait for their turn.

    What is larger than all of it waits until nothing else is held, and goes alone.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._held_bytes = most_bytes, 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def holding(self, size_bytes: int) -> AsyncGenerator[None, None]:
        """Wait until so many bytes are to be had, and hold them for the block."""
        while self._held_bytes and self._held_bytes + size_bytes > self._most_bytes:
            freed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(freed)
            try:
                await freed
            finally:
                self._waiting.remove(freed)
        self._held_bytes += size_bytes
        try:
            yield
        finally:
            self._held_bytes -= size_bytes
            for freed in self._waiting:
                if not freed.done():
                    freed.set_result(None)


class Images:
    """Decodes what comes as files, and asks models about it; one for a server."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(cores(), thread_name_prefix="ftx-decode")
        self.room = Room(min(AHEAD_BYTES, available_bytes() // 4))

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def in_thread(self, function: Callable[..., Result], *given: object) -> Result:
        """Run what would keep other clients waiting beside them."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *given)

    async def outputs(self, version: Version, image: bytes | Pixels, kept: Collection[str]) -> Outputs:
        """What a model answers for one image, encoded or as pixels [H, W, 3]: those of its outputs that are ``kept``.

        Raises: ImageError.
        """
        if isinstance(image, np.ndarray):
            self._check(image.shape[1], image.shape[0])
            answered = await self._ask(version, image)
        else:
            async with self._decoded(image) as decoded:
                answered = await self._ask(version, decoded)
        return {name: array for name, array in answered.items() if name in kept}

    async def prediction(self, version: Version, name: str, image: bytes, wanted: Wanted) -> ServedPrediction:
        """The labels of one image, or why there are none."""
        task = version.predictor.task
        try:
            async with self._decoded(image) as decoded:
                outputs = await self._ask(version, decoded)
                plain = to_prediction(name, outputs[LOGITS], task, scores=wanted.scores)
                drawn = None
                if wanted.saliency and plain.error is None and MAPS in outputs:
                    drawn = await self.in_thread(_drawn, version, plain, decoded, outputs)
        except ImageError as error:
            return ServedPrediction(**dict(to_prediction(name, error, task)))
        return ServedPrediction(**dict(plain), saliency=drawn)

    async def _ask(self, version: Version, image: Image.Image | Pixels) -> Outputs:
        height, width = image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)
        if not version.resizes(height, width):
            image = await self.in_thread(_resized, image, version.predictor.preprocess)
        elif not isinstance(image, np.ndarray):
            image = await self.in_thread(np.asarray, image)
        return await asyncio.wrap_future(version.batcher.submit(image))

    @asynccontextmanager
    async def _decoded(self, image: bytes) -> AsyncGenerator[Image.Image, None]:
        """An image that is decoded, for the block."""
        width, height, size_bytes = await self.in_thread(_size, image)
        self._check(width, height)
        if size_bytes > (most_bytes := _BYTES_A_PIXEL * self._max_pixels):
            found = f"{width} x {height}, {size_bytes / 1e6:,.0f} MB to decode, of at most {most_bytes / 1e6:,.0f}"
            raise ImageError("the image is too large for its format", found=found, fix="save it as JPEG or PNG")
        async with self.room.holding(size_bytes):
            yield await self.in_thread(open_image, image)

    def _check(self, width: int, height: int) -> None:
        """Raise ImageError for more pixels than this server takes, or too long a strip."""
        if width * height > self._max_pixels:
            found = f"{width} x {height}, {width * height / 1e6:.0f} megapixels of at most {self._max_pixels / 1e6:g}"
            raise ImageError("the image is too large", found=found, fix="scale it down")
        if max(width, height) > MAX_ASPECT * min(width, height):
            found = f"{width} x {height}, at most {MAX_ASPECT} : 1"
            raise ImageError("the image is too long a strip", found=found, fix="cut it up")


def _size(content: bytes) -> tuple[int, int, int]:
    """Width, height, and the bytes that decoding takes, by the header.

    Raises: ImageError if this is no image.
    """
    try:
        header = read_header(LimitedStream(content))
        return header.width, header.height, decoding_bytes(header)
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers let struct, value and memory errors through on broken files
        raise ImageError("the image cannot be read", found=str(error)[:200] or type(error).__name__) from error


def _resized(image: Image.Image | Pixels, preprocess: Preprocess) -> Pixels:
    """An image that the graph's own resize and crop leave as training saw it."""
    return graph_input(Image.fromarray(image) if isinstance(image, np.ndarray) else image, preprocess, most_pixels=0)


def _drawn(version: Version, said: Prediction, image: Image.Image, outputs: Outputs) -> list[Saliency]:
    """A picture for each label that was called; where none was, for the nearest to it."""
    task, preprocess = version.predictor.task, version.predictor.preprocess
    scores_C = task.scores(outputs[LOGITS][None])[0]
    names = [label.name for label in said.labels] or [task.labels.names[int(scores_C.argmax())]]
    found: list[Saliency] = []
    for name in names:
        index = task.labels.names.index(name)
        written = io.BytesIO()
        overlay(image, outputs[MAPS][index], preprocess).save(written, format="JPEG", quality=JPEG_QUALITY)
        url = f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"
        found.append(Saliency(label=name, score=float(scores_C[index]), picture=url))
    return found
