"""Addresses of other machines where a path could stand, as in ``--data https://host/shards/{00..99}.tar``."""

from __future__ import annotations

import re
from pathlib import Path

# A Path made of an address has lost one slash of its two; what follows one letter is a drive.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?=[^/])")
# What comes behind these is a path of this machine, whole.
_WITHOUT_HOST = ("file", "local")


def address(path: Path | str) -> str | None:
    """The address that a path stands for, with both its slashes; None where it is a path of this machine."""
    text = str(path)
    begins = _ADDRESS.match(text)
    if begins is None:
        return None
    scheme, rest = begins[1].lower(), text[begins.end() :]
    return f"{scheme}:///{rest}" if scheme in _WITHOUT_HOST else f"{scheme}://{rest}"


def path_or_address(path: Path | str) -> str:
    """A path as people write it, and an address with both its slashes."""
    return address(path) or str(path)
