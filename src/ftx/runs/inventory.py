"""The runs below a folder: what each is, what it has reached, how large it is; and their removal."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, Field, ValidationError

from ftx.core.closed_model import ClosedModel
from ftx.core.command_report import CommandReport
from ftx.core.disk import disk_faults
from ftx.core.errors import InputError, RunError, check_known
from ftx.core.files import is_locked, partial_path, sole_writer
from ftx.core.untrusted_input import read_file
from ftx.recipe.schema import Recipe
from ftx.runs.artifacts import TRAINED
from ftx.runs.bench_json import BENCH_FILE, read_bench
from ftx.runs.best_epoch import best_epoch
from ftx.runs.run import Run
from ftx.runs.run_json import MANIFEST_FILE, is_run
from ftx.runs.runs_folder import LATEST, RUNS, known_runs, latest_run, point_latest_at
from ftx.runs.train_jsonl import EPOCHS_FILE, read_epochs
from ftx.tasks.base import choosing_metric
from ftx.tasks.output_meaning import TASKS

RunState = Literal["finished", "unfinished", "training", "unreadable"]
# The most recent, the first by name, the best, the smallest and the shortest come first.
Sort = Literal["started", "name", "metric", "size", "seconds"]
SORTS: tuple[Sort, ...] = get_args(Sort)
RECIPE_FILE = "recipe.yaml"
EVAL_FILE = Path("reports", "eval.json")
# In milliseconds, and better the smaller it is; all other figures are fractions.
LATENCY = "bench.p50_ms"


class ListedRun(ClosedModel):
    """One run; what is not known is null."""

    run: str
    """The path of the run folder."""
    state: RunState
    """``training`` if another process trains it now, ``unfinished`` if it can be resumed."""
    started: datetime | None = None
    """When the training started."""
    task: str | None = None
    """The task in its recipe."""
    model: str | None = None
    """The model in its recipe."""
    method: str | None = None
    """The training method, for example ``dora``."""
    epochs: int = 0
    """The number of epochs that have ended."""
    of_epochs: int | None = None
    """The number of epochs in its recipe."""
    best_epoch: int | None = None
    """The best epoch so far, counted from 1."""
    metric: str | None = None
    """The metric that chooses the epoch, or the figure of ``--metric``."""
    figures: dict[str, float] = Field(default_factory=dict[str, float])
    """Figures by name: metrics of the best epoch on validation images; with ``eval.``, those of ``ftx eval``; and
    ``bench.p50_ms``, the latency of the fastest model in milliseconds.
    """
    seconds: float = 0.0
    """The time of all epochs in seconds."""
    size_bytes: int = 0
    """The size of the folder in bytes."""
    artifacts: list[str] = Field(default_factory=list[str])
    """Its models that are not stale."""
    stale: list[str] = Field(default_factory=list[str])
    """Its models that are made from files that have changed."""
    begun_from: str | None = None
    """The listed run that it started from, by ``--from`` or ``--recover``; null if there is none."""
    keys: dict[str, object] = Field(default_factory=dict[str, object])
    """The keys and values of its recipe."""
    problem: str | None = None
    """Why the run is unreadable; null if it is not."""


class RunsReport(CommandReport):
    """The runs below ``runs/``, or those that you named."""

    verb: str = "runs"
    runs: list[ListedRun]
    """The runs, in the order of ``--sort``."""
    removed: list[str] = Field(default_factory=list[str])
    """The paths of the runs that were removed."""
    latest: str | None = None
    """The run that ``runs/latest`` names; null if there is none."""


def list_runs(paths: Sequence[Path] | None = None, *, metric: str | None = None, sort: Sort = "started") -> RunsReport:
    """The runs that are named, or all below ``runs/``; with ``metric`` that figure is the one to compare by.

    Raises: RunError for a folder that is no run; InputError for a figure that none of them has.
    """
    folders = [named_run(path) for path in paths] if paths else all_runs()
    digests: dict[str, str] = {}
    found = [_listed(folder, digests) for folder in dict.fromkeys(folders)]
    if metric is not None and found:
        figures = sorted({name for one in found for name in one.figures})
        if not figures:
            raise InputError(
                "--metric needs a run that has finished an epoch", where=RUNS, fix="run again without --metric"
            )
        check_known("metric", [metric], figures)
        found = [one.model_copy(update={"metric": metric}) for one in found]
    by_digest = {digest: run for run, digest in digests.items()}
    linked = [one.model_copy(update={"begun_from": by_digest.get(one.begun_from or "")}) for one in found]
    return RunsReport(runs=_sorted(linked, sort), latest=named_by_latest())


def all_runs() -> list[Path]:
    """The runs below ``runs/``, by name."""
    inside = sorted(RUNS.iterdir()) if RUNS.is_dir() else []
    return [one for one in inside if one != LATEST and not one.name.startswith(".") and is_run(one)]


def named_by_latest() -> str | None:
    """The run that ``runs/latest`` names, if it names one that is there."""
    try:
        return str(latest_run())
    except RunError:
        return None


def named_run(path: Path) -> Path:
    """The folder of a run, finished or not; ``runs/latest`` stands for the one that it names.

    Raises: RunError if there is none.
    """
    folder = latest_run() if path.absolute() == LATEST.absolute() else path
    if not folder.is_dir():
        raise RunError(
            "the run does not exist", where=folder, found=known_runs(folder), fix="run `ftx runs` to list your runs"
        )
    if not is_run(folder):
        raise RunError(
            "the folder must be a run",
            where=folder,
            found=f"no {MANIFEST_FILE} in it",
            fix="run `ftx runs` to list your runs",
        )
    return folder


def different_keys(runs: Sequence[ListedRun]) -> dict[str, list[object]]:
    """The keys in which recipes differ, with the value of each run, None where it has no such key."""
    known = list(dict.fromkeys(key for one in runs for key in one.keys))
    values = {key: [one.keys.get(key) for one in runs] for key in known}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def _listed(folder: Path, digests: dict[str, str]) -> ListedRun:
    """The facts of a run; the digest of its trained model goes into ``digests`` by its name."""
    recipe_file = folder / RECIPE_FILE
    known = ListedRun(
        run=str(folder),
        state="finished",
        started=datetime.fromtimestamp(recipe_file.stat().st_mtime, UTC) if recipe_file.is_file() else None,
        size_bytes=_size_bytes(folder),
    )
    try:
        known = known.model_copy(update=_of_training(folder, Recipe.load(recipe_file)))
        if not (folder / MANIFEST_FILE).is_file():
            return known.model_copy(update={"state": "training" if is_locked(folder) else "unfinished"})
        run = Run.open(folder)
        digests[known.run] = run.manifest.digest(TRAINED)
        for report in (EPOCHS_FILE, EVAL_FILE, BENCH_FILE):
            run.check_report(report, "ftx train")  # the command is not shown: a line of the list is the message
        return known.model_copy(update=_of_finished(run, known.figures))
    except InputError as fault:
        problem = fault.what + (f": {Path(fault.where).name}" if fault.where else "")
        return known.model_copy(update={"state": "unreadable", "problem": problem, "figures": {}})


def _size_bytes(folder: Path) -> int:
    """Of a run that is being written files may go while they are counted."""
    total = 0
    for inside, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(inside, name).stat().st_size
    return total


def _of_training(folder: Path, recipe: Recipe) -> dict[str, object]:
    """What the recipe says, and what the epochs that have ended reached."""
    epochs = read_epochs(folder)
    metric = choosing_metric(TASKS[recipe.task], balanced=recipe.train.balance != "none")
    measured = [epoch for epoch in epochs if metric in epoch.metrics]
    best = best_epoch(measured, metric) if measured else None
    return {
        "task": recipe.task,
        "model": recipe.model.name,
        "method": recipe.method,
        "epochs": len(epochs),
        "of_epochs": recipe.train.epochs,
        "best_epoch": best.epoch if best else None,
        "metric": metric,
        "figures": dict(best.metrics) if best else {},
        "seconds": round(sum(epoch.seconds for epoch in epochs), 1),
        "keys": recipe.by_key(),
    }


def _of_finished(run: Run, figures: Mapping[str, float]) -> dict[str, object]:
    """The run's artifacts, the digest of the weights that it started with, and its figures."""
    manifest = run.manifest
    # A recovered run has both if the run that it was made from started with another's: its own source counts.
    source = manifest.recovered or manifest.begun_from
    present = run.artifacts()
    return {
        "artifacts": [artifact.name for artifact in present if not manifest.is_stale(artifact)],
        "stale": [artifact.name for artifact in present if manifest.is_stale(artifact)],
        "begun_from": source.trained if source else None,
        "figures": {**figures, **_reported(run)},
    }


