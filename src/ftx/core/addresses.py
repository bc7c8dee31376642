"""Addresses of other machines where a path could stand, as in ``--data https://host/shards/{00..99}.tar``.

Only a text that a person typed in this command, or passed in Python, becomes an ``Address``: ``typed`` makes one. Text
in a document stays text. Joined to a folder it is a path of this machine, whatever it looks like.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ftx.core.errors import DataError, InputError, shell_command

SCHEMES = ("https", "http", "s3", "gs", "hf")
# A Path made of an address has lost one slash of its two; what follows one letter is a drive.
_BEGINS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
# No path in a document may begin so: the same, with back slashes too, and a chain of fsspec.
_LIKE_AN_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(?:[/\\]|:)|.*:[/\\]{2}", re.DOTALL)
# fsspec takes "::" for one file system behind another, and "?" and "#" end the path of an address.
_IN_NO_NAME = re.compile(r"::|[?#\\]|[\x00-\x1f]")


@dataclass(frozen=True)
class Address:
    """A place on another machine, with a Path's ``name``, ``parent`` and ``/``."""

    text: str  # without a slash at its end

    def __str__(self) -> str:
        return self.text

    @property
    def _host(self) -> str:
        return "/".join(self.text.split("/", 3)[:3])

    @property
    def name(self) -> str:
        """The text after the last slash; empty for a host."""
        return "" if self.text == self._host else self.text.rpartition("/")[2]

    @property
    def parent(self) -> Address:
        """The folder that contains it; a host is its own parent."""
        return self if self.text == self._host else Address(self.text.rpartition("/")[0])

    def __truediv__(self, name: str) -> Address:
        """A file below it, as a document at the address names it.

        Raises: DataError for a name that could lead elsewhere.
        """
        if names_address(name) or name.startswith("/") or ".." in name.split("/") or _IN_NO_NAME.search(name):
            raise DataError(
                "the name of a file at a URL must not contain '..', '::', '?' or '#', or start with '/'",
                where=self,
                found=ascii(name[:100]),
                fix="rename the file",
            )
        return Address(f"{self.text}/{name}")


# Where images are.
Location = Path | Address


def names_address(text: str) -> bool:
    """Whether a document's text looks like an address, of any scheme: no document may name one."""
    return _LIKE_AN_ADDRESS.match(text) is not None


def typed(place: Location | str) -> Location:
    """A place that a person named: an address of a scheme that ftx opens, or a path.

    Raises: InputError for any other address.
    """
    begins = _BEGINS.match(str(place))
    if isinstance(place, Address) or begins is None:
        return place if isinstance(place, Address) else Path(place)
    scheme, rest = begins[1].lower(), str(place)[begins.end() :].rstrip("/")
    if scheme in SCHEMES and rest and "::" not in rest:
        return Address(f"{scheme}://{rest}")
    if scheme not in SCHEMES and _is_there(place):  # a folder may have such a name
        return Path(place)
    local = scheme in ("file", "local")
    raise InputError(
        f"a URL must begin with {', '.join(f'{one}://' for one in SCHEMES)}, and must not contain '::'",
        found=f"{scheme}:///{rest}" if local else f"{scheme}://{rest}",
        fix=f"give the path: /{rest}" if local else "copy the data to such a URL, or to a local folder",
    )


def is_elsewhere(path: Path | str) -> bool:
    """Whether a written text stands for an address, as ``typed`` would read it."""
    begins = _BEGINS.match(str(path))
    if begins is not None and begins[1].lower() in SCHEMES:
        return True
    return names_address(str(path)) and not _is_there(path)


def _is_there(path: Path | str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # a name that is too long
        return False


def data_option(text: str) -> str:
    """The option that names the images of a run whose recipe has ``text``: an address if ftx opens it, or a folder."""
    try:
        found = typed(text)
    except InputError:
        found = Path(text)
    return shell_command("--data", str(found)) if isinstance(found, Address) else "--data DIR"


def if_address(path: Path) -> Path | None:
    """The ``data`` to pass on with a run: the path if it stands for an address, which no run's files name."""
    return path if is_elsewhere(path) else None


def as_typed(path: Path | str) -> str:
    """The text of a path, with both slashes if it stands for an address."""
    begins = _BEGINS.match(str(path))
    return str(path) if begins is None else f"{begins[1]}://{str(path)[begins.end() :]}"
