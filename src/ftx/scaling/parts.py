"""A job's parts: each is a few hundred images, or a shard, that one worker predicts in one go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftx.core.addresses import Address, Location, typed
from ftx.core.errors import ImageError
from ftx.core.progress import SILENT
from ftx.data.image_store import EncodedImage, Item
from ftx.data.shards.fetched import state_of
from ftx.data.shards.paths import are_shards, images_root
from ftx.data.shards.shards_json import read_shards_json
from ftx.data.sources.shards import shard_names
from ftx.evaluating.predict import Prediction, failed_prediction, in_shards, look_up, matched, no_images, predictions_of
from ftx.runtimes import Predictor

# Files in a part. If a worker is lost, at most this many, some seconds' work, are predicted again.
FILES = 256


@dataclass(frozen=True)
class JobPart:
    """An ``archive`` of images, or ``files``: each is a path, or the prediction of a path that cannot be read.

    ``images`` counts them, and is None if only reading the archive would show how many. ``state`` changes if a
    file is rewritten.
    """

    files: tuple[str | Prediction, ...] = ()
    archive: Location | None = None
    images: int | None = None
    state: str = ""

    def predictions(self, predictor: Predictor, *, scores: bool) -> list[Prediction]:
        """Run the model on the images, in their order."""
        return list(predictions_of(self.items(), predictor, scores, SILENT))

    def failed(self, error: str) -> list[Prediction]:
        """The same error for each of the images, in their order."""
        failure = ImageError(error)
        return [
            failed_prediction(item.name, item.image if isinstance(item.image, ImageError) else failure)
            for item in self.items()
        ]

    def items(self) -> list[Item]:
        """The images, and an error for each path that cannot be read."""
        if self.archive is not None:
            return in_shards(self.archive)
        return [
            Item(one.path, ImageError(str(one.error)))
            if isinstance(one, Prediction)
            else Item.of(EncodedImage.of(Path(one)))
            for one in self.files
        ]

    @property
    def is_relative(self) -> bool:
        """Whether one of the paths is relative to the current folder."""
        paths = [Path(one) for one in (*self.files, self.archive) if isinstance(one, str | Path)]
        return any(not one.is_absolute() for one in paths)

    def to_json(self) -> str:
        """The part as text, for a worker on another machine. An address that the user typed is marked as one."""
        files = [one if isinstance(one, str) else one.model_dump(exclude_defaults=True) for one in self.files]
        archive = self.archive and str(self.archive)
        return json.dumps(
            {"files": files, "archive": {"address": archive} if isinstance(self.archive, Address) else archive}
        )

    @classmethod
    def from_json(cls, text: str) -> JobPart:
        """The part that ``to_json`` wrote, without the number of its images."""
        given: dict[str, Any] = json.loads(text)
        archive = given["archive"]
        return cls(
            tuple(one if isinstance(one, str) else Prediction(**one) for one in given["files"]),
            Address(archive["address"]) if isinstance(archive, dict) else archive and Path(archive),
        )


def parts_of(given: Sequence[Path]) -> list[JobPart]:
    """Split the named images into parts, in their order: each shard is a part, files form parts of ``FILES``.

    Raises: InputError if there are no images at all; DataError if braces or ``shards.json`` are invalid;
    EnvironmentFault if another machine does not respond.
    """
    parts: list[JobPart] = []
    plain: list[Path] = []
    for path in (place for named in given for place in _places(named)):
        if isinstance(path, Path) and not are_shards(path):
            plain.append(path)
            continue
        parts += [*_of_files(plain), *_of_shards(path)]
        plain = []
    parts += _of_files(plain)
    files = [file for part in parts for file in part.files]
    if all(part.archive is None for part in parts) and not any(isinstance(file, str) for file in files):
        raise no_images(given, [item for part in parts for item in part.items()])
    return parts


def _places(named: Path) -> Sequence[Location]:
    """What a path, a pattern or an address stands for."""
    place = typed(named)
    return [place] if isinstance(place, Address) else matched(place) or [place]


def _of_files(given: Sequence[Path]) -> list[JobPart]:
    files = [
        failed_prediction(item.name, item.image) if isinstance(item.image, ImageError) else item.name
        for item in look_up(given, by_hand=False)
    ]
    return [_part(files[start : start + FILES]) for start in range(0, len(files), FILES)]


def _part(files: Sequence[str | Prediction]) -> JobPart:
    states = [_state(Path(one)) for one in files if isinstance(one, str)]
    return JobPart(tuple(files), images=len(files), state=hashlib.sha256(repr(states).encode()).hexdigest())


def _of_shards(path: Location) -> list[JobPart]:
    root = images_root(path)
    index = read_shards_json(root)
    images = {} if index is None else {shard.name: shard.images for shard in index.shards}
    parts: list[JobPart] = []
    for name in shard_names(path):
        archive = root / name
        state = state_of(archive) if isinstance(archive, Address) else repr(_state(archive))
        parts.append(JobPart(archive=archive, images=images.get(name), state=state))
    return parts


def _state(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
