"""``ftx explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ftx.cli import console
from ftx.cli.shared_options import JsonFlag, check_usage, note_old_spelling, report_skipped
from ftx.core.errors import InputError

if TYPE_CHECKING:
    from ftx.explaining.explain import ExplainReport, MapMethod


def command(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGES",
            show_default=False,
            help="Images, folders of images, or patterns, for example 'photos/*.jpg'.",
        ),
    ],
    artifact: Annotated[
        Path | None,
        typer.Option(
            "--artifact",
            metavar="NAME|PATH",
            help="A run, or an OpenVINO model that was exported with --explain.  [default: your newest run, "
            "runs/latest]",
        ),
    ] = None,
    map_: Annotated[
        str | None,
        typer.Option(
            "--map",
            metavar="reciprocam|rollout",
            help="reciprocam: what supports a label. rollout: the areas that the model uses, independently of the "
            "label.  [default: reciprocam]",
        ),
    ] = None,
    method: Annotated[str | None, typer.Option("--method", hidden=True)] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="NAME",
            help="Show this label. You can repeat this option.  [default: the predicted labels]",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder of the pictures: IMAGE.LABEL.png.")
    ] = Path("explained"),
    json: JsonFlag = False,
) -> int:
    """Show which areas of an image a prediction is based on.

    The brighter an area, the more it supports the label. Brightness is relative to each picture; the score shows how
    confident the model is. If a picture has a darkened border, the model did not use this border.

    Images that cannot be read are skipped; the exit status is then 4.
    """
    from ftx.explaining.explain import explain

    if method is not None:
        check_usage(
            (
                map_ is not None,
                InputError(
                    "--method cannot be combined with --map: it is the old name of --map",
                    fix="run the command without --method",
                ),
            )
        )
        note_old_spelling(f"--method {method}", f"--map {method}")
        map_ = method
    if Path("-") in images:
        raise InputError(
            "IMAGES must be images, folders or patterns, not standard input",
            found="-",
            fix="name images, folders or patterns",
        )
    report = explain(
        images,
        artifact,
        out=out,
        method=cast("MapMethod", map_ or "reciprocam"),
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
