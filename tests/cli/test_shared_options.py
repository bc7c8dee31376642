"""Times as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftx.cli.shared_options import parse_duration
from ftx.core.errors import InputError


@given(st.integers(0, 99), st.integers(0, 999), st.integers(0, 9999))
def test_hours_minutes_and_seconds(hours: int, minutes: int, seconds: int) -> None:
    text = f"{hours}h{minutes}m{seconds}s"
    if not hours + minutes + seconds:
        with pytest.raises(InputError):
            parse_duration(text, "--budget")
    else:
        assert parse_duration(text, "--budget") == 3600 * hours + 60 * minutes + seconds


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("90s", 90), (" 10m ", 600), ("1h", 3600), ("1h30m", 5400)])
def test_parts_of_them(text: str, expected: float) -> None:
    assert parse_duration(text, "--budget") == expected


@pytest.mark.parametrize("text", ["", "0", "0m", "m", "-5", "1.5h", "10 m", "10m1h", "1d", "1e9", "٣m", "9" * 30])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(InputError, match="--budget must be a time") as caught:
        parse_duration(text, "--budget")
    assert "--budget 90s" in str(caught.value.fix)
