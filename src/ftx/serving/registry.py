"""The models that are served, by name and version, and how a new one replaces an old one.

Each folder is inspected every half second. A model whose files changed, and no longer change, is opened next to the
current one. Requests that arrive from then on use the new model; the old one ends with its last request.
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
from ftx.runs.artifacts import EXPORT_IR, FLOAT_IR_FILE, FLOAT_IR_WEIGHTS, IR_FILE, IR_WEIGHTS
from ftx.runs.card_json import CARD_FILE, CERTIFICATE_FILE, PROOF_FILE, REFERENCE_FILE, TUNING_FILE
from ftx.runs.parity_json import PARITY_FILE
from ftx.runs.proof_json import ir_digest
from ftx.runs.run_json import MANIFEST_FILE
from ftx.runtimes import LoadOptions, load
from ftx.runtimes.checked_network import CheckedNetwork
from ftx.runtimes.openvino import MOST_GRAPH_PIXELS, OpenVinoPredictor
from ftx.serving.batching import Batcher, CountBatch
from ftx.serving.http_error import HttpError, sentence_of, suggestion

LOOK_S = 0.5
# Until the next attempt after a transient error; twice as long after each further one.
RETRY_S, MOST_RETRY_S = 1.0, 60.0
# OpenVINO compiles and keeps kernels for each image size (2026.4.1: 1.6 MB per size, DINOv2-small).
MOST_SIZES = 32
# For a folder that has no numbered subfolders.
ONLY_VERSION = 1
_VERSION = re.compile(r"[1-9]\d{0,8}")
_FILES = (
    *(CARD_FILE, IR_FILE, IR_WEIGHTS, FLOAT_IR_FILE, FLOAT_IR_WEIGHTS, REFERENCE_FILE),
    *(PROOF_FILE, TUNING_FILE, CERTIFICATE_FILE, MANIFEST_FILE),
)
# The state of a model's files: path, inode, size in bytes, time of change.
Signature = frozenset[tuple[str, int, int, int]]
# Called for each update: which model, and whether the new one could be opened.
NoteReload = Callable[[str, bool], None]


@dataclass(frozen=True)
class ModelSource:
    """What is served under one name: a run, an IR, a folder of IRs, or a folder with numbered ones of these."""

    name: str
    path: Path


@dataclass(eq=False)
class Version:
    """One open model."""

    number: int
    digest: str
    predictor: OpenVinoPredictor
    batcher: Batcher
    requests: int = 0
    retired: bool = False
    sizes: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])

    def resizes(self, height: int, width: int) -> bool:
        """Whether the model's own graph resizes images of this size: small ones, of the first sizes that arrive."""
        if height * width > MOST_GRAPH_PIXELS:
            return False
        if len(self.sizes) < MOST_SIZES:
            self.sizes.add((height, width))
        return (height, width) in self.sizes


@dataclass
class VersionFolder:
    """The state of a version's files when it was opened, or failed to, and at the last look.

    After a transient error it is opened again at ``retry_at``, ``pause_s`` after the error.
    """

    opened: Signature | None = None
    looked: Signature | None = None
    retry_at: float = 0.0
    pause_s: float = 0.0


@dataclass
class ModelVersions:
    """All versions of one name; ``numbered`` if they are in folders of their own."""

    source: ModelSource
    numbered: bool = False
    versions: dict[int, Version] = field(default_factory=dict[int, Version])
    folders: dict[int, VersionFolder] = field(default_factory=dict[int, VersionFolder])

    @property
    def newest(self) -> Version | None:
        """The version for requests that name none."""
        versions = self.versions  # one object, which another thread may replace meanwhile
        return versions[max(versions)] if versions else None


