"""The study of Optuna in which trials are kept: a file of SQLite beside them, or a server that many machines share."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from filelock import FileLock, Timeout

from ftx.core.errors import EnvironmentFault, InputError, RunError, listed
from ftx.core.files import write_atomic
from ftx.recipe.schema import Recipe
from ftx.tuning.space import Space

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

STUDY_FILE = "study.db"
TRIALS = "trials"
# Whose folder it is.
MARK_FILE = "study.txt"
# Names of what a study and a trial carry beside their values.
SEARCHED, ID, HOST, FOLDER, GOES_ON = "searched", "id", "host", "folder", "goes_on"
# Of a metric and a latency.
_DIRECTIONS: Sequence[Literal["maximize", "minimize"]] = ("maximize", "minimize")
# Trials that are drawn at random before the sampler models what it has seen, and that are not pruned.
_AT_RANDOM = 5
_ADDRESS = "dialect://user:password@host:port/database, such as postgresql://…"
# How long a worker waits for what another is about to write.
_TRIES, _PAUSE_S = 20, 0.25


def open_study(
    out: Path, name: str, storage: str | None, recipe: Recipe, data: str, space: Space, objectives: int
) -> Study:
    """A new study, or the one of this name, if it searches the same space of the same recipe on the same images.

    ``data`` is their digest.

    Raises: EnvironmentFault if the storage's driver is not installed; RunError if the study is another's.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kept, searched = _open(out, storage), _digest(recipe, data, space, objectives)
    sampler = optuna.samplers.TPESampler(n_startup_trials=_AT_RANDOM, seed=None)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_AT_RANDOM, n_warmup_steps=1)
    try:  # of workers that begin at the same time one makes the study and says what it is of
        study = optuna.create_study(
            storage=kept, sampler=sampler, pruner=pruner, study_name=name, directions=_DIRECTIONS[:objectives]
        )
        _say(study, searched)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(storage=kept, sampler=sampler, pruner=pruner, study_name=name)
        if not _await(lambda: ID in study.user_attrs):  # the other was killed in that moment
            _say(study, searched)
    if study.user_attrs.get(SEARCHED) != searched:
        raise RunError(
            "this study searches something else",
            where=f"{name} in {shown(out, storage)}",
            found="another recipe, space or objective than when it was begun, or other images",
            fix="give it another --study, or another --out",
        )
    return study


def _say(study: Study, searched: str) -> None:
    study.set_user_attr(SEARCHED, searched)
    study.set_user_attr(ID, uuid4().hex)


def _await(known: Callable[[], bool]) -> bool:
    for _ in range(_TRIES):
        if known():
            return True
        time.sleep(_PAUSE_S)
    return False


def _open(out: Path, storage: str | None) -> RDBStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

    url = storage or f"sqlite:///{(out / STUDY_FILE).absolute()}"
    for left in reversed(range(_TRIES)):
        try:
            # In the hours between two trials a server may close a connection.
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except ImportError as error:
            raise EnvironmentFault(
                "the driver of the study's storage is not installed",
                where=shown(out, storage),
                found=str(error.__cause__ or error),
                fix="install it; of postgresql:// it is 'psycopg[binary]'",
            ) from error
        except ValueError as error:
            raise ArgumentError from error
        except SQLAlchemyError as error:
            # Another worker makes the tables at this moment.
            if not left or not (isinstance(error, IntegrityError) or "already exists" in str(error)):
                raise
            time.sleep(_PAUSE_S)
    raise AssertionError


def shown(out: Path, storage: str | None) -> str:
    """Where a study is kept, as it may be printed: without a password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if storage is None:
        return str(out / STUDY_FILE)
    try:
        return make_url(storage).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return "--storage"


@contextmanager
def within_reach(out: Path, storage: str | None) -> Iterator[None]:
    """Say in one error that a study's storage does not answer, at the beginning or in the middle of a trial.

    A folder in which nothing was begun is gone afterwards.
    Raises: EnvironmentFault, or RunError for the file beside the trials; InputError for an address that is none.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        yield
    except ArgumentError as error:  # also of a dialect that SQLAlchemy does not know
        found = storage if storage and "@" not in storage else "an address that cannot be read"
        raise InputError("this is no storage of a study", where="--storage", found=found, fix=_ADDRESS) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        found = str(error.__cause__ or error).splitlines()[0][:200]
        if storage is None:
            fix = "free the disk, or move the file away: its trials' runs stay, a new study begins"
            raise RunError(
                "the study cannot be read or written", where=out / STUDY_FILE, found=found, fix=fix
            ) from error
        raise EnvironmentFault(
            "the storage of the study does not answer",
            where=shown(out, storage),
            found=found,
            fix="check its address, and that it runs; the same command line goes on with the study",
        ) from error
    finally:
        with suppress(OSError):  # it stays unless it is empty
            out.rmdir()


