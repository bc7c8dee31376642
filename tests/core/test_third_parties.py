"""Libraries are kept from reporting their use, and the user's own environment is as before."""

from __future__ import annotations

import os

import pytest

from ftx.core.third_parties import no_telemetry


def test_what_keeps_libraries_still_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "mine")
    monkeypatch.delenv("NNCF_CI", raising=False)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    before = dict(os.environ)
    with no_telemetry():
        assert (os.environ["CI"], os.environ["NNCF_CI"], os.environ["ORT_DISABLE_TELEMETRY"]) == ("true", "1", "1")
    assert dict(os.environ) == before
    with pytest.raises(ZeroDivisionError), no_telemetry():
        raise ZeroDivisionError
    assert dict(os.environ) == before
