"""``ftx bench``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from ftx.cli import console
from ftx.cli.shared_options import DeviceOption, JsonFlag, TargetArgument, parse_numbers, parse_precisions
from ftx.runs.artifacts import IRS
from ftx.runs.compute_precision import precision_title
from ftx.runs.machine import CPU

if TYPE_CHECKING:
    from ftx.runs.bench_json import BenchReport, BenchRow
    from ftx.runs.compute_precision import Compute
    from ftx.runs.tuning_json import OpenvinoSetting

# Columns of a terminal that hold how the model starts as well.
_WIDE = 120


def command(
    target: TargetArgument = None,
    precisions: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            metavar="LIST",
            help=f"The OpenVINO models to measure: {', '.join(IRS)}.  [default: all that were exported]",
        ),
    ] = None,
    computes: Annotated[
        list[str] | None,
        typer.Option(
            "--compute",
            metavar="fp32|auto",
            help="The precision that OpenVINO computes in. auto: the one that it chooses on this CPU.  [default: both]",
        ),
    ] = None,
    batches: Annotated[
        list[str] | None,
        typer.Option("--batch", metavar="LIST", help="Images in each request.  [default: 1,8]"),
    ] = None,
    threads: Annotated[
        list[str] | None,
        typer.Option("--threads", metavar="LIST", help="Number of threads, in total.  [default: one for each core]"),
    ] = None,
    streams: Annotated[
        list[str] | None,
        typer.Option(
            "--streams",
            metavar="LIST",
            help="Number of simultaneous requests.  [default: 1, and one for each core]",
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option("--seconds", metavar="S", help="Seconds to measure each row, in total for its three processes."),
    ] = 3.0,
    save: Annotated[
        bool,
        typer.Option(
            "--save",
            help="Find the fastest settings and keep them: ftx predict uses them on this machine.",
        ),
    ] = False,
    device: DeviceOption = CPU,
    json: JsonFlag = False,
) -> int:
    """Measure how fast the models are on this machine, and how much memory they take.

    The result is a table with one row for each model and setting. ftx measures each row in three new processes, and
    alternates between the rows. For a run, ftx also measures PyTorch and ONNX Runtime if they are installed. It writes
    the figures into reports/bench.json of the run, and a picture into reports/bench.svg.
    """
    from ftx.evaluating.bench import BenchOptions, bench

    chosen = ["f32" if one == "fp32" else one for one in parse_precisions(computes, ("fp32", "auto"), "--compute")]
    report = bench(
        target,
        BenchOptions(
            precisions=parse_precisions(precisions, tuple(IRS)),
            computes=cast("list[Compute]", chosen),
            batches=parse_numbers(batches, "--batch", most=1024),
            threads=parse_numbers(threads, "--threads"),
            streams=parse_numbers(streams, "--streams"),
            seconds=seconds,
            save=save,
            device=device,
        ),
        console.TerminalProgress(),
    )
    return console.show(report, print_bench, json=json)


def print_bench(report: BenchReport) -> None:
    """A row a setting, then the notes, then the settings that were saved."""
    wide = console.width() >= _WIDE
    columns = ["model", "computes in", "batch", "threads", "streams", "p50 ms", "p90", "p99", "images/s"]
    columns += ["compile ms", "cached", "first ms", "MB"] if wide else ["MB"]
    sets = ", ".join(sorted({row.isa for row in report.rows if row.isa})) or "unknown instruction set"
    console.print_table(
        columns,
        [_cells(row, wide=wide) for row in report.rows],
        title=f"{report.image_size} px, {report.processors} processors, {sets}; {report.machine.cpu}"
        + ("" if report.machine.device == CPU else f", on {report.machine.device}"),
    )
    for note in report.notes:
        console.print_note(note, "dim")
    if report.rows:
        one, many = min(report.rows, key=lambda row: row.p50_ms), max(report.rows, key=lambda row: row.images_per_s)
        console.print_note(
            f"fastest for one image: {one.artifact}, {one.p50_ms:.1f} ms; for many images: {many.artifact}, "
            f"{many.images_per_s:.0f} images/s",
            "strong",
        )
    if not report.saved:
        console.print_note("next: ftx bench --save finds the best settings, and ftx predict then uses them", "dim")
    for kept in report.saved:
        console.print_note(
            f"{kept.artifact}: on this machine ftx predict now uses {_setting(kept.latency)} for one image "
            f"({kept.p50_ms:.1f} ms), and {_setting(kept.throughput)} for many ({kept.images_per_s:.1f} images/s)",
            "good",
        )


def _cells(row: BenchRow, *, wide: bool) -> tuple[str, ...]:
    start = (row.compile_ms, row.compile_cached_ms, row.first_ms) if wide else ()
    return (
        row.artifact,
        row.compute.title,
        str(row.batch),
        str(row.threads),
        str(row.streams),
        *(f"{ms:.1f}" for ms in (row.p50_ms, row.p90_ms, row.p99_ms)),
        f"{row.images_per_s:.1f}",
        *(console.figure(ms, ".0f") for ms in start),
        f"{row.peak_bytes / 1e6:.0f}",
    )


def _setting(setting: OpenvinoSetting) -> str:
    compute = precision_title(setting.compute)
    return f"{compute}, batch {setting.batch}, threads {setting.threads}, streams {setting.streams}"
