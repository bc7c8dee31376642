"""Arguments and flags that several verbs share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from ftx.cli import console
from ftx.core.errors import check_known
from ftx.tasks.task_names import TASK_CHOICES, TaskName

if TYPE_CHECKING:
    from ftx.evaluating.predict import Prediction
    from ftx.explaining.explain import Explanation

# Exit status where the work is done, but some inputs were skipped.
SKIPPED = 4

RunArgument = Annotated[
    Path | None,
    typer.Argument(metavar="RUN", show_default=False, help="A run folder; without it the newest, runs/latest."),
]
TargetArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN|IR",
        show_default=False,
        help="A run (without it the newest, runs/latest), or an IR folder on a device, which needs no torch.",
    ),
]
JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and everything else on stderr.")
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Where the images are now, if they moved since training."),
]

DataTaskOption = Annotated[
    str | None,
    typer.Option("--task", metavar="TASK", help=f"{TASK_CHOICES}.  [default: what the labels look like]"),
]
DataFormatOption = Annotated[
    str,
    typer.Option("--format", metavar="NAME", help="auto, or one of Datumaro's formats (needs the extra `datumaro`)."),
]
FollowLinksFlag = Annotated[
    bool,
    typer.Option("--follow-links", help="Follow links in the data folder that lead out of it; else refused."),
]

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other key of the recipe, as train.weight_decay=0.01."),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="The run folder to make.  [default: a new one in runs/]")
]
RequireProofFlag = Annotated[
    bool, typer.Option("--require-proof", help="End with status 1 where an artifact is not proved, too.")
]
StrictFlag = Annotated[
    bool,
    typer.Option("--strict", help="Refuse data with another number of labels than the recipe says (data.classes)."),
]


def open_run(run: Path | None, data: Path | None, *, needs_images: bool = False) -> None:
    """Find a run and its images before torch is imported, as a name mistyped must not cost seconds; name the newest.

    Raises: as ``Run.open``; DataError if ``data``, or what the run ``needs_images`` for, is not there.
    """
    from ftx.runs.run import Run

    found = Run.open(run)
    if run is None:
        console.print_note(f"run: {found.path}, the newest", "dim")
    if data is not None or needs_images:
        found.data_root(data)


def status_of(answers: Sequence[Prediction] | Sequence[Explanation]) -> int:
    """Say which images were skipped, and why; the exit status of a verb that answers for images."""
    skipped = [answer for answer in answers if answer.error is not None]
    for answer in skipped:
        console.print_note(f"skipped {answer.path}: {answer.error}", "bad")
    if skipped:
        console.print_note(f"{len(skipped)} of {len(answers)} images were skipped", "bad")
    return SKIPPED if skipped else 0


def parse_task(name: str) -> TaskName:
    """The task of this name.

    Raises: InputError naming the nearest.
    """
    check_known("task", [name], get_args(TaskName))
    return cast("TaskName", name)
