"""How many bytes requests may hold at a time, by what they are counted, and that all of them are given back."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from tests.conftest import Listener
from tests.serving.conftest import pixels, png

from ftx.core.byte_semaphore import AsyncByteSemaphore
from ftx.data.decode_limits import PIXEL_BYTES
from ftx.serving import images as images_module
from ftx.serving.app import JSON_LENGTH, AppState, build
from ftx.serving.images import Images
from ftx.serving.limits import Limits
from ftx.serving.metrics import Metrics
from ftx.serving.protocol import JSON_TIMES
from ftx.serving.registry import ModelSource, Registry

MOST = 10_000_000


@pytest.fixture(scope="module")
def state(colour_ir: Path) -> Iterator[AppState]:
    """A server without its sockets, in which all requests together may hold ``MOST`` bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images_module, "PREFETCH_BYTES", MOST)
        images = Images(50_000_000)
    registry = Registry(
        [ModelSource("colour", colour_ir)],
        Listener(),
        counted=lambda images: None,
        reloaded=lambda name, taken: None,
        options={},
    )
    yield AppState(registry, images, Limits(), Metrics())
    registry.close()
    images.close()


async def asked(state: AppState, path: str, body: bytes, **headers: str) -> int:
    """The status of an answer, as the guard in front of the application gets it."""
    given = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    scope: dict[str, Any] = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": path}
    scope |= {"raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": given, "state": {}}
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await build(state)(scope, receive, send)
    (status,) = statuses
    return status


def waits(state: AppState, held_bytes: int, path: str, body: bytes, **headers: str) -> bool:
    """Whether a request waits where others hold so many bytes; it is answered once they hold none."""

    async def run() -> bool:
        memory = state.images.memory
        async with memory.holding(held_bytes):
            asking = asyncio.ensure_future(asked(state, path, body, **headers))
            while not asking.done() and not memory._waiting:
                await asyncio.sleep(0.001)
            waited = not asking.done()
        assert await asking == 200
        async with memory.holding(MOST), memory.holding(0):  # all that it held was given back
            assert not memory._waiting
        return waited

    return asyncio.run(asyncio.wait_for(run(), 30))


def in_json() -> tuple[bytes, dict[str, str], int]:
    """Pixels as text: reading them takes many times their bytes."""
    tensor = {"name": "image", "shape": [1, 4, 4, 3], "datatype": "UINT8", "data": pixels(1, 4, 4).ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    return body, {}, JSON_TIMES * len(body)


def in_binary() -> tuple[bytes, dict[str, str], int]:
    """Pixels of three images: their own bytes, all of them."""
    sent = pixels(3, 50, 60)
    tensor = {"name": "image", "shape": sent.shape, "datatype": "UINT8"}
    tensor["parameters"] = {"binary_data_size": sent.nbytes}
    head = json.dumps({"inputs": [tensor]}).encode()
    assert sent.nbytes > JSON_TIMES * len(head)
    return head + sent.tobytes(), {JSON_LENGTH.replace("-", "_"): str(len(head))}, sent.nbytes


def encoded() -> tuple[bytes, dict[str, str], int]:
    """A file: what its pixels take while it is decoded."""
    return png(1, 24, 40), {"content_type": "image/png"}, PIXEL_BYTES * 24 * 40


@pytest.mark.parametrize(
    ("path", "made"),
    [("/v2/models/colour/infer", in_json), ("/v2/models/colour/infer", in_binary), ("/predict", encoded)],
    ids=["pixels in JSON", "pixels in binary", "a file"],
)
def test_a_request_is_counted_by_what_it_takes(state: AppState, path: str, made: Any) -> None:
    """To the byte: it goes on beside others that leave as much, and waits beside those that leave one byte less."""
    body, headers, takes_bytes = made()
    assert not waits(state, MOST - takes_bytes, path, body, **headers)
    assert waits(state, MOST - takes_bytes + 1, path, body, **headers)


def fits(memory: AsyncByteSemaphore, held_bytes: int, more_bytes: int) -> bool:
    """Whether there is memory for more beside what is held."""

    async def run() -> bool:
        async with memory.holding(held_bytes):
            more = asyncio.ensure_future(memory.holding(more_bytes).__aenter__())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            fitted = more.done()
            more.cancel()
            return fitted

    return asyncio.run(run())


def test_a_server_has_a_bound_and_within_it_a_quarter_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "PREFETCH_BYTES", 1000)  # of a machine with more
    assert fits(Images(1).memory, 600, 400)
    assert not fits(Images(1).memory, 600, 401)
    monkeypatch.setattr(images_module, "PREFETCH_BYTES", 1 << 62)  # of one with less
    assert not fits(Images(1).memory, psutil.virtual_memory().total // 4, 1)


@pytest.mark.parametrize(
    ("kind", "bytes_a_pixel", "status"), [("JPEG2000", 20, 422), ("WEBP", 16, 422), ("JPEG", 12, 200), ("PNG", 8, 200)]
)
def test_a_format_that_takes_more_to_decode_is_taken_smaller(
    kind: str, bytes_a_pixel: int, status: int, state: AppState
) -> None:
    """Twelve bytes for each of the most pixels; and each image is counted by what its own format takes."""
    small = replace(state, images=Images(40 * 24))
    small.images.memory = state.images.memory

    def sent(width: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels(1, 24, width)[0]).save(file, kind)
        return file.getvalue()

    assert asyncio.run(asked(small, "/predict", sent(40), content_type="image/x")) == status
    assert asyncio.run(asked(small, "/predict", sent(24), content_type="image/x")) == 200
    takes_bytes = bytes_a_pixel * 24 * 24
    for more, waited in ((0, False), (1, True)):
        assert waits(small, MOST - takes_bytes + more, "/predict", sent(24), content_type="image/x") is waited
    small.images.close()
