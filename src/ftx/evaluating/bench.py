"""``ftx bench``: how fast the models of a run, or one exported folder, are on this machine, and how they are fastest.

Each figure comes from fresh processes. Those of all settings take turns, so what else the machine does in a minute
slows all of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np

from ftx.core.child_process import run_in_child
from ftx.core.errors import InputError, nearest
from ftx.core.files import check_writable
from ftx.core.packages import install_command
from ftx.core.processors import Processors, processors
from ftx.core.progress import SILENT, Progress
from ftx.evaluating.bench_process import MODULE, BenchJob, BenchMeasurement
from ftx.runs.artifacts import ARTIFACTS, IR_INT8_CHECKED, IRS, Artifact
from ftx.runs.bench_json import BENCH_PLOT, BenchReport, BenchRow, SavedSetting
from ftx.runs.card_json import CARD_FILE, read_card
from ftx.runs.compute_precision import Compute
from ftx.runs.machine import CPU, this_machine
from ftx.runs.run import Run
from ftx.runs.run_json import is_run
from ftx.runs.tuning_json import OpenvinoSetting, TuningResult, keep_tuned
from ftx.runtimes.choose_artifact import no_ir
from ftx.runtimes.compiled_network import core
from ftx.runtimes.device import check_device
from ftx.runtimes.openvino import default_compute

# Processes a row: the middle one of three is not the one that something else disturbed.
ROUNDS = 3
SECONDS = 3.0
BATCHES = (1, 8)
# f32 is reported as faster than bf16 if it takes at most this fraction of its time: of less another run may find the
# opposite.
CLEARLY = 0.95
# With --save a setting is dropped if it is slower than the best by this factor: after one process, whose median is off
# by a tenth and more on a busy machine, and after two.
KEPT_WITHIN = (1.4, 1.15)
TRIED_BATCHES = (1, 2, 4, 8, 16)
COMPUTES: tuple[Compute, ...] = ("auto", "f32")


@dataclass(frozen=True)
class BenchOptions:
    """What to measure. What is empty is chosen for this machine."""

    precisions: Sequence[str] = ()
    computes: Sequence[Compute] = ()
    batches: Sequence[int] = ()
    threads: Sequence[int] = ()
    streams: Sequence[int] = ()
    seconds: float = SECONDS
    save: bool = False
    device: str = CPU

    @property
    def in_auto(self) -> bool:
        """Whether models run in the precision that OpenVINO chooses."""
        return "auto" in (self.computes or COMPUTES)


DEFAULTS = BenchOptions()


@dataclass
class _Candidate:
    job: BenchJob
    found: list[BenchMeasurement] = field(default_factory=list[BenchMeasurement])

    @property
    def p50_ms(self) -> float:
        return statistics.median(statistics.median(one.latencies_ms) for one in self.found)

    @property
    def images_per_s(self) -> float:
        return statistics.median(one.images / one.seconds for one in self.found)


def bench(
    target: Run | Path | str | None = None, options: BenchOptions = DEFAULTS, progress: Progress = SILENT
) -> BenchReport:
    """Time a run's models (the newest run's by default), torch and ONNX Runtime included, or one exported folder.

    ``options.save`` looks for the fastest setting of each OpenVINO model and keeps it in ``tuning.json`` next to it.
    On another ``options.device`` than the CPU, only OpenVINO models are timed, and the run keeps no report.
    Raises: RunError, ExportError for what is missing, altered or stale; InputError for what no machine could do.
    """
    check_device(options.device, core())
    run, folders = _models(target, options)
    if IR_INT8_CHECKED in folders and not options.in_auto:
        what = "--compute must be auto for int8-checked, which runs only in the precision that OpenVINO chooses"
        raise InputError(what, found="--compute fp32", fix="use --compute auto")
    here = processors()
    _check_processors(options, here)
    if options.save:
        for folder in folders.values():
            check_writable(folder)
    candidates = [
        candidate
        for artifact, folder in folders.items()
        for candidate in _candidates(artifact, folder, run, options, here)
    ]
    tried = len(candidates)
    with progress.track("Benchmarking", ROUNDS * tried) as bar:
        for turn in range(ROUNDS):
            for candidate in candidates:
                job = candidate.job.model_copy(update={"cached": turn == 0})
                candidate.found.append(run_in_child(MODULE, job, BenchMeasurement))
                bar.advance(artifact=job.artifact)
            if options.save and turn < len(KEPT_WITHIN):
                kept = _near_the_best(candidates, KEPT_WITHIN[turn])
                bar.advance((ROUNDS - turn - 1) * (len(candidates) - len(kept)))
                candidates = kept
    tunable = {artifact: folder for artifact, folder in folders.items() if options.save and artifact.tunable}
    saved = [_save(candidates, artifact, folder) for artifact, folder in tunable.items()]
    rows = [_row(candidate) for candidate in candidates]
    first = next(iter(folders.values()))
    preprocess = run.manifest.preprocess if run else read_card(first).preprocess
    report = BenchReport(
        run=str(run.path) if run else None,
        folder=None if run else str(first),
        machine=this_machine(options.device),
        processors=here.usable,
        image_size=preprocess.image_size,
        seconds=options.seconds,
        rounds=ROUNDS,
        tried=tried,
        rows=rows,
        saved=saved,
        notes=_notes(rows, saved=options.save),
        digests={artifact.name: run.manifest.digest(artifact) for artifact in folders} if run else {},
    )
    if run is not None and options.device == CPU:
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


def _models(target: Run | Path | str | None, options: BenchOptions) -> tuple[Run | None, dict[Artifact, Path]]:
    """The folders to time by artifact: complete, and of the run as it is now."""
    if isinstance(target, Path | str) and (Path(target) / CARD_FILE).is_file():
        folder = Path(target)
        Run.check_folder(folder)
        if options.precisions:
            raise InputError(
                "--precision must not be given for an exported folder, which has one precision",
                where=folder,
                fix="run the command without --precision, or name the run",
            )
        return None, {read_card(folder).artifact: folder}
    if isinstance(target, Path | str) and Path(target).is_dir() and not is_run(Path(target)):
        raise InputError(
            "there is no model here to measure",
            where=target,
            found=f"no {CARD_FILE} in it, as an exported folder has, and no run",
            fix="name a run, or a folder that ftx export wrote",
        )
    run = target if isinstance(target, Run) else Run.open(target)
    for name in options.precisions:
        if name not in IRS:
            alike = nearest(name, IRS)
            fix = f"did you mean '{alike}'?" if alike else "choose one of these names"
            raise InputError(f"--precision must be one of {', '.join(IRS)}", found=name, fix=fix)
    chosen = [IRS[name] for name in options.precisions] or [one for one in IRS.values() if run.has(one)]
    if not chosen:
        raise no_ir(run)
    others = [one for one in ARTIFACTS.values() if one.timed and not one.tunable and _can_run(run, one)]
    if options.precisions or options.save or options.device != CPU:
        others = []
    if (options.device != CPU or not options.in_auto) and not options.precisions:
        chosen = [one for one in chosen if one != IR_INT8_CHECKED] or chosen
    return run, {artifact: run.require(artifact) for artifact in (*others, *chosen)}


def _can_run(run: Run, artifact: Artifact) -> bool:
    """Whether the run has it, and the package that runs it is installed."""
    from importlib.util import find_spec

    return run.has(artifact) and find_spec(artifact.package) is not None


def _check_processors(options: BenchOptions, here: Processors) -> None:
    too_many = [count for count in (*options.threads, *options.streams) if count > here.usable]
    if too_many:
        raise InputError(
            f"--threads and --streams must be at most {here.usable}, the CPUs that this process may use",
            found=str(max(too_many)),
            fix=f"use {here.usable} or fewer",
        )
    if options.device != CPU and (options.save or options.threads or options.streams):
        raise InputError(
            "--save, --threads and --streams are only for the CPU",
            found=options.device,
            fix=f"use --device {CPU}, or run the command without them",
        )
    if not math.isfinite(options.seconds) or options.seconds <= 0:
        raise InputError("--seconds must be above 0", found=f"{options.seconds:g}", fix="use --seconds 2")


def _candidates(
    artifact: Artifact, folder: Path, run: Run | None, options: BenchOptions, here: Processors
) -> list[_Candidate]:
    """Every setting of one model to try, with at most as many streams as threads."""
    computes = tuple(options.computes) or COMPUTES
    if options.device != CPU or artifact == IR_INT8_CHECKED:  # its certificates are for what OpenVINO chooses
        computes = ("auto",)
    elif not artifact.tunable or default_compute().dtype == "f32":
        computes = computes[:1]  # both are the same
    batches = tuple(options.batches) or (TRIED_BATCHES if options.save else BATCHES)
    tried = {1, here.fast, here.cores, here.usable} if options.save else {here.cores}
    threads = tuple(options.threads) or tuple(sorted(tried))
    streams = tuple(options.streams) or (_powers(here.usable) if options.save else tuple(sorted({1, here.cores})))
    if not artifact.tunable or options.device != CPU:
        streams = (1,)
    return [
        _Candidate(
            BenchJob(
                artifact=artifact.name,
                folder=folder,
                run=run and run.path,
                compute=compute,
                batch=batch,
                threads=count,
                streams=at_a_time,
                seconds=options.seconds / ROUNDS,
                device=options.device,
                cached=False,
            )
        )
        for compute, batch, count, at_a_time in product(computes, batches, threads, streams)
        if at_a_time <= count and (options.save or options.batches or options.streams or 1 in (batch, at_a_time))
    ]


def _powers(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... and the most itself."""
    return tuple(sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)}))


