"""A job of many parts whose predictions become one file: each part is done once, also if a worker is killed.

Next to the output file, ``FILE.parts/`` contains ``job.json`` (which images, which model) and a file for each part that
is done. A part's file appears when it is complete, the output file when all parts are. The same command resumes a job.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from ftx.core.closed_model import ClosedModel
from ftx.core.disk import disk_faults
from ftx.core.errors import InputError, first_error
from ftx.core.files import LOCK, sole_writer, write_atomic
from ftx.core.untrusted_input import JsonError, read_json
from ftx.evaluating.predict import Prediction
from ftx.runs.calibration import COVERAGE

JOB_FILE = "job.json"


class JobSpec(ClosedModel):
    """What identifies a job: digests of its images and its model, and what it writes of each image."""

    version: int = 1
    images: str
    model: str
    scores: bool
    parts: int
    coverage: float = COVERAGE


class PredictionJob:
    """The parts of a job that are done, on disk."""

    def __init__(self, out: Path, spec: JobSpec) -> None:
        self.out, self.spec, self.written = out, spec, False
        self.folder = parts_folder(out)

    def left(self) -> list[int]:
        """The numbers of the parts that are not done yet."""
        done = {path.name for path in self.folder.iterdir()}
        return [nth for nth in range(self.spec.parts) if self._file(nth).name not in done]

    def keep(self, nth: int, lines: str) -> None:
        """Save the lines of a part, unless it was saved before.

        Raises: EnvironmentFault if the disk is full.
        """
        if not self._file(nth).exists():
            write_atomic(self._file(nth), lines.encode())

    def lines(self) -> Iterator[bytes]:
        """All lines in the order of their images, once all parts are done."""
        for nth in range(self.spec.parts):
            with self._file(nth).open("rb") as stream:
                yield from stream

    def _file(self, nth: int) -> Path:
        return self.folder / f"{nth:08d}.jsonl"


def parts_folder(out: Path) -> Path:
    """The folder of the parts that are done, for the output file ``out``."""
    return out.with_name(f"{out.name}.parts")


@contextmanager
def open_job(out: Path, spec: JobSpec) -> Iterator[PredictionJob]:
    """Start or resume a job. The folder of its parts is removed once ``out`` is written, or if no part was done.

    Raises: InputError if ``out`` exists, or the folder contains another job; RunError if another process works on this
    job; EnvironmentFault if the folder cannot be written.
    """
    check_absent(out)
    job = PredictionJob(out, spec)
    with disk_faults(job.folder):
        job.folder.mkdir(parents=True, exist_ok=True)
    with sole_writer(job.folder, None):
        if not [path for path in job.folder.iterdir() if path.name != LOCK]:
            if out.exists():  # the process that held the folder until now has completed the job
                shutil.rmtree(job.folder, ignore_errors=True)
                check_absent(out)
            write_atomic(job.folder / JOB_FILE, spec.model_dump_json().encode())
        _check_same_job(job)
        try:
            yield job
        finally:
            if job.written or len(job.left()) == spec.parts:
                shutil.rmtree(job.folder, ignore_errors=True)


def check_absent(out: Path) -> None:
    """Raise InputError if a file of this name exists."""
    if out.exists() or out.is_symlink():
        raise InputError(
            "--out must not exist yet", where=out, fix="choose another file for --out, or move the existing one"
        )


def _check_same_job(job: PredictionJob) -> None:
    fix = (
        f"run the command that started this prediction again, or remove {job.folder}, or choose another file for --out"
    )
    try:
        started = JobSpec.model_validate(read_json(job.folder / JOB_FILE))
    except (OSError, JsonError, ValidationError) as error:
        found = first_error(error) if isinstance(error, ValidationError) else str(error)
        raise InputError(
            "this folder must contain an unfinished prediction", where=job.folder, found=found, fix=fix
        ) from error
    if started != job.spec:
        differs = [name for name, value in started if value != getattr(job.spec, name)]
        found = f"different {', '.join(differs)}"
        raise InputError("this folder contains another unfinished prediction", where=job.folder, found=found, fix=fix)


def as_lines(predictions: Sequence[Prediction]) -> str:
    """Predictions as text, one line each."""
    return "".join(f"{one.to_line()}\n" for one in predictions)