class Registry:
    """The models of one server."""

    def __init__(
        self,
        sources: Sequence[ModelSource],
        progress: Progress,
        *,
        counted: CountBatch,
        reloaded: NoteReload,
        options: LoadOptions,
    ) -> None:
        """Open every model, also each new one, with the ``options`` of ``load``.

        Raises: InputError for a duplicate or invalid name; RunError, ExportError, GateFailed for a model.
        """
        self._progress, self._counted, self._reloaded, self._options = progress, counted, reloaded, options
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._closing: list[Batcher] = []
        self.models: Mapping[str, ModelVersions] = _by_name(sources)
        self._watcher = threading.Thread(target=self._watch, name="ftx-reload", daemon=True)
        try:
            for model in self.models.values():
                found = versions_in(model.source.path)
                model.numbered = model.source.path not in found.values()
                for number, path in found.items():
                    model.folders[number] = VersionFolder(signature(path))
                    model.versions[number] = self._open(number, path)
        except BaseException:
            self.close()
            raise
        self._watcher.start()

    @property
    def ready(self) -> bool:
        """Whether every name has an open model."""
        return not self._stop.is_set() and all(model.versions for model in self.models.values())

    @property
    def waiting(self) -> int:
        """How many images wait for a model."""
        return sum(len(version.batcher) for model in self.models.values() for version in list(model.versions.values()))

    @property
    def checked(self) -> list[CheckedNetwork]:
        """What counts the images of the open int8-checked models."""
        versions = (version for model in self.models.values() for version in list(model.versions.values()))
        return [one for version in versions if (one := version.predictor.checked) is not None]

    def find(self, name: str, number: int | None = None) -> Version:
        """A model by its name, in its newest version unless one is given.

        Raises: HttpError.
        """
        model = self.models.get(name)
        if model is None:
            raise HttpError(404, f"there is no model '{name[:100]}': {suggestion(name, self.models)}")
        found = model.newest if number is None else model.versions.get(number)
        if found is None:
            known = ", ".join(map(str, sorted(model.versions)))
            raise HttpError(404, f"there is no version {number} of the model '{name}': choose from {known}")
        return found

    @contextmanager
    def lease(self, name: str, number: int | None = None) -> Generator[Version, None, None]:
        """A model that stays open until the block ends, even if a new one replaces it.

        Raises: HttpError.
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
        """Stop looking for updates, and wait for the images that wait."""
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
        """Open each model whose files have changed, or that is due again, if they are as at the last look."""
        for model in self.models.values():
            try:
                found = versions_in(model.source.path)
            except (FtxError, OSError):  # the folder is missing now: keep the open models
                continue
            if model.numbered and model.source.path in found.values():  # or has no numbered folders
                continue
            model.numbered = model.source.path not in found.values()
            for number, path in found.items():
                folder = model.folders.setdefault(number, VersionFolder())
                steady, folder.looked = folder.looked == (now := signature(path)), now
                due = folder.pause_s > 0 and time.monotonic() >= folder.retry_at
                if steady and (due or folder.opened != now):
                    self._reload(model, number, path, folder)
            for number in set(model.versions) - set(found):
                if len(model.versions) > 1:
                    self._replace(model, number, None)
                    del model.folders[number]
                    self._progress.note(f"{model.source.name}: version {number} was removed")

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                self.look()
            except Exception as error:  # the next look may succeed, and the open models stay
                self._progress.note(f"looking for updates failed: {type(error).__name__}: {error}")

    def _reload(self, model: ModelVersions, number: int, path: Path, folder: VersionFolder) -> None:
        if folder.opened != folder.looked:  # other files
            folder.opened, folder.pause_s = folder.looked, 0.0
        name, before, retried = model.source.name, model.versions.get(number), folder.pause_s > 0
        try:
            opened = self._open(number, path)
        except Exception as error:
            transient = _is_transient(error)
            folder.pause_s = min(2 * folder.pause_s or RETRY_S, MOST_RETRY_S) if transient else 0.0
            folder.retry_at = time.monotonic() + folder.pause_s
            if not retried or not transient:  # noted once
                why = sentence_of(error) if isinstance(error, FtxError) else f"{type(error).__name__}: {error}"
                self._reloaded(name, False)
                then = "; it is tried again" if transient else ""
                self._progress.note(f"{name}: version {number} on disk cannot be served, {why}{then}")
            return
        folder.pause_s = 0.0
        self._replace(model, number, opened)
        self._reloaded(name, True)
        self._progress.note(
            f"{name}: version {number} is now {opened.predictor.folder}, {opened.digest[:12]}"
            + (f" instead of {before.digest[:12]}" if before else "")
        )

    def _replace(self, model: ModelVersions, number: int, version: Version | None) -> None:
        """Put a version in the place of the one with its number, or with None remove that."""
        with self._lock:
            versions = dict(model.versions)
            before = versions.pop(number, None)
            if version is not None:
                versions[number] = version
            model.versions = versions  # readers without the lock see the old or the new dict
            unused = False
            if before is not None:
                before.retired, unused = True, not before.requests
        if before is not None and unused:
            self._end(before)

    def _open(self, number: int, path: Path) -> Version:
        predictor = load(path, goal="throughput", progress=self._progress, **self._options)
        if not isinstance(predictor, OpenVinoPredictor):
            what, fix = "ftx serve needs an OpenVINO model", f"export it, and name its IR: {EXPORT_IR}"
            raise ExportError(what, where=path, found=predictor.name, fix=fix)
        return Version(number, ir_digest(predictor.folder), predictor, Batcher(predictor, self._counted))


def _is_transient(error: BaseException | None) -> bool:
    """Whether the same files may be opened later: no memory, no space, a disk error, or no permission yet.

    A missing or invalid file is not transient: it changes before it can be opened.
    """
    while error is not None:
        if isinstance(error, EnvironmentFault) or is_out_of_memory(error):
            return True
        if isinstance(error, OSError) and not isinstance(error, FtxError | FileNotFoundError):
            return True
        error = error.__cause__
    return False


def versions_in(path: Path) -> Mapping[int, Path]:
    """The folder itself as the only version, or its numbered subfolders as in Triton and OVMS.

    Raises: InputError for a folder that does not exist.
    """
    if not path.is_dir():
        raise InputError(
            "the path must be a run or an exported model",
            where=path,
            fix="name a run, or a folder that ftx export wrote",
        )
    numbered = {int(child.name): child for child in path.iterdir() if _VERSION.fullmatch(child.name)}
    return {number: child for number, child in sorted(numbered.items()) if signature(child)} or {ONLY_VERSION: path}


def signature(path: Path) -> Signature:
    """The state of the files of a model now. The inode distinguishes folders whose names were swapped."""
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


def _by_name(sources: Sequence[ModelSource]) -> Mapping[str, ModelVersions]:
    models: dict[str, ModelVersions] = {}
    for source in sources:
        name = source.name
        if not name.strip() or "/" in name or len(name) > 200 or not name.isprintable():
            fix = "name it with --name"
            raise InputError(
                "the name of a model must be 1 to 200 printable characters, without a slash",
                found=repr(name[:80]),
                fix=fix,
            )
        if name in models:
            found, fix = f"{models[name].source.path}, {source.path}", "name each model: NAME=PATH, or --name for each"
            raise InputError(f"two models have the name '{name}'", found=found, fix=fix)
        models[name] = ModelVersions(source)
    return models
