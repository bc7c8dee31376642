"""``ftx run``: train, merge, export and validate from one recipe; ``ftx quickstart``: on the bundled sample."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ftx.core.addresses import if_address
from ftx.core.command_report import CommandReport
from ftx.core.errors import Interrupted, shell_command, stopped
from ftx.core.progress import SILENT, Progress
from ftx.core.rank_zero_output import check_one_process
from ftx.core.shipped_files import recipe_file
from ftx.data.bundled_sample import place_sample
from ftx.evaluating import ParityReport, validate
from ftx.exporting import ExportReport, export
from ftx.exporting.export import artifacts_of
from ftx.merging.merge_and_prove import MergeReport, merge
from ftx.recipe.schema import Recipe
from ftx.runs.artifacts import DENSE, FORMATS
from ftx.runs.run import Run
from ftx.runs.run_json import RESUME
from ftx.runs.runs_folder import RUNS
from ftx.tasks.task_names import TaskName
from ftx.training import OnEpoch, TrainReport, train


class PipelineReport(CommandReport):
    """The reports of all steps of ``ftx run`` and ``ftx quickstart``."""

    verb: str = "run"
    seconds: float
    """The time of all steps in seconds."""
    train: TrainReport
    """The report of the training."""
    merge: MergeReport
    """The report of the merge."""
    export: ExportReport
    """The report of the export."""
    parity: ParityReport
    """The report of the validation, whose ``ok`` is also that of the whole."""


def run_all(
    recipe: Recipe,
    out: Path | None = None,
    *,
    precisions: Sequence[str] = ("fp32", "int8"),
    strict: bool = False,
    require_proof: bool = False,
    progress: Progress = SILENT,
    on_epoch: OnEpoch | None = None,
) -> PipelineReport:
    """Train, merge, export ONNX and the IR in each precision, and validate all of it.

    With ``require_proof`` an artifact that is not proved makes ``ok`` false, as a failed one does.
    Raises: what the four raise; Interrupted or Terminated, with the command that resumes it, if a signal ended it.
    """
    check_one_process("what comes after training")
    started = time.monotonic()
    artifacts = artifacts_of(FORMATS, precisions)  # one mistyped must not cost the training
    trained = train(recipe, out=out, strict=strict, progress=progress, on_epoch=on_epoch)
    if trained.interrupted:
        resume, merge_it = (shell_command(command, trained.run) for command in (RESUME, DENSE.made_by))
        raise Interrupted(
            "interrupted in training",
            found=f"{trained.run} contains the best epoch so far",
            fix=f"resume the training: {resume}; or use that epoch: {merge_it}",
        )
    run, data = Run.open(trained.run), if_address(recipe.data.path)
    try:
        merged = merge(run, data=data, progress=progress)
        exported = export(run, formats=FORMATS, precisions=precisions, data=data, progress=progress)
        parity = validate(run, data=data, require_proof=require_proof, progress=progress)
    except KeyboardInterrupt as signal:
        missing = [artifact for artifact in (DENSE, *artifacts) if not run.has(artifact)]
        again = missing[0].command(run.path) if missing else shell_command("ftx validate", run.path)
        held = ", ".join(map(str, run.artifacts()))
        raise stopped(
            signal, doing="after training", found=f"{run.path} contains {held}", fix=f"resume with {again}"
        ) from None
    return PipelineReport(
        run=str(run.path),
        ok=parity.ok,
        seconds=round(time.monotonic() - started, 1),
        train=trained,
        merge=merged,
        export=exported,
        parity=parity,
    )


def quickstart(
    out: Path | None = None,
    *,
    task: TaskName = "multiclass",
    progress: Progress = SILENT,
    on_epoch: OnEpoch | None = None,
) -> PipelineReport:
    """Train, merge, export and validate on the bundled model and the sample of a task; needs no network.

    The sample is unpacked next to the runs, where every run made of it finds it again.
    Raises: what the four raise; DataError if something else is where the sample is unpacked.
    """
    check_one_process("what comes after training")
    started = time.monotonic()
    sample = place_sample(task, RUNS)
    recipe = Recipe.build(recipe_file(f"quickstart-{task}"), flags={"data.path": str(sample)})
    report = run_all(recipe, out, progress=progress, on_epoch=on_epoch)
    report.verb, report.seconds = "quickstart", round(time.monotonic() - started, 1)
    return report
