"""``ftx run``: train, merge, export and validate, from one recipe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ftx.card import Precision
from ftx.errors import Interrupted, shell_command
from ftx.exporting import ExportReport, export
from ftx.exporting.export import FORMATS, wanted_artifacts
from ftx.merging import MergeReport, merge
from ftx.progress import SILENT, Progress
from ftx.recipe import Recipe
from ftx.reports import VerbReport
from ftx.run import Run
from ftx.training import TrainReport, train
from ftx.validation import ParityReport, validate


class PipelineReport(VerbReport):
    """What each verb reported; ``ok`` where no artifact failed (or, with ``require_proof``, each is proved)."""

    verb: str = "run"
    seconds: float
    train: TrainReport
    merge: MergeReport
    export: ExportReport
    parity: ParityReport


def run_all(
    recipe: Recipe,
    out: Path | None = None,
    *,
    precisions: Sequence[Precision] = ("fp32", "int8"),
    strict: bool = False,
    require_proof: bool = False,
    progress: Progress = SILENT,
) -> PipelineReport:
    """Train, merge, export ONNX and the IR in each precision, and validate all of it.

    With ``require_proof`` an artifact that is not proved makes ``ok`` false, as one that failed does.
    Raises: what the four raise.
    """
    started = time.monotonic()
    wanted_artifacts(FORMATS, precisions)  # one mistyped must not cost the training
    trained = train(recipe, out=out, strict=strict, progress=progress)
    if trained.interrupted:
        raise Interrupted(
            "interrupted in training",
            found=f"{trained.run} holds the best epoch so far",
            mend=f"to go on with it: {shell_command('ftx merge', trained.run)}",
        )
    run = Run.open(trained.run)
    merged = merge(run, progress=progress)
    exported = export(run, formats=FORMATS, precisions=precisions, progress=progress)
    parity = validate(run, require_proof=require_proof, progress=progress)
    return PipelineReport(
        run=str(run.path),
        ok=parity.ok,
        seconds=round(time.monotonic() - started, 1),
        train=trained,
        merge=merged,
        export=exported,
        parity=parity,
    )
