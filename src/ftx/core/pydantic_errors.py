"""What pydantic says of a document that does not hold, as one line for the error that names the file."""

from __future__ import annotations

from pydantic import ValidationError

from ftx.core.errors import shown


def first_error(error: ValidationError) -> str:
    """The first thing that is wrong with a document that nobody writes by hand, as ``key: what``."""
    first = error.errors(include_url=False)[0]
    rest = error.error_count() - 1
    key = cut(".".join(str(part) for part in first["loc"]) or "all of it")
    # What the key holds, where that is not a part of the document again.
    found = "" if isinstance(first["input"], dict | list) else f"{shown(first['input'])}; "
    more = f"; and {rest:,} more" if rest else ""
    return f"{key}: {found}{cut(first['msg'].removeprefix('Value error, '))}{more}"


def cut(text: str) -> str:
    """Text of a document, at most 200 characters of it."""
    return text if len(text) <= 200 else f"{text[:197]}..."
