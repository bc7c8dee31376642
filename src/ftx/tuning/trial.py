"""One trial: a training of its own, whose run folder stays, and how fast what it makes is."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ftx.core.addresses import as_typed, if_address
from ftx.core.progress import Progress
from ftx.evaluating.bench import Wanted, bench
from ftx.exporting.export import export
from ftx.merging.merge_and_prove import merge
from ftx.recipe.schema import Recipe
from ftx.runs.artifacts import IR_FP32
from ftx.runs.run import Run
from ftx.runs.run_json import CHECKPOINTS, MANIFEST_FILE, checkpoint_records
from ftx.runs.train_jsonl import Epoch, best_epoch, rank, read_epochs
from ftx.training import EpochEnd, resume, train
from ftx.tuning.trial_folders import Taken

Objective = Literal["metric", "latency"]
# Of one image in one thread pool, as a device answers.
_TIMED_S = 2.0
_PRUNED = "pruned"


@dataclass(frozen=True)
class Attempt:
    """What came of a trial: the metric it reached, and a value for each objective, or that it was pruned."""

    reached: float
    values: tuple[float, ...]
    epochs: int
    pruned: bool


def attempt(
    taken: Taken, recipe: Recipe, metric: str, objectives: tuple[Objective, ...], progress: Progress
) -> Attempt:
    """Train a trial, from where it was cut off if it was begun, and time its IR if that is an objective.

    A trial that is pruned ends with the best epoch so far, as after Ctrl-C, and is a whole run.
    Raises: as ``train``; Interrupted or Terminated where a signal ended it: its run can go on.
    """
    trial, run = taken.trial, taken.run
    pruned = [True] if trial.user_attrs.get(_PRUNED) else []
    reported = set(taken.reported)

    def report(epoch: Epoch) -> None:
        if len(objectives) == 1 and epoch.epoch not in reported:
            reported.add(epoch.epoch)
            trial.report(rank(epoch, metric)[0], epoch.epoch)  # what the epoch counts for in its training

    def told(end: EpochEnd) -> None:
        if len(objectives) > 1 or pruned:
            return
        report(end.epoch)
        if end.epoch.epoch < end.epochs and trial.should_prune():
            pruned.append(True)
            raise KeyboardInterrupt  # what a training knows to end of, with the best epoch kept

    going_on = taken.begun and bool(checkpoint_records(run))
    if going_on or not (taken.begun and (run / MANIFEST_FILE).is_file()):
        for epoch in read_epochs(run) if going_on else ():  # one may have had no one to tell
            report(epoch)
        # Where the images lie may have changed since; and no recipe of a run follows links by itself.
        moved = {"data.path": as_typed(recipe.data.path), "data.follow_links": recipe.data.follow_links}
        how = partial(resume, run, flags=moved) if going_on else partial(train, recipe, run)
        made = how(progress=progress, on_epoch=told)
        if made.interrupted and not pruned:
            raise KeyboardInterrupt
    if pruned:  # what is a whole run from here on does not say so
        trial.set_user_attr(_PRUNED, True)
    shutil.rmtree(run / CHECKPOINTS, ignore_errors=True)
    epochs = read_epochs(run)
    reached = best_epoch(epochs, metric).metrics[metric]
    if pruned:
        return Attempt(reached, (), len(epochs), pruned=True)
    data = if_address(recipe.data.path)
    values = tuple(reached if one == "metric" else latency_ms(run, progress, data) for one in objectives)
    return Attempt(reached, values, len(epochs), pruned=False)


def latency_ms(folder: Path, progress: Progress, data: Path | None = None) -> float:
    """The median latency of a run's IR in f32, one image at a time, as ``ftx bench`` measures it."""
    run = Run.open(folder)
    if not run.has(IR_FP32):
        merge(run, data=data, progress=progress)
        export(run, formats=("openvino",), data=data, progress=progress)
    report = bench(run, Wanted(precisions=("fp32",), computes=("auto",), batches=(1,), seconds=_TIMED_S), progress)
    return next(row.p50_ms for row in report.rows if row.artifact == IR_FP32.name)
