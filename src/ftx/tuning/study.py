"""The Optuna study that contains the trials: a SQLite file next to them, or a database that many machines share."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal
from uuid import uuid4

import optuna
from optuna import Study
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from ftx.core.errors import EnvironmentFault, InputError, RunError, listed
from ftx.recipe.schema import Recipe
from ftx.tuning.space import Space

STUDY_FILE = "study.db"
# Marks a folder as a study's.
MARK_FILE = "study.txt"
# The user attribute that identifies a study.
IDENTITY = "searched"
# Of the metric and of the latency.
_DIRECTIONS: Sequence[Literal["maximize", "minimize"]] = ("maximize", "minimize")
# Trials that are drawn at random before the sampler uses what it has seen, and that are not pruned.
_AT_RANDOM = 5
_ADDRESS = "use dialect://user:password@host:port/database, such as postgresql://…"
# How long a worker waits for what another is about to write.
_TRIES, _PAUSE_S = 20, 0.25


def open_study(
    out: Path, name: str, storage: str | None, recipe: Recipe, data: str, space: Space, objectives: int
) -> Study:
    """A new study, or the one of this name, if it searches the same space of the same recipe on the same images.

    ``data`` is the digest of the images.
    Raises: EnvironmentFault if the storage's driver is not installed; RunError if the study is another one.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    opened, searched = _open(out, storage), _digest(recipe, data, space, objectives)
    sampler = optuna.samplers.TPESampler(n_startup_trials=_AT_RANDOM, seed=None)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_AT_RANDOM, n_warmup_steps=1)
    try:  # of workers that start at the same time, the one that creates the study identifies it
        study = optuna.create_study(
            storage=opened, sampler=sampler, pruner=pruner, study_name=name, directions=_DIRECTIONS[:objectives]
        )
        _identify(study, searched)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(storage=opened, sampler=sampler, pruner=pruner, study_name=name)
        if not _is_identified_soon(study) and not study.get_trials(deepcopy=False):
            _identify(study, searched)  # the other one was killed in that moment
            time.sleep(2 * _PAUSE_S)  # a third one may do the same, and the last value counts for all
    if identity(study)[0] != searched:
        raise RunError(
            "--study must be new, or a search of the same recipe, space, objective and images",
            where=f"{name} in {printable(out, storage)}",
            found="it was started with another recipe, space or objective, or with other images",
            fix="use another --study or --out",
        )
    return study


def _identify(study: Study, searched: str) -> None:
    if IDENTITY not in study.user_attrs:
        study.set_user_attr(IDENTITY, [searched, uuid4().hex])


def identity(study: Study) -> tuple[str, str]:
    """The digest of what a study searches, and a name that no other study has; empty if it is not from ftx."""
    searched, own = study.user_attrs.get(IDENTITY, ("", ""))
    return str(searched), str(own)


def _is_identified_soon(study: Study) -> bool:
    for _ in range(_TRIES):
        if IDENTITY in study.user_attrs:
            return True
        time.sleep(_PAUSE_S)
    return False


def _open(out: Path, storage: str | None) -> RDBStorage:
    url = storage or URL.create("sqlite", database=str((out / STUDY_FILE).absolute())).render_as_string(False)
    url = url.replace("{", "{{").replace("}", "}}")  # Optuna takes it for a pattern
    for left in reversed(range(_TRIES)):
        try:
            # In the hours between two trials a server may close a connection.
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except ImportError as error:
            raise EnvironmentFault(
                "the driver of the study's storage is not installed",
                where=printable(out, storage),
                found=str(error.__cause__ or error),
                fix="install the driver. For PostgreSQL: pip install 'psycopg[binary]', then use "
                "--storage postgresql+psycopg://...",
            ) from error
        except RuntimeError as error:
            raise RunError(
                "the study was made by another version of Optuna",
                where=printable(out, storage),
                found=str(error).splitlines()[0][:200],
                fix="install that version, or start another study: --study NAME",
            ) from error
        except ValueError as error:
            raise ArgumentError from error
        except SQLAlchemyError as error:
            # Another worker makes the tables at this moment.
            if not left or not (isinstance(error, IntegrityError) or "already exists" in str(error)):
                raise
            time.sleep(_PAUSE_S)
    raise AssertionError


def printable(out: Path, storage: str | None) -> str:
    """Where a study is, without a password, which may also be in the query."""
    if storage is None:
        return str(out / STUDY_FILE)
    try:
        return make_url(storage).set(query={}).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return "--storage"


@contextmanager
def storage_errors(out: Path, storage: str | None) -> Iterator[None]:
    """Turn what Optuna and SQLAlchemy raise into one error of ours, also in the middle of a trial.

    A folder is removed if it is still empty.
    Raises: EnvironmentFault, or RunError for the file next to the trials; InputError for an invalid address.
    """
    try:
        yield
    except ArgumentError as error:  # also for a dialect that SQLAlchemy does not know
        dialect, colon, _ = (storage or "").partition("://")
        found = f"something of {dialect}://" if colon else "no dialect://"
        raise InputError("--storage must be the address of a database", found=found, fix=_ADDRESS) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        found = str(error.__cause__ or error).splitlines()[0][:200]
        if storage is None:
            what, fix = "the study cannot be read or written", "free some disk space, or start again in another --out"
            raise RunError(what, where=out / STUDY_FILE, found=found, fix=fix) from error
        raise EnvironmentFault(
            "--storage does not respond",
            where=printable(out, storage),
            found=found,
            fix="check that it runs at this address, then run the same command to resume",
        ) from error
    finally:
        with suppress(OSError):  # it stays unless it is empty
            out.rmdir()


def _digest(recipe: Recipe, data: str, space: Space, objectives: int) -> str:
    """Of what is searched: the recipe as given, the images wherever they are, the space, the number of objectives."""
    keys = {key: value for key, value in recipe.by_key().items() if key != "data.path"}
    if recipe.model.peft == "none":
        keys["adapter.blocks"] = "all"  # has no effect there; studies of earlier versions contain this value
    return hashlib.sha256(repr((keys, data, space.dumps(), objectives)).encode()).hexdigest()


def check_folder(out: Path) -> None:
    """Raise RunError for a folder that contains something else than a study, such as a run."""
    if out.exists() and not out.is_dir():
        raise RunError("--out must be a folder", where=out, fix="name another folder")
    if (out / MARK_FILE).is_file() or not out.exists():
        return
    others = sorted(path.name for path in out.iterdir() if not path.name.startswith((STUDY_FILE, ".")))
    if others:
        raise RunError(
            "--out must be a new folder, or the folder of a study",
            where=out,
            found=listed(others),
            fix="name another folder",
        )
