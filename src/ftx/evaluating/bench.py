"""``ftx bench``: how fast the models of a run, or one exported folder, are on this machine, and how they are fastest.

Each figure comes from fresh processes. Those of all settings take turns, so what else the machine does in a minute
slows them all and none alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from ftx.core.child_process import run_in_child
from ftx.core.disk import disk_faults
from ftx.core.errors import InputError, RunError, nearest, shell_command
from ftx.core.packages import install_command
from ftx.core.processors import Processors, processors
from ftx.core.progress import SILENT, Progress
from ftx.evaluating.bench_process import MODULE, Job, Measured
from ftx.runs.artifacts import ARTIFACTS, EXPORT_IR, IRS, Artifact
from ftx.runs.bench_json import BENCH_PLOT, BenchReport, BenchRow, SavedSetting
from ftx.runs.card_json import CARD_FILE, read_card
from ftx.runs.compute_precision import Compute
from ftx.runs.machine import this_machine
from ftx.runs.run import Run
from ftx.runs.run_json import is_run
from ftx.runs.tuning_json import OpenvinoSetting, TuningResult, keep_tuned
from ftx.runtimes.openvino import default_compute

# Processes a row: the middle one of three is not the one that something else disturbed.
ROUNDS = 3
SECONDS = 3.0
BATCHES = (1, 8)
# f32 is said to be faster than bf16 from so much of its time on: of less another run may find the opposite.
CLEARLY = 0.95
# With --save a setting is tried further while it is no slower than so many times the best: after one process, whose
# median is off by a tenth and more on a busy machine, and after two.
KEPT_WITHIN = (1.4, 1.15)
TRIED_BATCHES = (1, 2, 4, 8, 16)
COMPUTES: tuple[Compute, ...] = ("auto", "f32")


@dataclass(frozen=True)
class Wanted:
    """What to measure; where nothing is said, what tells most on the machine at hand."""

    precisions: Sequence[str] = ()
    computes: Sequence[Compute] = ()
    batches: Sequence[int] = ()
    threads: Sequence[int] = ()
    streams: Sequence[int] = ()
    seconds: float = SECONDS
    save: bool = False


WHAT_TELLS_MOST = Wanted()


@dataclass
class _Candidate:
    job: Job
    found: list[Measured] = field(default_factory=list[Measured])

    @property
    def p50_ms(self) -> float:
        return statistics.median(statistics.median(one.latencies_ms) for one in self.found)

    @property
    def images_per_s(self) -> float:
        return statistics.median(one.images / one.seconds for one in self.found)


def bench(
    target: Run | Path | str | None = None, wanted: Wanted = WHAT_TELLS_MOST, progress: Progress = SILENT
) -> BenchReport:
    """Time a run's models (the newest run's by default), beside torch and ONNX Runtime, or one exported folder.

    ``wanted.save`` looks for the fastest setting of each OpenVINO model and keeps it in ``tuning.json`` beside it.
    Raises: RunError, ExportError for what is missing, altered or stale; InputError for what no machine could do.
    """
    run, folders = _models(target, wanted)
    here = processors()
    _refuse_what_is_not_there(wanted, here)
    if wanted.save:
        _refuse_what_cannot_be_written(folders.values())
    candidates = [
        candidate
        for artifact, folder in folders.items()
        for candidate in _candidates(artifact, folder, run, wanted, here)
    ]
    digests = {artifact.name: run.manifest.digest(artifact) for artifact in folders} if run else {}
    tried = len(candidates)
    with progress.track("benchmarking", ROUNDS * tried) as bar:
        for turn in range(ROUNDS):
            for candidate in candidates:
                job = candidate.job.model_copy(update={"cached": turn == 0})
                candidate.found.append(run_in_child(MODULE, job, Measured))
                bar.advance(artifact=job.artifact)
            if wanted.save and turn < len(KEPT_WITHIN):
                kept = _near_the_best(candidates, KEPT_WITHIN[turn])
                bar.advance((ROUNDS - turn - 1) * (len(candidates) - len(kept)))
                candidates = kept
    saved = [_save(candidates, artifact, folder) for artifact, folder in folders.items() if _is_saved(artifact, wanted)]
    rows = [_row(candidate) for candidate in candidates]
    image_size = _image_size(run, folders)
    report = BenchReport(
        run=str(run.path) if run else None,
        folder=None if run else str(next(iter(folders.values()))),
        machine=this_machine(),
        processors=here.usable,
        image_size=image_size,
        seconds=wanted.seconds,
        rounds=ROUNDS,
        tried=tried,
        rows=rows,
        saved=saved,
        notes=_notes(rows, saved=wanted.save),
        digests=digests,
    )
    if run is not None:
        run.keep_report("bench", report, progress)
        _draw(report, run.path / BENCH_PLOT, progress)
    return report


def _draw(report: BenchReport, path: Path, progress: Progress) -> None:
    from ftx.evaluating.bench_plot import draw

    try:
        draw(report, path)
    except ModuleNotFoundError:
        progress.note(f"{BENCH_PLOT.as_posix()} is not drawn: matplotlib is not installed ({install_command('train')})")
    except OSError as error:
        progress.note(f"{BENCH_PLOT.as_posix()} is not kept: {error.strerror}")


def _models(target: Run | Path | str | None, wanted: Wanted) -> tuple[Run | None, dict[Artifact, Path]]:
    """The folders to time, whole and of what the run holds now, by artifact."""
    if isinstance(target, Path | str) and (Path(target) / CARD_FILE).is_file():
        folder = Path(target)
        Run.check_folder(folder)
        if wanted.precisions:
            raise InputError(
                "an exported folder is of one precision", where=folder, fix="leave --precision out, or name the run"
            )
        return None, {read_card(folder).artifact: folder}
    if isinstance(target, Path | str) and Path(target).is_dir() and not is_run(Path(target)):
        raise InputError(
            "there is no model here to time",
            where=target,
            found=f"no {CARD_FILE} in it, as an exported folder has, and no run",
            fix="name a run, or a folder that ftx export wrote",
        )
    run = target if isinstance(target, Run) else Run.open(target)
    for name in wanted.precisions:
        if name not in IRS:
            alike = nearest(name, IRS)
            fix = f"did you mean '{alike}'?" if alike else f"choose from {', '.join(IRS)}"
            raise InputError(f"unknown precision '{name}'", fix=fix)
    chosen = [IRS[name] for name in wanted.precisions] or [one for one in IRS.values() if run.has(one)]
    if not chosen:
        raise RunError(
            "this run has no OpenVINO model yet",
            where=run.path,
            found=f"it holds {', '.join(map(str, run.artifacts()))}",
            fix=f"run: {shell_command(EXPORT_IR, run.path)}",
        )
    beside = [one for one in ARTIFACTS.values() if one.timed and not one.tunable and _can_run(run, one)]
    others = [] if wanted.precisions or wanted.save else beside
    return run, {artifact: run.require(artifact) for artifact in (*others, *chosen)}


def _refuse_what_cannot_be_written(folders: Iterable[Path]) -> None:
    """Before the minutes of a search, and not behind them."""
    for folder in folders:
        with disk_faults(folder), TemporaryFile(dir=folder):
            pass


def _can_run(run: Run, artifact: Artifact) -> bool:
    """Whether the run holds it and what runs it is installed."""
    from importlib.util import find_spec

    return run.has(artifact) and find_spec(artifact.package) is not None


def _refuse_what_is_not_there(wanted: Wanted, here: Processors) -> None:
    too_many = [count for count in (*wanted.threads, *wanted.streams) if count > here.usable]
    if too_many:
        raise InputError(
            f"this process may use {here.usable} processors",
            found=f"--threads or --streams {max(too_many)}",
            fix=f"ask for {here.usable} at most",
        )
    if not math.isfinite(wanted.seconds) or wanted.seconds <= 0:
        raise InputError("--seconds is how long a row is timed", found=f"{wanted.seconds:g}", fix="give some seconds")


def _candidates(
    artifact: Artifact, folder: Path, run: Run | None, wanted: Wanted, here: Processors
) -> list[_Candidate]:
    """Every setting of one model that is to be tried, fewer streams than threads."""
    alone = artifact.tunable
    computes = tuple(wanted.computes) or COMPUTES
    if not alone or default_compute().dtype == "f32":
        computes = computes[:1]  # both are the same
    batches = tuple(wanted.batches) or (TRIED_BATCHES if wanted.save else BATCHES)
    threads = tuple(wanted.threads) or (_thread_counts(here) if wanted.save else (here.cores,))
    streams = tuple(wanted.streams) or (_powers(here.usable) if wanted.save else tuple(sorted({1, here.cores})))
    return [
        _Candidate(
            Job(
                artifact=artifact.name,
                folder=folder,
                run=run and run.path,
                compute=compute,
                batch=batch,
                threads=count,
                streams=at_a_time,
                seconds=wanted.seconds / ROUNDS,
                cached=False,
            )
        )
        for compute, batch, count, at_a_time in product(computes, batches, threads, streams if alone else (1,))
        if at_a_time <= count and (wanted.save or wanted.batches or wanted.streams or 1 in (batch, at_a_time))
    ]


def _thread_counts(here: Processors) -> tuple[int, ...]:
    return tuple(sorted({1, here.fast, here.cores, here.usable}))


def _powers(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... and the most itself."""
    return tuple(sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)}))


