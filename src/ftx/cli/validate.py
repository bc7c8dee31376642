"""``ftx validate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.options import DataOption, JsonFlag
from ftx.errors import InputError

if TYPE_CHECKING:
    from ftx.validation import ParityReport, ParityRow


# Columns of a terminal that hold the mean difference and the cosine as well.
_WIDE = 100


def command(
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN|IR",
            show_default=False,
            help="A run (without it the newest, runs/latest), or an IR folder on a device, which needs no torch.",
        ),
    ] = None,
    data: DataOption = None,
    bound: Annotated[
        list[str] | None,
        typer.Option(
            "--bound",
            metavar="KEY=VALUE",
            help="Hold a row to another bound, as int8.graph.max_abs=2; a wrong key is answered with all there are.",
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option("--images", min=1, metavar="N", help="Take N of the held-out images.  [default: all]")
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Compare every artifact with the trained model, and fail if one passes its bound.

    Two views: graph, the same pixels into each model; files, each runtime with its own image path. Under f32, and in a
    row of its own under the precision that the CPU chooses by itself. Exit status 1 when a bound is passed.
    """
    from ftx.validation import validate

    report = validate(
        target, data=data, bounds=parse_bounds(bound or ()), images=images, progress=console.TerminalProgress()
    )
    if json:
        console.print_json(report)
    else:
        print_parity(report)
    return 0 if report.ok else 1


def parse_bounds(given: Sequence[str]) -> dict[str, float]:
    """``KEY=VALUE`` each, as a mapping.

    Raises: InputError if one is not written so.
    """
    bounds: dict[str, float] = {}
    for text in given:
        key, _, value = text.partition("=")
        try:
            bounds[key.strip()] = float(value)
        except ValueError:
            raise InputError(
                f"--bound {text} is not KEY=VALUE with a number", mend="write it as --bound int8.graph.max_abs=2"
            ) from None
    return bounds


def print_parity(report: ParityReport) -> None:
    """The rows as a table, then what does not hold and where."""
    wide = console.width() >= _WIDE
    columns = ["artifact", "view", "compute", "max |d|", "bound", "same %", "accuracy %", "ms", ""]
    if wide:
        columns[5:5] = ["mean |d|", "cosine"]
    console.print_table(
        columns,
        [_cells(row, wide=wide) for row in report.rows],
        styles=["plain" if row.ok else "bad" for row in report.rows],
        title=f"compared with {report.reference}, on images of {report.split}: {_images(report.rows)}",
    )
    for problem in report.problems:
        console.print_note(problem, "bad")
    if report.run is not None and not report.whole:
        console.print_note("on a part of the images, or with bounds of your own: ftx predict does not go by it", "dim")
    unsure = [(row, text) for row in report.rows for text in row.unsure]
    for row, text in unsure:
        console.print_note(f"not sure on {row.images} images: {row.artifact} ({row.view} view, {row.compute}): {text}")
    if report.ok and unsure:
        console.print_note("no bound is passed for certain; more held-out images would tell", "dim")
    elif report.ok:
        console.print_note("every artifact answers as the trained model did", "good")


def _images(rows: Sequence[ParityRow]) -> str:
    """How many each view saw: the graph alone is compared on fewer."""
    seen = {row.view: row.images for row in rows}
    return ", ".join(f"{count:,} ({view})" for view, count in sorted(seen.items()))


def _cells(row: ParityRow, *, wide: bool) -> tuple[str, ...]:
    more = (figure(row.mean_abs, ".1e"), figure(row.cosine, ".6f")) if wide else ()
    return (
        row.artifact,
        row.view,
        row.compute,
        figure(row.max_abs, ".1e"),
        figure(row.bound.max_abs, ".1e"),
        *more,
        f"{100 * row.agreement:.1f}",
        accuracy(row),
        f"{row.latency_ms:.1f}",
        "ok" if row.ok else "FAIL",
    )


def accuracy(row: ParityRow) -> str:
    """A share in percent and its 95 % interval; a dash where the truth is unknown."""
    if row.accuracy is None or row.accuracy_low is None or row.accuracy_high is None:
        return "-"
    return f"{100 * row.accuracy:.1f} {100 * row.accuracy_low:.1f}-{100 * row.accuracy_high:.1f}"


def figure(value: float | None, spec: str) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else format(value, spec)
