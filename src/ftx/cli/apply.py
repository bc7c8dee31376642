"""``ftx apply``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.shared_options import AllowFailedFlag, JsonFlag, RequireVerifiedFlag
from ftx.cli.verdict_words import VERDICT_WORDS
from ftx.core.errors import InputError

if TYPE_CHECKING:
    from ftx.updating.apply import ApplyReport


def command(
    adapter: Annotated[
        Path | None,
        typer.Argument(
            metavar="UPDATE",
            show_default=False,
            help="A file that `ftx export --as-update` wrote, or a peft adapter folder.",
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Argument(metavar="BASE", show_default=False, help="The folder that `ftx export --base` wrote."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT",
            show_default=False,
            help="The model to write. The model that OUT contained is kept for --rollback.",
        ),
    ] = None,
    labels: Annotated[
        str,
        typer.Option(
            "--labels",
            metavar="A,B,...",
            help="The labels of an adapter folder, separated by commas, if the base model has other labels.",
        ),
    ] = "",
    back: Annotated[
        Path | None,
        typer.Option(
            "--rollback",
            metavar="OUT",
            help="Restore the model that OUT contained before the last update. Run the same command again to return to "
            "the update.",
        ),
    ] = None,
    require_proof: RequireVerifiedFlag = False,
    allow_failed: AllowFailedFlag = False,
    json: JsonFlag = False,
) -> int:
    """Update a model on a device: merge an update into the base model, without PyTorch, in seconds.

    UPDATE, BASE and OUT are required, except with --rollback. With an fp32 base model, the new model has exactly the
    weights of the training machine. With an fp16 base model, the weights are rounded, and ftx reports the largest
    possible difference.

    ftx checks the model on the reference images in BASE before it replaces the old model. If the update is damaged,
    older than the installed update, or made for another base model, the old model stays.
    """
    from ftx.updating.apply import apply, rollback

    progress = console.TerminalProgress()
    if back is not None:
        if adapter is not None or labels:
            raise InputError(
                "--rollback must be used without UPDATE, BASE and --labels",
                found=str(adapter or labels),
                fix="run: ftx apply --rollback OUT",
            )
        report = rollback(back, progress)
    elif adapter is None or base is None or out is None:
        raise InputError(
            "ftx apply needs an update, its base, and the model to write", fix="run: ftx apply UPDATE BASE OUT"
        )
    else:
        report = apply(
            adapter,
            base,
            out,
            labels=[name for name in labels.split(",") if name],
            require_proof=require_proof,
            allow_failed=allow_failed,
            progress=progress,
        )
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
    style: console.Style = "good" if report.verdict == "proved" else "strong"
    console.print_note(f"{VERDICT_WORDS[report.verdict]}: {report.summary}", style)
