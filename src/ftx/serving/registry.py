"""The models that are served, by name and version, and how a newer one takes the place of an older.

A folder is looked at every half second. What has changed, and has stopped changing, is opened beside the model that
answers; requests that come from then on are given the new one, and the old one goes when its last request has ended.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ftx.core.errors import EnvironmentFault, ExportError, FtxError, InputError
from ftx.core.memory import is_out_of_memory
from ftx.core.progress import Progress
from ftx.runs.artifacts import IR_FILE, IR_WEIGHTS
from ftx.runs.card_json import CARD_FILE, PROOF_FILE, REFERENCE_FILE, TUNING_FILE
from ftx.runs.parity_json import PARITY_FILE
from ftx.runs.proof_json import ir_digest
from ftx.runs.run_json import MANIFEST_FILE
from ftx.runtimes import load
from ftx.runtimes.openvino import MOST_GRAPH_PIXELS, OpenVinoPredictor
from ftx.serving.batching import Batcher, Counted
from ftx.serving.refusal import Refused, instead, said

LOOK_S = 0.5
# After a refusal that may pass; twice as long after each further one.
AGAIN_S, MOST_AGAIN_S = 1.0, 60.0
# For each size of images OpenVINO makes kernels of its own and keeps them (2026.4.1: 1.6 MB a size, DINOv2-small).
MOST_SIZES = 32
# Of a folder that is no folder of versions.
ONLY_VERSION = 1
_VERSION = re.compile(r"[1-9]\d{0,8}")
_FILES = (CARD_FILE, IR_FILE, IR_WEIGHTS, REFERENCE_FILE, PROOF_FILE, TUNING_FILE, MANIFEST_FILE)
# The files of a model, as they stand: where, inode, bytes, time of change.
Signature = frozenset[tuple[str, int, int, int]]
# Told of each exchange: which model, and whether the new one could be opened.
Reloaded = Callable[[str, bool], None]


@dataclass(frozen=True)
class Target:
    """What is to be served under one name: a run, an IR, a folder of IRs, or a folder of numbered ones of these."""

    name: str
    path: Path


@dataclass(eq=False)
class Version:
    """One model that answers."""

    number: int
    digest: str
    predictor: OpenVinoPredictor
    batcher: Batcher
    requests: int = 0
    retired: bool = False
    sizes: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])

    def resizes(self, height: int, width: int) -> bool:
        """Whether the model's own graph is to resize images of this size: small ones, of the first sizes that come."""
        if height * width > MOST_GRAPH_PIXELS:
            return False
        if len(self.sizes) < MOST_SIZES:
            self.sizes.add((height, width))
        return (height, width) in self.sizes


@dataclass(frozen=True)
class Again:
    """When a version that could not be opened is tried once more, though its files are the same."""

    at: float
    pause_s: float


@dataclass
class Model:
    """All versions of one name; ``numbered`` where they lie in folders of their own."""

    target: Target
    numbered: bool = False
    versions: dict[int, Version] = field(default_factory=dict[int, Version])
    # What each version's files were when it was opened, or could not be; and when they were looked at last.
    opened: dict[int, Signature] = field(default_factory=dict[int, Signature])
    looked: dict[int, Signature] = field(default_factory=dict[int, Signature])
    again: dict[int, Again] = field(default_factory=dict[int, Again])

    @property
    def newest(self) -> Version | None:
        """The version that is asked if none is named."""
        versions = self.versions  # one and the same, whatever is exchanged meanwhile
        return versions[max(versions)] if versions else None


