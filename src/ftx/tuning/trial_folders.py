"""The run folders of a study's trials: which worker has a trial, and which trials were left by a killed worker."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout
from optuna import Study, Trial
from optuna.trial import FrozenTrial, TrialState

from ftx.core.errors import RunError
from ftx.core.files import write_atomic
from ftx.runs.run_json import checkpoint_records
from ftx.tuning.study import MARK_FILE, identity

TRIALS = "trials"
# User attributes of a trial: the machine and the folder of its run, and the name of the study's folder.
HOST, FOLDER, OWNER = "host", "folder", "owner"
# And the checkpoint at which workers were lost, with how many they were.
_LOST = "lost"


def claim(out: Path, study: Study) -> str:
    """Mark a folder as this study's, since its run folders have the numbers of the study's trials.

    Returns: a name drawn for the folder. It distinguishes its trials from those of any other folder of the study.
    Raises: RunError if it is another study's.
    """
    mark, own = out / MARK_FILE, [study.study_name, identity(study)[1]]
    with FileLock(out / f".{MARK_FILE}.lock"):
        if not mark.is_file():
            write_atomic(mark, "\n".join([*own, uuid4().hex, ""]).encode())
    name, study_id, folder_id = [*mark.read_text().splitlines(), "", "", ""][:3]
    if [name, study_id] != own:
        raise RunError(
            "--out must not contain the runs of another study",
            where=out,
            found=name,
            fix="name another folder: --out DIR",
        )
    return folder_id


@contextmanager
def held(run: Path) -> Iterator[bool]:
    """Lock a trial for this worker, until the block or the process ends; False if another worker has it."""
    run.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(run.with_name(f".{run.name}.lock")).acquire(timeout=0)
    except Timeout:
        yield False
        return
    with lock:
        yield True


@dataclass(frozen=True)
class TrialAssignment:
    """A trial that this worker has, and its run folder; ``resumed`` if another worker was killed in it.

    ``lost`` workers were killed since its last checkpoint. ``reported`` are the epochs that the study has.
    """

    trial: Trial
    run: Path
    resumed: bool
    lost: int = 0
    reported: frozenset[int] = frozenset()


@dataclass(frozen=True)
class TrialFolders:
    """The run folders of a study's trials in ``out``; ``own`` is the name that ``claim`` has drawn for it."""

    out: Path
    own: str

    def running(self, study: Study) -> list[FrozenTrial]:
        """Trials of this folder that have no end: a worker has them, or was killed in them."""
        trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [trial for trial in trials if trial.user_attrs.get(OWNER) == self.own]

    @contextmanager
    def assigned(self, study: Study, *, most: int | None) -> Iterator[TrialAssignment | None]:
        """Hold a trial whose worker was killed, else a new one; None if other workers have ``most`` trials already."""
        running = self.running(study)
        for left in running:
            with held(self.run_of(left)) as free:
                # Another worker may have ended it meanwhile. One without an end is opened as Optuna itself does.
                if free and left.number in [one.number for one in self.running(study)]:
                    trial = Trial(study, left._trial_id)  # pyright: ignore[reportPrivateUsage]
                    run, reported = self.run_of(left), frozenset(left.intermediate_values)
                    yield TrialAssignment(trial, run, True, _count_loss(trial, run), reported)
                    return
        if most is not None and len(running) >= most:
            yield None
            return
        trial = study.ask()
        with held(self.run_of(trial)) as free:
            assert free, "another worker has a trial that is new"
            trial.set_user_attr(HOST, platform.node())
            trial.set_user_attr(FOLDER, str(self.run_of(trial).absolute()))
            trial.set_user_attr(OWNER, self.own)
            yield TrialAssignment(trial, self.run_of(trial), False)

    def run_of(self, trial: Trial | FrozenTrial) -> Path:
        """The run folder of a trial of this folder."""
        return self.out / TRIALS / f"{trial.number:04}"

    def location(self, trial: FrozenTrial) -> str | None:
        """Where a trial's run is, with the name of the machine if it is another; None if it was removed."""
        if trial.user_attrs.get(OWNER) == self.own:
            run = self.here(trial)
            return run and str(run)
        folder, host = trial.user_attrs.get(FOLDER), trial.user_attrs.get(HOST)
        if folder is None or host != platform.node():
            return folder and f"{host}:{folder}"
        return folder if Path(folder).is_dir() else None

    def here(self, trial: FrozenTrial) -> Path | None:
        """A trial's run folder, if it is in this folder and was not removed."""
        run = self.run_of(trial)
        return run if trial.user_attrs.get(OWNER) == self.own and run.is_dir() else None


def _count_loss(trial: Trial, run: Path) -> int:
    """How many workers were lost since the last checkpoint was written, with the one that had the trial before."""
    at = [path.name for path in checkpoint_records(run)[:1]]
    before, times = trial.user_attrs.get(_LOST, (None, 0))
    times = times + 1 if at == before else 1
    trial.set_user_attr(_LOST, (at, times))
    return times
