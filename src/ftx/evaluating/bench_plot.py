"""``reports/bench.svg``: what a bench measured, as a picture, by matplotlib, which comes with the training extra."""

from __future__ import annotations

from pathlib import Path

from ftx.core.pages import drawn
from ftx.runs.bench_json import BenchReport, BenchRow

# Of the Okabe-Ito palette, whose colours the colour-blind can distinguish: one a runtime and precision.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f7f7f", "#f0e442")


def draw(report: BenchReport, path: Path) -> None:
    """Bars of latency, a line to the 90th percentile on each, and bars of images a second, a row each.

    Raises: ModuleNotFoundError if matplotlib is not installed.
    """
    rows = list(reversed(report.rows))
    with drawn(path, (11, 1.3 + 0.32 * len(rows))) as figure:
        names = [_name(row) for row in rows]
        kinds = sorted({(row.artifact, str(row.compute)) for row in rows})
        colours = [_COLOURS[kinds.index((row.artifact, str(row.compute))) % len(_COLOURS)] for row in rows]
        left, right = figure.subplots(1, 2, sharey=True)
        above = [max(0.0, row.p90_ms - row.p50_ms) for row in rows]
        bars = left.barh(names, [row.p50_ms for row in rows], xerr=[[0.0] * len(rows), above], color=colours)
        left.bar_label(bars, [f"{row.p50_ms:.1f}" for row in rows], label_type="center", color="white", fontsize=8)
        left.set_xlabel("milliseconds a request: median, line to the 90th percentile")
        bars = right.barh(names, [row.images_per_s for row in rows], color=colours)
        right.bar_label(
            bars, [f"{row.images_per_s:.0f}" for row in rows], label_type="center", color="white", fontsize=8
        )
        right.set_xlabel("images a second")
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(axis="y", labelsize=8)
        isa = ", ".join(sorted({row.isa for row in rows if row.isa}))
        figure.suptitle(
            f"{report.machine.cpu}, {report.processors} processors, {isa}; {report.image_size} px; "
            f"{report.rounds} processes a row",
            fontsize=9,
        )


def _name(row: BenchRow) -> str:
    streams = f", {row.streams} streams" if row.streams > 1 else ""
    return f"{row.artifact}, {row.compute.title}, batch {row.batch}{streams}"
