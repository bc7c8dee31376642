"""A data set as it was understood: images, their labels, and the side that each stands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ftx.errors import DataError
from ftx.files import sha256_file
from ftx.labels import Labels

# train: fit and calibrate; val: choose (epoch, rate); test: report.
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
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
    def from_json(cls, record: Mapping[str, object]) -> Entry:
        """One line of data.jsonl."""
        labels, split, group = record["labels"], record["split"], record.get("group")
        if not isinstance(labels, list) or split not in SPLITS or not isinstance(group, str | None):
            raise DataError("data.jsonl does not hold", found=str(record))
        names = tuple(str(label) for label in labels)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        return cls(path=str(record["path"]), sha256=str(record["sha256"]), labels=names, split=split, group=group)

    def to_json(self) -> dict[str, object]:
        """One line of data.jsonl; without a group where there is none."""
        record = asdict(self)
        return record if self.group is not None else {name: value for name, value in record.items() if name != "group"}

    def locate(self, root: Path) -> Path:
        """The image on disk, known by its hash to be the one that the run was made with.

        Raises: DataError if it is gone or has changed.
        """
        path = root / self.path
        if not path.is_file():
            raise DataError("an image of the run is missing", where=path, mend="restore it, or name --data DIR")
        if sha256_file(path) != self.sha256:
            raise DataError("an image of the run has changed since training", where=path, mend="restore it")
        return path


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Everything that was understood of a data folder."""

    root: Path
    labels: Labels
    entries: tuple[Entry, ...]
    unreadable: tuple[Unreadable, ...] = ()

    def split(self, name: Split) -> tuple[Entry, ...]:
        """The images on one side."""
        return tuple(entry for entry in self.entries if entry.split == name)

    @property
    def report_split(self) -> Split:
        """The side that reports use: ``test``, or ``val`` where there is no test."""
        return "test" if self.split("test") else "val"
