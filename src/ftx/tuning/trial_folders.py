"""The run folders of a study's trials: whose they are, and which were left by a worker that was killed."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from filelock import FileLock, Timeout

from ftx.core.errors import RunError
from ftx.core.files import write_atomic
from ftx.runs.run_json import checkpoint_records
from ftx.tuning.study import MARK_FILE, said

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

TRIALS = "trials"
# What a trial carries beside its values: the machine and the folder it is in, and that folder's own name.
HOST, FOLDER, OWNER = "host", "folder", "owner"
# And where it was when workers were killed in it, with how many of them.
_LOST = "lost"


def claim(out: Path, study: Study) -> str:
    """Let a folder be this study's, whose trials its run folders are numbered by; the folder's own name.

    That name tells trials of this folder from those of others, whatever machines and paths are called.
    Raises: RunError if it is another study's.
    """
    mark, own = out / MARK_FILE, [study.study_name, said(study)[1]]
    with FileLock(out / f".{MARK_FILE}.lock"):
        if not mark.is_file():
            write_atomic(mark, "\n".join([*own, uuid4().hex, ""]).encode())
    name, study_id, folder_id = [*mark.read_text().splitlines(), "", "", ""][:3]
    if [name, study_id] != own:
        raise RunError(
            "this folder holds the runs of another study", where=out, found=name, fix="give it another --out"
        )
    return folder_id


@contextmanager
def held(run: Path) -> Iterator[bool]:
    """Hold a trial for this worker, for as long as it works on it; False where another does.

    A worker that is killed lets go of it.
    """
    run.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.with_name(f".{run.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@dataclass(frozen=True)
class Taken:
    """A trial that is this worker's now, and its run folder; ``begun``: another worker was killed in it.

    ``lost`` workers were, at the place where it is now. ``reported`` are the epochs that the study was told of.
    """

    trial: Trial
    run: Path
    begun: bool
    lost: int = 0
    reported: frozenset[int] = frozenset()


@dataclass(frozen=True)
class TrialFolders:
    """The run folders of a study's trials below ``out``, whose own name is ``own``."""

    out: Path
    own: str

    def running(self, study: Study) -> list[FrozenTrial]:
        """Trials that a worker in this folder has begun and not ended, or was killed in."""
        from optuna.trial import TrialState

        trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [trial for trial in trials if trial.user_attrs.get(OWNER) == self.own]

    @contextmanager
    def taken(self, study: Study, *, most: int | None) -> Iterator[Taken | None]:
        """Hold a trial whose worker was killed, or a new one; None where others are at ``most`` already."""
        import optuna

        running = self.running(study)
        for left in running:
            with held(self.run_of(left)) as free:
                # Another worker may have ended it meanwhile; one that has no end yet is opened as Optuna itself does.
                if free and left.number in [one.number for one in self.running(study)]:
                    trial = optuna.Trial(study, left._trial_id)  # pyright: ignore[reportPrivateUsage]
                    run, told = self.run_of(left), frozenset(left.intermediate_values)
                    yield Taken(trial, run, True, _lost_again(trial, run), told)
                    return
        if most is not None and len(running) >= most:
            yield None
            return
        trial = study.ask()
        with held(self.run_of(trial)) as mine:
            assert mine, "another worker has a trial that was asked for here"
            trial.set_user_attr(HOST, platform.node())
            trial.set_user_attr(FOLDER, str(self.run_of(trial).absolute()))
            trial.set_user_attr(OWNER, self.own)
            yield Taken(trial, self.run_of(trial), False)

    def run_of(self, trial: Trial | FrozenTrial) -> Path:
        """The run folder of a trial."""
        return self.out / TRIALS / f"{trial.number:04}"

    def where_it_lies(self, trial: FrozenTrial) -> str | None:
        """A trial's run folder as one finds it, behind the name of another machine; None if it is gone."""
        if trial.user_attrs.get(OWNER) == self.own:
            run = self.here(trial)
            return None if run is None else str(run)
        folder, host = trial.user_attrs.get(FOLDER), trial.user_attrs.get(HOST)
        if folder is None or (host == platform.node() and not Path(str(folder)).is_dir()):
            return None
        return str(folder) if host == platform.node() else f"{host}:{folder}"

    def here(self, trial: FrozenTrial) -> Path | None:
        """A trial's run folder, if it is below this one, and was not removed."""
        run = self.run_of(trial)
        return run if trial.user_attrs.get(OWNER) == self.own and run.is_dir() else None


def _lost_again(trial: Trial, run: Path) -> int:
    """How many workers were lost since the last checkpoint was written, this one before included."""
    at = [path.name for path in checkpoint_records(run)[:1]]
    before, times = trial.user_attrs.get(_LOST, (None, 0))
    times = times + 1 if at == before else 1
    trial.set_user_attr(_LOST, (at, times))
    return times
