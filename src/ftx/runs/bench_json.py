"""``reports/bench.json``, what ``ftx bench`` returns: a row a model, precision, batch, threads and streams."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from ftx.core.closed_model import ClosedModel
from ftx.core.command_report import CommandReport
from ftx.core.untrusted_input import JsonError, read_json
from ftx.runs.artifacts import RuntimeName
from ftx.runs.compute_precision import ComputeField
from ftx.runs.machine import InstructionSet, Machine
from ftx.runs.run import Run
from ftx.runs.run_json import Manifest
from ftx.runs.tuning_json import OpenvinoSetting

# Within a run.
BENCH_FILE = Path("reports", "bench.json")
BENCH_PLOT = Path("reports", "bench.svg")


class BenchRow(ClosedModel):
    """How fast one model is with one setting."""

    artifact: str
    """The model of the run, for example ``openvino/int8``."""
    runtime: RuntimeName
    """The library that ran the model."""
    compute: ComputeField
    """The precision that it computed in: ``f32``, or for example ``auto:bf16`` if the runtime chose bf16."""
    isa: InstructionSet | None
    """The instruction set that decides which kernels run, for example ``amx``; null on a CPU older than AVX2."""
    primitives: dict[str, int]
    """OpenVINO's kernels for linear layers, convolutions and attention: how many of each, by their name in oneDNN.
    Empty for other runtimes.
    """
    batch: int
    """The number of images in a request."""
    threads: int
    """The number of CPU threads of all streams together."""
    streams: int
    """The number of requests that run at the same time; each then takes longer."""
    requests: int
    """The number of measured requests."""
    p50_ms: float
    """The median latency of a request in milliseconds, from pixels in memory to logits."""
    p90_ms: float
    """The latency that 90 % of the requests do not exceed, in milliseconds."""
    p99_ms: float
    """The latency that 99 % of the requests do not exceed, in milliseconds."""
    images_per_s: float
    """The throughput in images per second: the median of the processes."""
    compile_ms: float | None
    """The time to read and compile the model in milliseconds: the median of the processes. null for other runtimes than
    OpenVINO.
    """
    compile_cached_ms: float | None
    """The same time if OpenVINO's cache contains the compiled model."""
    first_ms: float
    """The time of the first request in milliseconds: the median of the processes."""
    peak_bytes: int
    """The largest memory of a process in bytes: the median of the processes."""


class SavedSetting(ClosedModel):
    """The fastest settings of one OpenVINO model, which ``--save`` wrote next to it."""

    artifact: str
    """The model of the run, for example ``openvino/int8``."""
    path: str
    """The folder of the model."""
    latency: OpenvinoSetting
    """The fastest setting for one image at a time."""
    p50_ms: float
    """The median latency of one image with that setting, in milliseconds."""
    throughput: OpenvinoSetting
    """The fastest setting for many images."""
    images_per_s: float
    """The throughput with that setting, in images per second."""


class BenchReport(CommandReport):
    """How fast models are on this machine."""

    verb: str = "bench"
    folder: str | None = None
    """The exported folder; null for a run."""
    machine: Machine
    """The machine that was measured."""
    processors: int
    """The number of processors that ftx may use."""
    image_size: int | str
    """The image size in pixels: the side of a square, or ``HEIGHTxWIDTH``."""
    seconds: float
    """The measuring time of each row in seconds, of all processes together."""
    rounds: int
    """The number of processes that measure each row."""
    tried: int
    """The number of settings that were started. With ``--save``, slow ones are dropped and have no row."""
    rows: list[BenchRow]
    """One row for each model and setting."""
    saved: list[SavedSetting]
    """The settings that ``--save`` wrote; empty without it."""
    notes: list[str]
    """Models that are slower in the precision that OpenVINO chooses than in fp32."""
    digests: dict[str, str] = {}  # noqa: RUF012  pydantic copies it
    """The hash of each model of the run when it was measured; empty for an exported folder."""


def read_bench(run: Run, manifest: Manifest) -> BenchReport | None:
    """The last bench, less its rows of models that the run no longer holds; None where none is left."""
    try:
        report = BenchReport.model_validate(read_json(run.path / BENCH_FILE))
    except (OSError, JsonError, ValidationError):
        return None
    held = {artifact.name: manifest.digest(artifact) for artifact in run.artifacts()}
    rows = [row for row in report.rows if report.digests.get(row.artifact) in (None, held.get(row.artifact))]
    return report.model_copy(update={"rows": rows}) if rows else None