def _near_the_best(candidates: Sequence[_Candidate], within: float) -> list[_Candidate]:
    """Those that may still turn out the fastest: by latency of one image, or by images a second; of each model.

    One that takes a batch image by image is no other with another batch.
    """
    kept: list[_Candidate] = []
    for name in dict.fromkeys(one.job.artifact for one in candidates):
        own = [one for one in candidates if one.job.artifact == name]
        own = [one for one in own if one.job.batch == 1 or one.found[-1].kernels == "batch"] or own
        least = min((one.p50_ms for one in own if _is_for_latency(one)), default=0.0)
        most = max(one.images_per_s for one in own)
        kept += [
            one
            for one in own
            if (_is_for_latency(one) and one.p50_ms <= within * least) or one.images_per_s >= most / within
        ]
    return kept


def _is_for_latency(candidate: _Candidate) -> bool:
    return candidate.job.batch == 1 and candidate.job.streams == 1


def _is_saved(artifact: Artifact, wanted: Wanted) -> bool:
    return wanted.save and artifact.tunable


def _save(candidates: Sequence[_Candidate], artifact: Artifact, folder: Path) -> SavedSetting:
    own = [one for one in candidates if one.job.artifact == artifact.name]
    alone = [one for one in own if _is_for_latency(one)]
    if not alone:
        raise InputError(
            "--save keeps the best setting for one image as well, and none was measured",
            fix="leave --batch and --streams out, or add --batch 1 --streams 1",
        )
    quickest, most = min(alone, key=lambda one: one.p50_ms), max(own, key=lambda one: one.images_per_s)
    tuned = TuningResult(
        machine=this_machine(),
        processors=processors().usable,
        latency=_setting(quickest),
        p50_ms=round(quickest.p50_ms, 3),
        throughput=_setting(most),
        images_per_s=round(most.images_per_s, 2),
    )
    keep_tuned(folder, tuned)
    return SavedSetting(artifact=artifact.name, path=str(folder), **tuned.model_dump(exclude={"machine", "processors"}))


