"""``ftx quickstart``: the main job on what travels with ftx."""

from __future__ import annotations

import time
from pathlib import Path

from ftx.data.sample import unpack_sample
from ftx.exporting import ExportReport, export
from ftx.merging import MergeReport, merge
from ftx.progress import SILENT, Progress
from ftx.recipe import Recipe
from ftx.reports import VerbReport
from ftx.resources import embedded_recipe, sample_archive
from ftx.run import Run
from ftx.runs import RUNS
from ftx.training import TrainReport, train
from ftx.validation import ParityReport, validate

# Beside the runs, where every run made of it finds it again; no run folder looks like it.
SAMPLE = RUNS / "sample-data"


class QuickstartReport(VerbReport):
    """What each verb reported; ``ok`` where every artifact held its bound."""

    verb: str = "quickstart"
    seconds: float
    train: TrainReport
    merge: MergeReport
    export: ExportReport
    parity: ParityReport


def quickstart(out: Path | None = None, *, progress: Progress = SILENT) -> QuickstartReport:
    """Train, merge, export and validate on the embedded model and sample; needs no network.

    Raises: what the four raise; DataError if something else lies where the sample is unpacked.
    """
    started = time.monotonic()
    sample = unpack_sample(sample_archive(), SAMPLE)
    recipe = Recipe.build(embedded_recipe("quickstart"), flags={"data.path": str(sample)})
    trained = train(recipe, out=out, progress=progress)
    run = Run.open(trained.run)
    merged = merge(run, progress=progress)
    exported = export(run, formats=("onnx", "openvino"), precisions=("fp32", "int8"), progress=progress)
    parity = validate(run, progress=progress)
    return QuickstartReport(
        run=str(run.path),
        ok=parity.ok,
        seconds=round(time.monotonic() - started, 1),
        train=trained,
        merge=merged,
        export=exported,
        parity=parity,
    )
