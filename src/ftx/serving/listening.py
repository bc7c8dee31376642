"""Where a server listens, and how many connections it accepts there."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftx.core.errors import EnvironmentFault, InputError

# Connections that the system holds until they are accepted.
BACKLOG = 512
_HOSTS = "--host 127.0.0.1 for this machine alone, --host 0.0.0.0 for all that can reach it"
# Beside the connections that are answered: those that are told that there are too many, or by TLS still shake hands.
SPARE_SOCKETS = 64


class Listening(socket.socket):
    """A socket of which so many connections are open at a time, and as many more as are told that there are too many.

    Those count from when they are accepted, as by TLS there is no connection before hands were shaken, and no answer.
    """

    def __init__(self, family: socket.AddressFamily, most: int) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._most, self._open = most + SPARE_SOCKETS, list[socket.socket]()

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection.

        Raises: ConnectionAbortedError for one too many, which asyncio passes over.
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
class Address:
    """Where the server is to be reached, and by whom."""

    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


@contextmanager
def bound(address: Address, most: int) -> Generator[socket.socket, None, None]:
    """A socket that listens at the address; whoever connects is answered once the server runs.

    Raises: InputError for a host that is none of this machine; EnvironmentFault if the port is taken.
    """
    where = f"{address.host}:{address.port}"
    family, found = _looked_up(address)
    with Listening(family, most) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(found)
            listening.listen(BACKLOG)  # before, another program that did the same may bind as well
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise InputError(
                    "this machine has no such address", where=f"--host {address.host}", fix=_HOSTS
                ) from error
            fix = "end it, or name another: --port N (0: any that is free)"
            if error.errno == errno.EADDRINUSE:
                raise EnvironmentFault("another program has this port", where=where, fix=fix) from error
            raise EnvironmentFault(
                "the system refuses this port", where=where, found=error.strerror, fix=fix
            ) from error
        yield listening


def _looked_up(address: Address) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """The family of a host, and where to bind; a name alone is looked up.

    Raises: InputError.
    """
    ip = _ip(address.host)
    if ip is not None:
        return (socket.AF_INET if ip.version == 4 else socket.AF_INET6), (address.host, address.port)
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise InputError(
            "there is no such host", where=f"--host {address.host}", found=str(error), fix=_HOSTS
        ) from error
    return found[0], found[4]


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def url_of(address: Address, listening: socket.socket) -> str:
    """What clients write."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{'https' if address.tls_cert else 'http'}://{host}:{listening.getsockname()[1]}"


def is_loopback(host: str) -> bool:
    """Whether this machine alone reaches the host."""
    ip = _ip(host)
    return host == "localhost" if ip is None else ip.is_loopback
