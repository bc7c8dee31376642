"""``ftx predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.shared_options import SKIPPED

if TYPE_CHECKING:
    from ftx.evaluating.predict import Prediction


def command(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGES", show_default=False, help="Images, or folders that hold some.")
    ],
    artifact: Annotated[
        Path | None,
        typer.Option(
            "--artifact",
            metavar="IR|RUN",
            help="An exported folder, which needs no torch, or a run.  [default: the best IR of runs/latest]",
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
    # Lines that appear one by one and a bar would write over each other on one terminal.
    progress = console.TerminalProgress(bars=not (json and console.answers_on_terminal()))
    answers: list[Prediction] = []
    for answer in predict(images, artifact, scores=scores, progress=progress):
        if json:
            console.print_line(answer.to_line())
        answers.append(answer)
    skipped = [answer for answer in answers if answer.error is not None]
    if not json:
        _print_answers([answer for answer in answers if answer.error is None])
    for answer in skipped:
        console.print_note(f"skipped {answer.path}: {answer.error}", "bad")
    if skipped:
        console.print_note(f"{len(skipped)} of {len(answers)} images were skipped", "bad")
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
