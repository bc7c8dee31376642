"""The folder ``runs/``: names for new runs, and ``latest``, which names the newest."""

from __future__ import annotations

import os
from pathlib import Path

from ftx.core.disk import disk_faults
from ftx.core.errors import EnvironmentFault, RunError, nearest
from ftx.core.files import numbered, partial_path, sweep, write_atomic
from ftx.core.progress import Progress
from ftx.runs.run_json import CHECKPOINTS, MANIFEST_FILE

RUNS = Path("runs")
LATEST = RUNS / "latest"
MOST_NAME_BYTES = 4096
_GIVE_RUN = "give a run folder: `ftx runs` lists them"


def fresh_out(stem: str) -> Path:
    """A run folder name below ``runs/`` that is free: ``runs/STEM``, ``runs/STEM-2``, …"""
    return next(path for path in numbered(RUNS / stem) if not (path.exists() or path.is_symlink()))


def latest_run() -> Path:
    """The newest run below the current folder.

    Raises: RunError if no training has finished here.
    """
    if LATEST.is_symlink() or LATEST.is_dir():
        target = LATEST.parent / LATEST.readlink() if LATEST.is_symlink() else LATEST
    elif LATEST.is_file():
        target = LATEST.parent / _named_in(LATEST)
    else:
        raise RunError(
            "there must be a finished run in runs/",
            where=LATEST.absolute(),
            found=known_runs(LATEST),
            fix="run `ftx train` first, or give a run folder",
        )
    if not target.is_dir():
        raise RunError("runs/latest points at a run that does not exist", where=target, fix=_GIVE_RUN)
    # Behind a link, `..` leaves the folder that the link points to.
    return target.resolve() if RUNS.is_symlink() else Path(os.path.normpath(target))


def _named_in(file: Path) -> str:
    """The run that the text file names; no run of this name is there where the file is no line of text."""
    with file.open("rb") as stream:
        content = stream.read(MOST_NAME_BYTES + 1)
    try:
        name = content.decode().strip()
    except UnicodeDecodeError:
        name = ""
    if not name or len(content) > MOST_NAME_BYTES or not name.isprintable():
        found = f"{content[:20]!r}"
        raise RunError(
            "runs/latest must be the name of a run", where=file, found=found, fix=f"delete this file, then {_GIVE_RUN}"
        )
    return name


def point_latest_at(out: Path) -> None:
    """Make ``runs/latest`` name this run.

    Raises: EnvironmentFault if the current folder cannot be written.
    """
    with disk_faults(LATEST):
        RUNS.mkdir(exist_ok=True)
        target = os.path.relpath(os.path.realpath(out), os.path.realpath(RUNS))
        sweep(RUNS)
        staged = partial_path(RUNS)
        try:
            staged.symlink_to(target, target_is_directory=True)
        except (OSError, NotImplementedError):  # a file system or an account without links
            write_atomic(LATEST, f"{target}\n".encode())
            return
        try:
            staged.replace(LATEST)
        except OSError:  # the user's own folder is called latest
            staged.unlink()
            raise


def name_latest(out: Path, progress: Progress) -> None:
    """Make ``runs/latest`` name this run, or note that it cannot: the run is complete without it."""
    try:
        point_latest_at(out)
    except (EnvironmentFault, OSError) as fault:
        progress.note(f"runs/latest cannot name this run, so name it in the next command: {fault}")


def finished_runs() -> list[Path]:
    """The finished runs in ``runs/``, in no order."""
    return [path.parent for path in RUNS.glob(f"*/{MANIFEST_FILE}") if path.parent.name != LATEST.name]


def known_runs(near: Path, *, unfinished: bool = False) -> str:
    """What there is instead of a run that was not found: the nearest name, or all; ``unfinished``: to be resumed."""
    found = [path.parent for path in RUNS.glob(f"*/{CHECKPOINTS}/")] if unfinished else finished_runs()
    runs = sorted(run.name for run in found if run.name != LATEST.name)
    if not runs and not unfinished and (LATEST / MANIFEST_FILE).is_file():
        return f"only runs/latest, which is {LATEST.resolve()}"
    if not runs:
        return f"no {'unfinished ' * unfinished}runs below runs/"
    alike = nearest(near.name, runs)
    return f"nearest: {RUNS / alike}" if alike else f"{'unfinished ' * unfinished}runs here: {', '.join(runs)}"


def check_run_exists(run: Path) -> None:
    """Check that the folder of a training to resume exists.

    Raises: RunError naming those that do.
    """
    if not run.is_dir():
        found = known_runs(run, unfinished=True)
        raise RunError(
            "the run does not exist", where=run, found=found, fix="give an unfinished run: `ftx runs` lists them"
        )