class Registry:
    """The models of one server."""

    def __init__(self, targets: Sequence[Target], progress: Progress, *, counted: Counted, reloaded: Reloaded) -> None:
        """Open every model.

        Raises: InputError for a name that is given twice or is none; RunError, ExportError, GateFailed for a model.
        """
        self._progress, self._counted, self._reloaded = progress, counted, reloaded
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._closing: list[Batcher] = []
        self.models: Mapping[str, Model] = _by_name(targets)
        self._watcher = threading.Thread(target=self._watch, name="ftx-reload", daemon=True)
        try:
            for model in self.models.values():
                found = versions_in(model.target.path)
                model.numbered = model.target.path not in found.values()
                for number, path in found.items():
                    model.opened[number] = signature(path)
                    model.versions[number] = self._open(number, path)
        except BaseException:
            self.close()
            raise
        self._watcher.start()

    @property
    def ready(self) -> bool:
        """Whether every name has a model that answers."""
        return not self._stop.is_set() and all(model.versions for model in self.models.values())

    @property
    def waiting(self) -> int:
        """How many images wait for a model."""
        return sum(len(version.batcher) for model in self.models.values() for version in list(model.versions.values()))

    def find(self, name: str, number: int | None = None) -> Version:
        """A model by its name, and its version if it is not to be the newest.

        Raises: Refused.
        """
        model = self.models.get(name)
        if model is None:
            raise Refused(404, f"there is no model '{name[:100]}': {instead(name, self.models)}")
        found = model.newest if number is None else model.versions.get(number)
        if found is None:
            known = ", ".join(map(str, sorted(model.versions)))
            raise Refused(404, f"there is no version {number} of the model '{name}': there is {known}")
        return found

    @contextmanager
    def lease(self, name: str, number: int | None = None) -> Generator[Version, None, None]:
        """A model that stays until the block ends, whatever takes its place.

        Raises: Refused.
        """
        with self._lock:
            version = self.find(name, number)
            version.requests += 1
        try:
            yield version
        finally:
            with self._lock:
                version.requests -= 1
                unused = version.retired and not version.requests
            if unused:
                self._end(version)

    def close(self) -> None:
        """Look for no more updates, answer what waits, and wait until it is answered."""
        self._stop.set()
        if self._watcher.is_alive():
            self._watcher.join()
        for model in self.models.values():
            for version in model.versions.values():
                self._end(version)
        for batcher in self._closing:
            batcher.join()

    def _end(self, version: Version) -> None:
        version.batcher.close()
        with self._lock:
            self._closing = [*(one for one in self._closing if not one.ended), version.batcher]

    def look(self) -> None:
        """Open what has changed since it was opened, or is due again, and has not changed since the last look."""
        for model in self.models.values():
            try:
                found = versions_in(model.target.path)
            except (FtxError, OSError):  # nothing is there now: what was goes on
                continue
            if model.numbered and model.target.path in found.values():  # or nothing with a number
                continue
            model.numbered = model.target.path not in found.values()
            for number, path in found.items():
                now = signature(path)
                steady, model.looked[number] = model.looked.get(number) == now, now
                again = model.again.get(number)
                due = again is not None and time.monotonic() >= again.at
                if steady and (due or model.opened.get(number) != now):
                    self._reload(model, number, path, now)
            for number in set(model.versions) - set(found):
                if len(model.versions) > 1:
                    self._put(model, number, None)
                    model.opened.pop(number, None)
                    model.again.pop(number, None)
                    self._progress.note(f"{model.target.name}: version {number} is gone")

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                self.look()
            except Exception as error:  # the next look may do better, and requests are answered meanwhile
                self._progress.note(f"looking for updates failed: {type(error).__name__}: {error}")

    def _reload(self, model: Model, number: int, path: Path, now: Signature) -> None:
        again = model.again.pop(number, None) if model.opened.get(number) == now else None
        model.opened[number] = now
        name, before = model.target.name, model.versions.get(number)
        try:
            opened = self._open(number, path)
        except Exception as error:
            passes = _may_pass(error)
            pause_s = min(2 * again.pause_s, MOST_AGAIN_S) if again else AGAIN_S
            if passes:
                model.again[number] = Again(time.monotonic() + pause_s, pause_s)
            else:
                model.again.pop(number, None)
            if again is None or not passes:  # told once
                why = said(error) if isinstance(error, FtxError) else f"{type(error).__name__}: {error}"
                self._reloaded(name, False)
                then = "; it is tried again" if passes else ""
                self._progress.note(f"{name}: version {number} on disk is not taken, {why}{then}")
            return
        model.again.pop(number, None)
        self._put(model, number, opened)
        self._reloaded(name, True)
        self._progress.note(
            f"{name}: version {number} is now {opened.predictor.folder}, {opened.digest[:12]}"
            + (f" instead of {before.digest[:12]}" if before else "")
        )

    def _put(self, model: Model, number: int, version: Version | None) -> None:
        """Let a version take the place of the one that has its number; with None, of nothing."""
        with self._lock:
            versions = dict(model.versions)
            before = versions.pop(number, None)
            if version is not None:
                versions[number] = version
            model.versions = versions  # readers without the lock see the one or the other
            unused = False
            if before is not None:
                before.retired, unused = True, not before.requests
        if before is not None and unused:
            self._end(before)

    def _open(self, number: int, path: Path) -> Version:
        predictor = load(path, goal="throughput", progress=self._progress)
        if not isinstance(predictor, OpenVinoPredictor):
            raise ExportError(
                "only OpenVINO models are served", where=path, found=predictor.name, fix="ftx export, and name its IR"
            )
        return Version(number, ir_digest(predictor.folder), predictor, Batcher(predictor, self._counted))


def _may_pass(error: BaseException | None) -> bool:
    """Whether the same files may be opened later: no memory, no space, a disk that does not answer, no permission yet.

    What is gone or no file shows when it changes.
    """
    while error is not None:
        if isinstance(error, EnvironmentFault) or is_out_of_memory(error):
            return True
        if isinstance(error, OSError) and not isinstance(error, FtxError | FileNotFoundError):
            return True
        error = error.__cause__
    return False


def versions_in(path: Path) -> Mapping[int, Path]:
    """The folder itself as the only version, or its numbered subfolders as Triton and OVMS know them.

    Raises: InputError for a folder that does not exist.
    """
    if not path.is_dir():
        raise InputError("there is no such run or model", where=path, fix="name a run, or a folder of ftx export")
    numbered = {int(child.name): child for child in path.iterdir() if _VERSION.fullmatch(child.name)}
    held = {number: child for number, child in sorted(numbered.items()) if signature(child)}
    return held or {ONLY_VERSION: path}


def signature(path: Path) -> Signature:
    """What the files that a model is opened from are now; the inode tells folders apart that swap their names."""
    folders = [path, path / PARITY_FILE.parent, *path.glob("*/"), *path.glob("openvino/*/")]
    found: set[tuple[str, int, int, int]] = set()
    for folder in folders:
        for name in (*_FILES, PARITY_FILE.name):
            try:
                stat = (folder / name).stat()
            except OSError:
                continue
            found.add((str(folder / name), stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return frozenset(found)


def _by_name(targets: Sequence[Target]) -> Mapping[str, Model]:
    models: dict[str, Model] = {}
    for target in targets:
        if not target.name.strip() or "/" in target.name or len(target.name) > 200 or not target.name.isprintable():
            raise InputError(
                "this is no name for a model", found=repr(target.name[:80]), fix="letters that print, without a slash"
            )
        if target.name in models:
            raise InputError(
                f"two models are called '{target.name}'",
                found=f"{models[target.name].target.path}, {target.path}",
                fix="tell them apart: NAME=PATH, or --name for each",
            )
        models[target.name] = Model(target)
    return models
