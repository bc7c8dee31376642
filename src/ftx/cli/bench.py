"""``ftx bench``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from ftx.cli import console
from ftx.cli.shared_options import JsonFlag, TargetArgument
from ftx.core.errors import check_known
from ftx.runs.artifacts import IRS
from ftx.runs.compute_precision import Compute

if TYPE_CHECKING:
    from ftx.runs.bench_json import BenchReport, BenchRow
    from ftx.runs.tuning_json import OpenvinoSetting

_COMPUTES = get_args(Compute)
# Columns of a terminal that hold how the model starts as well.
_WIDE = 120


def command(
    target: TargetArgument = None,
    precisions: Annotated[
        list[str] | None,
        typer.Option(
            "--precision", metavar="|".join(IRS), help="Of the run's IRs; may be repeated.  [default: all it holds]"
        ),
    ] = None,
    computes: Annotated[
        list[str] | None,
        typer.Option(
            "--compute",
            metavar="|".join(_COMPUTES),
            help="The precision to compute in; auto is what OpenVINO chooses on this CPU.  [default: both]",
        ),
    ] = None,
    batches: Annotated[
        list[int] | None,
        typer.Option("--batch", min=1, max=1024, metavar="N", help="Images in a request.  [default: 1 and 8]"),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option("--threads", min=1, metavar="N", help="Threads of all streams.  [default: one a core]"),
    ] = None,
    streams: Annotated[
        list[int] | None,
        typer.Option("--streams", min=1, metavar="N", help="Requests at a time.  [default: 1, and one a core]"),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", help="How long a row is timed, in three processes.")
    ] = 3.0,
    save: Annotated[
        bool,
        typer.Option(
            "--save",
            help="Search batch, threads, streams and precision for the fastest; ftx predict takes it on this machine.",
        ),
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Time models on this machine: latency, throughput, compiling, the first prediction, memory.

    A row is measured in fresh processes that take turns with those of the others. A run's models stand next to torch
    and ONNX Runtime if these are installed. The run keeps reports/bench.json and a plot, bench.svg.
    """
    from ftx.evaluating.bench import BenchOptions, bench

    if computes:
        check_known("compute precision", computes, _COMPUTES)
    report = bench(
        target,
        BenchOptions(
            precisions=precisions or (),
            computes=cast("list[Compute]", computes or []),
            batches=batches or (),
            threads=threads or (),
            streams=streams or (),
            seconds=seconds,
            save=save,
        ),
        console.TerminalProgress(),
    )
    return console.show(report, print_bench, json=json)


def print_bench(report: BenchReport) -> None:
    """A row a setting, then the notes, then the settings that were saved."""
    wide = console.width() >= _WIDE
    columns = ["artifact", "compute", "batch", "threads", "streams", "p50 ms", "p90", "p99", "images/s"]
    columns += ["compile ms", "cached", "first ms", "MB"] if wide else ["MB"]
    sets = ", ".join(sorted({row.isa for row in report.rows if row.isa})) or "unknown instruction set"
    console.print_table(
        columns,
        [_cells(row, wide=wide) for row in report.rows],
        title=f"{report.image_size} px, {report.processors} processors, {sets}; {report.machine.cpu}",
    )
    for note in report.notes:
        console.print_note(note, "strong")
    for kept in report.saved:
        console.print_note(
            f"{kept.artifact}: ftx predict takes on this machine, for one image {_setting(kept.latency)} "
            f"({kept.p50_ms:.1f} ms), for many {_setting(kept.throughput)} ({kept.images_per_s:.1f} images/s)",
            "good",
        )


def _cells(row: BenchRow, *, wide: bool) -> tuple[str, ...]:
    start = (row.compile_ms, row.compile_cached_ms, row.first_ms) if wide else ()
    return (
        row.artifact,
        str(row.compute),
        str(row.batch),
        str(row.threads),
        str(row.streams),
        *(f"{ms:.1f}" for ms in (row.p50_ms, row.p90_ms, row.p99_ms)),
        f"{row.images_per_s:.1f}",
        *(console.figure(ms, ".0f") for ms in start),
        f"{row.peak_bytes / 1e6:.0f}",
    )


def _setting(setting: OpenvinoSetting) -> str:
    return f"{setting.compute}, batch {setting.batch}, {setting.threads} threads, {setting.streams} streams"
