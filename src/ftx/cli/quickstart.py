"""``ftx quickstart``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftx.cli import console
from ftx.cli.options import JsonFlag
from ftx.cli.validate import accuracy, print_parity


def command(
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The run folder to make.  [default: a new one in runs/]")
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Train, merge, export and validate on the embedded model and sample, without a network.

    1,000 images of Fashion-MNIST to train on and 500 held out; the sample is unpacked beside the run.
    """
    from ftx.quickstart import quickstart

    report = quickstart(out, progress=console.TerminalProgress())
    if json:
        console.print_json(report)
        return 0 if report.ok else 1
    print_parity(report.parity)
    by_files = {row.artifact: row for row in report.parity.rows if row.view == "files"}
    console.print_facts(
        [
            *((f"accuracy of {artifact}", f"{accuracy(row)} %") for artifact, row in by_files.items()),
            ("time", f"{report.seconds:.0f} s"),
            ("run", str(report.run)),
        ]
    )
    return 0 if report.ok else 1