class _EvaluatedRun(BaseModel):
    """Of ``reports/eval.json`` what is listed."""

    metrics: dict[str, float]


def _reported(run: Run) -> dict[str, float]:
    """What ``ftx eval`` and ``ftx bench`` found; nothing of one that is missing, or of another version of ftx."""
    found: dict[str, float] = {}
    with suppress(OSError, ValidationError):
        evaluated = _EvaluatedRun.model_validate_json(read_file(run.path / EVAL_FILE))
        found |= {f"eval.{name}": value for name, value in evaluated.metrics.items()}
    timed = read_bench(run, run.manifest)
    return found if timed is None else {**found, LATENCY: min(row.p50_ms for row in timed.rows)}


def _sorted(runs: Sequence[ListedRun], sort: Sort) -> list[ListedRun]:
    """In an order whose first is what one looks for; of equal ones by name."""

    def figure(one: ListedRun) -> float:
        value = one.figures.get(one.metric or "")
        if value is None:
            return inf
        return value if one.metric == LATENCY else -value

    keys: dict[Sort, Callable[[ListedRun], float | str]] = {
        "started": lambda one: -one.started.timestamp() if one.started else inf,
        "name": lambda one: one.run,
        "metric": figure,
        "size": lambda one: one.size_bytes,
        "seconds": lambda one: one.seconds,
    }
    return sorted(sorted(runs, key=keys["name"]), key=keys[sort])