def _setting(candidate: _Candidate) -> OpenvinoSetting:
    job = candidate.job
    return OpenvinoSetting(compute=job.compute, batch=job.batch, threads=job.threads, streams=job.streams)


def _row(candidate: _Candidate) -> BenchRow:
    found, job = candidate.found, candidate.job
    last = found[-1]
    p50, p90, p99 = np.percentile([ms for one in found for ms in one.latencies_ms], (50, 90, 99))
    compiled = [one.compile_ms for one in found if one.compile_ms is not None]
    cached = [one.compile_cached_ms for one in found if one.compile_cached_ms is not None]
    return BenchRow(
        artifact=job.artifact,
        runtime=ARTIFACTS[job.artifact].runtime,
        compute=last.compute,
        isa=last.isa,
        primitives=last.primitives,
        batch=job.batch,
        threads=last.threads,
        streams=last.streams,
        requests=sum(len(one.latencies_ms) for one in found),
        p50_ms=round(float(p50), 3),
        p90_ms=round(float(p90), 3),
        p99_ms=round(float(p99), 3),
        images_per_s=round(candidate.images_per_s, 2),
        compile_ms=round(statistics.median(compiled), 1) if compiled else None,
        compile_cached_ms=round(statistics.median(cached), 1) if cached else None,
        first_ms=round(statistics.median(one.first_ms for one in found), 1),
        peak_bytes=int(statistics.median(one.peak_bytes for one in found)),
    )


def _notes(rows: Sequence[BenchRow], *, saved: bool) -> list[str]:
    """Where the precision that OpenVINO chooses is not the faster one."""
    notes: list[str] = []
    for row in rows:
        if not row.compute.chosen_by_runtime or (row.batch, row.streams) != (1, 1):
            continue
        setting = (row.artifact, row.batch, row.threads, row.streams)
        pinned = next(
            (
                one
                for one in rows
                if (one.artifact, one.batch, one.threads, one.streams) == setting and not one.compute.chosen_by_runtime
            ),
            None,
        )
        if pinned is not None and pinned.p50_ms < CLEARLY * row.p50_ms and row.compute.dtype != "f32":
            taken = "ftx predict takes f32" if saved else "--save makes ftx predict take f32"
            notes.append(
                f"{row.artifact}: {row.compute.dtype}, which OpenVINO chooses, is slower than f32 with "
                f"{row.threads} threads: {row.p50_ms:.1f} ms, f32 {pinned.p50_ms:.1f} ms; {taken}"
            )
    return notes


def _image_size(run: Run | None, folders: dict[Artifact, Path]) -> int | str:
    if run is not None:
        return run.manifest.preprocess.image_size
    return read_card(next(iter(folders.values()))).preprocess.image_size
