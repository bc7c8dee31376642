"""``ftx export``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from ftx.cli import console
from ftx.cli.shared_options import DataOption, JsonFlag, RunArgument
from ftx.core.errors import shell_command
from ftx.runs.artifacts import FORMATS, IRS

if TYPE_CHECKING:
    from ftx.exporting import ExportReport
    from ftx.exporting.export import ExportedArtifact
    from ftx.runs.artifacts import Format


def command(
    run: RunArgument = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="|".join(FORMATS), help="May be given more than once.  [default: openvino]"),
    ] = None,
    precisions: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            metavar="|".join(IRS),
            help="Of the IR; may be given more than once. ONNX is fp32 and takes no other.  [default: fp32]",
        ),
    ] = None,
    data: DataOption = None,
    json: JsonFlag = False,
) -> int:
    """Write the dense model as OpenVINO IR or ONNX.

    An IR takes raw images of any size: resize, crop and normalisation are inside. Each folder below openvino/
    is complete for a device, with labels, hashes and reference answers. int8 is calibrated on training images.
    """
    from ftx.exporting import export

    # What is no format or precision is refused by export itself, which knows the nearest one.
    report = export(
        run,
        formats=cast("list[Format]", formats or ["openvino"]),
        precisions=precisions or ["fp32"],
        data=data,
        progress=console.TerminalProgress(),
    )
    if json:
        console.print_json(report)
    else:
        print_export(report)
    return 0


def print_export(report: ExportReport) -> None:
    """A row a model."""
    console.print_table(
        ("artifact", "precision", "MB", "seconds", "written to", "verdict"),
        [
            (
                item.artifact,
                item.precision + setting(item),
                f"{item.size_bytes / 1e6:.1f}",
                f"{item.seconds:.1f}",
                item.path,
                item.verdict,
            )
            for item in report.artifacts
        ],
    )
    for item in report.artifacts:
        console.print_note(f"{item.artifact}: {item.verdict} by its reference images: {item.said}", "dim")
    console.print_note(f"next: {shell_command('ftx validate', report.run)}", "dim")


def setting(item: ExportedArtifact) -> str:
    """What int8 adds to its name: how it was made, and how much of it computes in 8 bits."""
    if item.int8_share is None:
        return ""
    if item.preset is not None:
        chosen = f"{item.preset} preset"
    else:
        alpha = item.smooth_quant_alpha
        chosen = "no SmoothQuant" if alpha is None or alpha < 0 else f"SmoothQuant {alpha:g}"
    return f" ({chosen}, {item.int8_share:.0%} of layers)"
