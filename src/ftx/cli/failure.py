"""What the user sees when a command ends with an exception."""

from __future__ import annotations

import errno
import platform
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any, cast

from pydantic import BaseModel, computed_field

from ftx import missing_extra
from ftx.cli import console
from ftx.cli.help_page import examples
from ftx.core import rank_zero_output
from ftx.core.command_report import CommandReport
from ftx.core.disk import FULL
from ftx.core.errors import EnvironmentFault, FtxError, InputError, nearest
from ftx.core.memory import is_out_of_memory, memory_fault
from ftx.core.version import __version__

# Errors of the system about a path that was given, and about itself.
_INPUT = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
_ENVIRONMENT = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE)


class ErrorParts(BaseModel):
    """The parts of an error."""

    what: str
    """What is wrong."""
    where: str | None = None
    """The place of the error, for example a path; null if there is none."""
    found: str | None = None
    """What ftx found there; null if there is nothing to show."""
    fix: str | None = None
    """What to do, often a command; null if ftx does not know."""

    @computed_field
    @property
    def mend(self) -> str | None:
        """``fix`` under the name that it had in 0.1, for programs that read it there."""
        return self.fix


class FailureReport(CommandReport):
    """The object that a failed command prints."""

    ok: bool = False
    error: ErrorParts
    """What is wrong, and how to fix it."""


def report_failure(
    error: Exception, *, arguments: Sequence[str], command: str | None, as_json: bool, debug: bool
) -> int:
    """Print the error, as JSON too under --json, and give the exit status."""
    known = as_ftx_error(error, command, arguments)
    if not rank_zero_output.may_print_error():
        return FtxError.exit_code if known is None else known.exit_code
    if debug:
        traceback.print_exception(error)
    known = known or _bug(error, arguments, debug)
    console.print_error(known)
    if as_json:
        parts = ErrorParts(what=known.what, where=known.where, found=known.found, fix=known.fix)
        try:
            # In one line, as lines of JSON may have been written before.
            console.print_line(FailureReport(verb=command or "", error=parts).model_dump_json())
        except OSError:  # what failed may be stdout itself
            console.abandon_stdout()
    return known.exit_code


def as_ftx_error(error: Exception, command: str | None = None, arguments: Sequence[str] = ()) -> FtxError | None:
    """The error as one of ftx; None if it is a bug."""
    if isinstance(error, FtxError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return missing_extra(error)
    if is_out_of_memory(error):
        return memory_fault(error)
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT:
        return EnvironmentFault(
            "the system reports an error",
            where=error.filename,
            found=error.strerror,
            fix="check free space and permissions, and run the command again",
        )
    if isinstance(error, OSError) and error.errno in _INPUT:
        return InputError(
            "this path cannot be used", where=error.filename, found=error.strerror, fix="name another file or folder"
        )
    return _usage_error(error, command, arguments)


def _usage_error(error: Exception, command: str | None, arguments: Sequence[str]) -> FtxError | None:
    """A wrong command line in the words of all other errors; None for an exception that is no such error."""
    # Typer's exceptions were click's and then its own, without one public base; both know how to show themselves.
    message = getattr(error, "format_message", None)
    if not callable(message):
        return None
    context: Any = getattr(error, "ctx", None)
    path = cast("str", getattr(context, "command_path", f"ftx {command or ''}".rstrip()))
    help_ = f"run {path} -h to see what it takes"
    text = str(message()).rstrip(".")
    if type(error).__name__ == "NoSuchOption":
        option, possible = str(getattr(error, "option_name", "")), list(getattr(error, "possibilities", None) or ())
        alike = nearest(option, possible) or next(iter(possible), None)
        fix = help_ if alike is None else f"did you mean {alike}? {path} -h lists all options"
        if option == "--data" and any(one.metavar == "DATA" for one in context.command.params):
            fix = f"name the data without it: {path} DATA"
        return InputError(f"{path} has no option {option}", fix=fix)
    if found := re.match(r"No such command '(.+?)'(?:\. Did you mean '(.+?)')?", text):
        fix = f"did you mean {path} {found[2]}?" if found[2] else f"run {path} -h to see all commands"
        return InputError(f"{path} has no command {found[1]}", fix=fix)
    if found := re.match(r"Missing argument '(.+?)'", text):
        example = next(iter(examples(path)), None)
        return InputError(f"{found[1]} must be given", fix=help_ if example is None else f"for example: {example}")
    if found := re.match(r"Option '(.+?)' requires an argument", text):
        return InputError(f"{found[1]} must have a value", fix=help_)
    if found := re.match(r"Invalid value for '(.+?)': (?:Input should be )?(.+)", text):
        given = value_of(found[1].split(" ")[0], arguments)
        expected = re.split(r", unable to parse", found[2].removeprefix("must be "))[0]
        for theirs, ours in _PLAINER.items():
            expected = expected.replace(theirs, ours)
        return InputError(f"{found[1]} must be {expected}", found=given, fix=help_)
    if found := re.match(r"Got unexpected extra arguments?\S* \((.+)\)", text):
        fix = f"did you mean --data {found[1]}?" if path == "ftx train" else help_
        return InputError(f"{path} takes fewer arguments", found=found[1], fix=fix)
    return InputError(text[:1].lower() + text[1:], fix=help_)


# Pydantic's words, and plain ones.
_PLAINER = {
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "a valid number": "a number",
    "a valid integer": "a whole number",
}


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """What a command line gives for a flag, as ``--images 0`` or ``--images=0``."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == flag:
            return following
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def _bug(error: Exception, arguments: Sequence[str], debug: bool) -> FtxError:
    headline = f"this is a bug in ftx: {type(error).__name__}: {error}"
    report = "report it with this file and what you did: CONTRIBUTING.md says where"
    if debug:
        return FtxError(headline, fix=report.replace("this file", "the traceback above"))
    text = "\n".join(
        [
            f"ftx {__version__}, Python {platform.python_version()}, {platform.platform()}",
            f"ftx {shlex.join(arguments)}",
            "",
            "".join(traceback.format_exception(error)),
        ]
    )
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="ftx-bug-", suffix=".log", delete=False, encoding="utf-8"
        ) as stream:
            stream.write(text)
    except OSError:  # nowhere to write: the terminal is what is left
        sys.stderr.write(text)
        return FtxError(headline, fix=report.replace("this file", "the text above"))
    return FtxError(headline, where=stream.name, fix=report)
