"""``ftx quickstart``."""

from __future__ import annotations

from typing import Annotated

import typer

from ftx.cli import console
from ftx.cli.run import answer
from ftx.cli.shared_options import JsonFlag, OutOption, parse_task
from ftx.tasks.task_names import TASK_CHOICES


def command(
    task: Annotated[str, typer.Option("--task", metavar="TASK", help=f"{TASK_CHOICES}.")] = "multiclass",
    out: OutOption = None,
    json: JsonFlag = False,
) -> int:
    """Train, merge, export and validate on the embedded model and sample, without a network.

    1,000 images of Fashion-MNIST to train on and 500 held out, as ten classes or as a tree with a single label;
    for multilabel 750 sheets of up to four garments and 300 held out. The sample is unpacked beside the run.
    """
    from ftx.pipeline import quickstart

    progress = console.TerminalProgress()
    report = quickstart(out, task=parse_task(task), progress=progress, on_epoch=progress.note_epoch)
    return answer(report, json=json)
