"""Runs that are removed, with all that was made from them in their folders."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ftx.core.disk import disk_faults
from ftx.core.errors import RunError
from ftx.core.files import is_locked, partial_path, sole_writer
from ftx.runs.inventory import RECIPE_FILE, RunsReport, all_runs, list_runs, named_by_latest, named_run
from ftx.runs.latest import LATEST, point_latest_at
from ftx.runs.run_json import MANIFEST_FILE


def remove_runs(paths: Sequence[Path]) -> RunsReport:
    """Remove runs; ``runs/latest`` names the most recent one that is left and finished, or is gone.

    A folder is renamed before it is emptied, so that no verb meets half a run, and the next ftx sweeps what a killed
    one has left of it.
    Raises: RunError for a folder that is no run, and for one that another process changes, before any is removed;
    EnvironmentFault where it cannot be written.
    """
    folders = list(dict.fromkeys(named_run(path) for path in paths))
    for folder in folders:
        if folder.is_symlink():
            raise RunError(
                "this is a link to a run", where=folder, found=str(folder.resolve()), fix="name the run itself"
            )
        if is_locked(folder):
            raise RunError("another ftx is changing this run", where=folder, fix="wait for it, or stop it")
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
