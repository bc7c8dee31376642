"""A data set as it was understood: images, their labels, and the split that each is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from ftx.core.addresses import Location
from ftx.core.errors import first_error, shown
from ftx.tasks.labels import Labels

# train: fit and calibrate; val: choose (epoch, learning rate); test: report.
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@cache
def _entry() -> TypeAdapter[Entry]:
    return TypeAdapter(Entry)


@dataclass(frozen=True, slots=True)
class Entry:
    """One image: path below the data root (with forward slashes), SHA-256 of its bytes, labels, split.

    ``group`` names what it is of (a patient, a part), where a table says so.
    """

    path: str
    sha256: str
    labels: tuple[str, ...]
    split: Split
    group: str | None = None

    @classmethod
    def from_json(cls, record: object) -> Entry:
        """One line of data.jsonl.

        Raises: ValueError if it is invalid, or its path leads out of the data.
        """
        try:
            entry = _entry().validate_python(record)
        except ValidationError as error:
            raise ValueError(first_error(error)) from error
        path = Path(entry.path)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in entry.path or "://" in entry.path:
            raise ValueError(f"the path {shown(entry.path)} must be below the data folder")
        return entry

    def to_json(self) -> dict[str, object]:
        """One line of data.jsonl; without a group where there is none."""
        record = asdict(self)
        return record if self.group is not None else {name: value for name, value in record.items() if name != "group"}


def groups_of(entries: Sequence[Entry]) -> tuple[str, ...]:
    """What each image is of, as a digest; empty where no image is of a group, and by itself where one is not.

    A digest, as exported models carry it to devices, and a group may be a patient's name.
    """
    if all(entry.group is None for entry in entries):
        return ()
    return tuple(
        sha256((f"image {entry.sha256}" if entry.group is None else f"group {entry.group}").encode()).hexdigest()
        for entry in entries
    )


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Everything that was understood of a data folder."""

    root: Location
    labels: Labels
    entries: tuple[Entry, ...]
    unreadable: tuple[Unreadable, ...] = ()

    def split(self, name: Split) -> tuple[Entry, ...]:
        """The images in one split."""
        return tuple(entry for entry in self.entries if entry.split == name)

    @property
    def report_split(self) -> Split:
        """The split that reports use: ``test``, or ``val`` where there is no test."""
        return "test" if self.split("test") else "val"
