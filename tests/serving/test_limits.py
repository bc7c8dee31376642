"""What must not cost more than it may: large, slow, cut and malformed requests, while good ones are answered."""

from __future__ import annotations

import io
import json
import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from PIL import Image, PngImagePlugin
from tests.serving.conftest import Running, png, running, until

from ftx.core.errors import InputError
from ftx.serving import connection, limits
from ftx.serving.limits import Limits
from ftx.serving.registry import Target

MB = 1_000_000


@pytest.fixture(scope="module")
def small(colour_ir: Path) -> Iterator[Running]:
    """One that takes little of anything, so that all of it can be asked for."""
    with running(
        Target("colour", colour_ir),
        limits=Limits(max_body_mb=2, max_pixels=1_000_000, max_concurrency=4, timeout_s=1),
    ) as server:
        yield server


def head(path: str = "/predict", **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: image/png"]
    return "\r\n".join(
        [*lines, *(f"{name.replace('_', '-')}: {text}" for name, text in headers.items()), "", ""]
    ).encode()


def spoken(server: Running, *parts: bytes, ends: bool = False) -> bytes:
    """All that a server says to what is sent as it stands; a client that ``ends`` says that it will send no more."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
        for part in parts:
            line.sendall(part)
        if ends:
            line.shutdown(socket.SHUT_WR)
        return read_all(line)


def read_all(line: socket.socket) -> bytes:
    said = b""
    with suppress(ConnectionResetError):
        while some := line.recv(1 << 16):
            said += some
    return said


def status_and_sentence(said: bytes) -> tuple[int, str]:
    first, _, body = said.partition(b"\r\n\r\n")
    return int(first.split()[1]), json.loads(body)["error"]


def chunk(png_type: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + png_type + content + struct.pack(">I", zlib.crc32(png_type + content))


def png_of(width: int, height: int, *more: bytes) -> bytes:
    """A PNG of one colour, row by row compressed to nothing."""
    packed = zlib.compressobj(9)
    rows = b"".join(packed.compress(b"\0" * (1 + 3 * width)) for _ in range(height)) + packed.flush()
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + b"".join(more) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def resident_mb() -> float:
    return psutil.Process().memory_info().rss / MB


@pytest.mark.slow
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
    assert (status, sentence) == (413, "the body has 1,000.0 MB or more, of at most 2")


@pytest.mark.slow
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
    assert (status, "of at most 2" in sentence) == (413, True)
    assert sent < 100
    assert resident_mb() - before < 50


@pytest.mark.slow
def test_whoever_sends_on_is_not_heard_for_long(small: Running) -> None:
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", small.port), timeout=10) as line:
        line.sendall(head(content_length=str(10 * MB)))
        while time.monotonic() - started < 10:
            try:
                line.sendall(b"\0")
            except OSError:
                break
            time.sleep(0.05)
    assert limits.LINGER_S <= time.monotonic() - started < limits.LINGER_S + 2


def test_a_compressed_body_is_refused(small: Running) -> None:
    said = small.ask(
        "POST", "/predict", zlib.compress(b"\0" * MB), content_type="image/png", content_encoding="deflate"
    )
    assert (said.status, "compressed" in said.json["error"]) == (415, True)


@pytest.mark.slow
def test_slow_clients_are_told_so(small: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.5)
    for parts in ((), (b"POST /pred",), (b"GET / HTTP/1.1\r\nhost: localhost\r\n",)):  # no head, or half of one
        status, sentence = status_and_sentence(spoken(small, *parts))
        assert (status, sentence) == (408, "the head of the request did not come in time")
    status, sentence = status_and_sentence(spoken(small, head(content_length="1000"), b"\x89PNG"))
    assert (status, sentence) == (408, "the body did not come within 1 s")
    assert small.predict(png()).status == 200


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0.0, -1.0])
def test_what_is_no_limit(value: float) -> None:
    with pytest.raises(InputError, match="time for a request is no limit"):
        Limits(timeout_s=value)
    with pytest.raises(InputError, match="largest request is no limit"):
        Limits(max_body_mb=value)


def in_progress(server: Running) -> int:
    text = server.ask("GET", "/metrics").body.decode()
    return int(float(text.partition("\nftx_requests_in_progress ")[2].split()[0]))


def half_sent(server: Running, count: int) -> list[socket.socket]:
    """Requests whose bodies do not come."""
    lines = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(count)]
    for line in lines:
        line.sendall(head(content_length="1000"))
    return lines


def test_slow_clients_hold_only_their_own_places(colour_ir: Path) -> None:
    with running(Target("colour", colour_ir), limits=Limits(max_concurrency=4)) as server:
        slow = half_sent(server, 4)
        until(lambda: in_progress(server) == 4)
        full = server.predict(png())
        assert (full.status, full.headers["retry-after"]) == (503, "1")
        assert "4 requests are being answered" in full.json["error"]
        assert server.ask("GET", "/v2/health/live").status == 200
        for line in slow:
            line.close()
        until(lambda: in_progress(server) == 0)
        assert server.predict(png()).status == 200


def test_slow_clients_lose_their_places(small: Running) -> None:
    slow = half_sent(small, 4)  # for the second that a request may take
    until(lambda: small.predict(png()).status == 200)
    for line in slow:
        line.close()


def test_cut_connections_leave_nothing(small: Running) -> None:
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", small.port), timeout=10) as line:
            line.sendall(head(content_length="1000") + b"\x89PNG")
    for _ in range(50):  # after the whole request, before the answer
        with socket.create_connection(("127.0.0.1", small.port), timeout=10) as line:
            line.sendall(head(content_length=str(len(png()))) + png())
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    until(lambda: in_progress(small) == 0)
    assert small.predict(png()).status == 200
    assert small.said[-1].startswith("nobody has validated")  # no bug was met


@pytest.mark.slow
def test_an_answer_that_nobody_reads_is_dropped(colour_ir: Path) -> None:
    with running(Target("colour", colour_ir), limits=Limits(timeout_s=1)) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 2000)  # megabytes of answers
            time.sleep(3)
            with suppress(ConnectionResetError, BrokenPipeError):
                line.sendall(b"GET / HTTP/1.1\r\n")
                time.sleep(0.2)
                line.sendall(b"host: localhost\r\n\r\n")
                read_all(line)
        assert server.predict(png()).status == 200


def test_who_goes_away_is_no_bug(colour_ir: Path) -> None:
    with running(Target("colour", colour_ir)) as server:
        for path in ("/predict", "/v2/models/colour/infer"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
                line.sendall(head(path, content_length="1000") + b"\x89PNG")
        form = {"content_type": "multipart/form-data; boundary=x", "content_length": "1000"}
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
            line.sendall(head("/predict", **form).replace(b"content-type: image/png\r\n", b"") + b"--x\r\n")
        route = 'ftx_requests_total{route="%s",status="0"} %d.0'
        wanted = (route % ("/predict", 2), route % ("/v2/models/{name}/infer", 1))
        until(lambda: all(one in server.ask("GET", "/metrics").body.decode() for one in wanted))
        assert 'status="500"' not in server.ask("GET", "/metrics").body.decode()


@pytest.mark.slow
def test_who_reads_slowly_is_let_read(colour_ir: Path) -> None:
    """Four times as long as a client that reads nothing is kept."""
    with running(Target("colour", colour_ir), limits=Limits(timeout_s=1)) as server:
        whole = len(server.ask("GET", "/openapi.json").body)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            line.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 2000)  # megabytes of answers
            read, ends = 0, time.monotonic() + 4
            while time.monotonic() < ends:
                read += len(line.recv(20_000))
                time.sleep(0.1)
            assert read < 500 * whole  # nearly all of it is still to come
            while read < 2000 * whole and (some := line.recv(1 << 16)):
                read += len(some)
        assert read >= 2000 * whole


def test_no_more_connections_than_there_is_room_for(colour_ir: Path) -> None:
    with running(Target("colour", colour_ir), limits=Limits(max_concurrency=4)) as server:
        most = 4 + connection.SPARE_CONNECTIONS
        lines = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(most)]
        status, sentence = status_and_sentence(spoken(server))  # who comes last is accepted last
        assert (status, "connections are open" in sentence) == (503, True)
        for line in lines:
            line.close()

        def answered() -> bool:
            with suppress(ConnectionError):
                return server.predict(png()).status == 200
            return False

        until(answered)


@pytest.mark.parametrize(
    "sent",
    [
        b"\0\1\2\3\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: " + b"x" * 100_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to one that speaks none
    ],
)
def test_what_is_no_http(small: Running, sent: bytes) -> None:
    said = spoken(small, sent)
    if said:
        assert status_and_sentence(said)[0] in (400, 408, 415)
    assert small.predict(png()).status == 200


def test_forms_that_do_not_hold(small: Running) -> None:
    form = b'--x\r\ncontent-disposition: form-data; name="a"; filename="%s"\r\n\r\n%s\r\n--x--\r\n'
    for body, kind, status in (
        (b"", "multipart/form-data", 400),
        (b"--y", "multipart/form-data; boundary=x", 400),
        (b"--x\r\n\r\n\r\n--x--", "multipart/form-data; boundary=x", 400),
        (form % (b"a.png", b""), "multipart/form-data; boundary=x", 422),
        (form % (b"../../etc/passwd", b"root"), "multipart/form-data; boundary=x", 422),
        (b"a=b", "application/x-www-form-urlencoded", 415),
        (b"{}", "application/json", 415),
    ):
        said = small.ask("POST", "/predict", body, content_type=kind)
        assert said.status == status, (body, said.body)
        assert said.json["error"]
    kind = "multipart/form-data; boundary=x"
    assert small.ask("POST", "/predict", form % (b"a.png", png()), content_type=kind).status == 200


def test_one_broken_file_among_good_ones_is_told_beside_them(small: Running) -> None:
    form = b"".join(
        b'--x\r\ncontent-disposition: form-data; name="f"; filename="%s"\r\n\r\n%s\r\n' % pair
        for pair in ((b"good.png", png(0)), (b"<img src=x>.png", b"<html>"), (b"blue.png", png(2)))
    )
    said = small.ask("POST", "/predict?scores=1", form + b"--x--\r\n", content_type="multipart/form-data; boundary=x")
    assert said.status == 200
    red, broken, blue = said.json["images"]
    assert (red["labels"][0]["name"], blue["labels"][0]["name"]) == ("red", "blue")
    assert set(red["scores"]) == {"red", "green", "blue"}
    assert broken["path"] == "<img src=x>.png"
    assert "an HTML page" in broken["error"]


def test_a_request_is_known_by_its_number(small: Running) -> None:
    assert small.ask("GET", "/v2", x_request_id="order-7").headers["x-request-id"] == "order-7"
    for wrong in ("a b", "x" * 65, "<b>", ""):
        given = small.ask("GET", "/v2", x_request_id=wrong).headers["x-request-id"]
        assert given != wrong
        assert len(given) == 32


def malformed(generator: random.Random) -> tuple[bytes, bytes, str]:
    """A path, a body and its type, of which something is wrong."""
    good = png(seed=generator.randrange(9))
    at = generator.randrange(len(good))
    request = json.dumps(
        {"inputs": [{"name": "image", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": list(range(12))}]}
    ).encode()
    where = generator.randrange(len(request))
    return generator.choice(
        [
            (b"/predict", good[:at], "image/png"),
            (b"/predict", good[:16] + generator.randbytes(8) + good[24:], "image/png"),
            (b"/predict", generator.randbytes(at), "image/jpeg"),
            (b"/predict", generator.randbytes(at), "multipart/form-data; boundary=x"),
            (b"/v2/models/colour/infer", request[:where], "application/json"),
            (b"/v2/models/colour/infer", request[:where] + b"\xff" + request[where:], "application/json"),
            (b"/v2/models/colour/infer", request[:where] + b"[" + request[where:], "application/json"),
            (b"/v2/models/%00/infer", request, "application/json"),
        ]
    )


@pytest.mark.slow
def test_ten_thousand_malformed_requests(colour_server: Running) -> None:
    """Each gets a status and a sentence, good ones are answered meanwhile, and the process has not grown."""
    ended = threading.Event()
    good: list[int] = []

    def ask_good() -> None:
        while not ended.is_set():
            good.append(colour_server.predict(png()).status)

    def ask(first: int) -> list[tuple[int, str]]:
        generator, found = random.Random(first), list[tuple[int, str]]()
        for _ in range(1250):
            path, body, kind = malformed(generator)
            said = colour_server.ask("POST", path.decode(), body, content_type=kind)
            found.append((said.status, "" if said.status == 200 else said.json["error"]))
        return found

    asker = threading.Thread(target=ask_good)
    with ThreadPoolExecutor(4) as threads:
        ask(-1)  # all code and caches are loaded
        before = resident_mb()
        asker.start()
        found = [one for some in threads.map(ask, range(8)) for one in some]
        ended.set()
    asker.join()
    assert len(found) == 10_000
    statuses = {status for status, _ in found}
    assert statuses <= {200, 400, 404, 422}  # a picture of which the last bytes are missing may be one
    assert all(sentence for status, sentence in found if status != 200)
    assert set(good) == {200}
    assert len(good) > 100
    assert resident_mb() - before < 40  # MB: 4 KB a request would be as much
    assert [one for one in colour_server.said if "bug" in one] == []
