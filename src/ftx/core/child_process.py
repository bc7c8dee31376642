"""A function of ours in a fresh process: what it measures is a cold start, and its environment is its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ftx.core import errors
from ftx.core.errors import EnvironmentFault, FtxError

Question = TypeVar("Question", bound=BaseModel)
Answer = TypeVar("Answer", bound=BaseModel)


class Fault(BaseModel):
    """An error of ours, as the other process tells it."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    what: str
    where: str | None
    found: str | None
    fix: str | None

    @classmethod
    def of(cls, error: FtxError) -> Fault:
        """An error, to be told: as the nearest kind of ftx.core.errors, where others are not known."""
        kind = next(one.__name__ for one in type(error).__mro__ if getattr(errors, one.__name__, None) is one)
        return cls(kind=kind, what=error.what, where=error.where, found=error.found, fix=error.fix)

    def as_error(self) -> FtxError:
        """The error that was told."""
        kind: type[FtxError] = getattr(errors, self.kind)
        return kind(self.what, where=self.where, found=self.found, fix=self.fix)


def ask(module: str, question: BaseModel, answer: type[Answer], environment: Mapping[str, str] | None = None) -> Answer:
    """Run ``python -m module`` on a question, its environment with these variables beside ours, and read its answer.

    Raises: what of FtxError the function raised there; EnvironmentFault if the process died.
    """
    # -P: no module of the folder that we are in is taken for one of ours.
    done = subprocess.run(
        [sys.executable, "-P", "-m", module],
        input=question.model_dump_json(),
        env={**os.environ, **(environment or {})},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    told = done.stdout.rpartition("\n")[2]
    if done.returncode == FtxError.exit_code and told:
        raise Fault.model_validate_json(told).as_error()
    try:
        if done.returncode == 0:
            return answer.model_validate_json(told)
    except ValidationError:
        pass  # something of ours died between two lines: said below
    raise EnvironmentFault(
        "a process that ftx started died",
        where=module,
        found=_how_it_died(done.returncode, done.stderr),
        fix="see whether memory ran out (dmesg); else report it",
    )


def answer_on_stdout(question: type[Question], function: Callable[[Question], BaseModel]) -> None:
    """The other side of ``ask``: the last line of stdout is the answer, or the error."""
    try:
        line, status = function(question.model_validate_json(sys.stdin.read())).model_dump_json(), 0
    except FtxError as error:
        line, status = Fault.of(error).model_dump_json(), FtxError.exit_code
    sys.stdout.write(f"\n{line}")
    sys.stdout.flush()
    # Not by returning: OpenVINO's threads are of no more use, and tearing them down takes a tenth of a second.
    os._exit(status)


def _how_it_died(status: int, stderr: str) -> str:
    last = next((line for line in reversed(stderr.splitlines()) if line.strip()), "")
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}: {last[:200]}"
