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
    """How fast one model is in one setting, over fresh processes that took turns with those of the other rows.

    A latency is of one batch, from its pixels in memory to its logits, though int8 may take its images one by one; with
    several streams as many requests run at a time, so each takes longer. ``compile_ms`` reads and compiles the model,
    ``compile_cached_ms`` does so with OpenVINO's cache filled, ``first_ms`` is the first request after it,
    ``peak_bytes`` the memory of the process at its largest: medians over the processes. Null where a runtime has no
    such thing. ``isa`` is the instruction set that decides there, ``primitives`` what ran its products, ``compute`` the
    precision that they ran in.
    """

    artifact: str
    runtime: RuntimeName
    compute: ComputeField
    isa: InstructionSet | None
    primitives: dict[str, int]
    batch: int
    threads: int
    streams: int
    requests: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    images_per_s: float
    compile_ms: float | None
    compile_cached_ms: float | None
    first_ms: float
    peak_bytes: int


class SavedSetting(ClosedModel):
    """The settings that ``--save`` wrote next to an OpenVINO model."""

    artifact: str
    path: str
    latency: OpenvinoSetting
    p50_ms: float
    throughput: OpenvinoSetting
    images_per_s: float


class BenchReport(CommandReport):
    """All rows, the settings that were kept, and what there is to say about them.

    ``rounds`` processes measured each row, for ``seconds`` together. ``tried`` counts the settings that were started;
    with ``--save`` the slow ones were dropped after a round, and only those with all their rounds are rows.
    ``digests`` are those of a run's artifacts as they were timed; of old files nothing is known.
    """

    verb: str = "bench"
    folder: str | None = None
    machine: Machine
    processors: int
    image_size: int | str
    seconds: float
    rounds: int
    tried: int
    rows: list[BenchRow]
    saved: list[SavedSetting]
    notes: list[str]
    digests: dict[str, str] = {}  # noqa: RUF012  pydantic copies it


def read_bench(run: Run, manifest: Manifest) -> BenchReport | None:
    """The last bench, less its rows of models that the run no longer holds; None where none is left."""
    try:
        report = BenchReport.model_validate(read_json(run.path / BENCH_FILE))
    except (OSError, JsonError, ValidationError):
        return None
    held = {artifact.name: manifest.digest(artifact) for artifact in run.artifacts()}
    rows = [row for row in report.rows if report.digests.get(row.artifact) in (None, held.get(row.artifact))]
    return report.model_copy(update={"rows": rows}) if rows else None
