"""WebDataset's shards: tar archives whose members of one key are one image and its metadata.

    000012.jpg   the image, its bytes as they are
    000012.json  {"labels": ["cat", "wet"], "split": "train", "group": "farm 7", "sha256": "…"}

Shards of other programs may have ``label`` in place of ``labels``, or ``000012.cls`` with the label as text, and the
split in the archive's name. ``ftx data shard`` writes ``shards.json`` next to them, with the contents of each.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
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
from ftx.data.shards.shard_store import TarIndex, open_current
from ftx.data.shards.shards_json import WRITE_SHARDS_AGAIN, Shard, read_shards_json
from ftx.data.sources.listing import (
    IMAGE_ENDINGS,
    ImageCollector,
    ListedImage,
    Listing,
    labels_in,
    name_in,
    relative_path,
    short,
    split_in,
    split_named,
)
from ftx.data.threads import in_threads
from ftx.tasks.labels import LabelDeclaration

if TYPE_CHECKING:
    import tarfile

MOST_SHARDS = 100_000
_NAME_SHARDS = "give the names of the shards, as in DIR/{0000..0099}.tar"
# Of the metadata of an image; its labels are a few hundred bytes.
_MOST_JSON_BYTES = 1 << 20
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
            found = "a query, as in signed URLs"
            raise DataError("the URL must be the name of a shard", where=path, found=found, fix=_NAME_SHARDS)
        known = read_shards_json(path)
        if known is None or not known.shards:
            raise DataError(
                f"the folder of shards must contain {SHARDS_FILE}"
                if known is None
                else f"{SHARDS_FILE} must list shards",
                where=path / SHARDS_FILE,
                fix=_NAME_SHARDS,
            )
        return [shard.name for shard in known.shards]
    if "{" in str(path.parent):
        raise DataError("all shards must be in one folder", where=path, found="several folders", fix=_NAME_SHARDS)
    if "{" not in path.name:
        return [path.name]
    from braceexpand import braceexpand

    try:
        number = prod(_choices(braces) for braces in _BRACES.findall(path.name))
        if _BRACES_IN_BRACES.search(path.name) or number > MOST_SHARDS:
            found = f"{number:,} shards" if number > MOST_SHARDS else "braces in braces"
            raise DataError(
                f"the braces must name at most {MOST_SHARDS:,} shards", where=path, found=found, fix=_NAME_SHARDS
            )
        names = [*braceexpand(path.name)]
    except ValueError as error:
        raise DataError(
            "the braces of the shards' names are invalid", where=path, found=str(error)[:200], fix=_NAME_SHARDS
        ) from error
    if len(set(names)) < len(names):
        raise DataError("each shard must be named only once", where=path, fix=_NAME_SHARDS)
    return names


def _choices(braces: str) -> int:
    """How many texts a pair of braces stands for. Raises: ValueError for a number beyond all reason."""
    if ends := _RANGE.fullmatch(braces):
        return abs(int(ends[2]) - int(ends[1])) + 1
    letters = _LETTERS.fullmatch(braces)
    return braces.count(",") + 1 if letters is None else abs(ord(letters[2]) - ord(letters[1])) + 1


def images_of(root: Location, shard: str) -> list[str]:
    """The paths of the images in a shard, in its order, whatever their labels are.

    Raises: DataError if it is missing, truncated, or contains links or names that lead out; EnvironmentFault if another
    machine cannot be reached.
    """
    with _shard_faults(root / shard):
        _, index = open_current(root / shard)
    if problems := [*_header_problems(shard, index)]:
        raise DataError("the shard is invalid", where=root / shard, found=listed(problems), fix=WRITE_SHARDS_AGAIN)
    return [f"{shard}/{name}" for name in index.members if PurePosixPath(name).suffix.lower() in IMAGE_ENDINGS]


def read_shards(path: Location, progress: Progress = SILENT) -> Listing:
    """The images of all shards that a path names, each shard read to its end and compared with ``shards.json``.

    Raises: DataError naming each shard that is missing, truncated or altered, and each image without a label, with two,
    or whose name leads out; EnvironmentFault if another machine cannot be reached, or a package for it is missing.
    """
    root, names = images_root(path), shard_names(path)
    index = read_shards_json(root)
    stated = {} if index is None else {shard.name: shard for shard in index.shards}
    if stated and (unknown := [name for name in names if name not in stated]):
        first, *_, last = [*stated, *stated]
        raise DataError(
            f"the shards must be in {SHARDS_FILE}",
            where=root,
            found=listed(unknown),
            fix=f"give shards that it lists, from {first} to {last}, or the folder for all",
        )
    images: list[ListedImage] = []
    problems = ImageCollector()
    with progress.track("Reading shards", len(names)) as bar:
        for shard in in_threads(lambda name: _read(root, name, stated.get(name)), names, workers=_AT_A_TIME):
            images += shard.found.images.values()
            problems.problems += shard.found.problems
            bar.advance()
    fix = (
        "write the shards again with KEY.json (a list of labels) or KEY.cls (one label) for every image: "
        "ftx data shard DATA OUT"
    )
    problems.check("the shards have invalid images", root, fix)
    if not images:
        raise DataError("the shards must contain images", where=path, fix=WRITE_SHARDS_AGAIN)
    return Listing(root, "shards", tuple(images), LabelDeclaration() if index is None else index.labels.open())


@dataclass(frozen=True)
class _ReadShard:
    """The images of a shard, by key, and what identifies its bytes."""

    found: ImageCollector
    sha256: str
    size_bytes: int

    def matches(self, stated: Shard) -> bool:
        """Whether ``shards.json`` lists these bytes."""
        return (self.sha256, self.size_bytes) == (stated.sha256, stated.bytes)


def _read(root: Location, name: str, stated: Shard | None) -> _ReadShard:
    """One shard, its bytes read once from the beginning to the end."""
    shard = root / name
    read = _read_once(shard)
    if stated is None or read.matches(stated):
        return read
    if isinstance(shard, Address):
        read = _read_once(shard, fetch=True)  # the file at the address may have changed since it was fetched
    if not read.matches(stated):
        raise DataError(
            f"the shard must be the one in {SHARDS_FILE}",
            where=shard,
            found=f"{len(read.found.images)} images in {read.size_bytes:,} bytes with the SHA-256 {read.sha256[:12]}…, "
            f"of {stated.images} in {stated.bytes:,} with {stated.sha256[:12]}…",
            fix="copy the shard again",
        )
    return read


def _read_once(shard: Location, *, fetch: bool = False) -> _ReadShard:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    found = ImageCollector()
    with _shard_faults(shard):
        file, index = open_current(shard, fetch=fetch)
        with open_file(file) as stream:
            hashed = _HashedStream(stream)
            found.problems += _header_problems(shard.name, index)
            if not found.problems:
                members = ({**one, "__url__": shard.name} for one in tar_file_iterator(cast("tarfile.TarFile", hashed)))
                _add_images(found, shard.name, group_by_keys(members, lcase=False))
            return _ReadShard(found, *hashed.finish())


@contextmanager
def _shard_faults(shard: Location) -> Iterator[None]:
    """Name the shard in the error if it cannot be read."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(
            "the shard does not exist", where=shard, fix="copy the shard here, or give only shards that exist"
        ) from error
    except OSError as error:
        raise DataError(
            "the shard cannot be read",
            where=shard,
            found=error.strerror or str(error),
            fix="check the read permission of the file, or copy it again",
        ) from error
    except ValueError as error:  # of webdataset: one name twice
        raise DataError("the shard is invalid", where=shard, found=str(error), fix=WRITE_SHARDS_AGAIN) from error


