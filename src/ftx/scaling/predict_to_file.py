"""``ftx predict --out FILE``: predictions for many images in one file, by this process or by workers on Ray."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Unpack

from ftx.core.command_report import CommandReport
from ftx.core.errors import InputError, stopped
from ftx.core.files import staged_file
from ftx.core.packages import require
from ftx.core.progress import SILENT, Progress
from ftx.evaluating.predict import Prediction
from ftx.runs.calibration import COVERAGE
from ftx.runs.proof_json import ir_digest
from ftx.runtimes import LoadOptions, load
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.runtimes.predictor import RanModel
from ftx.scaling.on_ray import ray_workers
from ftx.scaling.parts import JobPart, parts_of
from ftx.scaling.ray_driver import WorkerSetup
from ftx.scaling.resumable_job import JobSpec, PredictionJob, as_lines, check_absent, open_job

Engine = Literal["local", "ray"]
OutFormat = Literal["jsonl", "parquet"]


class PredictReport(CommandReport):
    """Predictions for many images in one file."""

    verb: str = "predict"
    path: str
    """The path of the file."""
    format: OutFormat
    """The format of the file."""
    engine: Engine
    """``local`` for one process on this machine, ``ray`` for workers on Ray."""
    model: str
    """The folder of the exported model."""
    images: int
    """The number of images."""
    skipped: int
    """The number of images that cannot be read."""
    ran_twice: int | None = None
    """Only for int8-checked: the number of images that also ran in fp32; null for any other model."""
    parts: int
    """The number of parts that the images are divided into."""
    kept: int
    """The number of parts that earlier calls finished."""
    workers: int
    """The number of processes that predicted."""
    seconds: float
    """The time of this call in seconds."""


@dataclass(frozen=True)
class RayCluster:
    """A Ray to use: its address (else RAY_ADDRESS, else a new one on this machine), and how many workers."""

    address: str | None = None
    workers: int | None = None


def predict_to_file(
    images: Sequence[Path],
    out: Path,
    artifact: Path | None = None,
    *,
    scores: bool = False,
    form: OutFormat = "jsonl",
    ray: RayCluster | None = None,
    progress: Progress = SILENT,
    **options: Unpack[LoadOptions],
) -> PredictReport:
    """Label images, folders, patterns and shards, and write one line for each, in their order, to a file.

    Parts that are done are kept next to the file until all are, so that the same call resumes. With ``ray`` each worker
    is a process with its own model and cores, and is started again if it is lost. ``options`` are those of ``load``.
    Raises: InputError if there is no image, the file exists, or another job is running on it; ExportError, RunError for
    the model; EnvironmentFault if Ray, or a package, is missing or fails: parts that are done are kept.
    """
    if form == "parquet":
        require("pyarrow")
    if ray is not None:
        require("ray")
    parts = parts_of(images)
    predictor = load(artifact, goal="throughput", progress=progress, **options)
    if not isinstance(predictor, OpenVinoPredictor):
        found, fix = f"a model for {predictor.name}", "export it first: ftx export"
        raise InputError("--out needs an exported IR", where=artifact, found=found, fix=fix)
    coverage = options.get("coverage", COVERAGE)
    spec = JobSpec(
        images=_digest(parts), model=ir_digest(predictor.folder), scores=scores, parts=len(parts), coverage=coverage
    )
    began = time.monotonic()
    with open_job(out, spec) as job:
        todo, workers = [(nth, parts[nth]) for nth in job.left()], 1
        if len(todo) < len(parts):
            progress.note(f"resuming: {len(parts) - len(todo)} of {len(parts)} parts are already done")
        with _resumable(job):
            if ray is not None and todo:
                setup = WorkerSetup(
                    folder=predictor.folder.absolute(),
                    scores=scores,
                    coverage=coverage,
                    address=ray.address,
                    workers=ray.workers,
                )
                with ray_workers(setup, progress) as on_ray:
                    workers = on_ray.number
                    _keep(job, todo, on_ray.lines_of(todo), progress)
            elif todo:
                lines = ((nth, as_lines(part.predictions(predictor, scores=scores))) for nth, part in todo)
                _keep(job, todo, lines, progress)
        total, skipped, ran = _write(job, form)
    return PredictReport(
        path=str(out),
        format=form,
        engine="local" if ray is None else "ray",
        model=str(predictor.folder),
        images=total,
        skipped=skipped,
        ran_twice=ran["fp32"] if ran else None,
        parts=len(parts),
        kept=len(parts) - len(todo),
        workers=workers,
        seconds=round(time.monotonic() - began, 3),
    )


@contextmanager
def _resumable(job: PredictionJob) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as signal:
        done = job.spec.parts - len(job.left())
        found = f"{done} of {job.spec.parts} parts are done" + (f", and kept in {job.folder}" if done else "")
        fix = "run the same command to resume" if done else None
        raise stopped(signal, doing="in predicting", found=found, fix=fix) from None


def _digest(parts: Sequence[JobPart]) -> str:
    """Identify the images: their names, and what changes if a file is rewritten."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.to_json()} {part.state}\n".encode())
    return digest.hexdigest()


def _keep(
    job: PredictionJob, todo: Sequence[tuple[int, JobPart]], done: Iterable[tuple[int, str]], progress: Progress
) -> None:
    """Save the parts as they are done: in any order, and some more than once if a worker was lost."""
    total = sum(part.images or 0 for _, part in todo) if all(part.images for _, part in todo) else None
    with progress.track("Predicting", total) as bar:
        for nth, lines in done:
            job.keep(nth, lines)
            bar.advance(lines.count("\n"))


def _write(job: PredictionJob, form: OutFormat) -> tuple[int, int, Counter[RanModel]]:
    """Write all predictions to one file; return how many there are, how many are errors, and which model ran."""
    total, skipped, ran = 0, 0, Counter[RanModel]()

    def counted() -> Iterator[bytes]:
        nonlocal total, skipped
        for line in job.lines():
            total += 1
            # A path may contain these words as well.
            if b'"error":' in line or b'"ran":' in line:
                found = Prediction.model_validate_json(line)
                skipped += found.error is not None
                ran.update([found.ran] if found.ran else [])
            yield line

    with staged_file(job.out) as staged:
        if form == "parquet":
            from ftx.scaling.parquet import write_parquet

            write_parquet(staged, counted(), scores=job.spec.scores)
        else:
            with staged.open("wb") as stream:
                stream.writelines(counted())
        check_absent(job.out)  # another program may have written it meanwhile
    job.written = True
    return total, skipped, ran
