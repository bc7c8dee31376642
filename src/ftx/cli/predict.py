"""``ftx predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.shared_options import SKIPPED, status_of
from ftx.core.errors import INTERRUPTED, InputError, Termination

if TYPE_CHECKING:
    from ftx.evaluating.predict import Prediction


def command(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGES",
            show_default=False,
            help="Images, folders that hold some, or patterns; - for paths on standard input, one a line.",
        ),
    ] = None,
    artifact: Annotated[
        Path | None,
        typer.Option(
            "--artifact",
            metavar="IR|RUN",
            help="An exported folder, which needs no torch, or a run.  [default: the best IR of runs/latest]",
        ),
    ] = None,
    watch: Annotated[
        Path | None,
        typer.Option(
            "--watch",
            metavar="DIR",
            help="Label each image that arrives in DIR, once, until Ctrl-C; a restart goes on.",
        ),
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="With --json: the score of every label too.")] = False,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print one line of JSON an image on stdout and everything else on stderr."),
    ] = False,
) -> int:
    """Label images with an exported model or a run.

    Images that cannot be read are reported and skipped; the exit status is then 4.
    """
    from ftx.evaluating.predict import predict

    if scores and not json:
        console.print_note("--scores is for --json: a table has room for the best alone")
    if watch is not None and images:
        raise InputError("--watch labels what arrives in its folder, and takes no images", fix="name one or the other")
    if watch is None and not images:
        raise InputError(
            "there is nothing to predict", fix="name images or folders, - for standard input, or --watch DIR"
        )
    if images and Path("-") in images and len(images) > 1:
        raise InputError("- is for standard input, which is named alone", fix="write the other paths to it, too")
    if watch is not None or images == [Path("-")]:
        return _arriving(watch, artifact, scores=scores, json=json)
    # Lines that appear one by one and a bar would write over each other on one terminal.
    progress = console.TerminalProgress(bars=not (json and console.answers_on_terminal()))
    answers: list[Prediction] = []
    for answer in predict(images or [], artifact, scores=scores, progress=progress):
        if json:
            console.print_line(answer.to_line())
        answers.append(answer)
    if not json:
        _print_answers([answer for answer in answers if answer.error is None])
    return status_of(answers)


def _arriving(watch: Path | None, artifact: Path | None, *, scores: bool, json: bool) -> int:
    """A line for each image as it comes, whether for people or programs."""
    from ftx.evaluating.arrivals import WatchedFolder, named_on
    from ftx.evaluating.predict import predict_arriving

    progress = console.TerminalProgress(bars=False)
    watched = None if watch is None else WatchedFolder(watch, progress=progress)
    arrivals = named_on(sys.stdin) if watched is None else watched
    total = skipped = 0
    try:
        for answer in predict_arriving(arrivals, artifact, scores=scores, progress=progress):
            total += 1
            if json:
                console.print_line(answer.to_line())
            elif answer.error is None:
                console.print_line("\t".join([answer.path, *(f"{one.name} {one.score:.4f}" for one in answer.labels)]))
            if answer.error is not None:
                skipped += 1
                console.print_note(f"skipped {answer.path}: {answer.error}", "bad")
            if watched is not None:
                watched.answered(answer.path)
    except KeyboardInterrupt as signal:
        if watched is None or isinstance(signal, Termination):
            raise
        console.print_note(f"stopped after {total} images; started again, it goes on behind them", "dim")
        return INTERRUPTED
    if not total:
        raise InputError("standard input named no images", fix="write paths to it, one a line")
    return SKIPPED if skipped else 0


def _print_answers(answers: list[Prediction]) -> None:
    if answers:
        console.print_table(
            ("image", "label", "score"),
            [
                (
                    answer.path,
                    ", ".join(label.name for label in answer.labels),
                    ", ".join(f"{label.score:.4f}" for label in answer.labels),
                )
                for answer in answers
            ],
        )
