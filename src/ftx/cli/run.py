"""``ftx run``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.recipe_flags import read_recipe
from ftx.cli.shared_options import (
    JsonFlag,
    OutOption,
    RecipeArgument,
    RecipeDataOption,
    RequireProofFlag,
    SetOption,
    StrictFlag,
    parse_precisions,
)
from ftx.cli.validate import print_parity
from ftx.runs.artifacts import IRS

if TYPE_CHECKING:
    from ftx.pipeline import PipelineReport


def command(
    recipe: RecipeArgument,
    data: RecipeDataOption = None,
    precisions: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            metavar="LIST",
            help=f"Precisions of the OpenVINO models, separated by commas: {', '.join(IRS)}.  [default: fp32,int8]",
        ),
    ] = None,
    set_: SetOption = None,
    out: OutOption = None,
    strict: StrictFlag = False,
    require_proof: RequireProofFlag = False,
    json: JsonFlag = False,
) -> int:
    """Train, merge, export (ONNX, OpenVINO fp32 and int8) and verify, with one command.

    The exit status is 1 if a model gets the verdict failed (see `ftx validate -h`).
    """
    read = read_recipe(recipe, set_ or (), {"data.path": data})
    from ftx.pipeline import run_all

    progress = console.TerminalProgress()
    report = run_all(
        read,
        out=out,
        precisions=parse_precisions(precisions, tuple(IRS)) or ["fp32", "int8"],
        strict=strict,
        require_proof=require_proof,
        progress=progress,
        on_epoch=progress.note_epoch,
    )
    return console.show(report, print_pipeline, json=json)


def print_pipeline(report: PipelineReport) -> None:
    """The figures of the run, and the verdict on every model."""
    trained = report.train
    metric = trained.metric.replace("_", " ")
    console.print_facts(
        [
            ("trained", f"{metric} {100 * trained.metrics[trained.metric]:.1f} % on validation images"),
            ("time", f"{report.seconds:.0f} s"),
            ("run", str(report.run)),
        ]
    )
    print_parity(report.parity)
