"""The errors that ftx raises: one tree, each branch with its exit status.

An error names what is wrong, where, what was found there and how to fix it. The command line prints
exactly that and exits with ``exit_code``; it shows a traceback only under ``--debug``.
"""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class FtxError(Exception):
    """Base of every error that ftx raises on purpose."""

    exit_code = 70

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        found: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.found = found
        self.fix = fix
        super().__init__(what)

    def details(self) -> list[tuple[str, str]]:
        """The parts below the headline that are known, as (heading, text)."""
        parts = (("where", self.where), ("found", self.found), ("fix", self.fix))
        return [(heading, text) for heading, text in parts if text]

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  {heading}: {text}" for heading, text in self.details())])


def shell_command(command: str, path: str | Path | None = None) -> str:
    """A command line that can be pasted into a shell, whatever the name of the path."""
    return command if path is None else f"{command} {shlex.quote(str(path))}"


class InputError(FtxError):
    """The user's input is wrong."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe that cannot be read, or whose keys and values are invalid."""


class DataError(InputError):
    """A data set that cannot be trained or evaluated on."""


class ImageError(InputError):
    """One image that cannot be turned into pixels."""


class ModelError(InputError):
    """An unknown model, or weights that do not fit it."""


class RunError(InputError):
    """A run folder that is missing, incomplete, altered or stale."""


class AdapterError(InputError):
    """Targets that match nothing, or an adapter file that is invalid."""


class MergeError(InputError):
    """An adapter that cannot be folded into its base."""


class ExportError(InputError):
    """A model that cannot be exported, or an exported folder that is not whole."""


class Interrupted(FtxError):
    """The user pressed Ctrl-C."""

    exit_code = 130  # 128 + SIGINT


class Terminated(FtxError):
    """The system terminated the program, as before it shuts down."""

    exit_code = 143  # 128 + SIGTERM


class Termination(KeyboardInterrupt):
    """SIGTERM, or a terminal that was closed: ends the work that is done as Ctrl-C does, whatever catches errors."""


# By number; only POSIX has a signal for terminals that are closed.
TERMINATING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def stopped(by: KeyboardInterrupt, *, doing: str = "", found: str, fix: str | None = None) -> FtxError:
    """The error for work that a signal ended."""
    kind, what = (Terminated, "terminated") if isinstance(by, Termination) else (Interrupted, "interrupted")
    return kind(f"{what} {doing}".rstrip(), found=found, fix=fix)


class EnvironmentFault(FtxError):
    """The machine is at fault: no space, an extra that is not installed, no network."""

    exit_code = 3


class GateFailed(FtxError):
    """A bound was exceeded: the artifact is not what it should be."""

    exit_code = 1


# Problems that one error lists in a line, and with a line each.
NAMED = 10
LINES = 20
# Comparing names takes the square of their length: names are shorter than this, and so are lists of them.
_MOST_ALIKE = 5000
_LONGEST_NAME = 100
_PARTS = re.compile(r"[-_.]")


def listed(problems: Sequence[str]) -> str:
    """The first problems, and how many more there are."""
    rest = len(problems) - NAMED
    return "; ".join(problems[:NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def first_lines(problems: Sequence[str], count: int) -> list[str]:
    """The first problems, a line each, and how many more of ``count`` there are."""
    lines = list(problems[:LINES])
    return lines if len(lines) >= count else [*lines, f"and {count - len(lines):,} more"]


def shown(value: object, most: int = 80) -> str:
    """A value as an error shows it, cut if it is long."""
    text = repr(value[: 2 * most] if isinstance(value, str | list) else value)  # pyright: ignore[reportUnknownArgumentType]
    return text if len(text) <= most else f"{text[: most - 3]}..."


def of_the_same_parts(name: str, known: Iterable[str]) -> str | None:
    """The shortest known name that has all parts of this one, as vit_base_patch14_dinov2 those of dinov2-base."""
    parts = set(_PARTS.split(name.rpartition("/")[2].lower())) - {""}
    found = [one for one in known if parts <= set(_PARTS.split(one.lower()))]
    return min(found, key=len) if len(parts) > 1 and found else None


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name``, if any is alike at all."""
    comparable = [one for one in islice(known, _MOST_ALIKE) if len(one) <= _LONGEST_NAME]
    found = get_close_matches(name, comparable, n=1, cutoff=0.6)
    return found[0] if found else None


def check_known(option: str, given: Sequence[str], names: Sequence[str]) -> None:
    """Raise InputError unless names are given and all are known."""
    unknown = [name for name in given if name not in names]
    if unknown or not given:
        alike = nearest(unknown[0], names) if unknown else None
        raise InputError(
            f"{option} must be one of {', '.join(names)}",
            found=", ".join(unknown) or "nothing",
            fix=f"did you mean '{alike}'?" if alike else "choose one of these names",
        )


def first_error(error: ValidationError) -> str:
    """The first problem of a document that nobody writes by hand, as ``key: problem``."""
    first = error.errors(include_url=False)[0]
    rest = error.error_count() - 1
    key = cut(".".join(str(part) for part in first["loc"]) or "all of it")
    # The value at the key, unless it is a part of the document again.
    found = "" if isinstance(first["input"], dict | list) else f"{shown(first['input'])}; "
    more = f"; and {rest:,} more" if rest else ""
    return f"{key}: {found}{cut(first['msg'].removeprefix('Value error, '))}{more}"


def cut(text: str) -> str:
    """Text of a document, at most 200 characters of it."""
    return text if len(text) <= 200 else f"{text[:197]}..."
