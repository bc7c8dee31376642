"""What is larger than it may be is refused, by its head if that tells."""

from __future__ import annotations

import io
import socket
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from PIL import Image, PngImagePlugin
from tests.conftest import Listener
from tests.serving.conftest import Running, running, until
from tests.serving.raw_requests import MB, head, read_all, resident_mb, spoken, status_and_sentence

from ftx.core.errors import InputError
from ftx.serving import limits as limits_module
from ftx.serving.http_error import HttpError
from ftx.serving.limits import AccessRules, Guard, Limits
from ftx.serving.metrics import Metrics
from ftx.serving.registry import ModelSource


def chunk(png_type: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + png_type + content + struct.pack(">I", zlib.crc32(png_type + content))


def png_of(width: int, height: int, *more: bytes) -> bytes:
    """A PNG of one colour, row by row compressed to nothing."""
    packed = zlib.compressobj(9)
    rows = b"".join(packed.compress(b"\0" * (1 + 3 * width)) for _ in range(height)) + packed.flush()
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + b"".join(more) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.representative
def test_megapixels_are_refused_by_their_header(small: Running) -> None:
    bomb = png_of(20_000, 10_000)  # 200 megapixels in 0.6 MB
    before = resident_mb()
    started = time.monotonic()
    said = small.predict(bomb)
    assert (said.status, "200 megapixels of at most 1" in said.json["error"]) == (422, True)
    assert time.monotonic() - started < 1  # decoding it takes longer
    assert resident_mb() - before < 100  # its pixels take 600
    data = small.infer(
        {"inputs": [{"name": "image", "shape": [1, 2000, 2000, 3], "datatype": "UINT8", "data": [0] * 12}]}
    )
    assert data.status == 400


def test_a_bomb_of_text_is_refused(small: Running) -> None:
    packed = zlib.compress(b"\0" * 200_000_000, 9)
    said = small.predict(png_of(16, 16, chunk(b"zTXt", b"note\0\0" + packed)))
    assert said.status == 422
    assert said.json["error"]
    written = io.BytesIO()
    info = PngImagePlugin.PngInfo()
    info.add_text("note", "fine", zip=True)
    Image.new("RGB", (16, 16)).save(written, "PNG", pnginfo=info)
    assert small.predict(written.getvalue()).status == 200


def test_a_body_that_says_its_length_is_refused_by_it(small: Running) -> None:
    status, sentence = status_and_sentence(spoken(small, head(content_length="1000000000"), ends=True))
    assert (status, sentence) == (413, "the body must be at most 2 MB, found 1,000.0 MB or more")


@pytest.mark.representative
def test_a_gigabyte_in_chunks_is_cut_off_where_it_is_too_much(small: Running) -> None:
    before, sent = resident_mb(), 0
    some = b"%x\r\n" % MB + b"\0" * MB + b"\r\n"
    with socket.create_connection(("127.0.0.1", small.port), timeout=10) as line:
        line.sendall(head(transfer_encoding="chunked"))
        with suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(1000):
                line.sendall(some)
                sent += 1
                line.setblocking(False)
                with suppress(BlockingIOError):
                    if line.recv(1 << 16, socket.MSG_PEEK):
                        break
                line.setblocking(True)
        line.settimeout(10)
        status, sentence = status_and_sentence(read_all(line))
    assert (status, "must be at most 2 MB" in sentence) == (413, True)
    assert sent < 100
    assert resident_mb() - before < 50


def test_a_compressed_body_is_refused(small: Running) -> None:
    said = small.ask(
        "POST", "/predict", zlib.compress(b"\0" * MB), content_type="image/png", content_encoding="deflate"
    )
    assert (said.status, "compressed" in said.json["error"]) == (415, True)


def test_bytes_of_bodies_are_bounded_and_given_back(colour_ir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all requests together: many more bytes in all than they may hold at a time."""
    monkeypatch.setattr(limits_module, "HELD_BYTES", 500_000)
    some, more = b"\0" * 300_000, b"\0" * 600_000
    refused = (503, "1", "the requests in progress take all the memory that they may use")

    def said(server: Running, body: bytes) -> tuple[int, str | None, str]:
        answer = server.predict(body)
        return answer.status, answer.headers.get("retry-after"), answer.json["error"]

    def taken(server: Running) -> bool:
        return server.predict(some).status == 422  # it is no image, which is told once it was read

    with running(ModelSource("colour", colour_ir)) as server:
        for _ in range(3):
            assert taken(server)
            assert said(server, more) == refused
        bodies = server.server.http.config.app.bodies
        for _ in range(2):
            until(lambda: bodies.held_bytes == 0)  # a moment after the last answer
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
                line.sendall(head(content_length="300001") + some)
                until(lambda: bodies.held_bytes == len(some))  # it came, but for its end
                assert said(server, some) == refused
            until(lambda: taken(server))  # it went away
        assert taken(server)


def guard(limits: Limits) -> tuple[Guard, Metrics]:
    async def nothing(*_given: object) -> None:
        pass

    metrics = Metrics()
    return Guard(nothing, limits, AccessRules(), metrics, Listener()), metrics


def test_requests_are_counted_in_and_out() -> None:
    asked, metrics = guard(Limits(max_concurrency=3))

    def shown() -> float:
        return float(metrics.text().decode().partition("\nftx_requests_in_progress ")[2].split()[0])

    for working in (1, 2, 3):
        asked.begin()
        assert shown() == working
    with pytest.raises(HttpError, match="3 requests are in progress") as caught:
        asked.begin()
    assert (caught.value.status, caught.value.retry_after_s) == (503, 1)
    for working in (2, 1):
        asked.end()
        assert shown() == working
    asked.begin()


def test_bodies_take_at_most_a_quarter_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "HELD_BYTES", 1 << 62)  # more than any machine has
    asked, _ = guard(Limits())
    assert asked.bodies.fits(1)
    assert not asked.bodies.fits(psutil.virtual_memory().total // 4)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0.0, -1.0])
def test_what_is_no_limit(value: float) -> None:
    with pytest.raises(InputError, match="--timeout-s must be a number above 0"):
        Limits(timeout_s=value)
    with pytest.raises(InputError, match="--max-body-mb must be a number above 0"):
        Limits(max_body_mb=value)
