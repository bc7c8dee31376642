"""WebDataset's shards: tar archives whose members of one key are one image and what is said of it.

    000012.jpg   the image, its bytes as they are
    000012.json  {"labels": ["cat", "wet"], "split": "train", "group": "farm 7", "sha256": "…"}

Others' shards may have ``label`` in place of ``labels``, or ``000012.cls`` with the label as text, and the split in the
archive's name. What ``ftx data shard`` wrote says in ``shards.json`` beside it how much there is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from math import prod
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, cast

from ftx.core.addresses import Address, Location
from ftx.core.errors import DataError, listed
from ftx.core.progress import SILENT, Progress
from ftx.core.untrusted_input import open_file, parse_json
from ftx.data.dataset import Split
from ftx.data.decode_limits import MAX_FILE_BYTES
from ftx.data.shards.paths import ENDING, SHARDS_FILE, images_root
from ftx.data.shards.shard_store import open_current
from ftx.data.shards.shards_json import Shard, read_shards_json
from ftx.data.shards.tar_index import TarIndex
from ftx.data.sources.cells import labels_in, name_in, split_in
from ftx.data.sources.listing import (
    IMAGE_ENDINGS,
    ListedImage,
    Listing,
    relative_path,
    short,
    split_named,
)
from ftx.data.threads import in_threads
from ftx.tasks.labels import LabelDeclaration

if TYPE_CHECKING:
    import tarfile

MOST_SHARDS = 100_000
# Of what is said of an image; its labels are a few hundred bytes.
_MOST_SAID_BYTES = 1 << 20
# Shards that are read at a time: those of other machines come over the network meanwhile.
_AT_A_TIME = 4
_BRACES = re.compile(r"\{([^{}]*)\}")
_BRACES_IN_BRACES = re.compile(r"\{[^}]*\{")
_LETTERS = re.compile(r"(.)\.\.(.)(?:\.\.-?\d+)?")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?\d+)?")


def shard_names(path: Location) -> list[str]:
    """The archives that a path names, as ``{0000..0099}.tar`` does, or that ``shards.json`` lists where it names none.

    Raises: DataError if there are none, too many, or they lie in several folders.
    """
    if images_root(path) == path:
        if "?" in path.name and isinstance(path, Address):
            found = "a query, as signed addresses have"
            raise DataError("this address names no shards", where=path, found=found, fix="…/x.tar")
        known = read_shards_json(path)
        if known is None or not known.shards:
            raise DataError(
                f"there is no {SHARDS_FILE} with shards" if known is None else "there are no shards",
                where=path / SHARDS_FILE,
                fix="name the archives: DIR/{0000..0099}.tar",
            )
        return [shard.name for shard in known.shards]
    if "{" in str(path.parent):
        raise DataError("shards lie in one folder", where=path, found="several", fix="DIR/{0000..0099}.tar")
    if "{" not in path.name:
        return [path.name]
    from braceexpand import braceexpand

    try:
        number = prod(_choices(braces) for braces in _BRACES.findall(path.name))
        if _BRACES_IN_BRACES.search(path.name) or number > MOST_SHARDS:
            found = f"{number:,}, at most {MOST_SHARDS:,}" if number > MOST_SHARDS else "braces in braces"
            raise DataError("too many shards", where=path, found=found, fix="DIR/{0000..0099}.tar")
        names = [*braceexpand(path.name)]
    except ValueError as error:
        raise DataError("the braces of the shards' names do not hold", where=path, found=str(error)[:200]) from error
    if len(set(names)) < len(names):
        raise DataError("a shard is named twice", where=path, fix="DIR/{0000..0099}.tar")
    return names


def _choices(braces: str) -> int:
    """How many texts a pair of braces stands for. Raises: ValueError for a number beyond all reason."""
    if ends := _RANGE.fullmatch(braces):
        return abs(int(ends[2]) - int(ends[1])) + 1
    letters = _LETTERS.fullmatch(braces)
    return braces.count(",") + 1 if letters is None else abs(ord(letters[2]) - ord(letters[1])) + 1


def images_of(root: Location, shard: str) -> list[str]:
    """The paths of the images in a shard, in its order, whatever is said of them.

    Raises: DataError if it is missing, cut, or holds links or names that lead out; EnvironmentFault if another machine
    does not answer.
    """
    with _shard_faults(root / shard):
        _, index = open_current(root / shard)
    if problems := [*_refused(shard, index)]:
        raise DataError("a shard does not hold", where=root / shard, found=listed(problems))
    return [f"{shard}/{name}" for name in index.members if PurePosixPath(name).suffix.lower() in IMAGE_ENDINGS]


def read_shards(path: Location, progress: Progress = SILENT) -> Listing:
    """The images of all shards that a path names, each shard read to its end and held against ``shards.json``.

    Raises: DataError naming each shard that is missing, cut or altered, and each image without a label, with two, or
    whose name leads out; EnvironmentFault if another machine does not answer, or a package for it is not installed.
    """
    root, names = images_root(path), shard_names(path)
    known = read_shards_json(root)
    stated = {} if known is None else {shard.name: shard for shard in known.shards}
    if known is not None and stated and (strange := [name for name in names if name not in stated]):
        raise DataError(
            f"shards that {SHARDS_FILE} does not know",
            where=root,
            found=listed(strange),
            fix=f"name some that it lists, {known.shards[0].name} to {known.shards[-1].name}, or all: the folder",
        )
    files: list[ListedImage] = []
    problems: list[str] = []
    with progress.track("Reading shards", len(names)) as bar:
        for found in in_threads(lambda name: _read(root, name, stated.get(name)), names, workers=_AT_A_TIME):
            files += found.images
            problems += found.problems
            bar.advance()
    if problems:
        raise DataError(
            f"images of the shards that do not hold: {len(problems)}",
            where=root,
            found=listed(problems),
            fix="write the shards again without them; each image has beside it KEY.json with its labels (a list), or "
            "KEY.cls with one",
        )
    if not files:
        raise DataError("the shards hold no images", where=path, fix="write them: ftx data shard")
    return Listing(root, "shards", tuple(files), LabelDeclaration() if known is None else known.labels.open())


@dataclass(frozen=True)
class _Found:
    """What a shard holds, what is wrong with it, and what its bytes are."""

    images: Sequence[ListedImage]
    problems: Sequence[str]
    sha256: str
    size_bytes: int

    def is_(self, stated: Shard) -> bool:
        """Whether these are the bytes that ``shards.json`` tells of."""
        return (self.sha256, self.size_bytes) == (stated.sha256, stated.bytes)


def _read(root: Location, name: str, stated: Shard | None) -> _Found:
    """One shard, its bytes read once from the beginning to the end."""
    shard = root / name
    found = _read_once(shard)
    if stated is not None and not found.is_(stated) and isinstance(shard, Address):
        found = _read_once(shard, fetch=True)  # it may be another there than the one that was fetched
    if stated is not None and not found.is_(stated):
        raise DataError(
            f"a shard is not the one that {SHARDS_FILE} tells of",
            where=shard,
            found=f"{len(found.images)} images in {found.size_bytes:,} bytes with the SHA-256 {found.sha256[:12]}…, "
            f"of {stated.images} in {stated.bytes:,} with {stated.sha256[:12]}…",
            fix="copy it again",
        )
    return found


def _read_once(shard: Location, *, fetch: bool = False) -> _Found:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    name = shard.name
    with _shard_faults(shard):
        file, index = open_current(shard, fetch=fetch)
        with open_file(file) as stream:
            hashed = _HashedStream(stream)
            images, problems = [], [*_refused(name, index)]
            if not problems:
                members = ({**one, "__url__": name} for one in tar_file_iterator(cast("tarfile.TarFile", hashed)))
                images, problems = _images(name, group_by_keys(members, lcase=False))
            return _Found(images, problems, *hashed.finish())


@contextmanager
def _shard_faults(shard: Location) -> Iterator[None]:
    """Say which shard it is that cannot be read."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError("a shard is missing", where=shard, fix="copy it, or name those that are there") from error
    except OSError as error:
        raise DataError("a shard cannot be read", where=shard, found=error.strerror or str(error)) from error
    except ValueError as error:  # of webdataset: one name twice
        raise DataError("a shard does not hold", where=shard, found=str(error), fix="write it again") from error


