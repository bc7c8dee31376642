"""``ftx quickstart``: the main job on what travels with ftx."""

from __future__ import annotations

import time
from pathlib import Path

from ftx.data.sample import place_sample
from ftx.pipeline import PipelineReport, run_all
from ftx.progress import SILENT, Progress
from ftx.recipe import Recipe, TaskName
from ftx.resources import recipe_file
from ftx.runs import RUNS


def quickstart(
    out: Path | None = None, *, task: TaskName = "multiclass", progress: Progress = SILENT
) -> PipelineReport:
    """Train, merge, export and validate on the embedded model and the sample of a task; needs no network.

    The sample lies beside the runs, where every run made of it finds it again.
    Raises: what the four raise; DataError if something else lies where the sample is unpacked.
    """
    started = time.monotonic()
    sample = place_sample(task, RUNS)
    recipe = Recipe.build(recipe_file(f"quickstart-{task}"), flags={"data.path": str(sample)})
    report = run_all(recipe, out, progress=progress)
    report.verb, report.seconds = "quickstart", round(time.monotonic() - started, 1)
    return report