def _near_the_best(candidates: Sequence[_Candidate], within: float) -> list[_Candidate]:
    """Those that may still turn out the fastest: by latency of one image, or by images a second; of each model.

    A model that takes a batch image by image is tried with batches of one only.
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


def _save(candidates: Sequence[_Candidate], artifact: Artifact, folder: Path) -> SavedSetting:
    own = [one for one in candidates if one.job.artifact == artifact.name]
    single = [one for one in own if _is_for_latency(one)]
    if not single:
        raise InputError(
            "--save needs a measurement with one image at a time",
            fix="add --batch 1 --streams 1, or run the command without --batch and --streams",
        )
    quickest, most = min(single, key=lambda one: one.p50_ms), max(own, key=lambda one: one.images_per_s)
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
    """For one image, where the precision that OpenVINO chooses is slower than f32."""
    single = [row for row in rows if (row.batch, row.streams) == (1, 1)]
    pinned = {(row.artifact, row.threads): row.p50_ms for row in reversed(single) if not row.compute.chosen_by_runtime}
    effect = "ftx predict uses fp32" if saved else "with --save, ftx predict uses fp32"
    notes: list[str] = []
    for row in single:
        f32_ms = pinned.get((row.artifact, row.threads), math.inf)
        if row.compute.chosen_by_runtime and row.compute.dtype != "f32" and f32_ms <= CLEARLY * row.p50_ms:
            notes.append(
                f"{row.artifact}: {row.compute.dtype}, which OpenVINO chooses, is slower than fp32 with "
                f"{row.threads} threads: {row.p50_ms:.1f} ms, fp32 {f32_ms:.1f} ms; {effect}"
            )
    return notes
