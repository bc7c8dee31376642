"""Clients that are slow, go away, or read nothing, while good ones are answered."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from tests.serving.conftest import Running, png, running, until
from tests.serving.raw_requests import MB, head, read_all, spoken, status_and_sentence

from ftx.data.image_store import open_image
from ftx.serving import connection, limits
from ftx.serving.limits import Limits
from ftx.serving.listening import unread_bytes
from ftx.serving.registry import ModelSource


@pytest.mark.representative
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


@pytest.mark.slow
def test_slow_clients_are_told_so(small: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.5)
    for parts in ((), (b"POST /pred",), (b"GET / HTTP/1.1\r\nhost: localhost\r\n",)):  # no head, or half of one
        status, sentence = status_and_sentence(spoken(small, *parts))
        assert (status, sentence) == (408, "the head of the request did not come in time")
    status, sentence = status_and_sentence(spoken(small, head(content_length="1000"), b"\x89PNG"))
    assert (status, sentence) == (408, "the body did not arrive within 1 s")
    assert small.predict(png()).status == 200


def test_a_head_that_comes_a_byte_at_a_time_must_be_whole_in_time_too(
    small: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.5)
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", small.port), timeout=0.1) as line:
        line.sendall(b"GET /v2 HTTP/1.1\r\nx: ")
        answer = b""
        while time.monotonic() - started < 10 and not answer:
            line.sendall(b"y")
            with suppress(TimeoutError):
                answer = line.recv(1000)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - started < 3


def in_progress(server: Running) -> int:
    text = server.ask("GET", "/metrics").body.decode()
    return int(float(text.partition("\nftx_requests_in_progress ")[2].split()[0]))


def half_sent(server: Running, count: int) -> list[socket.socket]:
    """Requests whose bodies do not come."""
    lines = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(count)]
    for line in lines:
        line.sendall(head(content_length="1000"))
    return lines


@contextmanager
def decoding_waits() -> Iterator[None]:
    """Images are decoded once the block has ended."""
    go_on = threading.Event()

    def decoded(content: bytes) -> Image.Image:
        go_on.wait(30)
        return open_image(content)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("ftx.serving.images.open_image", decoded)
        try:
            yield
        finally:
            go_on.set()


def whole(server: Running, count: int) -> list[socket.socket]:
    """Requests that came whole, and that nobody has answered."""
    image = png()
    lines = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(count)]
    for line in lines:
        line.sendall(head(content_type="image/png", content_length=str(len(image))) + image)
    return lines


def test_so_many_requests_are_answered_at_a_time(colour_ir: Path) -> None:
    with running(ModelSource("colour", colour_ir), limits=Limits(max_concurrency=4)) as server:
        with decoding_waits():
            lines = whole(server, 4)
            until(lambda: in_progress(server) == 4)
            full = server.predict(png())
            assert (full.status, full.headers["retry-after"]) == (503, "1")
            assert "4 requests are in progress" in full.json["error"]
            assert server.ask("GET", "/v2/health/live").status == 200
        for line in lines:
            assert line.recv(1 << 16).startswith(b"HTTP/1.1 200")
            line.close()
        until(lambda: in_progress(server) == 0)
        assert server.predict(png()).status == 200


def test_a_body_that_does_not_come_takes_no_place(colour_ir: Path) -> None:
    with running(ModelSource("colour", colour_ir), limits=Limits(max_concurrency=4)) as server:
        slow = half_sent(server, 12)
        time.sleep(0.2)  # their heads are read
        assert in_progress(server) == 0
        for _ in range(3):
            assert server.predict(png()).status == 200
        for line in slow:
            line.close()


def test_bodies_that_do_not_come_make_room_the_one_that_is_silent_for_longest_first(
    colour_ir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SPARE_CONNECTIONS", 0)
    with running(ModelSource("colour", colour_ir), limits=Limits(max_concurrency=4)) as server:
        first, *others = half_sent(server, 4)
        time.sleep(0.3)
        first.sendall(b"\x89PNG")  # it goes on
        time.sleep(0.2)
        until(lambda: answered(server))
        status, sentence = status_and_sentence(read_all(others[0]))
        assert (status, "idle for the longest time" in sentence) == (408, True)
        first.settimeout(0.2)
        with pytest.raises(TimeoutError):
            first.recv(1)
        for line in (first, *others):
            line.close()


@pytest.mark.parametrize(
    "sent",
    [
        head(content_length="500") + b"\x89PNG",
        head(transfer_encoding="chunked") + b"5\r\nabcde\r\n",
        head(transfer_encoding="chunked") + b"5\r\nab",
        head(content_length="1"),
        head(content_type="image/png", content_length="100") + b"\x89PNG",
    ],
    ids=["short", "no last chunk", "half a chunk", "none", "of an image"],
)
def test_a_client_that_ends_before_its_body_is_told_so(sent: bytes, small: Running) -> None:
    with socket.create_connection(("127.0.0.1", small.port), timeout=10) as line:
        line.sendall(sent)
        line.shutdown(socket.SHUT_WR)
        assert status_and_sentence(read_all(line)) == (400, "the request ended before its body did")
    until(lambda: in_progress(small) == 0)


def test_a_client_that_has_sent_all_may_end_and_read(small: Running) -> None:
    (line,) = whole(small, 1)
    with line:
        line.shutdown(socket.SHUT_WR)
        assert line.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_a_body_that_comes_byte_by_byte_has_no_more_time_than_any_other(
    colour_ir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LINGER_S", 0.2)  # it reads why at once
    with running(ModelSource("colour", colour_ir), limits=Limits(timeout_s=0.5)) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
            line.sendall(head(content_length="1000"))
            line.settimeout(0.05)
            some, ends = b"", time.monotonic() + 10
            while not some:  # each byte comes long before the time is over
                assert time.monotonic() < ends
                line.sendall(b"\0")
                with suppress(TimeoutError):
                    some = line.recv(1 << 16)
            line.settimeout(10)
            said = status_and_sentence(some + read_all(line))
        assert said == (408, "the body did not arrive within 0.5 s")
        until(lambda: in_progress(server) == 0)


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
    assert small.said[-1].startswith("this model is not validated yet")  # no bug was met


@pytest.mark.slow
def test_an_answer_that_nobody_reads_is_dropped(colour_ir: Path) -> None:
    with running(ModelSource("colour", colour_ir), limits=Limits(timeout_s=1)) as server:
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
    with running(ModelSource("colour", colour_ir)) as server:
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


def left_for(waiting: Any) -> int:
    """What its client has not read, here and in the system."""
    transport = waiting.transport
    return transport.get_write_buffer_size() + unread_bytes(transport.get_extra_info("socket"))


def test_who_reads_a_little_and_then_nothing_is_dropped(colour_ir: Path) -> None:
    """Half a second after the last that it has read, and not as long as it once has read anything."""
    with (
        running(ModelSource("colour", colour_ir), limits=Limits(timeout_s=0.5)) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as line,
    ):
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        line.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 1000)  # megabytes of answers
        kept: set[Any] = server.server.http.server_state.connections
        until(lambda: any("reader" in one.timers for one in kept))  # it waits for its reader
        for waiting in kept:
            before_bytes = left_for(waiting)
            while left_for(waiting) == before_bytes:  # the systems on both sides hold some of it
                assert line.recv(20_000)
        until(lambda: not kept, seconds=10)
        assert server.predict(png()).status == 200


@pytest.mark.slow
def test_who_reads_slowly_is_let_read(colour_ir: Path) -> None:
    """Four times as long as a client that reads nothing is kept."""
    with running(ModelSource("colour", colour_ir), limits=Limits(timeout_s=1)) as server:
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


def test_connections_that_ask_nothing_give_way_to_those_that_do(colour_ir: Path) -> None:
    """Whoever holds all of them locks nobody out: the one that has asked nothing for longest is ended, with a word."""
    with running(ModelSource("colour", colour_ir), limits=Limits(max_concurrency=4)) as server:
        most = 4 + limits.SPARE_CONNECTIONS
        lines = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(most)]
        for _ in range(20):
            assert server.predict(png()).status == 200
        lines += [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(20)]
        time.sleep(0.3)
        ours = [one for one in psutil.Process().net_connections() if one.laddr.port == server.port]
        assert sum(one.status != psutil.CONN_LISTEN for one in ours) <= most  # those that were ended are closed
        status, sentence = status_and_sentence(read_all(lines[0]))
        assert (status, "others wait" in sentence) == (408, True)
        for line in lines:
            line.close()


def test_a_connection_that_has_asked_something_stays_before_one_that_has_not(
    colour_ir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it was opened first."""
    monkeypatch.setattr(limits, "SPARE_CONNECTIONS", 2)
    with running(ModelSource("colour", colour_ir), limits=Limits(max_concurrency=1)) as server:

        def connected() -> socket.socket:
            line = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            until(lambda: len(kept) >= len(lines) + 1)  # they are accepted in their order
            return line

        kept: set[Any] = server.server.http.server_state.connections
        lines = list[socket.socket]()
        for _ in range(2):
            lines.append(connected())
        asks, idle = lines
        asks.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert asks.recv(1 << 16).startswith(b"HTTP/1.1 200")
        lines.append(connected())
        lines.append(socket.create_connection(("127.0.0.1", server.port), timeout=10))  # one too many
        status, sentence = status_and_sentence(read_all(idle))
        assert (status, "others wait" in sentence) == (408, True)
        asks.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert asks.recv(1 << 16).startswith(b"HTTP/1.1 200")
        for line in lines:
            line.close()


