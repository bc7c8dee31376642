"""The table of choices: every issue that was found, and what its reader chose, whole on disk after each choice."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from ftx.core.errors import InputError, RunError, listed, shown
from ftx.core.files import write_atomic
from ftx.core.untrusted_files import read_file
from ftx.curating.issues import KINDS, Issue, IssueKind, Spelling, counted

COLUMNS = ("path", "issue", "given", "suggested", "score", "choice")
# Millions of lines.
_MOST_BYTES = 1 << 28


class ChoiceTable:
    """The issues of a data set in a CSV file, which is read if it is there, and written at each choice."""

    def __init__(self, path: Path, spelling: Spelling, issues: Sequence[Issue], before: Sequence[Issue] = ()) -> None:
        """Write every issue, with the choices made ``before``.

        A choice stays as long as its image is given the labels that it was made for. What was chosen of an issue that
        is not found any more stays in the table, at its end.
        Raises: EnvironmentFault if the file cannot be written.
        """
        self.path, self.spelling = path, spelling
        known = {one.key: one for one in before}
        found = {one.key for one in issues}
        self._issues = [_with_choice(one, known.get(one.key)) for one in issues]
        self._past = [one for key, one in known.items() if key not in found and one.choice]
        self._lock = threading.Lock()
        self._written: bytes | None = None
        self._write()

    @property
    def issues(self) -> tuple[Issue, ...]:
        """What was found, in the order of the table."""
        return tuple(self._issues)

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
            rows.writerow((one.path, one.issue, one.given, one.suggested, score, one.choice))
        content = text.getvalue().encode()
        write_atomic(self.path, content)
        self._written = content

    def summary(self) -> str:
        """How many issues there are, and how many were decided."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in counted(self._issues).items())
        decided = sum(bool(one.choice) for one in self._issues)
        return f"{kinds or 'no issues'}; {decided} decided"


def _with_choice(found: Issue, before: Issue | None) -> Issue:
    if before is None or before.given != found.given:
        return found
    return found.model_copy(update={"choice": before.choice})


def read_choices(path: Path, spelling: Spelling, images: Iterable[str]) -> list[Issue]:
    """The rows of a table that was written before; none where there is no file.

    Raises: InputError if the file is no table of ours, or names none of the ``images``.
    """
    if not path.exists():
        return []
    other = "name another file with --out, or move this one away: it is not overwritten"
    try:
        text = read_file(path, _MOST_BYTES).decode("utf-8-sig")
        rows = [*csv.reader(io.StringIO(text, newline=""), strict=True)]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError("this is no table of ftx data look", where=path, found=str(error), fix=other) from error
    if not rows or tuple(rows[0]) != COLUMNS:
        found = shown(",".join(rows[0])) if rows else "it is empty"
        raise InputError("this is no table of ftx data look", where=path, found=found, fix=other)
    issues: list[Issue] = []
    problems: list[str] = []
    for number, row in enumerate(rows[1:], start=2):
        try:
            issues.append(_issue(row, spelling))
        except (InputError, ValueError) as error:
            problems.append(f"row {number}: {error.what if isinstance(error, InputError) else error}")
    if problems:
        raise InputError(
            "rows of the table do not hold", where=path, found=listed(problems), fix=f"mend them; or {other}"
        )
    known = set(images)
    if issues and not any(one.path in known for one in issues):
        raise InputError("the table is of other data", where=path, found=f"no image {issues[0].path}", fix=other)
    return issues


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
