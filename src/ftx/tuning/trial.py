"""One trial: a training with its own run folder, which stays, and the latency of its model."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ftx.core.addresses import as_typed, if_address
from ftx.core.progress import Progress
from ftx.evaluating.bench import BenchOptions, bench
from ftx.exporting.export import export
from ftx.merging.merge_and_prove import merge
from ftx.recipe.schema import Recipe
from ftx.runs.artifacts import IR_FP32
from ftx.runs.best_epoch import best_epoch, rank
from ftx.runs.run import Run
from ftx.runs.run_json import CHECKPOINTS, MANIFEST_FILE, checkpoint_records
from ftx.runs.train_jsonl import Epoch, read_epochs
from ftx.training import EpochEnd, resume, train
from ftx.tuning.trial_folders import TrialAssignment

Objective = Literal["metric", "latency"]
# Seconds, for one image at a time in one thread pool, as on a device.
_TIMED_S = 2.0
_PRUNED = "pruned"


@dataclass(frozen=True)
class TrialResult:
    """The ``metric`` of a trial's best epoch; a value for each objective, or none if the trial was ``pruned``."""

    metric: float
    values: tuple[float, ...]
    epochs: int
    pruned: bool


def run_trial(
    assignment: TrialAssignment, recipe: Recipe, metric: str, objectives: tuple[Objective, ...], progress: Progress
) -> TrialResult:
    """Train a trial, from its last checkpoint if it is resumed, and time its IR if latency is an objective.

    A pruned trial keeps its best epoch so far, as after Ctrl-C, and is a complete run.
    Raises: as ``train``; Interrupted or Terminated if a signal ended it: its run can be resumed.
    """
    trial, run = assignment.trial, assignment.run
    pruned = bool(trial.user_attrs.get(_PRUNED))
    reported = set(assignment.reported)

    def report(epoch: Epoch) -> None:
        if len(objectives) == 1 and epoch.epoch not in reported:
            reported.add(epoch.epoch)
            trial.report(rank(epoch, metric)[0], epoch.epoch)  # by the value that the training ranks epochs by

    def on_epoch(end: EpochEnd) -> None:
        nonlocal pruned
        if len(objectives) > 1 or pruned:
            return
        report(end.epoch)
        if end.epoch.epoch < end.epochs and trial.should_prune():
            pruned = True
            raise KeyboardInterrupt  # which ends a training with its best epoch

    unfinished = assignment.resumed and bool(checkpoint_records(run))
    if unfinished or not (assignment.resumed and (run / MANIFEST_FILE).is_file()):
        for epoch in read_epochs(run) if unfinished else ():  # the worker may have been killed before it reported one
            report(epoch)
        # The images may have been moved since, and a run's recipe cannot permit to follow links.
        moved = {"data.path": as_typed(recipe.data.path), "data.follow_links": recipe.data.follow_links}
        training = partial(resume, run, flags=moved) if unfinished else partial(train, recipe, run)
        if training(progress=progress, on_epoch=on_epoch).interrupted and not pruned:
            raise KeyboardInterrupt
    if pruned:  # its run does not show it from here on
        trial.set_user_attr(_PRUNED, True)
    shutil.rmtree(run / CHECKPOINTS, ignore_errors=True)
    epochs = read_epochs(run)
    best = best_epoch(epochs, metric).metrics[metric]
    data = if_address(recipe.data.path)
    values = (best if one == "metric" else latency_ms(run, progress, data) for one in objectives if not pruned)
    return TrialResult(best, tuple(values), len(epochs), pruned)


def latency_ms(folder: Path, progress: Progress, data: Path | None = None) -> float:
    """The median latency of a run's fp32 IR, one image at a time, as ``ftx bench`` measures it."""
    run = Run.open(folder)
    if not run.has(IR_FP32):
        merge(run, data=data, progress=progress)
        export(run, formats=("openvino",), data=data, progress=progress)
    report = bench(
        run, BenchOptions(precisions=("fp32",), computes=("auto",), batches=(1,), seconds=_TIMED_S), progress
    )
    return next(row.p50_ms for row in report.rows if row.artifact == IR_FP32.name)
