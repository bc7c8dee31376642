"""Arguments and flags that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunArgument = Annotated[
    Path | None,
    typer.Argument(metavar="RUN", show_default=False, help="A run folder; without it the newest, runs/latest."),
]
JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and everything else on stderr.")
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Where the images are now, if they moved since training."),
]
