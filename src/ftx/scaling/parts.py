"""The work in parts: each a few hundred images, or a shard, that one worker answers in one go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ftx.core.addresses import Address, Place, typed
from ftx.core.progress import SILENT
from ftx.data.image_store import EncodedImage
from ftx.data.shards.fetched import state_of
from ftx.data.shards.paths import are_shards, images_root
from ftx.data.shards.shards_json import read_shards_json
from ftx.data.sources.shards import shard_names
from ftx.evaluating.predict import Prediction, answers_of, in_shards, look_up, matched, no_images, path_text
from ftx.runtimes import Predictor

# Files in a part: what a worker that is lost has done for nothing at most, some seconds' work.
FILES = 256


@dataclass(frozen=True)
class Part:
    """What is answered together: an ``archive`` of images, or ``files``, each a path or an answer that is known before.

    ``images`` is how many there are, None where only the archive could tell; ``state`` is what the files are at this
    moment, as those of the same names may be others another day.
    """

    files: tuple[str | Prediction, ...] = ()
    archive: Place | None = None
    images: int | None = None
    state: str = ""

    def answered(self, predictor: Predictor, *, scores: bool) -> list[Prediction]:
        """The answers for its images, in their order."""
        if self.archive is not None:
            found = in_shards(self.archive)
        else:
            found = [one if isinstance(one, Prediction) else EncodedImage.of(Path(one)) for one in self.files]
        return list(answers_of(found, predictor, scores, SILENT))

    def refused(self, why: str) -> list[Prediction]:
        """For each of its images that there is no answer, and why."""
        found = self.files if self.archive is None else in_shards(self.archive)
        names = [one if isinstance(one, str | Prediction) else one.name for one in found]
        return [Prediction(path=path_text(one), error=why) if isinstance(one, str) else one for one in names]

    @property
    def counts_from_here(self) -> bool:
        """Whether a path of it counts from the current folder."""
        paths = [Path(one) for one in (*self.files, self.archive) if isinstance(one, str | Path)]
        return any(not one.is_absolute() for one in paths)

    def to_json(self) -> str:
        """As text, for a worker elsewhere. What was typed as an address is said to be one."""
        files = [one if isinstance(one, str) else one.model_dump(exclude_defaults=True) for one in self.files]
        there = (
            {"address": str(self.archive)} if isinstance(self.archive, Address) else self.archive and str(self.archive)
        )
        return json.dumps({"files": files, "archive": there})

    @classmethod
    def from_json(cls, text: str) -> Part:
        """What ``to_json`` wrote, but for how many images there are."""
        given = cast("dict[str, object]", json.loads(text))
        files = cast("list[str | dict[str, object]]", given["files"])
        there = cast("str | dict[str, str] | None", given["archive"])
        archive = Address(there["address"]) if isinstance(there, dict) else there and Path(there)
        return cls(
            tuple(one if isinstance(one, str) else Prediction.model_validate(one) for one in files), archive or None
        )


def parts_of(given: Sequence[Path]) -> list[Part]:
    """What was named, in parts and in its order: shards one by one, files some together.

    Raises: InputError if there are no images at all; DataError if braces or ``shards.json`` do not hold;
    EnvironmentFault if another machine does not answer.
    """
    parts: list[Part] = []
    plain: list[Path] = []
    for path in (one for named in given for one in _places(named)):
        if isinstance(path, Path) and not are_shards(path):
            plain.append(path)
            continue
        parts += [*_of_files(plain), *_of_shards(path)]
        plain = []
    parts += _of_files(plain)
    files = [file for part in parts for file in part.files]
    if all(part.archive is None for part in parts) and not any(isinstance(file, str) for file in files):
        raise no_images(given, [file for file in files if isinstance(file, Prediction)])
    return parts


def _places(named: Path) -> Sequence[Place]:
    """What a path, a pattern or an address stands for."""
    place = typed(named)
    return [place] if isinstance(place, Address) else matched(place) or [place]


def _of_files(given: Sequence[Path]) -> list[Part]:
    files = [item if isinstance(item, Prediction) else item.name for item in look_up(given, by_hand=False)]
    return [_part(files[start : start + FILES]) for start in range(0, len(files), FILES)]


def _part(files: Sequence[str | Prediction]) -> Part:
    states = [_state(Path(one)) for one in files if isinstance(one, str)]
    return Part(tuple(files), images=len(files), state=hashlib.sha256(repr(states).encode()).hexdigest())


def _of_shards(path: Place) -> list[Part]:
    root = images_root(path)
    known = read_shards_json(root)
    stated = {} if known is None else {shard.name: shard for shard in known.shards}
    parts: list[Part] = []
    for name in shard_names(path):
        archive, shard = root / name, stated.get(name)
        state = state_of(archive) if isinstance(archive, Address) else repr(_state(archive))
        parts.append(Part(archive=archive, images=None if shard is None else shard.images, state=state))
    return parts


def _state(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
