"""``ftx explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ftx.cli import console
from ftx.cli.shared_options import JsonFlag, report_skipped
from ftx.core.errors import InputError

if TYPE_CHECKING:
    from ftx.explaining.explain import ExplainReport, MapMethod


def command(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGES", show_default=False, help="Images, folders that hold some, or patterns."),
    ],
    artifact: Annotated[
        Path | None,
        typer.Option(
            "--artifact",
            metavar="IR|RUN",
            help="A run, or an IR that was exported with --explain, which needs no torch.  [default: runs/latest]",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="NAME",
            help="reciprocam: what favours a label; rollout: where a plain Vision Transformer looks at all.",
        ),
    ] = "reciprocam",
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="NAME",
            help="What favours this label; may be given several times.  [default: the predicted labels]",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the pictures go: IMAGE.LABEL.png.")] = Path(
        "explained"
    ),
    json: JsonFlag = False,
) -> int:
    """Draw over images what a model's predictions come from.

    Light is what favours the label most, dark what does least, in this image: where, and not how much, which is the
    score. The darkened border is outside of the model's input. Images that cannot be read are reported and skipped; the
    exit status is then 4.
    """
    from ftx.explaining.explain import explain

    if Path("-") in images:
        raise InputError("standard input is for ftx predict", found="-", fix="name images, folders or patterns")
    report = explain(
        images,
        artifact,
        out=out,
        method=cast("MapMethod", method),
        labels=label or [],
        progress=console.TerminalProgress(),
    )
    console.show(report, _print, json=json)
    return report_skipped(report.images)


def _print(report: ExplainReport) -> None:
    rows = [
        (image.path, picture.label or "-", console.figure(picture.score, ".4f"), picture.path)
        for image in report.images
        for picture in image.pictures
    ]
    if rows:
        console.print_table(("image", "label", "score", "picture"), rows)
        console.print_note(f"{report.method} of {report.artifact}", "dim")
