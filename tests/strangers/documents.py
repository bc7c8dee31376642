"""What a stranger's document may be: one that holds, with faults in it.

A test draws a damaged document, hands it to the reader and says which errors may come back:

    @strange
    @given(damaged(CARD))
    def test_card(document: object) -> None:
        refused_or_read(lambda: parse(as_json(document)))

Run as they stand they take a second or two each; ``make fuzz`` draws many more.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ftx.core.errors import FtxError, InputError

Made = TypeVar("Made")
Path = tuple[str | int, ...]

MOST_S = 5.0
# Under make fuzz the profile gives more examples. ``refused_or_read`` holds the time, of this process alone.
strange = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def nested(levels: int) -> object:
    """A list in a list in a list."""
    found: object = []
    for _ in range(levels - 1):
        found = [found]
    return found


# Values that a reader did not think of: other types, ends of ranges, text that is no text.
EXTREMES: tuple[object, ...] = (
    None, True, False, "", " ", [], {}, [[]], [None], {"": ""}, {"a": {"b": {}}},
    0, -0.0, 1, -1, 2, 255, 1_000_000, 2**31, 2**63, -(2**63) - 1, 10**12, 10**30, 10**400,
    0.5, -0.5, 1e-9, 1e-320, 1e300, -1e300, float("inf"), float("-inf"), float("nan"),
    "0", "-1", "1e400", "NaN", "nan", "inf", "true", "none", "auto", "all", "x" * 5000, "a/b", "../../x", "/etc/passwd",
    "\0", "\n", "\x1b[2J", "\u202e", "\ud800", "\udcff", "\u0660", "\U0001f600", "%s{0}{x}", "[bold]", "'\"`$(x)",
    "hf-hub:timm/vit", "local-dir:/tmp", "https://example.org/x", "(.*)*(.*)*x", "(?P<", "[", "(a+)+$", "\\",
    nested(40), nested(300), list(range(300)), {str(number): number for number in range(300)},
)  # fmt: skip


def places(document: object, at: Path = ()) -> Iterator[Path]:
    """The way to every value of a document, the whole of it first."""
    yield at
    if isinstance(document, dict):
        for key, value in document.items():
            yield from places(value, (*at, key))
    elif isinstance(document, list):
        for number, value in enumerate(document[:8]):
            yield from places(value, (*at, number))


def value_at(document: Any, at: Path) -> Any:
    for step in at:
        document = document[step]
    return document


def replaced(document: object, at: Path, value: object) -> object:
    if not at:
        return value
    value_at(document, at[:-1])[at[-1]] = value
    return document


def _drop(document: object, at: Path, draw: Any) -> object:
    if at:
        del value_at(document, at[:-1])[at[-1]]
    return document


def _replace(document: object, at: Path, draw: Any) -> object:
    return replaced(document, at, copy.deepcopy(draw(st.sampled_from(EXTREMES))))


def _insert(document: object, at: Path, draw: Any) -> object:
    """A key that is not known, another spelling of one that is, or one more item."""
    inside, extreme = value_at(document, at), copy.deepcopy(draw(st.sampled_from(EXTREMES)))
    if isinstance(inside, dict):
        inside[draw(st.one_of(st.sampled_from([key.upper() for key in inside] or ["x"]), st.text(max_size=8)))] = (
            extreme
        )
    elif isinstance(inside, list):
        inside.insert(draw(st.integers(0, len(inside))), extreme)
    return document


def _wrap(document: object, at: Path, draw: Any) -> object:
    inside = value_at(document, at)
    return replaced(document, at, draw(st.sampled_from([[inside], {"value": inside}, [inside, inside]])))


def _as_text(document: object, at: Path, draw: Any) -> object:
    """A number or a list as its text, text as a list of its letters."""
    inside = value_at(document, at)
    return replaced(document, at, list(inside) if isinstance(inside, str) else str(inside)[:2000])


def _swap(document: object, at: Path, draw: Any) -> object:
    """The value of another place."""
    other = draw(st.sampled_from(list(places(document))))
    return replaced(document, at, copy.deepcopy(value_at(document, other)))


def _twice(document: object, at: Path, draw: Any) -> object:
    inside = value_at(document, at)
    if isinstance(inside, list):
        inside += copy.deepcopy(inside)
    elif isinstance(inside, str):
        return replaced(document, at, inside + inside)
    return document


def _grown(document: object, at: Path, draw: Any) -> object:
    """A number that is a thousand million times as large, or negative."""
    inside = value_at(document, at)
    if isinstance(inside, int | float) and not isinstance(inside, bool) and abs(inside) < 1e300:
        return replaced(document, at, draw(st.sampled_from([inside * 10**9, -inside, inside / 3, inside + 0.5])))
    return document


FAULTS: tuple[Callable[[object, Path, Any], object], ...] = (
    _drop, _replace, _replace, _replace, _insert, _wrap, _as_text, _swap, _twice, _grown,
)  # fmt: skip


@st.composite
def damaged(draw: Any, document: object, most: int = 3) -> object:
    """A copy of a document (dicts, lists, text, numbers) with one fault, or up to ``most``."""
    made = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.sampled_from(list(places(made))))
        made = draw(st.sampled_from(FAULTS))(made, at, draw)
    return made


@st.composite
def damaged_bytes(draw: Any, content: bytes) -> bytes:
    """The bytes of a file, cut short, with others among them, or in another encoding."""
    start, length = draw(st.integers(0, len(content))), draw(st.integers(0, 8))
    other = draw(
        st.one_of(
            st.binary(max_size=8), st.sampled_from([b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"{" * 400, b"[" * 3_000])
        )
    )
    made = content[:start] + other + content[start + length :]
    kind = draw(st.sampled_from(["whole", "whole", "cut", "utf-16", "bom", "latin"]))
    if kind == "cut":
        return made[: draw(st.integers(0, len(made)))]
    if kind == "utf-16":
        return made.decode("latin-1").encode("utf-16")
    return b"\xef\xbb\xbf" + made if kind == "bom" else made


def as_json(document: object) -> bytes:
    """As a stranger's program may write it: NaN, infinities and lone surrogates included."""
    return json.dumps(document, ensure_ascii=True, allow_nan=True).encode()


def as_yaml(document: object) -> str:
    return yaml.safe_dump(document, allow_unicode=False, default_flow_style=True, width=10_000)


def refused_or_read(
    read: Callable[[], Made], kinds: type[FtxError] | tuple[type[FtxError], ...] = InputError
) -> Made | None:
    """What a reader makes of a document, or None where it says in one error of ours that the input is wrong."""
    started = time.process_time()
    try:
        made = read()
    except kinds as error:
        refusal = error
    else:
        assert time.process_time() - started < MOST_S
        return made
    assert time.process_time() - started < MOST_S
    assert refusal.exit_code == 2, f"status {refusal.exit_code}: {refusal}"
    told = str(refusal)
    assert "Traceback" not in told
    assert len(told) < 20_000, f"an error of {len(told)} characters"
    told.encode()  # a lone surrogate could not be printed
    return None