def _refused(shard: str, index: TarIndex) -> Iterator[str]:
    """What is wrong with an archive by its headers, before anything of it is read."""
    for name, member in index.members.items():
        try:
            relative_path(name)
        except ValueError as error:
            yield f"{shard}: {error}"
        if member.size_bytes > MAX_FILE_BYTES:
            yield f"{shard}/{short(name)} is too large: {member.size_bytes:,} bytes of at most {MAX_FILE_BYTES:,}"
    yield from (f"{shard}/{short(name)} is a link or a device, no file" for name in index.others)


def _images(shard: str, samples: Iterable[Mapping[str, object]]) -> tuple[list[ListedImage], list[str]]:
    """The images of a shard, and what is wrong with those that have no place among them."""
    split = split_named(shard.removesuffix(ENDING))
    found: dict[str, ListedImage] = {}
    problems: list[str] = []
    for sample in samples:
        key = str(sample["__key__"])
        try:
            image = _image(shard, key, sample, split)
        except ValueError as error:  # JsonError too
            problems.append(f"{shard}/{short(key)}: {error}")
            continue
        if found.setdefault(key, image) is not image:
            problems.append(f"{shard}/{short(key)} stands there twice")
    return list(found.values()), problems


def _image(shard: str, key: str, sample: Mapping[str, object], split: Split | None) -> ListedImage:
    """Raises: ValueError for a sample that is no image with its labels."""
    parts = {ending: value for ending, value in sample.items() if isinstance(value, bytes)}
    endings = [ending for ending in parts if f".{ending.lower()}" in IMAGE_ENDINGS]
    if len(endings) != 1:
        raise ValueError(f"{len(endings) or 'no'} images of this key")
    said = _said(parts)
    content = parts[endings[0]]
    if said.get("sha256") not in (None, hashlib.sha256(content).hexdigest()):
        raise ValueError("the image is not the one of its sha256")
    own = split_in(said.get("split"))
    group = name_in(said.get("group"), "group") or None
    return ListedImage(f"{shard}/{key}.{endings[0]}", _labels(said, parts), own or split, group)


