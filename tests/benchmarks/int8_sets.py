"""What INT8 loses on each instruction set: ``python -m tests.benchmarks.int8_sets OUT RUN FOLDER:SETS [...]``.

All held-out images of RUN are shown to its trained model in f32, and to the IR in each FOLDER (of the run, or of others
with its labels) in a process held to each of its SETS, as ``amx,avx2_vnni``. "Other labels" counts from the first row.
What was answered stays in OUT, and a second start goes on where the first one stopped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import ftx
from ftx.core.errors import ImageError
from ftx.core.statistics import PairedCounts, fraction_at_most
from ftx.data.image_store import ImageStore
from ftx.runs.machine import InstructionSet, environment
from ftx.runs.run import Run
from ftx.runtimes import load_folder

CONFIDENCE = 0.95
Logits = NDArray[np.float32]


def main(out: Path, run: Run, asked: list[tuple[Path, list[InstructionSet]]]) -> None:
    """Print a table."""
    task = run.task
    targets_NC = task.targets([entry.labels for entry in run.report_entries()])
    trained_NC = answers(out / "trained.npy", run, run.path / "trained", dict(os.environ))
    was_N = task.correct(trained_NC, targets_NC)
    table = Table("model", "set", "accuracy", "lost", "gained", "drop, %", "at most", "other labels, %", "at most")
    table.add_row("trained, f32", "", f"{was_N.mean():.2%}", *[""] * 6)
    first_N: NDArray[np.int64] | None = None
    for folder, sets in asked:
        for isa in sets:
            kept = out / f"{folder.parent.parent.name}-{folder.name}-{isa}.npy"
            logits_NC = answers(kept, run, folder, {**os.environ, **environment(isa)})
            is_N, called_N = task.correct(logits_NC, targets_NC), logits_NC.argmax(axis=1)
            first_N = called_N if first_N is None else first_N
            paired = PairedCounts(int((was_N & ~is_N).sum()), int((is_N & ~was_N).sum()), len(was_N))
            other = int((called_N != first_N).sum())
            table.add_row(
                str(folder), isa, f"{is_N.mean():.2%}", str(paired.lost), str(paired.gained),
                f"{100 * paired.drop:.2f}", f"{100 * paired.drop_at_most(CONFIDENCE):.2f}",
                f"{other / len(was_N):.2%}", f"{fraction_at_most(other, len(was_N), CONFIDENCE):.2%}",
            )  # fmt: skip
    Console(width=150).print(table)


def answers(kept: Path, run: Run, model: Path, held: dict[str, str]) -> Logits:
    """The logits, asked in a process of their own unless they are kept. Shape: [N, C]."""
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        own = [sys.executable, "-m", "tests.benchmarks.int8_sets", "one", str(kept), str(run.path), str(model)]
        subprocess.run(own, env=held, check=True)
    return np.load(kept)


def ask(kept: Path, run: Run, model: Path) -> None:
    """Keep one model's answers to all held-out images."""
    entries, store = run.report_entries(), ImageStore(run.data_root(None))
    predictor = ftx.load(model) if model.name == "trained" else load_folder(model, goal="throughput")
    rows: list[Logits] = []
    for answer in predictor.logits_from_files([store[entry] for entry in entries]):
        if isinstance(answer, ImageError):
            raise answer
        rows.append(answer)
    with kept.with_suffix(".part").open("wb") as file:
        np.save(file, np.stack(rows))
    kept.with_suffix(".part").rename(kept)


if __name__ == "__main__":
    if sys.argv[1] == "one":
        ask(Path(sys.argv[2]), Run.open(Path(sys.argv[3])), Path(sys.argv[4]))
    else:
        out, run, *pairs = sys.argv[1:]
        split = [pair.rpartition(":") for pair in pairs]
        asked = [(Path(folder), cast("list[InstructionSet]", sets.split(","))) for folder, _, sets in split]
        main(Path(out), Run.open(Path(run)), asked)
