"""How many connections are accepted, and what an address is written as."""

from __future__ import annotations

import socket

import pytest

from ftx.serving import listening
from ftx.serving.listening import Endpoint, bound, is_loopback, url_of


def test_connections_that_are_closed_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many more in all than may be open at a time."""
    monkeypatch.setattr(listening, "SPARE_SOCKETS", 1)
    with bound(Endpoint(port=0), 2) as server:
        address = server.getsockname()
        for _ in range(20):
            with socket.create_connection(address, timeout=10):
                server.accept()[0].close()
        lines = [socket.create_connection(address, timeout=10) for _ in range(3)]
        accepted = [server.accept()[0] for _ in lines]
        with socket.create_connection(address, timeout=10) as fourth:
            with pytest.raises(ConnectionAbortedError):
                server.accept()
            assert fourth.recv(1) == b""  # it is closed at once
        accepted[1].close()
        with socket.create_connection(address, timeout=10) as again:
            accepted.append(server.accept()[0])
            accepted[-1].sendall(b"x")
            assert again.recv(1) == b"x"
        for line in (*lines, *accepted):
            line.close()


@pytest.mark.parametrize(
    ("host", "tls", "before"),
    [
        ("127.0.0.1", False, "http://127.0.0.1:"),
        ("::1", False, "http://[::1]:"),
        ("host.example", True, "https://host.example:"),
    ],
)
def test_an_address_is_written_as_clients_write_it(host: str, tls: bool, before: str) -> None:
    with bound(Endpoint(port=0), 1) as server:
        port = server.getsockname()[1]
        assert url_of(Endpoint(host=host, port=0, tls_cert=__file__ if tls else None), server) == f"{before}{port}"  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_what_only_this_machine_reaches(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "host.example"])
def test_what_others_may_reach(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_a_numeric_host_is_bound_in_its_family(host: str, family: socket.AddressFamily) -> None:
    try:
        socket.create_server((host, 0), family=family).close()
    except OSError:
        pytest.skip("this machine has no such address")
    with bound(Endpoint(host=host, port=0), 2) as server:
        assert (server.family, server.getsockname()[0]) == (family, host)
