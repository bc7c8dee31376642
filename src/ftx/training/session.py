"""``ftx train``: from a recipe to a run folder, and ``--resume``: from a checkpoint to the same run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ftx.core.errors import RunError, Termination, shell_command, stopped
from ftx.core.files import check_space, stage_folder, write_atomic
from ftx.core.memory import memory_faults
from ftx.core.progress import SILENT, Progress
from ftx.data.shards.paths import images_root
from ftx.recipe.schema import Recipe
from ftx.runs.artifacts import TRAINED
from ftx.runs.data_jsonl import entries_digest, write_entries
from ftx.runs.new_run import NewRun, check_name_free, new_run, seal, unfinished_run
from ftx.runs.readme import KeptEpoch, write_trained_card
from ftx.runs.run_json import CHECKPOINTS, RESUME, Manifest, checkpoint_records
from ftx.runs.runs_folder import check_run_exists, fresh_out, name_latest
from ftx.runs.trained import save_trained
from ftx.training.assembly import build_training, fill_together, frozen_of, pixels_of
from ftx.training.checkpoints import Checkpoints, Origin, SavedCheckpoint, newest, train_again_command
from ftx.training.device_placement import Circumstances, in_threads_as, place, place_as_before, within_quota
from ftx.training.epoch_log import epoch_log
from ftx.training.estimate import advice, foreseeable, within
from ftx.training.head_start import HeadStart, start_head
from ftx.training.init_from import data_path
from ftx.training.loop import Diverged, Fit, check_position, fit, solved
from ftx.training.opening import ResolvedTraining, open_together
from ftx.training.ranks import Ranks, joined
from ftx.training.report import TrainReport
from ftx.training.resuming import check_same_inputs, recipe_to_resume
from ftx.training.signals import Stop, stoppable
from ftx.training.state import EpochEnd, TrainingState
from ftx.training.step import Training, effects_on_batch_statistics

# On disk, for each parameter that trains, in f32: three checkpoints (one is being written) with its value, its two
# moments and its value in the best epoch; and its value in ``trained/``.
_BYTES = 3 * 4 * 4 + 4
OnEpoch = Callable[[EpochEnd], None]


class AnotherTraining(RunError):
    """A checkpoint is of another training: resuming again would end in the same error."""


def train(
    recipe: Recipe,
    out: Path | None = None,
    *,
    strict: bool = False,
    budget_s: float | None = None,
    progress: Progress = SILENT,
    on_epoch: OnEpoch | None = None,
) -> TrainReport:
    """Train by the recipe and write a run folder, by default a new one in ``runs/``.

    With ``budget_s`` it trains as many of the epochs as end within that time, by the time of two steps.
    ``on_epoch`` is called at each epoch's end. After a signal, a full disk or a power loss ``resume`` finishes the run.
    Raises: RunError if ``out`` exists; DataError, ModelError or AdapterError for wrong input, before
    anything is written; InputError if no epoch fits into the budget; RecipeError if ``strict`` and the data has another
    number of labels than the recipe; Interrupted or Terminated if a signal ended it with a checkpoint and no
    epoch to keep, KeyboardInterrupt without either.
    """
    began = time.perf_counter()
    within_quota()
    with joined() as ranks, stoppable() as stop:
        progress, on_epoch = (progress, on_epoch) if ranks.leads else (SILENT, None)
        if ranks.leads and out is not None:
            check_name_free(out)
        resolved = open_together(recipe if budget_s is None else foreseeable(recipe), strict, progress, ranks)
        if budget_s is not None:
            with memory_faults(advice(resolved, ranks)):
                resolved = within(resolved, budget_s, began, progress, ranks)
        writing = nullcontext()
        if ranks.leads:
            out = out or fresh_out(f"{images_root(recipe.data.path).resolve().stem}-{resolved.recipe.method}")
            check_space(out, _BYTES * resolved.prepared.trainable)
            writing = new_run(out)
        with _resumable(writing) as new:
            report = _Session(new, resolved, stop, progress, on_epoch, ranks).run(None)
        path = ranks.of_first(new and new.path)  # its name may have changed until it was complete
    if new is not None and path != out:
        progress.note(f"another training created {out} in the meantime: this run is {path}")
    return _as_latest(report, path, progress, ranks)


def resume(
    run: Path,
    *,
    overrides: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
    progress: Progress = SILENT,
    on_epoch: OnEpoch | None = None,
) -> TrainReport:
    """Finish an interrupted training, with the bytes that it would have written without the interruption.

    ``overrides`` (``key=value``) and ``flags``, by the recipe's keys, must agree with the recipe, except ``data.path``:
    the images may have been moved. ``on_epoch`` is called for the epochs that end here. If the process was killed at
    the end of an epoch, that one may be reported twice or not at all.
    Raises: RunError if there is nothing to resume, or if data, base or recipe have changed; as ``train``.
    """
    with joined() as ranks, stoppable() as stop:
        progress, on_epoch = (progress, on_epoch) if ranks.leads else (SILENT, None)
        if ranks.leads:
            check_run_exists(run)
        with _resumable(unfinished_run(run) if ranks.leads else nullcontext()) as unfinished:
            # The first process reads the checkpoint for all; images may lie elsewhere on each machine.
            saved = None if unfinished is None else newest(run, progress)
            recipe = saved and recipe_to_resume(run, saved.checkpoint.origin.recipe, overrides, flags)
            checkpoint, recipe = ranks.of_first((saved and saved.checkpoint, recipe))
            assert checkpoint is not None
            assert recipe is not None
            saved = SavedCheckpoint(checkpoint, ranks.tensors_of_first({} if saved is None else saved.tensors))
            if not ranks.leads and (path := data_path(overrides, flags)) is not None:
                recipe = recipe.replace(data={"path": path})
            before, position = checkpoint.origin.circumstances, checkpoint.record.position
            as_before = before.processes == ranks.world
            attention = before.plain_attention if as_before else None
            if not as_before:
                progress.note(
                    f"started with {before.processes} processes: with {ranks.world}, the last bits may differ"
                )
            with in_threads_as(before) if as_before else nullcontext():
                resolved = open_together(recipe, False, SILENT, ranks, attention)
                for note in () if as_before else resolved.plan.notes:
                    progress.note(note)
                if unfinished is not None:
                    check_same_inputs(run, checkpoint.origin, resolved)
                epochs = checkpoint.origin.recipe.train.epochs
                progress.note(f"resuming after step {position.step}, in epoch {position.epoch} of {epochs}")
                report = _Session(unfinished, resolved, stop, progress, on_epoch, ranks).run(saved)
        path = ranks.of_first(unfinished and unfinished.path)
    return _as_latest(report, path, progress, ranks)


def _as_latest(report: TrainReport, run: Path | None, progress: Progress, ranks: Ranks) -> TrainReport:
    """The report with the path of the run, which ``runs/latest`` names from now on."""
    assert run is not None
    if ranks.leads:
        name_latest(run, progress)
    return report.model_copy(update={"run": str(run)})


@contextmanager
def _resumable(writing: AbstractContextManager[NewRun | None]) -> Iterator[NewRun | None]:
    """The folder of a run, in the first process; if a signal ends the training, the error has the command to resume."""
    with writing as new:
        try:
            yield new
        except KeyboardInterrupt as signal:
            if new is None or not checkpoint_records(new.folder):
                raise
            found = f"its state is saved in {new.path / CHECKPOINTS}"
            command = shell_command(RESUME, new.path)
            raise stopped(signal, doing="in training", found=found, fix=command) from None


@dataclass(frozen=True)
class _Session:
    """One run's training, from its first step or from a checkpoint, to a complete run folder.

    Only the first of several processes has the folder, ``new``, and writes.
    """

    new: NewRun | None
    found: ResolvedTraining
    stop: Stop
    progress: Progress
    on_epoch: OnEpoch | None
    ranks: Ranks

    def run(self, saved: SavedCheckpoint | None) -> TrainReport:
        """Train, and write the result.

        Raises: KeyboardInterrupt if it was stopped before there was an epoch to keep.
        """
        origin = self._origin(saved)
        checkpoints = None if self.new is None else Checkpoints(self.new, origin, saved)
        try:
            if self.new is not None:
                write_atomic(self.new.folder / "recipe.yaml", self.found.recipe.dumps().encode())
                write_entries(self.new.folder, self.found.dataset.entries)
            with (
                memory_faults(advice(self.found, self.ranks)),
                pixels_of(self.found, self.progress) as pixels,
                frozen_of(self.found, self.progress, ranks=self.ranks) as frozen,
            ):
                if frozen is not None:
                    frozen.free_space(self.found.views, self.progress)
                    if checkpoints is not None:
                        checkpoints.settle_first = frozen.store.sync
                training = build_training(self.found, pixels, frozen, self.ranks)
                fill_together(training, frozen, self.progress)
                for note in effects_on_batch_statistics(training):
                    self.progress.note(note)
                state, started = training.begin(), None
                if saved is None:
                    started = self._start_head(training)
                else:
                    self._restore(state, training, saved)
                made = self._fit(training, state, checkpoints, started)
            self.found.prepared.backbone.module.cpu()
            if self.new is not None:
                self._write(self.new.folder, made)
            if checkpoints is not None and not made.interrupted:
                checkpoints.remove()
        except AnotherTraining:
            raise
        except Diverged:
            if checkpoints is not None:
                checkpoints.remove()
            raise
        except Exception:  # a full disk, no memory: with a checkpoint the training can be resumed
            self._note_how_to_resume()
            raise
        self._note_how_to_resume()
        return self._report(made, state.seconds)

    def _restore(self, state: TrainingState, training: Training, saved: SavedCheckpoint) -> None:
        """Continue from a checkpoint, and free its tensors: they need as much memory as the weights, and twice more.

        Raises: RunError if it belongs to another training, though its hash is correct.
        """
        record = saved.checkpoint.record
        try:
            check_position(training, record)
            state.restore(record, saved.tensors)
        except ValueError as error:
            where = None if self.new is None else self.new.path / CHECKPOINTS
            fix = "train again from its recipe.yaml" if self.new is None else train_again_command(self.new.path)
            raise AnotherTraining(
                "the checkpoint must be of this training", where=where, found=str(error), fix=fix
            ) from error
        state.note_means(training.metric)
        saved.tensors.clear()
        if not self.ranks.leads:
            state.loss.zero_()  # the first process has the sum over all

    def _note_how_to_resume(self) -> None:
        if self.new is not None and checkpoint_records(self.new.folder):
            self.progress.note(f"to resume it: {shell_command(RESUME, self.new.path)}")

    def _origin(self, saved: SavedCheckpoint | None) -> Origin:
        """Move the model to its device: the same as before, if the training is resumed."""
        prepared, recipe, dataset = self.found.prepared, self.found.recipe, self.found.dataset
        if saved is not None and saved.checkpoint.origin.circumstances.processes == self.ranks.world:
            place_as_before(prepared, saved.checkpoint.origin.circumstances)
            return saved.checkpoint.origin
        where = place(prepared, plain_attention=self.found.plan.plain_attention)
        circumstances = Circumstances(
            device=where.type,
            threads=torch.get_num_threads(),
            plain_attention=self.found.plan.plain_attention,
            processes=self.ranks.world,
        )
        return Origin(
            recipe=recipe,
            data_sha256=entries_digest(dataset.entries),
            base_digest=prepared.backbone.digest,
            circumstances=circumstances,
        )

    def _start_head(self, training: Training) -> HeadStart | None:
        """Fit the head, if the plan contains that and the classifier reads one row of features."""
        if not self.found.plan.fits_head:
            return None
        started = start_head(training, self.progress)
        if started is None:
            self.progress.note("the head reads several rows of features, so it starts at random and trains in steps")
        return started

    def _fit(
        self, training: Training, state: TrainingState, checkpoints: Checkpoints | None, started: HeadStart | None
    ) -> Fit:
        tensorboard = training.recipe.tensorboard
        if tensorboard and self.new is not None:
            self.progress.note(f"to see the curves: tensorboard --logdir {self.new.path / 'reports' / 'tensorboard'}")
        with epoch_log(self.new, state.epochs, tensorboard=tensorboard) as log:

            def report_epoch(end: EpochEnd) -> None:
                log(end)
                if self.on_epoch is not None:
                    self.on_epoch(end)

            if started is not None and self.found.plan.solves_all:
                return solved(training, state, started.seconds, report_epoch)
            progress, stop = self.progress, self.stop
            made = fit(training, state, progress=progress, on_epoch=report_epoch, checkpoints=checkpoints, stop=stop)
        if made is None:
            raise Termination if self.stop.requested == "terminate" else KeyboardInterrupt
        return made

    def _write(self, folder: Path, made: Fit) -> None:
        found, prepared = self.found, self.found.prepared
        kept = KeptEpoch(
            number=made.best.epoch,
            epochs=len(made.epochs),
            metric=made.metric,
            metrics=made.best.metrics,
            thresholds=made.thresholds,
            interrupted=made.interrupted,
        )
        with stage_folder(folder / TRAINED.name) as staged:
            save_trained(prepared, staged)
            write_trained_card(staged, found.recipe, prepared, found.dataset, kept, init_from=found.init_from)
        manifest = Manifest(
            task=found.recipe.task,
            model=found.recipe.model.name,
            architecture=prepared.backbone.architecture,
            method=prepared.method,
            base_digest=prepared.backbone.digest,
            labels=found.dataset.labels,
            thresholds=made.thresholds,
            preprocess=prepared.backbone.preprocess,
            data_root=str(found.dataset.root),
            begun_from=found.init_from,
        )
        seal(folder, manifest, found.dataset.entries)

    def _report(self, made: Fit, seconds: float) -> TrainReport:
        recipe = self.found.recipe
        return TrainReport(
            method=recipe.method,
            model=recipe.model.name,
            precision=recipe.train.precision,
            classes=len(self.found.dataset.labels),
            images=self.found.images,
            unreadable=self.found.unreadable,
            trainable_parameters=self.found.prepared.trainable,
            epochs=len(made.epochs),
            best_epoch=made.best.epoch,
            accuracy=made.best.accuracy,
            metric=made.metric,
            metrics=made.best.metrics,
            loss=made.best.val_loss,
            images_per_s=round(float(np.median([epoch.images_per_s for epoch in made.epochs])), 1),
            seconds=round(seconds, 1),
            interrupted=made.interrupted,
        )
