"""The table of choices: every issue that was found, and what its reader chose, whole on disk after each choice."""

from __future__ import annotations

import csv
import io
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ftx.core.errors import InputError, RunError, listed, shown
from ftx.core.files import write_atomic
from ftx.core.untrusted_input import read_file
from ftx.curating.issues import KINDS, Issue, IssueKind, Spelling, counted
from ftx.curating.known_images import images_file, read_images, write_images

COLUMNS = ("path", "issue", "given", "suggested", "score", "choice")
# Millions of lines.
_MOST_BYTES = 1 << 28
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
        """Write every issue, with the choices made ``before``, and beside it the SHA-256 of all ``images`` by path.

        A choice is taken over as long as its image is given the labels that it was made for. What was chosen for other
        labels, or of an issue that is not found any more, stays in the table, at its end.
        Raises: EnvironmentFault if the file cannot be written.
        """
        self.path, self.spelling = path, spelling
        before = before or EarlierTable()
        decided = {one.key: one for one in before.rows if one.choice}
        found = {one.key for one in issues}
        self._issues = [
            one.model_copy(update={"choice": decided[one.key].choice}) if one.key in decided else one for one in issues
        ]
        self._past = [one for key, one in decided.items() if key not in found]
        self._lock = threading.Lock()
        self._written: bytes | None = None
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

    @property
    def content(self) -> bytes:
        """The table as it is on disk."""
        return self._written or b""

    def choose(self, number: int, choice: str) -> Issue:
        """Note the choice for an issue, by its number in ``issues``, on disk as well.

        Raises: InputError if there is no such issue or choice; RunError if another program changed the file;
        EnvironmentFault if it cannot be written. The table then stays as it was.
        """
        if not 0 <= number < len(self._issues):
            raise InputError("there is no such issue", found=str(number))
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
        if self._written is not None and (not self.path.is_file() or read_file(self.path) != self._written):
            raise RunError(
                "another program changed the table",
                where=self.path,
                fix="start ftx data look again: it reads the table",
            )
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(COLUMNS)
        for one in (*self._issues, *self._past):
            score = "" if one.score is None else f"{one.score:.4f}"
            rows.writerow(map(_as_text, (one.path, one.issue, one.given, one.suggested, score, one.choice)))
        content = text.getvalue().encode()
        write_atomic(self.path, content)
        self._written = content

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
    other = "name another file with --out, or move this one away: it is not overwritten"
    try:
        text = read_file(path, _MOST_BYTES).decode("utf-8-sig")
        rows = [*csv.reader(io.StringIO(text, newline=""), strict=True)]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError("this is no table of ftx data look", where=path, found=str(error), fix=other) from error
    if not rows or tuple(rows[0]) != COLUMNS:
        found = shown(",".join(rows[0])) if rows else "it is empty"
        raise InputError("this is no table of ftx data look", where=path, found=found, fix=other)
    if rows[1:]:
        _refuse_other_data(path, known, images, other)
    issues: list[Issue] = []
    problems: list[str] = []
    for number, row in enumerate(rows[1:], start=2):
        try:
            issues.append(_issue([*map(_from_text, row)], spelling))
        except (InputError, ValueError) as error:
            problems.append(f"row {number}: {error.what if isinstance(error, InputError) else error}")
    if problems:
        raise InputError(
            "rows of the table do not hold", where=path, found=listed(problems), fix=f"mend them; or {other}"
        )
    known = known or {}
    changed = {one.path for one in issues if one.choice and _is_other(one.path, known, images)}
    if changed:
        raise InputError(
            "choices were made for images that are others now",
            where=path,
            found=listed(sorted(changed)),
            fix=f"remove their rows; or {other}",
        )
    return EarlierTable(issues, known)


def _as_text(cell: str) -> str:
    """A cell that a spreadsheet shows as it is, and never computes."""
    return _PLAIN.sub(r"\1'", cell)


def _from_text(cell: str) -> str:
    return _QUOTED.sub(r"\1", cell)


def _refuse_other_data(path: Path, known: Mapping[str, str] | None, images: Mapping[str, str], other: str) -> None:
    """Paths alone do not tell: in many data sets there is a train/cat/0001.png."""
    if known is None:
        raise InputError(
            "it cannot be told which images the table is of",
            where=path,
            found=f"no {images_file(path).name} beside it",
            fix=f"bring that file back; or {other}",
        )
    if not any(digest and images.get(one) == digest for one, digest in known.items()):
        found = f"none of its {len(known):,} images is in this data"
        raise InputError("the table is of other data", where=path, found=found, fix=other)


def _is_other(path: str, known: Mapping[str, str], images: Mapping[str, str]) -> bool:
    """Whether the path names another image than before; one that is not there any more is none."""
    return path in known and path in images and known[path] != images[path]


def _issue(row: Sequence[str], spelling: Spelling) -> Issue:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(row)} columns, not {len(COLUMNS)}")
    path, kind, given, suggested, score, choice = row
    issue: IssueKind | None = next((one for one in KINDS if one == kind), None)
    if issue is None:
        raise ValueError(f"there is no issue {shown(kind)}")
    return Issue(
        path=path,
        issue=issue,
        given=given,
        suggested=suggested,
        score=float(score) if score else None,
        choice=spelling.checked(choice.strip()),
    )
