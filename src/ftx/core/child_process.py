"""A function of ftx in a fresh process: it measures a cold start, and has an environment of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ftx.core import errors
from ftx.core.closed_model import ClosedModel
from ftx.core.errors import EnvironmentFault, FtxError

_Request = TypeVar("_Request", bound=BaseModel)
_Reply = TypeVar("_Reply", bound=BaseModel)


class Fault(ClosedModel):
    """An error of ftx, as the child sends it."""

    kind: str
    what: str
    where: str | None
    found: str | None
    fix: str | None

    @classmethod
    def of(cls, error: FtxError) -> Fault:
        """An error to be sent, as the nearest kind in ftx.core.errors."""
        kind = next(one.__name__ for one in type(error).__mro__ if getattr(errors, one.__name__, None) is one)
        return cls(kind=kind, what=error.what, where=error.where, found=error.found, fix=error.fix)

    def as_error(self) -> FtxError:
        """The error that was sent."""
        kind: type[FtxError] = getattr(errors, self.kind)
        return kind(self.what, where=self.where, found=self.found, fix=self.fix)


def run_in_child(
    module: str, request: BaseModel, reply: type[_Reply], environment: Mapping[str, str] | None = None
) -> _Reply:
    """Run ``python -m module`` on a request, with these variables added to our environment, and read its reply.

    Raises: the FtxError that the function raised there; EnvironmentFault if the process died.
    """
    # -P: no module in the current folder must shadow one of ours.
    done = subprocess.run(
        [sys.executable, "-P", "-m", module],
        input=request.model_dump_json(),
        env={**os.environ, **(environment or {})},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    last_line = done.stdout.rpartition("\n")[2]
    if done.returncode == FtxError.exit_code and last_line:
        raise Fault.model_validate_json(last_line).as_error()
    try:
        if done.returncode == 0:
            return reply.model_validate_json(last_line)
    except ValidationError:
        pass  # it died while it wrote: the error below
    raise EnvironmentFault(
        "a process that ftx started ended without a result",
        where=module,
        found=_how_it_died(done.returncode, done.stderr),
        fix="run `dmesg` to see if memory ran out, and report the error if it did not",
    )


def reply_on_stdout(request: type[_Request], function: Callable[[_Request], BaseModel]) -> None:
    """The child's side of ``run_in_child``: the last line of stdout is the reply, or the error."""
    try:
        line, status = function(request.model_validate_json(sys.stdin.read())).model_dump_json(), 0
    except FtxError as error:
        line, status = Fault.of(error).model_dump_json(), FtxError.exit_code
    sys.stdout.write(f"\n{line}")
    sys.stdout.flush()
    # Not by returning: OpenVINO's threads are of no more use, and tearing them down takes a tenth of a second.
    os._exit(status)


def _how_it_died(status: int, stderr: str) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    last = next((line for line in reversed(stderr.splitlines()) if line.strip()), "")
    return f"exit status {status}: {last[:200]}"
