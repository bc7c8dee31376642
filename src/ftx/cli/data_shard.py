"""``ftx data shard``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftx.cli import console
from ftx.cli.shared_options import SKIPPED, DataFormatOption, DataTaskOption, FollowLinksFlag, JsonFlag, parse_task
from ftx.core.errors import shell_command


def shard(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A folder, a table, an annotation file, or shards.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder that is made.")],
    per_shard: Annotated[int, typer.Option("--per-shard", metavar="N", min=1, help="Images in each archive.")] = 1000,
    task: DataTaskOption = None,
    form: DataFormatOption = "auto",
    follow_links: FollowLinksFlag = False,
    json: JsonFlag = False,
) -> int:
    """Write images and their labels as WebDataset's shards: tar archives that train, eval and predict read.

    For data that is read over a network, or is too much for a folder. Images keep their bytes, and equal data give
    equal shards. Exit status 4 if images that cannot be read were left out.
    """
    from ftx.data.shards.write import write_shards

    report = write_shards(
        data,
        out,
        per_shard=per_shard,
        task=None if task is None else parse_task(task),
        form=form,
        follow_links=follow_links,
        progress=console.TerminalProgress(),
    )
    if json:
        console.print_json(report)
    else:
        megabytes = f"{report.bytes / 1e6:,.1f} MB"
        console.print_facts(
            [("shards", f"{report.path}: {report.shards}, with {report.images:,} images in {megabytes}")]
        )
        named = "" if task is None else f" --task {task}"
        console.print_note(f"next: {shell_command('ftx train --data', report.path)}{named}", "dim")
    return SKIPPED if report.skipped else 0
