"""A job of many parts whose answers become one file: what is done is kept, and done once, whoever does it and dies.

Beside the file that is to come, ``FILE.parts/`` holds ``job.json`` (what is answered, by what) and a file for each part
that is done. A part appears when it is whole; the file, when all are. The same command line goes on with what is left.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ftx.core.disk import disk_faults
from ftx.core.errors import InputError
from ftx.core.files import LOCK, sole_writer, write_atomic
from ftx.core.pydantic_errors import first_error
from ftx.core.strict_json import JsonError, read_json
from ftx.evaluating.predict import Prediction

JOB_FILE = "job.json"


class Asked(BaseModel):
    """What a job answers: the digest of its images, that of the model, and whether all scores are wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = 1
    images: str
    model: str
    scores: bool
    parts: int


class Job:
    """The parts of a job that are done, on disk."""

    def __init__(self, out: Path, asked: Asked) -> None:
        self.out, self.asked, self.written = out, asked, False
        self.folder = parts_folder(out)

    def left(self) -> list[int]:
        """The numbers of the parts that are not done yet."""
        there = {path.name for path in self.folder.iterdir()}
        return [nth for nth in range(self.asked.parts) if self._file(nth).name not in there]

    def keep(self, nth: int, lines: str) -> None:
        """Keep a part's answers, a line each; one that is kept already stays as it is.

        Raises: EnvironmentFault if the disk takes no more.
        """
        if not self._file(nth).exists():
            write_atomic(self._file(nth), lines.encode())

    def lines(self) -> Iterator[bytes]:
        """All answers, in the order of their images, once all parts are done."""
        for nth in range(self.asked.parts):
            with self._file(nth).open("rb") as stream:
                yield from stream

    def _file(self, nth: int) -> Path:
        return self.folder / f"{nth:08d}.jsonl"


def parts_folder(out: Path) -> Path:
    """Where the parts of a file wait until all are done."""
    return out.with_name(f"{out.name}.parts")


@contextmanager
def open_job(out: Path, asked: Asked) -> Iterator[Job]:
    """Begin a job, or go on with it; the parts are gone once the job has written ``out``, or where it did nothing.

    Raises: InputError if ``out`` is there already, or another job's parts are; RunError if another process is at work
    on it; EnvironmentFault if the place cannot be written.
    """
    refuse_there(out)
    job = Job(out, asked)
    with disk_faults(job.folder):
        job.folder.mkdir(parents=True, exist_ok=True)
    with sole_writer(job.folder, None):
        if not [path for path in job.folder.iterdir() if path.name != LOCK]:
            if out.exists():  # who held the folder until now has ended with it
                shutil.rmtree(job.folder, ignore_errors=True)
                refuse_there(out)
            write_atomic(job.folder / JOB_FILE, asked.model_dump_json().encode())
        _refuse_other(job)
        try:
            yield job
        finally:
            if job.written or len(job.left()) == asked.parts:
                shutil.rmtree(job.folder, ignore_errors=True)


def refuse_there(out: Path) -> None:
    """Raise InputError where a file is already."""
    if out.exists() or out.is_symlink():
        raise InputError("this file is there already", where=out, fix="name another, or move it away")


def _refuse_other(job: Job) -> None:
    file = job.folder / JOB_FILE
    fix = f"give the command line that it was begun with, remove {job.folder}, or name another file"
    try:
        begun = Asked.model_validate(read_json(file))
    except (OSError, JsonError, ValidationError) as error:
        found = first_error(error) if isinstance(error, ValidationError) else str(error)
        raise InputError("this folder is in the way", where=job.folder, found=found, fix=fix) from error
    if begun != job.asked:
        differs = [name for name in type(begun).model_fields if getattr(begun, name) != getattr(job.asked, name)]
        raise InputError(
            "another prediction was begun here", where=job.folder, found=f"other {', '.join(differs)}", fix=fix
        )


def as_lines(answers: Sequence[Prediction]) -> str:
    """Answers as text, a line each."""
    return "".join(f"{answer.to_line()}\n" for answer in answers)