def _said(parts: Mapping[str, bytes]) -> Mapping[str, object]:
    """What stands in an image's JSON; nothing where it has none."""
    content = parts.get("json", b"{}")
    said = parse_json(content) if len(content) <= _MOST_SAID_BYTES else None
    if not isinstance(said, dict):
        raise ValueError(f"its JSON is no object of at most {_MOST_SAID_BYTES:,} bytes")
    return cast("dict[str, object]", said)


def _labels(said: Mapping[str, object], parts: Mapping[str, bytes]) -> tuple[str, ...]:
    if "labels" in said:
        return labels_in(said["labels"])
    if said.get("label") is not None:
        return labels_in([said["label"]])
    if "cls" in parts:
        try:
            return labels_in([parts["cls"].decode()])
        except UnicodeDecodeError as error:
            raise ValueError("its class is no text") from error
    raise ValueError("it has no label")


class _HashedStream:
    """A stream that is read once, and the hash of all its bytes."""

    def __init__(self, stream: BufferedReader) -> None:
        self._stream, self._hash, self._bytes = stream, hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size)
        self._hash.update(content)
        self._bytes += len(content)
        return content

    def finish(self) -> tuple[str, int]:
        """The SHA-256 of the whole, and its size, once what nobody asked for is read too."""
        while self.read(1 << 20):
            pass
        return self._hash.hexdigest(), self._bytes
