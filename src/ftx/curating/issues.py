"""What may be wrong with an image of a data set, and how labels are written where one reads of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ftx.core.closed_model import ClosedModel
from ftx.core.errors import InputError, nearest, shown
from ftx.tasks.labels import LabelDeclaration, Labels
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.task_names import TASK_FACTS, TaskName

# label: probably wrong; label-unproved: the same, of labels that the probe cannot be trusted with; contradiction: a
# near-duplicate has other labels; near-duplicate: a held-out image that training sees too.
IssueKind = Literal["label", "label-unproved", "contradiction", "near-duplicate", "unreadable"]
KINDS: tuple[IssueKind, ...] = ("label", "label-unproved", "contradiction", "near-duplicate", "unreadable")

KEEP, DROP, RELABEL = "keep", "drop", "relabel:"


class Issue(ClosedModel):
    """One image, and what may be wrong with it."""

    path: str
    """The path of the image."""
    issue: IssueKind
    """``label``: the label is probably wrong. ``label-unproved``: the same, but the probe is not reliable for it.
    ``contradiction``: a near-duplicate has other labels. ``near-duplicate``: a validation or test image that is also
    seen in training.
    """
    given: str
    """The labels of the image in the data set, separated by ``;``."""
    suggested: str = ""
    """The labels that the image probably should have. For ``near-duplicate``, the path of the image seen in training;
    empty if the image cannot be read.
    """
    score: float | None = None
    """For a label, the probability that it is correct, from 0 to 1. For similar images, their correlation; null if the
    image cannot be read.
    """
    choice: str = ""
    """What you chose: ``keep``, ``drop``, ``relabel:LABELS``, or empty."""
    other: str | None = None
    """The path of the similar image; null if there is none."""
    reason: str = ""
    """Why the probe is not reliable, or why the image cannot be read; else empty."""

    @property
    def key(self) -> tuple[str, IssueKind, str]:
        """What a choice is made for: an image has each kind of issue once, and may be given other labels later."""
        return self.path, self.issue, self.given


@dataclass(frozen=True)
class Spelling:
    """Labels as the data set writes them: several separated by ``;``, those of a tree that is spelt as whole paths."""

    task: TaskName
    labels: Labels
    as_paths: bool

    @classmethod
    def of(cls, task: TaskName, labels: Labels, declared: LabelDeclaration) -> Spelling:
        """As a data set spells its labels, by what it declares about them."""
        return cls(task, labels, TASKS[task].nested_folders and declared.groups is None and not declared.parents)

    def one(self, name: str) -> str:
        """One label."""
        if not self.as_paths:
            return name
        # A label whose last part is another's too is named by its whole path.
        return "/".join(each.rpartition("/")[2] for each in self.labels.path(name))

    def all(self, names: Iterable[str]) -> str:
        """The labels of an image."""
        return ";".join(self.one(name) for name in names)

    @property
    def known(self) -> list[str]:
        """Every label, in the order of the logits."""
        return [self.one(name) for name in self.labels.names]

    def checked(self, choice: str) -> str:
        """A choice that holds.

        Raises: InputError if it is none, or names labels that do not exist.
        """
        if choice in ("", KEEP, DROP):
            return choice
        if not choice.startswith(RELABEL):
            raise InputError(
                f"there is no choice {shown(choice)}",
                fix=f"choose {KEEP}, {DROP} or {RELABEL}LABEL, or nothing to decide later",
            )
        text, known = choice.removeprefix(RELABEL).strip(), self.known
        names = (
            [text] if text in known or TASK_FACTS[self.task].one_label else [part.strip() for part in text.split(";")]
        )
        if names == [""] and TASK_FACTS[self.task].no_label:  # none of the labels holds
            return RELABEL
        for name in names:
            if name not in known:
                alike = nearest(name, known)
                fix = f"did you mean {shown(alike)}?" if alike else "choose a label of the data"
                raise InputError(f"there is no label {shown(name)}", fix=fix)
        return RELABEL + ";".join(names)


def counted(issues: Sequence[Issue]) -> dict[str, int]:
    """How many issues there are of each kind that occurs."""
    counts = {str(kind): sum(one.issue == kind for one in issues) for kind in KINDS}
    return {kind: count for kind, count in counts.items() if count}
