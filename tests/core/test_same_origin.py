"""Which requests of a browser are a server's own, and which another website makes."""

from __future__ import annotations

import pytest

from ftx.core.same_origin import local_names, rejection


@pytest.mark.parametrize(
    ("listening", "host", "origin"),
    [
        ("127.0.0.1", None, None),  # HTTP/1.0, which no browser speaks
        ("127.0.0.1", "127.0.0.1:8000", None),
        ("127.0.0.1", "localhost", None),
        ("127.0.0.1", "LocalHost:8000", "http://localhost:8000"),
        ("127.0.0.1", "localhost:9000", "https://localhost:9000"),
        ("::1", "[::1]:8000", "http://[::1]:8000"),
        ("127.0.0.2", "127.0.0.2:8000", "http://127.0.0.2:8000"),
    ],
)
def test_its_own_pages_are_answered(listening: str, host: str | None, origin: str | None) -> None:
    assert rejection(local_names(listening), host, origin) is None


@pytest.mark.parametrize(
    ("host", "origin", "sentence"),
    [
        ("evil.example:8000", None, "not named 'evil.example:8000'"),
        ("evil.example:8000", "http://evil.example:8000", "not named"),
        ("localhost.evil.example", None, "not named"),
        ("127.0.0.1:8000@evil.example", None, "not named"),
        ("127.0.0.1:8000:8000", None, "not named"),
        ("[::1", None, "not named"),
        ("", None, "not named"),
        ("localhost:8000", "http://evil.example", "another website"),
        ("localhost:8000", "http://localhost:3000", "another website"),
        ("localhost:8000", "http://127.0.0.1:8000", "another website"),
        ("localhost:8000", "null", "another website"),
        ("localhost:8000", "", "another website"),
        (None, "http://evil.example", "Host"),
    ],
)
def test_other_websites_are_not(host: str | None, origin: str | None, sentence: str) -> None:
    assert sentence in str(rejection(local_names(), host, origin))
