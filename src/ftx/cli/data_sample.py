"""``ftx data sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from ftx.cli import console
from ftx.cli.shared_options import JsonFlag, parse_task
from ftx.core.command_report import CommandReport
from ftx.core.errors import shell_command
from ftx.tasks.task_names import TASK_CHOICES, TaskName


class SampleReport(CommandReport):
    """What ``ftx data sample`` answers: ``path`` is what ``ftx train --data`` takes."""

    verb: str = "data sample"
    task: TaskName
    path: str = Field(description="A folder or a table of images.")


def sample(
    task: Annotated[str, typer.Option("--task", metavar="TASK", help=f"{TASK_CHOICES}.")] = "multiclass",
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder that it is put into.  [default: this one]")
    ] = Path(),
    json: JsonFlag = False,
) -> int:
    """Unpack the sample that travels with ftx: pictures of garments with labels for one of the three tasks.

    1,000 images of Fashion-MNIST to train on and 500 held out, as ten classes or as a tree with a single label;
    for multilabel 750 sheets of up to four garments and 300 held out. What is there already is not touched.
    """
    from ftx.data.sample import place_sample

    report = SampleReport(task=parse_task(task), path=str(place_sample(parse_task(task), out)))
    if json:
        console.print_json(report)
    else:
        console.print_facts([("sample", report.path)])
        console.print_note(f"next: {shell_command('ftx data check', report.path)}", "dim")
    return 0
