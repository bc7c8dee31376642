"""Arguments and flags that several commands share, and the checks of their values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from ftx.cli import console
from ftx.core.errors import InputError, check_known, shown
from ftx.tasks.task_names import TASK_HELP, TaskName

if TYPE_CHECKING:
    from ftx.evaluating.predict import Prediction
    from ftx.explaining.explain import Explanation

# Exit status of work that is done, but for some inputs that were skipped.
SKIPPED = 4

RunArgument = Annotated[
    Path | None,
    typer.Argument(metavar="RUN", show_default=False, help="A run folder.  [default: your newest run, runs/latest]"),
]
TargetArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN|IR",
        show_default=False,
        help="A run folder; or an exported OpenVINO folder (IR, Intermediate Representation), which needs no PyTorch.  "
        "[default: your newest run, runs/latest]",
    ),
]
JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout; everything else goes to stderr.")
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The folder of the images, if you have moved it since training."),
]
DataArgument = Annotated[
    Path, typer.Argument(metavar="DATA", help="A folder of images, a table, an annotation file, or shards.")
]
DataTaskOption = Annotated[
    str | None,
    typer.Option("--task", metavar="TASK", help=f"{TASK_HELP}  [default: detected from the labels]"),
]
DataFormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="NAME",
        help="auto, or a format of Datumaro, for example voc (needs the extra `datumaro`).",
    ),
]
FollowLinksFlag = Annotated[
    bool,
    typer.Option(
        "--follow-links",
        help="Follow links that lead out of the data folder. Without this option, such links are an error.",
    ),
]
SampleTaskOption = Annotated[str, typer.Option("--task", metavar="TASK", help=TASK_HELP)]
RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FILE", help="The name of a recipe (`ftx recipes` lists them), or a YAML file.", show_default=False
    ),
]
RecipeDataOption = Annotated[
    str | None, typer.Option("--data", metavar="PATH", show_default=False, help="Your images, as for `ftx train`.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set any key of the recipe, for example train.weight_decay=0.01; you can repeat this option. `ftx schema "
        "recipe` lists the keys.",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="The run folder to write.  [default: a new one in runs/]")
]
RequireProofFlag = Annotated[
    bool, typer.Option("--require-proof", help="The exit status is also 1 if a model is unproved.")
]
AllowFailedFlag = Annotated[
    bool, typer.Option("--allow-failed", help="Use a model although ftx validate failed it on this machine.")
]
RequireVerifiedFlag = Annotated[
    bool,
    typer.Option("--require-proof", help="Fail if the model is not verified (proved) on this machine."),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="CPU|GPU|NPU|AUTO",
        help="The OpenVINO device that runs the model. AUTO: OpenVINO chooses one.",
    ),
]
StrictFlag = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Fail if the number of labels in the data differs from the number in the recipe (data.classes).",
    ),
]

# What a value was called before: read still, with a note.
RENAMED_PRECISIONS = {"f32": "fp32"}

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


def run_of_artifact(run: Path | None, artifact: str | None) -> tuple[Path | None, str | None]:
    """The run and the name of an artifact that is given by name, or by its folder in a run.

    Raises: InputError if the folder is in another run than the one that is given.
    """
    from ftx.runs.artifacts import ARTIFACTS
    from ftx.runs.run import Run

    found = None if artifact is None or artifact in ARTIFACTS else Run.around(Path(artifact))
    if found is None:
        return run, artifact
    its_run, chosen = found
    if run is not None and run.resolve() != its_run.path.resolve():
        raise InputError(
            "--artifact is in another run", where=artifact, found=str(run), fix=f"name it as --artifact {chosen}"
        )
    return run or its_run.path, chosen.name


def report_skipped(results: Sequence[Prediction] | Sequence[Explanation]) -> int:
    """Print which images were skipped, and why; the exit status of a command with one result an image."""
    skipped = [result for result in results if result.error is not None]
    for result in skipped:
        console.print_note(f"skipped {result.path}: {result.error}", "bad")
    if skipped:
        console.print_note(f"{len(skipped)} of {len(results)} images were skipped", "bad")
    return SKIPPED if skipped else 0


def note_old_spelling(old: str, new: str) -> None:
    """Print one line that says how to write a flag or a value from now on."""
    console.print_note(f"{old} still works; it is now written {new}", "dim")


def split_commas(given: Sequence[str] | None) -> list[str]:
    """The values of a flag that takes ``a,b`` and can be repeated; none if it is not given."""
    return [one for text in given or () for one in (part.strip() for part in text.split(",")) if one]


def parse_numbers(given: Sequence[str] | None, flag: str, least: int = 1, most: int = 1_000_000) -> list[int]:
    """Whole numbers, written with commas or in repeated flags.

    Raises: InputError for another value.
    """
    words = split_commas(given)
    for word in words or ([] if given is None else [",".join(given)]):
        if not (word.isdecimal() and word.isascii() and least <= int(word[:9]) <= most):
            expected = f"{flag} must be whole numbers from {least} to {most:,}"
            raise InputError(expected, found=shown(word), fix=f"write them as {flag} {least},{least + 1}")
    return [int(word) for word in words]


def parse_precisions(given: Sequence[str] | None, known: Sequence[str], flag: str = "--precision") -> list[str]:
    """Precisions, written with commas or in repeated flags; f32 is read as fp32.

    Raises: InputError naming the nearest, or those that are known.
    """
    words = split_commas(given)
    for word in words:
        if word in RENAMED_PRECISIONS:
            note_old_spelling(f"{flag} {word}", f"{flag} {RENAMED_PRECISIONS[word]}")
    found = [RENAMED_PRECISIONS.get(word, word) for word in words]
    if given:
        check_known(flag, found, known)  # also if nothing is between the commas
    return found


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
