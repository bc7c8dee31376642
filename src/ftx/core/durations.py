"""Times as people write them."""

from __future__ import annotations

import re

from ftx.core.errors import InputError, shown

_FORM = re.compile(r"(?=\d)(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s?)?", re.ASCII)


def seconds_of(text: str, where: str) -> float:
    """``90``, ``90s``, ``10m`` or ``1h30m`` in seconds.

    Raises: InputError if it is none of these, or nothing.
    """
    found = _FORM.fullmatch(text.strip())
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total_s = 3600 * hours + 60 * minutes + seconds
    if not total_s:
        raise InputError("this is no time", where=where, found=shown(text), fix="write it as 90s, 10m or 1h30m")
    return float(total_s)
