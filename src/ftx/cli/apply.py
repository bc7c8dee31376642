"""``ftx apply``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.shared_options import JsonFlag
from ftx.core.errors import InputError

if TYPE_CHECKING:
    from ftx.updating.apply import ApplyReport


def command(
    adapter: Annotated[
        Path | None,
        typer.Argument(
            metavar="ADAPTER", show_default=False, help="An update by ftx export --as-update, or a folder of PEFT's."
        ),
    ] = None,
    base: Annotated[
        Path | None, typer.Argument(metavar="BASE_IR", show_default=False, help="What ftx export --base wrote.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Argument(metavar="OUT_IR", show_default=False, help="The model; what is there is kept for --rollback."),
    ] = None,
    labels: Annotated[
        str, typer.Option("--labels", metavar="A,B,...", help="Of a folder of PEFT's, where they are not the base's.")
    ] = "",
    back: Annotated[
        Path | None,
        typer.Option("--rollback", metavar="OUT_IR", help="Go back to the model before, and again forward."),
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Merge an adapter into a base IR on a device, without torch, in seconds.

    The weights are the server's to the last bit, and the result is checked on the server's reference images before it
    takes its place. An update of another base, an older one, or one that is cut or altered is an error: the model there
    does not change.
    """
    from ftx.updating.apply import apply, rollback

    progress = console.TerminalProgress()
    if back is not None:
        if adapter is not None or labels:
            raise InputError("--rollback takes nothing else", fix="name only the model: ftx apply --rollback OUT_IR")
        report = rollback(back, progress)
    elif adapter is None or base is None or out is None:
        raise InputError(
            "an update, its base and the model to write are needed", fix="ftx apply ADAPTER BASE_IR OUT_IR"
        )
    else:
        report = apply(adapter, base, out, labels=[name for name in labels.split(",") if name], progress=progress)
    return console.show(report, _print, json=json)


def _print(report: ApplyReport) -> None:
    if report.rolled_back:
        which = "the model before" if report.sequence is None else f"update {report.sequence}"
        console.print_note(f"{report.path}: {which} again, in {report.seconds:.1f} s", "good")
    else:
        weights = {
            True: "the server's weights",
            False: f"weights within {report.weight_bound or 0:.1e}",
            None: "merged",
        }
        merged = f"{report.layers} layers, {report.labels} labels, {weights[report.exact]}"
        console.print_note(
            f"{report.path}: {merged if report.layers else 'nothing to merge'}, "
            f"{report.bytes_shipped / 1e6:.2f} MB shipped, {report.seconds:.1f} s",
            "good",
        )
    console.print_note(f"{report.verdict}: {report.summary}", "good" if report.verdict == "proved" else "strong")