def _digest(recipe: Recipe, data: str, space: Space, objectives: int) -> str:
    """Of what is searched: the recipe as it was given, the images wherever they lie, the space, how many objectives."""
    said = {key: value for key, value in recipe.by_key().items() if key != "data.path"}
    return hashlib.sha256(repr((said, data, space.dumps(), objectives)).encode()).hexdigest()


def refuse_other_things(out: Path) -> None:
    """Raise RunError for a folder that holds something else than a study, such as a run."""
    if (out / MARK_FILE).is_file() or not out.exists():
        return
    others = sorted(path.name for path in out.iterdir() if not path.name.startswith((STUDY_FILE, ".")))
    if others:
        raise RunError("--out holds something else", where=out, found=listed(others), fix="name another folder")


def claim(out: Path, study: Study) -> None:
    """Let a folder be this study's, whose trials its run folders are numbered by.

    Raises: RunError if it is another's.
    """
    mark, own = out / MARK_FILE, f"{study.study_name} {study.user_attrs[ID]}\n"
    if not mark.is_file():
        write_atomic(mark, own.encode())
    elif mark.read_text() != own:
        raise RunError(
            "this folder holds the runs of another study",
            where=out,
            found=mark.read_text().split()[0],
            fix="give it another --out",
        )


def folder_of(out: Path, number: int) -> Path:
    """The run folder of a trial."""
    return out / TRIALS / f"{number:04}"


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


def take_up_what_was_killed(study: Study, out: Path) -> list[int]:
    """Queue the trials again whose worker on this machine is gone, to go on in their run folders; their numbers."""
    from optuna.trial import TrialState

    def running() -> dict[int, FrozenTrial]:
        return {trial.number: trial for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}

    taken: list[int] = []
    for trial in running().values():
        run = Path(str(trial.user_attrs.get(FOLDER, "")))
        if trial.user_attrs.get(HOST) != platform.node() or run.parent != (out / TRIALS).absolute():
            continue
        with held(run) as free:
            if free and trial.number in running():  # another worker may have taken it meanwhile
                study.tell(trial.number, state=TrialState.FAIL)
                study.enqueue_trial(trial.params, user_attrs={GOES_ON: str(run)})
                taken.append(trial.number)
    return taken


def run_of(trial: Trial | FrozenTrial, out: Path) -> Path:
    """The run folder that a trial fills: its own, or that of the one that was killed, if that was here."""
    own, begun = folder_of(out, trial.number).absolute(), Path(str(trial.user_attrs.get(GOES_ON, "")))
    return begun if begun.parent == own.parent else own


def goes_on(trial: Trial | FrozenTrial, out: Path) -> bool:
    """Whether a trial is to go on with the run of one that was killed."""
    return str(trial.user_attrs.get(GOES_ON)) == str(run_of(trial, out))


def where_it_lies(trial: FrozenTrial, out: Path) -> str | None:
    """The run folder as one finds it: from here, or with the machine it is on; None where there is none, or no more."""
    folder, host = trial.user_attrs.get(FOLDER), trial.user_attrs.get(HOST)
    if folder is None:
        return None
    path = Path(str(folder))
    if host != platform.node() and not path.is_dir():
        return f"{host}:{path}"
    if not path.is_dir():
        return None
    return str(out / TRIALS / path.name if path.parent == (out / TRIALS).absolute() else path)


def went_on(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """Of trials whose worker was killed the number of the one that went on in their run folder."""
    by_folder = {str(trial.user_attrs[GOES_ON]): trial.number for trial in trials if GOES_ON in trial.user_attrs}
    return {
        trial.number: last
        for trial in trials
        if trial.state.name == "FAIL" and (last := by_folder.get(str(trial.user_attrs.get(FOLDER)), -1)) > trial.number
    }


def is_here(trial: FrozenTrial) -> bool:
    """Whether a trial's run is on this machine, and was not removed."""
    return trial.user_attrs.get(HOST) == platform.node() and Path(str(trial.user_attrs.get(FOLDER))).is_dir()


def begin(trial: Trial, out: Path) -> Path:
    """Note who works on a trial, and where."""
    run = run_of(trial, out)
    trial.set_user_attr(HOST, platform.node())
    trial.set_user_attr(FOLDER, str(run))
    return run
