"""The table of choices: every issue that was found, and what its reader chose, whole on disk after each choice.

A file next to it contains the SHA-256 of the images that the table is of: a choice for one image is never used for
another. Only one page at a time chooses in a table: of two, each would count and show only its own choices.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ftx.core.addresses import Location
from ftx.core.errors import InputError, RunError, first_error, listed, shown
from ftx.core.files import sha256_file, write_atomic
from ftx.core.untrusted_input import JsonError, read_file, read_json
from ftx.curating.issues import KINDS, Issue, Spelling, counted
from ftx.data.dataset import Dataset

COLUMNS = ("path", "issue", "given", "suggested", "score", "choice")
# Millions of lines, or images.
MOST_BYTES = 1 << 28
# What a spreadsheet would take for a formula: at the beginning of a cell, or behind a semicolon, where some part cells.
_FORMULA = r"'*[=+\-@＝＋－＠\t\r]"
_PLAIN, _QUOTED = re.compile(rf"(^|;)(?={_FORMULA})"), re.compile(rf"(^|;)'(?={_FORMULA})")


@dataclass(frozen=True)
class EarlierTable:
    """What a table held when it was read: its rows, and the SHA-256 of the images that it is of, by path."""

    rows: Sequence[Issue] = ()
    images: Mapping[str, str] = field(default_factory=dict[str, str])


class ChoiceTable:
    """The issues of a data set in a CSV file, which is read if it is there, and written at each choice."""

    def __init__(
        self,
        path: Path,
        spelling: Spelling,
        issues: Sequence[Issue],
        images: Mapping[str, str],
        before: EarlierTable | None = None,
    ) -> None:
        """Write every issue, with the choices made ``before``, and next to it the SHA-256 of all ``images`` by path.

        A choice stays with its issue as long as the image has the labels that it was made for. Choices for other
        labels, or for issues that are not found any more, stay at the end of the table.
        Raises: EnvironmentFault if the file cannot be written.
        """
        self.path, self.spelling = path, spelling
        before = before or EarlierTable()
        decided = {one.key: one for one in before.rows if one.choice}
        self._issues = [
            one.model_copy(update={"choice": decided.pop(one.key).choice}) if one.key in decided else one
            for one in issues
        ]
        self._past = [*decided.values()]
        self._lock = threading.Lock()
        self.content = b""
        gone = {one.path: before.images[one.path] for one in self._past if one.path in before.images}
        write_images(path, gone | dict(images))  # first: a table whose images are not known is not read again
        self._write()

    @property
    def issues(self) -> tuple[Issue, ...]:
        """What was found, in the order of the table."""
        return tuple(self._issues)

    @property
    def unmatched(self) -> int:
        """How many earlier choices are of nothing that was found now."""
        return len(self._past)

    def choose(self, number: int, choice: str) -> Issue:
        """Note the choice for an issue, by its number in ``issues``, on disk as well.

        Raises: InputError if there is no such issue or choice; RunError if another program changed the file;
        EnvironmentFault if it cannot be written. The table then stays as it was.
        """
        if not 0 <= number < len(self._issues):
            raise InputError("there is no such issue", found=str(number), fix="load the page again")
        checked = self.spelling.checked(choice)
        with self._lock:
            before = self._issues[number]
            self._issues[number] = before.model_copy(update={"choice": checked})
            try:
                self._write()
            except BaseException:
                self._issues[number] = before
                raise
            return self._issues[number]

    def _write(self) -> None:
        if self.content and (not self.path.is_file() or read_file(self.path) != self.content):
            raise RunError(
                "another program changed the table",
                where=self.path,
                fix="run ftx data look again: it reads the changed table",
            )
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(COLUMNS)
        for one in (*self._issues, *self._past):
            score = "" if one.score is None else f"{one.score:.4f}"
            rows.writerow(map(_as_text, (one.path, one.issue, one.given, one.suggested, score, one.choice)))
        content = text.getvalue().encode()
        write_atomic(self.path, content)
        self.content = content

    def summary(self) -> str:
        """How many issues there are, and how many were decided."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in counted(self._issues).items())
        decided = sum(bool(one.choice) for one in self._issues)
        return f"{kinds or 'no issues'}; {decided} decided"


