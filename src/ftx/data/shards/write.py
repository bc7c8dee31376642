"""``ftx data shard``: images of any source as WebDataset's shards, their bytes as they are.

The order is that of splits, and then of the SHA-256 of the images, which is as good as drawn at random: each shard is a
sample of all labels, and equal data give equal shards, byte by byte, wherever and whenever they are written.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from ftx.core.addresses import Location, typed
from ftx.core.command_report import CommandReport
from ftx.core.disk import disk_faults, settle
from ftx.core.errors import DataError, InputError
from ftx.core.files import place_at, staging
from ftx.core.packages import require
from ftx.core.progress import SILENT, Progress
from ftx.data.dataset import SPLITS
from ftx.data.decode import read_header
from ftx.data.image_store import ImageStore
from ftx.data.open_dataset import OpenedImage, note_unreadable, read_all, too_many_unreadable
from ftx.data.shards.paths import ENDING
from ftx.data.shards.shards_json import DeclaredLabels, Shard, Shards, write_shards_json
from ftx.data.sources import Listing, list_images
from ftx.data.sources.listing import IMAGE_ENDINGS
from ftx.data.threads import in_threads
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.task_names import TaskName

# Of photographs some hundred megabytes: large enough to be read in one go, small enough to be fetched in seconds.
PER_SHARD = 1000


class ShardReport(CommandReport):
    """The shards that ``ftx data shard`` wrote."""

    verb: str = "data shard"
    path: str
    """The folder of the shards."""
    images: int
    """The number of images in all shards."""
    shards: int
    """The number of tar archives."""
    bytes: int
    """The size of all archives in bytes."""
    skipped: list[str]
    """The path of each image that cannot be read, with the reason."""


def write_shards(
    data: Location,
    out: Path,
    *,
    per_shard: int = PER_SHARD,
    task: TaskName | None = None,
    form: str = "auto",
    follow_links: bool = False,
    progress: Progress = SILENT,
) -> ShardReport:
    """Write the images of a data set, with their labels, splits and groups, as tar archives into a new folder.

    Splits stay as the source has them: what is in none yet is divided when it is trained on, by content and so the same
    way. Without a ``task``, nested folders are a label tree. Images that cannot be read are left out. The folder
    appears when it is whole.
    Raises: DataError if the data set is invalid, or an image changes meanwhile; InputError if ``out`` exists;
    EnvironmentFault if the disk is full.
    """
    if out.exists() or out.is_symlink():
        raise InputError(
            "the --out folder must not exist yet", where=out, fix="choose another folder, or move the existing one"
        )
    require("webdataset")
    data = typed(data)
    nested = task is None or TASKS[task].nested_folders
    listing = list_images(data, nested=nested, form=form, follow_links=follow_links, progress=progress)
    images, unreadable = read_all(listing.root, listing.files, progress)
    for error in too_many_unreadable(listing.root, unreadable, len(listing.files)):
        raise error
    note_unreadable(unreadable, len(listing.files), progress)
    images.sort(key=_place)
    with staging(out) as staged, disk_faults(out):
        shards = [*_archives(listing.root, images, per_shard, staged, progress)]
        write_shards_json(staged, _described(listing, images, shards))
        settle(staged)
        place_at(staged, out)
    return ShardReport(
        path=str(out),
        images=len(images),
        shards=len(shards),
        bytes=sum(shard.bytes for shard in shards),
        skipped=[f"{one.path}: {one.reason}" for one in unreadable],
    )


def _place(image: OpenedImage) -> tuple[int, str, str]:
    split = image.listed.split
    return (len(SPLITS) if split is None else SPLITS.index(split)), image.sha256, image.listed.path


def _archives(
    root: Location, images: Sequence[OpenedImage], per_shard: int, folder: Path, progress: Progress
) -> Iterator[Shard]:
    from webdataset.writer import TarWriter

    parts = [images[start : start + per_shard] for start in range(0, len(images), per_shard)]
    digits = max(4, len(str(len(parts) - 1)))
    with progress.track("Writing shards", len(images)) as bar:
        for number, part in enumerate(parts):
            name = f"{number:0{digits}d}{ENDING}"
            with (folder / name).open("wb") as file:
                hashed = _HashedFile(file)
                # Nothing of whoever writes, or of when, is written.
                with TarWriter(cast(BinaryIO, hashed), "", "", 0o644, encoder=False, mtime=0) as archive:
                    for nth, sample in enumerate(in_threads(partial(_sample, ImageStore(root)), part)):
                        archive.write({"__key__": f"{number * per_shard + nth:09d}", **sample})
                        bar.advance()
            yield Shard(name=name, images=len(part), bytes=hashed.written, sha256=hashed.digest())


def _sample(store: ImageStore, image: OpenedImage) -> dict[str, bytes]:
    """An image's members, by their ending."""
    listed = image.listed
    with store.at(listed.path).open() as stream:
        content = stream.read()
        if hashlib.sha256(content).hexdigest() != image.sha256:
            raise DataError("an image changed while it was read", where=listed.path, fix="run the command again")
        ending = PurePosixPath(listed.path).suffix.lower()
        if ending not in IMAGE_ENDINGS:
            stream.seek(0)
            ending = f".{str(read_header(stream).format).lower()}".replace("jpeg2000", "jp2")
    metadata = {
        "labels": listed.labels,
        "split": listed.split,
        "group": listed.group,
        "sha256": image.sha256,
        "path": listed.path,
    }
    return {ending[1:]: content, "json": json.dumps(metadata, ensure_ascii=False).encode()}


def _described(listing: Listing, images: Sequence[OpenedImage], shards: Sequence[Shard]) -> Shards:
    declared = listing.declared
    return Shards(
        images=len(images),
        counts=dict(Counter(image.listed.split or "none" for image in images)),
        labels=DeclaredLabels(names=declared.names, groups=declared.groups, parents=dict(declared.parents)),
        shards=tuple(shards),
    )


class _HashedFile:
    """A file that is written once, and the hash of all its bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self.written = file, hashlib.sha256(), 0

    def write(self, content: bytes) -> int:
        self._hash.update(content)
        self.written += len(content)
        return self._file.write(content)

    def digest(self) -> str:
        """Its SHA-256, as hex."""
        return self._hash.hexdigest()
