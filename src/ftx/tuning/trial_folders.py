"""The run folders of a study's trials: whose they are, and which were left by a worker that was killed."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from filelock import FileLock, Timeout

from ftx.core.errors import RunError
from ftx.core.files import write_atomic
from ftx.tuning.study import MARK_FILE, said

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

TRIALS = "trials"
# What a trial carries beside its values: where it is, and in whose folder it goes on.
HOST, FOLDER, OWNER, GOES_ON = "host", "folder", "owner", "goes_on"


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
class TrialFolders:
    """The run folders of a study's trials below ``out``, whose own name is ``own``."""

    out: Path
    own: str

    def running(self, study: Study) -> list[FrozenTrial]:
        """Trials that a worker in this folder has begun and not ended, or was killed in."""
        from optuna.trial import TrialState

        trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [trial for trial in trials if trial.user_attrs.get(OWNER) == self.own]

    def take_up_what_was_killed(self, study: Study) -> list[int]:
        """Queue the trials again whose worker in this folder is gone, to go on in their run folders; their numbers."""
        from optuna.trial import TrialState

        taken: list[int] = []
        for trial in self.running(study):
            run = self.run_of(trial)
            with held(run) as free:
                if free and trial.number in [one.number for one in self.running(study)]:  # another may have taken it
                    study.tell(trial.number, state=TrialState.FAIL)
                    study.enqueue_trial(trial.params, user_attrs={GOES_ON: [self.own, run.name]})
                    taken.append(trial.number)
        return taken

    def run_of(self, trial: Trial | FrozenTrial) -> Path:
        """The run folder that a trial fills: its own, or that of the one that was killed, if that was here."""
        owner, name = trial.user_attrs.get(GOES_ON, ("", ""))
        return self.out / TRIALS / (str(name) if owner == self.own else f"{trial.number:04}")

    def goes_on(self, trial: Trial | FrozenTrial) -> bool:
        """Whether a trial is to go on with the run of one that was killed."""
        return trial.user_attrs.get(GOES_ON, ("", ""))[0] == self.own

    def begin(self, trial: Trial) -> Path:
        """Note who works on a trial, and where."""
        run = self.run_of(trial)
        trial.set_user_attr(HOST, platform.node())
        trial.set_user_attr(FOLDER, str(run.absolute()))
        trial.set_user_attr(OWNER, self.own)
        return run

    def where_it_lies(self, trial: FrozenTrial) -> str | None:
        """A trial's run folder as one finds it, behind the name of another machine; None if it is gone."""
        if trial.user_attrs.get(OWNER) == self.own:
            run = self.run_of(trial)
            return str(run) if run.is_dir() else None
        folder, host = trial.user_attrs.get(FOLDER), trial.user_attrs.get(HOST)
        if folder is None or (host == platform.node() and not Path(str(folder)).is_dir()):
            return None
        return str(folder) if host == platform.node() else f"{host}:{folder}"

    def here(self, trial: FrozenTrial) -> Path | None:
        """A trial's run folder, if it is below this one, and was not removed."""
        run = self.run_of(trial)
        return run if trial.user_attrs.get(OWNER) == self.own and run.is_dir() else None


def went_on(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """Of trials whose worker was killed the number of the one that went on in their run folder."""
    further = {
        tuple(trial.user_attrs[GOES_ON]): trial.number
        for trial in trials
        if GOES_ON in trial.user_attrs and trial.user_attrs.get(OWNER) == trial.user_attrs[GOES_ON][0]
    }
    cut_off = [trial for trial in trials if trial.state.name == "FAIL" and OWNER in trial.user_attrs]
    places = {trial.number: (trial.user_attrs[OWNER], Path(trial.user_attrs[FOLDER]).name) for trial in cut_off}
    return {number: last for number, place in places.items() if (last := further.get(place, -1)) > number}
