"""``ftx train``: from a recipe to a run folder, and on from where it was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
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
from ftx.runs.latest import check_run_exists, fresh_out, name_latest
from ftx.runs.new_run import NewRun, check_name_free, new_run, seal, unfinished_run
from ftx.runs.readme import KeptEpoch, write_trained_card
from ftx.runs.run_json import CHECKPOINTS, RESUME, Manifest, checkpoint_records
from ftx.runs.trained import save_trained
from ftx.tasks.thresholds import Thresholds
from ftx.training.assembly import fill_together, frozen_of, make_room_for, pixels_of, training_of
from ftx.training.budget import foreseeable, within
from ftx.training.checkpoints import Checkpoints, Origin, Saved, newest, train_anew
from ftx.training.device_placement import Circumstances, in_threads_as, place, place_as_before, within_quota
from ftx.training.dry_running import advice
from ftx.training.epoch_log import epoch_log
from ftx.training.head_start import HeadStart, start_head
from ftx.training.loop import Diverged, Fit, fit, refuse_other_position, solved
from ftx.training.named_data import data_path
from ftx.training.ranks import Ranks, joined
from ftx.training.report import TrainReport
from ftx.training.resolve import Resolved, resolve_together
from ftx.training.resuming import recipe_to_go_on_with, refuse_other
from ftx.training.signals import Stop, stoppable
from ftx.training.state import EpochEnd, TrainingState
from ftx.training.step import Training

# On disk, of each parameter that trains in f32: in three checkpoints (one is being written) it, its two moments and
# its value in the best epoch; and it in ``trained/``.
_BYTES = 3 * 4 * 4 + 4
OnEpoch = Callable[[EpochEnd], None]


class AnotherTraining(RunError):
    """A checkpoint is of another training: resuming it would end in the same way."""


def train(
    recipe: Recipe,
    out: Path | None = None,
    *,
    strict: bool = False,
    budget_s: float | None = None,
    progress: Progress = SILENT,
    on_epoch: OnEpoch | None = None,
) -> TrainReport:
    """Train as the recipe says and write a run folder, by default a new one below ``runs/``.

    With ``budget_s`` there are as many of the epochs as end in so many seconds, by the time that two steps take.
    ``on_epoch`` is called at each epoch's end. After a signal, a full disk or a loss of power ``resume`` goes on with
    the run.
    Raises: RunError if ``out`` exists; DataError, ModelError or AdapterError for wrong input, before
    anything is written; InputError if no epoch fits into the budget; RecipeError if ``strict`` and the data has another
    number of labels than the recipe says; Interrupted or Terminated where a signal ended it with a checkpoint and no
    epoch to keep, KeyboardInterrupt without either.
    """
    began = time.perf_counter()
    within_quota()
    with joined() as ranks, stoppable() as stop:
        progress, on_epoch = (progress, on_epoch) if ranks.leads else (SILENT, None)
        if ranks.leads and out is not None:
            check_name_free(out)
        resolved = resolve_together(recipe if budget_s is None else foreseeable(recipe), strict, progress, ranks)
        if budget_s is not None:
            with memory_faults(advice(resolved, ranks)):
                resolved = within(resolved, budget_s, began, progress, ranks)
        if not ranks.leads:
            return _that_lies_there(_Session(None, resolved, stop, progress, on_epoch, ranks).run(None), ranks)
        out = out or fresh_out(f"{images_root(recipe.data.path).resolve().stem}-{resolved.recipe.method}")
        check_space(out, _BYTES * resolved.prepared.trainable)
        with new_run(out) as new, _resumable(new):
            report = _Session(new, resolved, stop, progress, on_epoch, ranks).run(None)
        report = _that_lies_there(report.model_copy(update={"run": str(new.path)}), ranks)  # where it came to lie
    if new.path != out:
        progress.note(f"{out} was taken by another training meanwhile: this run is {new.path}")
    return _named(report, progress)


def resume(
    run: Path,
    *,
    overrides: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
    progress: Progress = SILENT,
    on_epoch: OnEpoch | None = None,
) -> TrainReport:
    """Go on with a training that ended before its time, to the bytes that it would have made without a stop.

    ``overrides`` (``key=value``) and ``flags``, by the recipe's keys, must say what the recipe said, but for
    ``data.path``: the images may have been moved. ``on_epoch`` is told of the epochs that end here: where the process
    before was killed, the one around that moment comes again, or was not told.
    Raises: RunError if there is nothing to go on with, or data, base or recipe are others than they were; as ``train``.
    """
    with joined() as ranks, stoppable() as stop:
        progress, on_epoch = (progress, on_epoch) if ranks.leads else (SILENT, None)
        if ranks.leads:
            check_run_exists(run)
        begin = partial(_resumed, stop=stop, progress=progress, on_epoch=on_epoch, ranks=ranks)
        if not ranks.leads:
            return _that_lies_there(begin(None, None, None, moved_to=data_path(overrides, flags)), ranks)
        with unfinished_run(run) as unfinished, _resumable(unfinished):
            saved = newest(run, progress)
            recipe = recipe_to_go_on_with(run, saved.checkpoint.origin.recipe, overrides, flags)
            report = begin(unfinished, saved, recipe, moved_to=None)
        report = _that_lies_there(report, ranks)
    return _named(report, progress)


def _that_lies_there(report: TrainReport, ranks: Ranks) -> TrainReport:
    """The report with the folder of the run, which the first process alone has written: whole by now."""
    return report.model_copy(update={"run": ranks.of_first(report.run)})


def _resumed(
    run: NewRun | None,
    saved: Saved | None,
    recipe: Recipe | None,
    *,
    moved_to: Path | None,
    stop: Stop,
    progress: Progress,
    on_epoch: OnEpoch | None,
    ranks: Ranks,
) -> TrainReport:
    """Go on from a checkpoint, which the first process has read, as its recipe; ``moved_to``: where data lie here."""
    checkpoint, recipe = ranks.of_first((saved and saved.checkpoint, recipe))
    assert checkpoint is not None
    assert recipe is not None
    saved = Saved(checkpoint, ranks.tensors_of_first({} if saved is None else saved.tensors))
    if moved_to is not None:
        recipe = recipe.replace(data={"path": moved_to})
    origin, position = saved.checkpoint.origin, saved.checkpoint.record.position
    before = origin.circumstances
    if before.processes != ranks.world:
        progress.note(
            f"begun by {before.processes} processes: with {ranks.world} the training may end with other last bits"
        )
    with in_threads_as(before) if before.processes == ranks.world else nullcontext():
        resolved = resolve_together(recipe, False, SILENT, ranks)
        if run is not None:
            refuse_other(run.path, origin, resolved)
        progress.note(f"going on after step {position.step}, in epoch {position.epoch} of {origin.recipe.train.epochs}")
        return _Session(run, resolved, stop, progress, on_epoch, ranks).run(saved)


@contextmanager
def _resumable(run: NewRun) -> Iterator[None]:
    """Say of a training that a signal ends how to go on with it, if it has a checkpoint."""
    try:
        yield
    except KeyboardInterrupt as signal:
        if not checkpoint_records(run.folder):
            raise
        found = f"its state is saved in {run.path / CHECKPOINTS}"
        command = shell_command(RESUME, run.path)
        raise stopped(signal, doing="in training", found=found, fix=command) from None


def _named(report: TrainReport, progress: Progress) -> TrainReport:
    """Let runs/latest name the run."""
    name_latest(Path(report.run or ""), progress)
    return report


@dataclass(frozen=True)
class _Session:
    """One run's training, from its first step or from a checkpoint, to a run folder that is whole.

    Of several processes the first has the folder, ``new``, and writes.
    """

    new: NewRun | None
    found: Resolved
    stop: Stop
    progress: Progress
    on_epoch: OnEpoch | None
    ranks: Ranks

    def run(self, saved: Saved | None) -> TrainReport:
        """Train, and write what came of it.

        Raises: KeyboardInterrupt where it was stopped before there was an epoch to keep.
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
                make_room_for(self.found, frozen, self.progress)
                training = training_of(self.found, pixels, frozen, self.ranks)
                fill_together(training, frozen, self.progress)
                if checkpoints is not None and frozen is not None:
                    checkpoints.settle_first = frozen.store.sync
                self._say_what_differs(training)
                state, started = training.begin(), None
                if saved is None:
                    started = self._start_head(training)
                else:
                    self._restore(state, training, saved)
                    saved.tensors.clear()  # as much as the weights and twice more, to the end of the training
                    if not self.ranks.leads:
                        state.loss.zero_()  # the first process has what all have added up
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
        except Exception:  # a full disk, no memory: who has a checkpoint can go on
            self._say_how_to_go_on(checkpoints)
            raise
        self._say_how_to_go_on(checkpoints)
        return _train_report(self, made, state.seconds)

    def _restore(self, state: TrainingState, training: Training, saved: Saved) -> None:
        """Go on from a checkpoint.

        Raises: RunError if it is another training's, though its hash holds.
        """
        record = saved.checkpoint.record
        try:
            refuse_other_position(training, record)
            state.restore(record, saved.tensors)
        except ValueError as error:
            where = None if self.new is None else self.new.path / CHECKPOINTS
            fix = "train again from its recipe.yaml" if self.new is None else train_anew(self.new.path)
            raise AnotherTraining(
                "the checkpoint is not of this training", where=where, found=str(error), fix=fix
            ) from error
        state.note_means(training.metric)

    def _say_what_differs(self, training: Training) -> None:
        """Say where a batch in parts, or computed again, does not train what a whole one would."""
        layers = [one for one in training.module.modules() if hasattr(one, "running_mean")]
        recipe, trains = training.recipe, any(one.requires_grad for layer in layers for one in layer.parameters())
        if trains and (self.ranks.world > 1 or recipe.accumulation_steps > 1):
            self.progress.note("layers that take statistics of a batch take them of each part that is computed")
        if trains and recipe.activation_checkpointing:
            self.progress.note("layers that take statistics of a batch move them twice a step: it is computed again")

    def _say_how_to_go_on(self, checkpoints: Checkpoints | None) -> None:
        if self.new is not None and checkpoints is not None and checkpoints.any:
            self.progress.note(f"to go on with it: {shell_command(RESUME, self.new.path)}")

    def _origin(self, saved: Saved | None) -> Origin:
        """Put the model where it trains, and decide what is computed once: as before, where it goes on."""
        prepared, recipe, dataset = self.found.prepared, self.found.recipe, self.found.dataset
        if saved is not None and saved.checkpoint.origin.circumstances.processes == self.ranks.world:
            place_as_before(prepared, saved.checkpoint.origin.circumstances)
            return saved.checkpoint.origin
        module = prepared.backbone.module
        share = self.ranks.largest_share(recipe.train.batch_size)
        where = place(prepared, share, self.progress, dropped=self.found.plan.dropped, ranks=self.ranks)
        circumstances = Circumstances(
            device=where.type,
            threads=torch.get_num_threads(),
            plain_attention=any(getattr(layer, "fused_attn", True) is False for layer in module.modules()),
            processes=self.ranks.world,
        )
        return Origin(
            recipe=recipe,
            data_sha256=entries_digest(dataset.entries),
            base_digest=prepared.backbone.digest,
            circumstances=circumstances,
        )

    def _start_head(self, training: Training) -> HeadStart | None:
        """Solve the head, if the recipe says so and the classifier can be solved."""
        if training.recipe.head_init != "probe":
            return None
        if self.found.begun_from is not None and not self.found.plan.fits_head:
            self.progress.note("the head goes on from the run's: train.head_init=probe is not used")
            return None
        started = start_head(
            training.module,
            training.task.labels,
            training.inputs,
            training.held_out,
            bf16=training.bf16,
            progress=self.progress,
            ranks=self.ranks,
        )
        if started is None:
            self.progress.note("the classifier is no linear layer: it starts at random, and trains")
        return started

    def _fit(
        self, training: Training, state: TrainingState, checkpoints: Checkpoints | None, started: HeadStart | None
    ) -> Fit:
        tensorboard = training.recipe.tensorboard
        if tensorboard and self.new is not None:
            self.progress.note(f"curves: tensorboard --logdir {self.new.path / 'reports' / 'tensorboard'}")
        with epoch_log(self.new, state.epochs, tensorboard=tensorboard) as log:

            def tell(end: EpochEnd) -> None:
                log(end)
                if self.on_epoch is not None:
                    self.on_epoch(end)

            if started is not None and self.found.plan.solves_all:
                return solved(training, state, started.seconds, tell)
            made = fit(training, state, progress=self.progress, on_epoch=tell, checkpoints=checkpoints, stop=self.stop)
        if made is None:
            raise Termination if self.stop.asked == "terminate" else KeyboardInterrupt
        return made

    def _write(self, folder: Path, made: Fit) -> None:
        with stage_folder(folder / TRAINED.name) as staged:
            save_trained(self.found.prepared, staged)
            write_trained_card(
                staged,
                self.found.recipe,
                self.found.prepared,
                self.found.dataset,
                _kept(made),
                begun_from=self.found.begun_from,
            )
        seal(folder, _manifest(self.found, made.thresholds), self.found.dataset.entries)


def _train_report(session: _Session, made: Fit, seconds: float) -> TrainReport:
    recipe = session.found.recipe
    return TrainReport(
        run=None if session.new is None else str(session.new.path),
        method=recipe.method,
        model=recipe.model.name,
        precision=recipe.train.precision,
        classes=len(session.found.dataset.labels),
        images=session.found.images,
        unreadable=session.found.unreadable,
        trainable_parameters=session.found.prepared.trainable,
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


def _manifest(found: Resolved, thresholds: Thresholds) -> Manifest:
    recipe, prepared, dataset = found.recipe, found.prepared, found.dataset
    return Manifest(
        task=recipe.task,
        model=recipe.model.name,
        architecture=prepared.backbone.architecture,
        method=prepared.method,
        base_digest=prepared.backbone.digest,
        labels=dataset.labels,
        thresholds=thresholds,
        preprocess=prepared.backbone.preprocess,
        data_root=str(dataset.root),
        begun_from=found.begun_from,
    )


def _kept(made: Fit) -> KeptEpoch:
    return KeptEpoch(
        number=made.best.epoch,
        epochs=len(made.epochs),
        metric=made.metric,
        metrics=made.best.metrics,
        thresholds=made.thresholds,
        interrupted=made.interrupted,
    )