def _header_problems(shard: str, index: TarIndex) -> Iterator[str]:
    """The problems in the headers of an archive, before any image of it is read."""
    for name, member in index.members.items():
        try:
            relative_path(name)
        except ValueError as error:
            yield f"{shard}: {error}"
        if member.size_bytes > MAX_FILE_BYTES:
            yield f"{shard}/{short(name)} is too large: {member.size_bytes:,} bytes of at most {MAX_FILE_BYTES:,}"
    yield from (f"{shard}/{short(name)} is a link or a device, not a file" for name in index.others)


def _add_images(found: ImageCollector, shard: str, samples: Iterable[Mapping[str, object]]) -> None:
    split = split_named(shard.removesuffix(ENDING))
    for sample in samples:
        key = str(sample["__key__"])
        with found.entry(f"{shard}/{short(key)}"):  # JsonError is a ValueError too
            image = _image(shard, key, sample, split)
            if found.images.setdefault(key, image) is not image:
                raise ValueError("it is listed twice")


def _image(shard: str, key: str, sample: Mapping[str, object], split: Split | None) -> ListedImage:
    """Raises: ValueError for a sample that is no image with its labels."""
    parts = {ending: value for ending, value in sample.items() if isinstance(value, bytes)}
    endings = [ending for ending in parts if f".{ending.lower()}" in IMAGE_ENDINGS]
    if len(endings) != 1:
        raise ValueError(f"{len(endings) or 'no'} images with this key")
    content = parts.get("json", b"{}")
    metadata = parse_json(content) if len(content) <= _MOST_JSON_BYTES else None
    if not isinstance(metadata, dict):
        raise ValueError(f"its JSON must be an object of at most {_MOST_JSON_BYTES:,} bytes")
    metadata = cast("dict[str, object]", metadata)
    if metadata.get("sha256") not in (None, hashlib.sha256(parts[endings[0]]).hexdigest()):
        raise ValueError("the image does not match its sha256")
    own = split_in(metadata.get("split"))
    group = name_in(metadata.get("group"), "group") or None
    return ListedImage(f"{shard}/{key}.{endings[0]}", _labels(metadata, parts), own or split, group)


def _labels(metadata: Mapping[str, object], parts: Mapping[str, bytes]) -> tuple[str, ...]:
    if "labels" in metadata:
        return labels_in(metadata["labels"])
    if metadata.get("label") is not None:
        return labels_in([metadata["label"]])
    if "cls" not in parts:
        raise ValueError("it must have a label")
    try:
        return labels_in([parts["cls"].decode()])
    except UnicodeDecodeError as error:
        raise ValueError("its class must be UTF-8 text") from error


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
        """The SHA-256 of the whole file, and its size, once the rest is read too."""
        while self.read(1 << 20):
            pass
        return self._hash.hexdigest(), self._bytes
