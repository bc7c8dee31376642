"""The address where a server listens, and how many connections it accepts there."""

from __future__ import annotations

import array
import errno
import ipaddress
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftx.core.errors import EnvironmentFault, InputError

# Connections that the system holds until they are accepted.
BACKLOG = 512
_HOSTS = "use --host 127.0.0.1 for only this machine, or --host 0.0.0.0 for all that can reach it"
# Next to the connections that the server serves: those that get an error, as there are too many, and TLS handshakes.
SPARE_SOCKETS = 64


class ListeningSocket(socket.socket):
    """A socket with a limit on its open connections.

    They count from their acceptance: with TLS there is no connection of the server before the handshake.
    """

    def __init__(self, family: socket.AddressFamily, most: int) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._most, self._open = most + SPARE_SOCKETS, list[socket.socket]()

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection.

        Raises: ConnectionAbortedError for one too many, which asyncio ignores.
        """
        accepted, address = super().accept()
        if len(self._open) >= self._most:
            self._open = [one for one in self._open if one.fileno() >= 0]
        if len(self._open) >= self._most:
            accepted.close()
            raise ConnectionAbortedError
        self._open.append(accepted)
        return accepted, address


@dataclass(frozen=True)
class Endpoint:
    """Where clients reach the server, and what protects it."""

    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


@contextmanager
def bound(endpoint: Endpoint, most: int) -> Generator[socket.socket, None, None]:
    """A socket that listens at the endpoint, with at most this many connections.

    Raises: InputError for a host that is not of this machine; EnvironmentFault if the port is in use.
    """
    host, port = endpoint.host, endpoint.port
    family, address = _looked_up(host, port)
    with ListeningSocket(family, most) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
            listening.listen(BACKLOG)  # before, another program that did the same may bind as well
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise InputError("--host must be an address of this machine", found=host, fix=_HOSTS) from error
            in_use = error.errno == errno.EADDRINUSE
            raise EnvironmentFault(
                f"--port {port} is used by another program" if in_use else f"the system does not permit --port {port}",
                where=f"{host}:{port}",
                found=None if in_use else error.strerror,
                fix=("end that program, or " if in_use else "") + "use another port: --port N (0 takes any free one)",
            ) from error
        yield listening


def _looked_up(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """The family and address to bind; only a name is looked up.

    Raises: InputError if there is no such host.
    """
    ip = _ip(host)
    if ip is not None:
        return (socket.AF_INET if ip.version == 4 else socket.AF_INET6), (host, port)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise InputError("--host must be an address or a known name", found=f"{host}: {error}", fix=_HOSTS) from error
    return found[0], found[4]


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def url_of(endpoint: Endpoint, listening: socket.socket) -> str:
    """The URL that clients use."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{'https' if endpoint.tls_cert else 'http'}://{host}:{listening.getsockname()[1]}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    ip = _ip(host)
    return host == "localhost" if ip is None else ip.is_loopback


def unread_bytes(connection: socket.socket) -> int:
    """What the system has of a connection's data until the other side reads it; 0 if it is not Linux."""
    if sys.platform != "linux":
        return 0
    from fcntl import ioctl
    from termios import TIOCOUTQ

    count = array.array("i", [0])
    ioctl(connection.fileno(), TIOCOUTQ, count)
    return count[0]
