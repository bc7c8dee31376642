"""``checkpoints/<step>.safetensors`` and ``.json``: the state of an unfinished training, from which it resumes exactly.

Each is complete or does not exist: the tensors first, then the record with their hash, each written to a temporary
name, synced to disk and renamed. The record's own hash covers both. The last two are kept, so that a damaged one falls
back to the one before.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import cast

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ftx.core.closed_model import ClosedModel
from ftx.core.errors import RunError, shell_command
from ftx.core.files import sha256_file, staged_file, write_atomic
from ftx.core.progress import Progress
from ftx.core.untrusted_input import JsonError, read_json
from ftx.core.version import __version__
from ftx.recipe.schema import Recipe
from ftx.runs.new_run import NewRun
from ftx.runs.run_json import CHECKPOINTS, checkpoint_records
from ftx.training.device_placement import Circumstances
from ftx.training.state import StateRecord, TrainingState, check_consistent

SCHEMA_VERSION = 3
# The version whose record has no hash.
_UNHASHED = 2
# At an epoch's end one is written if writing takes at most this fraction of the time: with the first, whose cost is not
# known before, all of them stay below 1 %.
MOST_FRACTION = 0.005
_KEPT = 2


class Origin(ClosedModel):
    """The inputs of a training: they must be the same when it is resumed."""

    recipe: Recipe
    data_sha256: str
    base_digest: str
    circumstances: Circumstances


class Checkpoint(ClosedModel):
    """The record next to the tensors; ``sha256`` is ``_digest`` of everything else in it."""

    schema_version: int = SCHEMA_VERSION
    ftx: str = __version__
    torch: str = torch.__version__
    origin: Origin
    record: StateRecord
    tensors_sha256: str
    sha256: str | None = None


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that was read, with its tensors."""

    checkpoint: Checkpoint
    tensors: dict[str, Tensor]


class Checkpoints:
    """The checkpoints of one training; ``resumed`` is the one that it resumes from."""

    def __init__(self, run: NewRun, origin: Origin, resumed: SavedCheckpoint | None = None) -> None:
        self._run, self._origin = run, origin
        # The steps of complete ones, the newest first: another file of the folder may be damaged.
        self._whole = [] if resumed is None else [resumed.checkpoint.record.position.step]
        self._seconds = 60 * origin.recipe.train.checkpoint_minutes
        self._written_at = time.monotonic()
        self._cost_s = 0.0
        # Syncs the features that a state depends on: in other batches they would differ in the last bits.
        self.settle_first: Callable[[], None] = lambda: None

    @property
    def folder(self) -> Path:
        """The folder of the checkpoints."""
        return self._run.folder / CHECKPOINTS

    def is_due(self, *, epoch_ended: bool = False) -> bool:
        """Whether one must be written: the recipe's minutes after the last, and at an epoch's end.

        If epochs are very short, writing one at each end would take more time than training.
        """
        since_s = time.monotonic() - self._written_at
        return since_s >= self._seconds or (epoch_ended and since_s * MOST_FRACTION >= self._cost_s)

    def write(self, state: TrainingState) -> None:
        """Write the state, unless it was written at this step, and remove all but the last two that are complete.

        Raises: EnvironmentFault if the disk is full or the folder cannot be written.
        """
        started, step = time.monotonic(), state.position.step
        if step not in self._whole:
            self.settle_first()
            self.folder.mkdir(exist_ok=True)
            tensors = self.folder / f"{step}.safetensors"
            with staged_file(tensors) as staged:
                save_file(state.tensors(), staged, metadata={"format": "pt"})
                digest = sha256_file(staged)
            whole = Checkpoint(origin=self._origin, record=state.record(), tensors_sha256=digest)
            whole = whole.model_copy(update={"sha256": _digest(json.loads(whole.model_dump_json()))})
            write_atomic(tensors.with_suffix(".json"), (whole.model_dump_json(indent=2) + "\n").encode())
            self._whole = [step, *self._whole][:_KEPT]
            for old in self.folder.glob("[0-9]*.*"):
                if old.is_file() and old.stem not in map(str, self._whole):
                    old.unlink(missing_ok=True)
        self._run.show()  # a run that is visible can be resumed
        self._written_at = time.monotonic()
        self._cost_s = self._written_at - started

    def remove(self) -> None:
        """Remove all of them: the training has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)


def newest(run: Path, progress: Progress) -> SavedCheckpoint:
    """The newest complete checkpoint of a run; prints which newer ones are damaged.

    Raises: RunError if there is none.
    """
    folder = run / CHECKPOINTS
    damaged: list[str] = []
    for path in checkpoint_records(run):
        try:
            found = _read(path)
        except (OSError, JsonError, SafetensorError, ValidationError, ValueError) as error:
            damaged.append(f"{path.name}: {str(error).splitlines()[0][:200]}")
            continue
        if (found.checkpoint.ftx, found.checkpoint.torch) != (__version__, torch.__version__):
            progress.note(
                f"this training was started with ftx {found.checkpoint.ftx} and torch {found.checkpoint.torch}: "
                "with other versions, the last bits of the result may differ"
            )
        if found.checkpoint.schema_version == _UNHASHED:
            progress.note(f"{path.name} was written by an earlier ftx, without a hash: damage to it cannot be detected")
        for one in damaged:
            progress.note(f"a checkpoint is damaged ({one}): resuming from the one before, {path.name}")
        return found
    if damaged:
        raise RunError(
            "this run has no complete checkpoint",
            where=folder,
            found="; ".join(damaged),
            fix=f"train again: {train_again_command(run)}",
        )
    finished = (run / "run.json").is_file()
    raise RunError(
        "--resume must name a run whose training was interrupted",
        where=run,
        found="its training has finished" if finished else f"no checkpoint in {CHECKPOINTS}/",
        fix="run `ftx runs` to list your runs, or start a new run with `ftx train`",
    )


def train_again_command(run: Path) -> str:
    """The command that trains a run's recipe from the start, on images that the user names."""
    return f"{shell_command('ftx train --config', run / 'recipe.yaml')} --data DIR"


def _read(path: Path) -> SavedCheckpoint:
    """Raises: ValueError, or what reading raises, for an invalid one; nothing of it is used before."""
    document = read_json(path)
    checkpoint = Checkpoint.model_validate(document)
    if checkpoint.schema_version not in (SCHEMA_VERSION, _UNHASHED):
        raise ValueError(f"schema version {checkpoint.schema_version}, this ftx reads {SCHEMA_VERSION}")
    hashed = checkpoint.schema_version == SCHEMA_VERSION or checkpoint.sha256 is not None
    if hashed and _digest(cast("dict[str, object]", document)) != checkpoint.sha256:
        raise ValueError("it has changed since ftx wrote it")
    if str(checkpoint.record.position.step) != path.stem:
        raise ValueError(f"it contains step {checkpoint.record.position.step}")
    tensors = path.with_suffix(".safetensors")
    if sha256_file(tensors) != checkpoint.tensors_sha256:
        raise ValueError(f"{tensors.name} has changed since ftx wrote it")
    saved = SavedCheckpoint(checkpoint, load_file(tensors))
    check_consistent(checkpoint.record, saved.tensors)
    return saved


def _digest(document: Mapping[str, object]) -> str:
    """SHA-256 of a record in canonical form, without its own."""
    rest = {name: value for name, value in document.items() if name != "sha256"}
    return sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
