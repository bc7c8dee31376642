"""One model in one setting in a process of its own: ``python -m ftx.evaluating.bench_process``, started by ``bench``.

Compiling, the first request and memory are then those of a cold start, and nothing that another setting left behind
(threads, caches of kernels) has an effect.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
from safetensors import safe_open

from ftx.core.child_process import reply_on_stdout
from ftx.core.closed_model import ClosedModel
from ftx.data.preprocess import Pixels, Preprocess
from ftx.runs.artifacts import ARTIFACTS
from ftx.runs.card_json import REFERENCE_FILE
from ftx.runs.compute_precision import Compute, ComputeField
from ftx.runs.machine import CPU, InstructionSet, this_set
from ftx.runs.run import Run
from ftx.runs.views import KernelPath
from ftx.runtimes import load_artifact
from ftx.runtimes.openvino import OpenVinoPredictor, frame
from ftx.runtimes.predictor import Predictor

MODULE = "ftx.evaluating.bench_process"

# After the first and before the clock runs, as a CPU takes its time to speed up.
WARM_UP = 3
MOST_REQUESTS = 10_000


class BenchJob(ClosedModel):
    """What to measure: a folder, its artifact, and the setting; ``run`` if the folder cannot be opened without it."""

    artifact: str
    folder: Path
    run: Path | None
    compute: Compute
    batch: int
    threads: int
    streams: int
    seconds: float
    device: str = CPU
    # Whether to compile twice more, to see what OpenVINO's cache saves.
    cached: bool


class BenchMeasurement(ClosedModel):
    """What one process found; ``seconds`` is how long its timed requests took, one after the other or together.

    ``kernels`` single: it takes the images of a batch one by one.
    """

    compute: ComputeField
    isa: InstructionSet | None
    primitives: dict[str, int]
    threads: int
    streams: int
    kernels: KernelPath
    latencies_ms: list[float]
    images: int
    seconds: float
    compile_ms: float | None
    compile_cached_ms: float | None
    first_ms: float
    peak_bytes: int


def measure(job: BenchJob) -> BenchMeasurement:
    """Open, run once, run for ``job.seconds``.

    Raises: ExportError, RunError for a model that is damaged; EnvironmentFault if an extra is missing.
    """
    artifact = ARTIFACTS[job.artifact]
    opened = _opened(job) if artifact.tunable else None
    if opened is not None:
        predictor: Predictor = opened
    else:
        assert job.run is not None, f"{artifact} is opened by its run"
        # torch and ONNX Runtime take as many threads as they see processors.
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.threads])
        predictor = load_artifact(Run(job.run), artifact)
    batches = cycle(batches_of(job.folder, predictor.preprocess, job.batch))
    started = time.perf_counter()
    predictor.logits(next(batches))
    first_ms = 1e3 * (time.perf_counter() - started)
    for _ in range(WARM_UP):
        predictor.logits(next(batches))
    latencies_ms, seconds = _timed(predictor, batches, job)
    peak_bytes = _peak_bytes()
    return BenchMeasurement(
        compute=predictor.compute,
        isa=this_set(),
        primitives=dict(opened.kernels().primitives) if opened else {},
        threads=opened.threads if opened else job.threads,
        streams=opened.streams if opened else 1,
        kernels=opened.kernel_path if opened else "batch",
        latencies_ms=latencies_ms,
        images=len(latencies_ms) * job.batch,
        seconds=seconds,
        compile_ms=opened and opened.compile_ms,
        compile_cached_ms=_compile_cached_ms(job) if job.cached and opened else None,
        first_ms=first_ms,
        peak_bytes=peak_bytes,
    )


def _opened(job: BenchJob, cache: Path | None = None) -> OpenVinoPredictor:
    """With the kernels for single images if one image after the other is timed: that is the latency."""
    return OpenVinoPredictor(
        job.folder,
        job.compute,
        threads=job.threads,
        streams=job.streams,
        cache=cache,
        kernels="single" if job.batch == 1 and job.streams == 1 else "batch",
        device=job.device,
    )


def _timed(predictor: Predictor, batches: Iterator[Pixels], job: BenchJob) -> tuple[list[float], float]:
    """The milliseconds of each request, and the seconds of all."""
    began = time.perf_counter()
    until = began + job.seconds
    if isinstance(predictor, OpenVinoPredictor) and job.streams > 1:

        def in_time() -> Iterator[Pixels]:
            yield frame(next(batches), predictor.preprocess)  # one at least, however little time there is
            for _ in range(MOST_REQUESTS):
                if time.perf_counter() >= until:
                    return
                yield frame(next(batches), predictor.preprocess)

        latencies = [latency_ms for _, latency_ms in predictor.in_flight(in_time())]
    else:
        latencies = []
        while not latencies or (time.perf_counter() < until and len(latencies) < MOST_REQUESTS):
            started = time.perf_counter()
            predictor.logits(next(batches))
            latencies.append(1e3 * (time.perf_counter() - started))
    return latencies, time.perf_counter() - began


def batches_of(folder: Path, preprocess: Preprocess, batch: int) -> list[Pixels]:
    """Images of the network's size: those next to the model, each in one batch at least, or noise if there are none.

    Not the same image again and again: an int8-checked model takes longer for some than for others.
    Shape: [N, H, W, 3].
    """
    path = folder / REFERENCE_FILE
    if path.is_file():
        with safe_open(path, framework="np") as file:
            known = np.asarray(file.get_tensor("images"))
    else:
        shape = (min(batch, 8), preprocess.height, preprocess.width, 3)
        known = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return [known[np.arange(start, start + batch) % len(known)] for start in range(0, len(known), batch)]


def _compile_cached_ms(job: BenchJob) -> float:
    """How long it takes to read and compile the model when OpenVINO's cache holds it."""
    with tempfile.TemporaryDirectory() as cache:
        _opened(job, Path(cache))  # fills it
        return _opened(job, Path(cache)).compile_ms


def _peak_bytes() -> int:
    """The largest resident memory of this process: getrusage would give its parent's if that had more."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    reply_on_stdout(BenchJob, measure)
