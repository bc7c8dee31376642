"""Holds what ``ftx bench --save`` keeps against every setting: ``python -m tests.benchmarks.tuning IR``.

The search drops settings as it goes; the sweep times all of them equally long, each in three processes, in turn. The
share is that of the sweep's own figures: of the saved setting, and of the best.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ftx.cli.console import TerminalProgress
from ftx.evaluating.bench import TRIED_BATCHES, BenchOptions, bench
from ftx.runs.bench_json import BenchReport, BenchRow
from ftx.runs.tuning_json import OpenvinoSetting, tuned_here

SECONDS = 3.0


def main(folder: Path) -> None:
    """Print the saved settings, the best of the sweep, and how near they are."""
    bench(folder, BenchOptions(save=True, seconds=SECONDS), progress=TerminalProgress())
    tuned = tuned_here(folder)
    assert tuned is not None
    counts = tuple(range(1, tuned.processors + 1))
    everything = BenchOptions(batches=TRIED_BATCHES, threads=counts, streams=counts, seconds=SECONDS)
    swept: BenchReport = bench(folder, everything, progress=TerminalProgress())
    alone = [row for row in swept.rows if row.batch == row.streams == 1]
    quickest, most = min(alone, key=lambda row: row.p50_ms), max(swept.rows, key=lambda row: row.images_per_s)
    saved, saved_most = (_row_of(setting, swept) for setting in (tuned.latency, tuned.throughput))
    print(f"{len(swept.rows)} settings swept")
    print(f"latency: saved {_said(saved)} {saved.p50_ms:.2f} ms, best {_said(quickest)} {quickest.p50_ms:.2f} ms")
    print(f"    {saved.p50_ms / quickest.p50_ms:.3f} of the best's time")
    print(f"throughput: saved {_said(saved_most)} {saved_most.images_per_s:.1f} images a second")
    print(f"    best {_said(most)} {most.images_per_s:.1f}")
    print(f"    {saved_most.images_per_s / most.images_per_s:.3f} of the best's images a second")


def _row_of(setting: OpenvinoSetting, report: BenchReport) -> BenchRow:
    wanted = (setting.batch, setting.threads, setting.streams, setting.compute == "f32")
    return next(
        row for row in report.rows if (row.batch, row.threads, row.streams, not row.compute.chosen_by_runtime) == wanted
    )


def _said(row: BenchRow) -> str:
    return f"({row.compute}, batch {row.batch}, {row.threads} threads, {row.streams} streams)"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
