"""``ftx predict --out FILE``: the answers for many images in one file, by this process or by workers on Ray."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

from ftx.core.command_report import CommandReport
from ftx.core.errors import InputError, stopped
from ftx.core.files import staged_file
from ftx.core.packages import require
from ftx.core.progress import SILENT, Progress
from ftx.evaluating.predict import Prediction
from ftx.runs.proof_json import ir_digest
from ftx.runtimes import load
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.scaling.job import Asked, Job, as_lines, open_job, refuse_there
from ftx.scaling.on_ray import ray_workers
from ftx.scaling.parts import Part, parts_of

Engine = Literal["local", "ray"]
OutFormat = Literal["jsonl", "parquet"]


class PredictReport(CommandReport):
    """Where the answers are, for how many images, how many of these were ``skipped`` as they cannot be read.

    ``workers`` answered them, in ``seconds`` of this call; ``parts`` were to be done, ``kept`` of them by calls before.
    """

    verb: str = "predict"
    path: str
    format: OutFormat
    engine: Engine
    model: str
    images: int
    skipped: int
    parts: int
    kept: int
    workers: int
    seconds: float


class PartsDone(Protocol):
    """What an engine yields: numbers of parts and their answers as lines, in any order, each at least once."""

    def __call__(self, parts: Sequence[tuple[int, Part]]) -> Iterable[tuple[int, str]]:
        """Answer these parts."""
        ...


def predict_to_file(
    images: Sequence[Path],
    out: Path,
    artifact: Path | None = None,
    *,
    scores: bool = False,
    form: OutFormat = "jsonl",
    engine: Engine = "local",
    address: str | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> PredictReport:
    """Label images, folders, patterns and shards, and write a line for each, in their order, into a file.

    What is done is kept beside the file until all of it is, so that the same call goes on with what is left. Of ``ray``
    each worker is a process with a model of its own and its share of the cores; one that is lost begins again.
    Raises: InputError if no image is there, the file is, or another job is at work on it; ExportError, RunError for the
    model; EnvironmentFault if Ray, or a package, is not there or goes away: what is done is kept.
    """
    if form == "parquet":
        require("pyarrow")
    if engine == "ray":
        require("ray")
    parts = parts_of(images)
    predictor = load(artifact, goal="throughput", progress=progress)
    if not isinstance(predictor, OpenVinoPredictor):
        found, fix = f"a model for {predictor.name}", "export it: ftx export --format openvino"
        raise InputError("a file of answers is written by an exported IR", where=artifact, found=found, fix=fix)
    asked = Asked(images=_digest(parts), model=ir_digest(predictor.folder), scores=scores, parts=len(parts))
    began = time.monotonic()
    with open_job(out, asked) as job:
        left = job.left()
        if len(left) < len(parts):
            progress.note(f"{len(parts) - len(left)} of {len(parts)} parts were done before")
        todo, number = [(nth, parts[nth]) for nth in left], 1
        with _stopped_with_what_to_do(job):
            if engine == "ray" and todo:
                with ray_workers(
                    predictor.folder, scores=scores, address=address, workers=workers, progress=progress
                ) as on_ray:
                    number = on_ray.number
                    _answer(job, todo, on_ray, progress)
            elif todo:
                _answer(job, todo, _in_this_process(predictor, scores), progress)
        total, skipped = _write(job, form, scores=scores)
    return PredictReport(
        path=str(out),
        format=form,
        engine=engine,
        model=str(predictor.folder),
        images=total,
        skipped=skipped,
        parts=len(parts),
        kept=len(parts) - len(left),
        workers=number,
        seconds=round(time.monotonic() - began, 3),
    )


@contextmanager
def _stopped_with_what_to_do(job: Job) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as signal:
        done = job.asked.parts - len(job.left())
        found = f"{done} of {job.asked.parts} parts are done" + (f", and kept in {job.folder}" if done else "")
        fix = "the same command line goes on" if done else None
        raise stopped(signal, doing="in predicting", found=found, fix=fix) from None


def _digest(parts: Sequence[Part]) -> str:
    """What tells these images from others."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.to_json()} {part.state}\n".encode())
    return digest.hexdigest()


def _in_this_process(predictor: OpenVinoPredictor, scores: bool) -> PartsDone:
    def done(parts: Sequence[tuple[int, Part]]) -> Iterator[tuple[int, str]]:
        for nth, part in parts:
            yield nth, as_lines(part.answered(predictor, scores=scores))

    return done


def _answer(job: Job, parts: Sequence[tuple[int, Part]], done: PartsDone, progress: Progress) -> None:
    total = sum(part.images or 0 for _, part in parts) if all(part.images for _, part in parts) else None
    with progress.track("predicting", total) as bar:
        for nth, lines in done(parts):
            job.keep(nth, lines)
            bar.advance(lines.count("\n"))


def _write(job: Job, form: OutFormat, *, scores: bool) -> tuple[int, int]:
    """Write all answers as one file: how many, and how many of them say why there is none."""
    total = skipped = 0

    def counted() -> Iterator[bytes]:
        nonlocal total, skipped
        for line in job.lines():
            total += 1
            # A path may hold these words as well.
            skipped += b'"error":' in line and Prediction.model_validate_json(line).error is not None
            yield line

    with staged_file(job.out) as staged:
        if form == "parquet":
            from ftx.scaling.parquet import write_parquet

            write_parquet(staged, counted(), scores=scores)
        else:
            with staged.open("wb") as stream:
                stream.writelines(counted())
        refuse_there(job.out)  # of another program, which wrote it meanwhile
    job.written = True
    return total, skipped