def test_where_all_connections_are_being_answered_the_next_is_told_so(
    colour_ir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SPARE_CONNECTIONS", 0)
    with running(ModelSource("colour", colour_ir), limits=Limits(max_concurrency=4)) as server:
        with decoding_waits():
            lines = whole(server, 4)
            time.sleep(0.5)  # they are read
            status, sentence = status_and_sentence(spoken(server))
            assert (status, "connections are open" in sentence) == (503, True)
        for line in lines:
            line.close()
        until(lambda: answered(server))


def answered(server: Running) -> bool:
    with suppress(ConnectionError):
        return server.predict(png()).status == 200
    return False


@pytest.mark.parametrize(
    "sent",
    [
        head(transfer_encoding="chunked") + b"zz\r\nabc\r\n",
        head(transfer_encoding="chunked") + b"4\r\nabcdefgh\r\n",
        head(transfer_encoding="chunked") + b"-1\r\nabc\r\n0\r\n\r\n",
        head(transfer_encoding="chunked") + b"3\r\nabc\r\n" + b"f" * 30 + b"\r\n",
        head(x="y" * 200_000),
        b"POST /predict HTTP/1.1\r\n" + b"a: b\r\n" * 40_000 + b"\r\n",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01" + b"\x00" * 100_000,
    ],
    ids=["no size", "a wrong size", "below 0", "beyond all", "a field", "fields", "a target", "TLS"],
)
def test_what_cannot_be_understood_gets_a_status(sent: bytes, small: Running) -> None:
    status, sentence = status_and_sentence(spoken(small, sent))
    assert status == 400
    assert sentence == "this is no HTTP request that can be understood"
    until(lambda: in_progress(small) == 0)
    assert small.predict(png()).status == 200
