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

from ftx.data.decode_limits import PIXEL_BYTES
from ftx.serving import images as images_room
from ftx.serving.app import JSON_LENGTH, Parts, build
from ftx.serving.images import Images, Room
from ftx.serving.limits import Limits
from ftx.serving.metrics import Metrics
from ftx.serving.protocol import JSON_TIMES
from ftx.serving.registry import Registry, Target

MOST = 10_000_000


@pytest.fixture(scope="module")
def parts(colour_ir: Path) -> Iterator[Parts]:
    """A server without its sockets, in which all requests together may hold ``MOST`` bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images_room, "AHEAD_BYTES", MOST)
        images = Images(50_000_000)
    registry = Registry(
        [Target("colour", colour_ir)], Listener(), counted=lambda images: None, reloaded=lambda name, taken: None
    )
    yield Parts(registry, images, Limits(), Metrics())
    registry.close()
    images.close()


async def asked(parts: Parts, path: str, body: bytes, **headers: str) -> int:
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

    await build(parts)(scope, receive, send)
    (status,) = statuses
    return status


def waits(parts: Parts, held_bytes: int, path: str, body: bytes, **headers: str) -> bool:
    """Whether a request waits where others hold so many bytes; it is answered once they hold none."""

    async def run() -> bool:
        room = parts.images.room
        async with room.holding(held_bytes):
            asking = asyncio.ensure_future(asked(parts, path, body, **headers))
            while not asking.done() and not room._waiting:
                await asyncio.sleep(0.001)
            waited = not asking.done()
        assert await asking == 200
        async with room.holding(MOST), room.holding(0):  # all that it held was given back
            assert not room._waiting
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
def test_a_request_is_counted_by_what_it_takes(parts: Parts, path: str, made: Any) -> None:
    """To the byte: it goes on beside others that leave as much, and waits beside those that leave one byte less."""
    body, headers, takes_bytes = made()
    assert not waits(parts, MOST - takes_bytes, path, body, **headers)
    assert waits(parts, MOST - takes_bytes + 1, path, body, **headers)


def fits(room: Room, held_bytes: int, more_bytes: int) -> bool:
    """Whether there is room for more beside what is held."""

    async def run() -> bool:
        async with room.holding(held_bytes):
            more = asyncio.ensure_future(room.holding(more_bytes).__aenter__())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            fitted = more.done()
            more.cancel()
            return fitted

    return asyncio.run(run())


def test_a_server_has_a_bound_and_within_it_a_quarter_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_room, "AHEAD_BYTES", 1000)  # of a machine with more
    assert fits(Images(1).room, 600, 400)
    assert not fits(Images(1).room, 600, 401)
    monkeypatch.setattr(images_room, "AHEAD_BYTES", 1 << 62)  # of one with less
    assert not fits(Images(1).room, psutil.virtual_memory().total // 4, 1)


def test_what_is_larger_than_all_goes_alone() -> None:
    async def run() -> None:
        room = Room(1000)
        async with room.holding(5000):  # nothing is held
            small = asyncio.ensure_future(_held_once(room, 1))
            await asyncio.sleep(0.01)
            assert not small.done()
        await small
        async with room.holding(1):
            large = asyncio.ensure_future(_held_once(room, 5000))
            await asyncio.sleep(0.01)
            assert not large.done()
        await large

    asyncio.run(asyncio.wait_for(run(), 10))


async def _held_once(room: Room, size_bytes: int) -> None:
    async with room.holding(size_bytes):
        pass


def test_bytes_come_back_from_whoever_fails_or_goes_away() -> None:
    async def run() -> None:
        room = Room(1000)
        for _ in range(3):  # more than all there is
            with pytest.raises(ValueError, match="broken"):
                async with room.holding(600):
                    raise ValueError("broken")
        async with room.holding(600):
            gone = [asyncio.ensure_future(_held_once(room, 600)) for _ in range(3)]
            stays = asyncio.ensure_future(_held_once(room, 1000))
            await asyncio.sleep(0.01)
            for one in gone:
                one.cancel()
            await asyncio.wait(gone, timeout=10)
            assert not stays.done()
        await stays
        async with room.holding(500), room.holding(500):
            assert not room._waiting

    asyncio.run(asyncio.wait_for(run(), 10))


@pytest.mark.parametrize(
    ("kind", "bytes_a_pixel", "status"), [("JPEG2000", 20, 422), ("WEBP", 16, 422), ("JPEG", 12, 200), ("PNG", 8, 200)]
)
def test_a_format_that_takes_more_to_decode_is_taken_smaller(
    kind: str, bytes_a_pixel: int, status: int, parts: Parts
) -> None:
    """Twelve bytes for each of the most pixels; and each image is counted by what its own format takes."""
    small = replace(parts, images=Images(40 * 24))
    small.images.room = parts.images.room

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
