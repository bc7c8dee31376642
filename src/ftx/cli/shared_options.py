"""Arguments and flags that several commands share, and the checks of their values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from ftx.cli import console
from ftx.core.errors import InputError, check_known, shown
from ftx.tasks.task_names import TASK_CHOICES, TaskName

if TYPE_CHECKING:
    from ftx.evaluating.predict import Prediction
    from ftx.explaining.explain import Explanation

# Exit status of work that is done, but for some inputs that were skipped.
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
DataArgument = Annotated[Path, typer.Argument(metavar="DATA", help="A folder, a table, an annotation file, or shards.")]
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
    typer.Option("--follow-links", help="Follow links in the data folder that lead out of it; else an error."),
]
SampleTaskOption = Annotated[str, typer.Option("--task", metavar="TASK", help=f"{TASK_CHOICES}.")]
RecipeArgument = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="A recipe of `ftx recipes`, or a YAML file.", show_default=False)
]
RecipeDataOption = Annotated[
    str | None, typer.Option("--data", metavar="PATH", show_default=False, help="Images, as in `ftx train`.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other key of the recipe, as train.weight_decay=0.01."),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="The run folder to make.  [default: a new one in runs/]")
]
RequireProofFlag = Annotated[
    bool, typer.Option("--require-proof", help="End with status 1 if an artifact is not proved, too.")
]
StrictFlag = Annotated[
    bool,
    typer.Option("--strict", help="Fail on data with another number of labels than the recipe says (data.classes)."),
]

_DURATION = re.compile(r"(?=\d)(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s?)?", re.ASCII)


def check_usage(*problems: tuple[object, InputError]) -> None:
    """Raise the error of the first problem that is true."""
    for problem, error in problems:
        if problem:
            raise error


def open_run(run: Path | None, data: Path | None, *, needs_images: bool = False) -> None:
    """Find a run and its images before torch is imported, as a mistyped name must not cost seconds; name the newest.

    Raises: as ``Run.open``; DataError if ``data``, or the images that a command ``needs_images`` of, are missing.
    """
    from ftx.runs.run import Run

    found = Run.open(run)
    if run is None:
        console.print_note(f"run: {found.path}, the newest", "dim")
    if data is not None or needs_images:
        found.data_root(data)


def report_skipped(results: Sequence[Prediction] | Sequence[Explanation]) -> int:
    """Print which images were skipped, and why; the exit status of a command with one result an image."""
    skipped = [result for result in results if result.error is not None]
    for result in skipped:
        console.print_note(f"skipped {result.path}: {result.error}", "bad")
    if skipped:
        console.print_note(f"{len(skipped)} of {len(results)} images were skipped", "bad")
    return SKIPPED if skipped else 0


def parse_task(name: str) -> TaskName:
    """The task of this name.

    Raises: InputError naming the nearest.
    """
    check_known("task", [name], get_args(TaskName))
    return cast("TaskName", name)


def parse_duration(text: str | None, option: str) -> float | None:
    """``90``, ``90s``, ``10m`` or ``1h30m`` in seconds; None for none.

    Raises: InputError if it is no such time, or zero.
    """
    if text is None:
        return None
    found = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    if not hours + minutes + seconds:
        raise InputError(f"{option} must be a time", found=shown(text), fix=f"write it as {option} 90s, 10m or 1h30m")
    return float(3600 * hours + 60 * minutes + seconds)


def numberless(layer: str) -> str:
    """``blocks.N.attn.qkv`` for ``blocks.3.attn.qkv``: layers that differ only in their numbers have one name."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "N", layer)