def read_choices(path: Path, spelling: Spelling, images: Mapping[str, str]) -> EarlierTable:
    """A table that was written before; an empty one where there is no file.

    Raises: InputError if the file is no table of ours, or of other images than these (the SHA-256 of each by path).
    """
    known = read_images(path)
    if not path.exists():
        return EarlierTable()
    other = "choose another file for --out, or move the existing one: ftx does not overwrite it"
    what = "--out must be a new file, or a table of ftx data look"
    try:
        text = read_file(path, MOST_BYTES).decode("utf-8-sig")
        rows = [*csv.reader(io.StringIO(text, newline=""), strict=True)]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(what, where=path, found=str(error), fix=other) from error
    if not rows or tuple(rows[0]) != COLUMNS:
        found = shown(",".join(rows[0])) if rows else "it is empty"
        raise InputError(what, where=path, found=found, fix=other)
    if rows[1:]:
        _check_same_data(path, known, images, other)
    issues: list[Issue] = []
    problems: list[str] = []
    for number, row in enumerate(rows[1:], start=2):
        try:
            issues.append(_issue([*map(_from_text, row)], spelling))
        except (InputError, ValueError) as error:
            problems.append(f"row {number}: {error.what if isinstance(error, InputError) else error}")
    if problems:
        raise InputError(
            "rows of the table are invalid", where=path, found=listed(problems), fix=f"repair these rows; or {other}"
        )
    known = known or {}
    chosen = {one.path for one in issues if one.choice} & known.keys() & images.keys()
    if changed := [path for path in sorted(chosen) if known[path] != images[path]]:
        raise InputError(
            "some images have changed since their choices were made",
            where=path,
            found=listed(changed),
            fix=f"remove their rows; or {other}",
        )
    return EarlierTable(issues, known)


def _as_text(cell: str) -> str:
    """A cell that a spreadsheet shows as it is, and never computes."""
    return _PLAIN.sub(r"\1'", cell)


def _from_text(cell: str) -> str:
    return _QUOTED.sub(r"\1", cell)


def _check_same_data(path: Path, known: Mapping[str, str] | None, images: Mapping[str, str], other: str) -> None:
    """Paths do not identify a data set: many contain a train/cat/0001.png."""
    if known is None:
        raise InputError(
            "the table must have its list of images",
            where=path,
            found=f"no {images_file(path).name} next to it",
            fix=f"restore that file; or {other}",
        )
    if not any(digest and images.get(one) == digest for one, digest in known.items()):
        found = f"none of its {len(known):,} images is in this data"
        raise InputError("the table must be of this data", where=path, found=found, fix=other)


def _issue(row: Sequence[str], spelling: Spelling) -> Issue:
    if len(row) != len(COLUMNS):
        raise ValueError(f"the row must have {len(COLUMNS)} columns, it has {len(row)}")
    path, kind, given, suggested, score, choice = row
    if kind not in KINDS:
        raise ValueError(f"the issue must be one of {', '.join(KINDS)}, found {shown(kind)}")
    return Issue(
        path=path,
        issue=kind,
        given=given,
        suggested=suggested,
        score=float(score) if score else None,
        choice=spelling.checked(choice.strip()),
    )


def images_file(table: Path) -> Path:
    """The file next to a table that contains the SHA-256 of its images."""
    return table.with_name(f"{table.name}.images.json")


class _TableImages(BaseModel):
    model_config = ConfigDict(strict=True)

    images: dict[str, str]


def images_of(dataset: Dataset) -> dict[str, str]:
    """The SHA-256 of every image by its path, damaged ones included; empty for an image that has no readable file."""
    return {one.path: one.sha256 for one in dataset.entries} | {
        one.path: _sha256(dataset.root / one.path) for one in dataset.unreadable
    }


def _sha256(path: Location) -> str:
    try:
        return sha256_file(path) if isinstance(path, Path) else ""
    except OSError:
        return ""


def write_images(table: Path, images: Mapping[str, str]) -> None:
    """Write the SHA-256 of the images of a table. Raises: EnvironmentFault if the file cannot be written."""
    write_atomic(images_file(table), json.dumps({"images": dict(images)}, indent=0).encode())


def read_images(table: Path) -> dict[str, str] | None:
    """The SHA-256 of the images of a table; None if there is no such file.

    Raises: InputError if the file next to the table has another content.
    """
    path = images_file(table)
    if not path.exists():
        return None
    try:
        return _TableImages.model_validate(read_json(path, most_bytes=MOST_BYTES)).images
    except (OSError, JsonError, ValidationError) as error:
        found = first_error(error) if isinstance(error, ValidationError) else str(error)
        raise InputError(
            "this file next to the --out table must be the image list that ftx wrote",
            where=path,
            found=found,
            fix="choose another table: --out CSV",
        ) from error


@contextmanager
def claimed(table: Path) -> Generator[None, None, None]:
    """Keep other programs from choosing in a table for the block; the lock ends with this process.

    Raises: InputError if another program holds the lock. A system without such locks has none.
    """
    if sys.platform == "win32":
        yield
        return
    from fcntl import LOCK_EX, LOCK_NB, flock

    with images_file(table).open("rb") as stream:  # written once a look, while the table is replaced at each choice
        try:
            flock(stream, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise InputError(
                "another `ftx data look` process already uses this table",
                where=table,
                fix="use the page of that process, stop it with Ctrl-C, or name another table: --out CSV",
            ) from None
        yield


def check_unclaimed(table: Path) -> None:
    """Raise InputError if another program chooses in the table now."""
    if images_file(table).is_file():
        with claimed(table):
            return
