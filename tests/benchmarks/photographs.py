"""Fewer tokens on few images: ``python -m tests.benchmarks.photographs FOLDER OUT [KEY=VALUE ...]``.

FOLDER holds a subfolder of images a class. Trains with all tokens and with ``model.keep_tokens`` on four fifths, asks
both about the last fifth, five times, so that every image is asked about by models that have not seen it; and all of it
again with other folds and seeds. An image counts as lost by the share of the repeats that lost it.

    python -m tests.benchmarks.photographs photographs build/photographs model.freeze_backbone=true model.peft=none

What was trained stays in OUT, and a second start goes on where the first one stopped.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.benchmarks.accuracy import right

import ftx
from ftx.core.statistics import Paired
from ftx.runs.run import Run

KEPT = "{3: 0.7, 6: 0.7, 9: 0.7}"
FOLDS = 5
REPEATS = 4
# One in so many of the images that train chooses the epoch.
VALIDATION = 8
CONFIDENCE = 0.95
Row = tuple[str, str]


def main(folder: Path, out: Path, settings: list[str]) -> None:
    """Print a line a repeat, and one for all so far."""
    images = sorted(path for path in folder.rglob("*") if path.is_file())
    rows = [(str(path.relative_to(folder)), path.relative_to(folder).parts[0]) for path in images]
    gains: list[NDArray[np.float64]] = []
    for repeat in range(REPEATS):
        whole, fewer = (np.zeros(len(rows)) for _ in range(2))
        for fold, asked in enumerate(folds(rows, repeat)):
            table = write_table(folder, rows, set(asked), f"{repeat}-{fold}")
            places = {f"{folder.name}/{rows[number][0]}": number for number in asked}
            for hits, name, kept in ((whole, "all", "all"), (fewer, "fewer", KEPT)):
                run = trained(out / f"{repeat}-{fold}-{name}", table, repeat, kept, settings)
                hits[[places[entry.path] for entry in run.report_entries()]] = right(run)
        gains.append(fewer - whole)
        lost, gained = int((gains[-1] < 0).sum()), int((gains[-1] > 0).sum())
        print(f"{whole.mean():.2%} with all tokens, {fewer.mean():.2%} with fewer: {lost} lost, {gained} gained")
        mean = np.mean(gains, axis=0)
        counted = Paired(float(-mean[mean < 0].sum()), float(mean[mean > 0].sum()), len(rows))
        most = counted.drop_at_most(CONFIDENCE)
        print(f"  of {len(gains)} repeats: {counted.drop:.2%} lost, at most {most:.2%}", flush=True)


def folds(rows: list[Row], seed: int) -> list[NDArray[np.int64]]:
    """The numbers of the images in each fold, of every class as many."""
    order = np.random.default_rng(seed).permutation(len(rows))
    classes = np.array([label for _, label in rows])[order]
    by_class = order[np.argsort(classes, kind="stable")]
    return [by_class[fold::FOLDS] for fold in range(FOLDS)]


def write_table(folder: Path, rows: list[Row], asked: set[int], name: str) -> Path:
    """A table beside the folder, as its paths count from there."""
    table = folder.parent / f"{folder.name}-{name}.csv"
    training = [number for number in range(len(rows)) if number not in asked]
    choosing = set(training[::VALIDATION])
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "labels", "split"))
        for number, (path, label) in enumerate(rows):
            split = "test" if number in asked else "val" if number in choosing else "train"
            writer.writerow((f"{folder.name}/{path}", label, split))
    return table


def trained(out: Path, table: Path, seed: int, kept: str, settings: list[str]) -> Run:
    """Train, or take what an earlier start trained."""
    if not out.exists():
        given = [f"data.path={table}", f"seed={seed}", f"model.keep_tokens={kept}", *settings]
        ftx.train(ftx.Recipe().with_overrides(given), out=out)
    return Run.open(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