def remove_runs(paths: Sequence[Path]) -> RunsReport:
    """Remove runs; ``runs/latest`` names the most recent one that is left and finished, or is gone.

    A folder is renamed before it is emptied, so that no command meets half a run, and the next ftx sweeps what a killed
    one has left of it.
    Raises: RunError for a folder that is no run, and for one that another process changes, before any is removed;
    EnvironmentFault where it cannot be written.
    """
    folders = list(dict.fromkeys(named_run(path) for path in paths))
    for folder in folders:
        if folder.is_symlink():
            raise RunError(
                "the run must not be a link",
                where=folder,
                found=f"it points at {folder.resolve()}",
                fix="give the run that the link points at",
            )
        if is_locked(folder):
            raise RunError("another ftx is changing this run", where=folder, fix="wait until it ends, or stop it")
    _let_latest_go({folder.resolve() for folder in folders})
    for folder in folders:
        with disk_faults(folder):
            with sole_writer(folder, None):
                retired = folder.rename(partial_path(folder.parent))
            shutil.rmtree(retired)
    return list_runs().model_copy(update={"removed": [str(folder) for folder in folders]})


def _let_latest_go(folders: set[Path]) -> None:
    latest = named_by_latest()
    if latest is None or Path(latest).resolve() not in folders:
        return
    finished = [run for run in all_runs() if (run / MANIFEST_FILE).is_file() and run.resolve() not in folders]
    if finished:
        point_latest_at(max(finished, key=lambda run: (run / RECIPE_FILE).stat().st_mtime))
    elif LATEST.is_symlink() or LATEST.is_file():
        with disk_faults(LATEST):
            LATEST.unlink()
