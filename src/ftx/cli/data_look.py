"""``ftx data look``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.shared_options import (
    SKIPPED,
    DataArgument,
    DataFormatOption,
    DataTaskOption,
    FollowLinksFlag,
    JsonFlag,
    parse_task,
)
from ftx.recipe.schema import Recipe

if TYPE_CHECKING:
    from ftx.curating.look import LookReport


def look(
    data: DataArgument = Path("data"),
    task: DataTaskOption = None,
    form: DataFormatOption = "auto",
    follow_links: FollowLinksFlag = False,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="NAME",
            help="The model that ftx uses to compare the images: dinov2-small, or any model that `ftx models` lists.",
        ),
    ] = "dinov2-small",
    weights: Annotated[
        str,
        typer.Option("--weights", metavar="auto|none|FILE", help="The weights of the model, as for `ftx train`."),
    ] = "auto",
    image_size: Annotated[
        str,
        typer.Option(
            "--image-size", metavar="auto|PIXELS|HxW", help="The size that images are resized to; 112 is faster."
        ),
    ] = "auto",
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="CSV",
            help="The table of your choices. If it already exists, you resume where you stopped.",
        ),
    ] = Path("data-look.csv"),
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="The port of the page; 0: any free port.")
    ] = 8765,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in your browser.")] = False,
    json: JsonFlag = False,
) -> int:
    """Find images that are probably wrong: wrong labels, near-duplicates across splits, files that cannot be read.

    A page in your browser shows them one by one. You choose for each: keep it, change the label, or remove it. Your
    choices go into a table; your images do not change. Ctrl-C stops the page. `ftx train` does not read this table. The
    page "Fix wrong labels" of the documentation shows how to convert it into a table for training.

    With --json, ftx writes the table but shows no page. The exit status is then 4 if images cannot be read.
    """
    from ftx.data.sources.folder import check_data_path

    check_data_path(data)  # before torch is imported: a mistyped name must not cost seconds
    from ftx.curating.look import look as find
    from ftx.curating.server import LookServer, serve

    flags = {
        "data.path": str(data),
        "data.format": form,
        "data.follow_links": follow_links,
        "data.image_size": image_size,
        "model.name": model,
        "model.weights": weights,
    }
    recipe, named = Recipe.build(None, (), flags), None if task is None else parse_task(task)
    if json:
        report = find(recipe, named, out=out, progress=console.TerminalProgress()).report
        console.print_json(report)
        return SKIPPED if report.counts.get("unreadable") else 0
    # Before the work: a port that is in use must not cost it.
    with LookServer(port, note=partial(console.print_note, style="bad")) as server:
        found = find(recipe, named, out=out, progress=console.TerminalProgress())
        _print(found.report)
        serve(server, found, open_browser=open_browser, announce=_announce)
    console.print_facts([("table", f"{found.table.path}: {found.table.summary()}")], "strong")
    return 0


def _print(report: LookReport) -> None:
    counts = ", ".join(f"{count:,} {kind}" for kind, count in report.counts.items())
    metrics = ", ".join(f"{name.replace('_', ' ')} {value:.1%}" for name, value in list(report.metrics.items())[:2])
    console.print_facts(
        [
            ("data", f"{report.path}: {report.images:,} images, {report.task}"),
            ("probes", f"on {report.model} at {report.image_size} px, {report.folds} folds: {metrics}"),
            ("issues", counts or "none"),
            ("table", report.table),
        ]
    )
    for note in report.notes:
        console.print_note(note, "bad")
    for problem in report.problems:
        console.print_note(f"ftx train would end with an error: {problem}", "bad")


def _announce(address: str) -> None:
    console.print_facts([("page", address)], "strong")
    console.print_note("Ctrl-C ends it; each choice is in the table at once", "dim")
