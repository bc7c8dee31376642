"""Requests as bytes, as no client library would send them."""

from __future__ import annotations

import json
import socket
from contextlib import suppress

import psutil
from tests.serving.conftest import Running

MB = 1_000_000


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


def resident_mb() -> float:
    return psutil.Process().memory_info().rss / MB
