"""The study of Optuna in which trials are kept: a file of SQLite beside them, or a server that many machines share."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from ftx.core.errors import EnvironmentFault, InputError, RunError, listed
from ftx.recipe.schema import Recipe
from ftx.tuning.space import Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage

STUDY_FILE = "study.db"
# Whose folder it is.
MARK_FILE = "study.txt"
# Names of what a study and a trial carry beside their values.
SAYS = "searched"
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
        if not _await(lambda: SAYS in study.user_attrs) and not study.get_trials(deepcopy=False):
            _say(study, searched)  # the other was killed in that moment
            time.sleep(2 * _PAUSE_S)  # a third may say so as well, and what is said last holds for all
    if said(study)[0] != searched:
        raise RunError(
            "this study searches something else",
            where=f"{name} in {shown(out, storage)}",
            found="another recipe, space or objective than when it was begun, or other images",
            fix="give it another --study, or another --out",
        )
    return study


def _say(study: Study, searched: str) -> None:
    if SAYS not in study.user_attrs:
        study.set_user_attr(SAYS, [searched, uuid4().hex])


def said(study: Study) -> tuple[str, str]:
    """What a study searches, as a digest, and its own name, which no other has; of one that is not ours nothing."""
    searched, own = study.user_attrs.get(SAYS, ("", ""))
    return str(searched), str(own)


def _await(known: Callable[[], bool]) -> bool:
    for _ in range(_TRIES):
        if known():
            return True
        time.sleep(_PAUSE_S)
    return False


def _open(out: Path, storage: str | None) -> RDBStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

    url = storage or URL.create("sqlite", database=str((out / STUDY_FILE).absolute())).render_as_string(False)
    url = url.replace("{", "{{").replace("}", "}}")  # Optuna takes it for a pattern
    for left in reversed(range(_TRIES)):
        try:
            # In the hours between two trials a server may close a connection.
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except ImportError as error:
            raise EnvironmentFault(
                "the driver of the study's storage is not installed",
                where=shown(out, storage),
                found=str(error.__cause__ or error),
                fix="install it; of PostgreSQL 'psycopg[binary]', with --storage postgresql+psycopg://…",
            ) from error
        except RuntimeError as error:
            raise RunError(
                "the study was made by another version of Optuna",
                where=shown(out, storage),
                found=str(error).splitlines()[0][:200],
                fix="install that version, or begin another study",
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
    """Where a study is kept, as it may be printed: without a password, which may stand behind the ? as well."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if storage is None:
        return str(out / STUDY_FILE)
    try:
        return make_url(storage).set(query={}).render_as_string(hide_password=True)
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
        dialect, begun, _ = (storage or "").partition("://")
        found = f"something of {dialect}://" if begun else "no dialect://"
        raise InputError("this is no storage of a study", where="--storage", found=found, fix=_ADDRESS) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        found = str(error.__cause__ or error).splitlines()[0][:200]
        if storage is None:
            fix = "start it again, once the disk has room and the file is whole; or begin anew in another --out"
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
    if out.exists() and not out.is_dir():
        raise RunError("--out is no folder", where=out, fix="name another")
    if (out / MARK_FILE).is_file() or not out.exists():
        return
    others = sorted(path.name for path in out.iterdir() if not path.name.startswith((STUDY_FILE, ".")))
    if others:
        raise RunError("--out holds something else", where=out, found=listed(others), fix="name another folder")
