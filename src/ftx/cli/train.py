"""``ftx train``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.recipe_flags import read_recipe, with_recipe_flags
from ftx.cli.shared_options import (
    JsonFlag,
    OutOption,
    SetOption,
    StrictFlag,
    check_usage,
    numberless,
    parse_duration,
)
from ftx.core import rank_zero_output
from ftx.core.errors import InputError, Interrupted, shell_command
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import PRESET_NAMES, RENAMED_PRESETS

if TYPE_CHECKING:
    from ftx.training import DryRunReport, TrainReport
    from ftx.training.report import PlannedLayer


@with_recipe_flags
def command(
    *,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE|NAME",
            help="A recipe: a YAML file (OTX's too) or one of `ftx recipes`.",
        ),
    ] = None,
    flags: Mapping[str, object],
    set_: SetOption = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN", help="Resume an interrupted training: it ends with the same bytes."),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Begin with the adapter and head of a finished run, by its recipe: more images, more labels.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="|".join(PRESET_NAMES),
            help="How to train, where a recipe, flags and --set leave it open. auto: an adapter in all "
            "blocks for 16 epochs, usually the most accurate; fast: only the head, in seconds.  [default: auto]",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="TIME", help="As many of the epochs as fit into it: 90s, 10m, 1h30m."),
    ] = None,
    out: OutOption = None,
    strict: StrictFlag = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what was understood (data, layers, memory) and train nothing.")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Train an adapter, a head or the whole model on a folder of images.

    A folder with train/, val/ and perhaps test/ is used as it is; one tree of class folders is split by
    content. Ctrl-C ends training with the best epoch so far saved; --resume RUN resumes it, as after a loss of
    power. Keys without a flag of their own: `ftx schema recipe` lists them.
    """
    with_resume = {
        "--config": config,
        "--from": from_,
        "--preset": preset,
        "--budget": budget,
        "--out": out,
        "--strict": strict,
        "--dry-run": dry_run,
    }
    idle = ", ".join(flag for flag, value in with_resume.items() if value)
    check_usage(
        (
            resume is not None and idle,
            InputError(f"{idle}: cannot be combined with --resume", fix="leave it out: the run has its own"),
        ),
        (
            from_ is not None and (config or preset),
            InputError("--from takes the recipe of its run", fix="leave --config and --preset out"),
        ),
    )
    if resume is not None:
        return _resume(resume, set_ or (), flags, json)
    budget_s = parse_duration(budget, "--budget")
    if from_ is not None:
        recipe = _recipe_from(from_, set_ or (), flags)
    else:
        if preset is not None and preset in RENAMED_PRESETS:
            console.print_note(f"--preset {preset} is now called {RENAMED_PRESETS[preset]}, and trains differently")
        recipe = read_recipe(config, set_ or (), flags, preset)
    if dry_run:
        return _dry_run(recipe, out, strict, budget_s, json)
    from ftx.training import train

    progress = console.TerminalProgress()
    report = train(recipe, out=out, strict=strict, budget_s=budget_s, progress=progress, on_epoch=progress.note_epoch)
    return _show_trained(report, json)


def _recipe_from(run: Path, overrides: Sequence[str], flags: Mapping[str, object]) -> Recipe:
    """The recipe of a finished run, with its images or those of --data, checked before torch is imported."""
    from ftx.data.sources.folder import check_data_path
    from ftx.runs.run import Run

    opened = Run.open(run)
    named = flags.get("data.path") or (None if overrides else opened.recipe().data.path)
    if named is not None:
        check_data_path(Path(str(named)))
    from ftx.training import recipe_from

    recipe = recipe_from(run, overrides, flags)
    check_data_path(recipe.data.path)
    return recipe


def _resume(run: Path, overrides: Sequence[str], flags: Mapping[str, object], json: bool) -> int:
    from ftx.runs.runs_folder import check_run_exists

    if rank_zero_output.is_rank_zero():  # of several machines only the first has the run
        check_run_exists(run)
    from ftx.training import resume

    progress = console.TerminalProgress()
    report = resume(run, overrides=overrides, flags=flags, progress=progress, on_epoch=progress.note_epoch)
    return _show_trained(report, json)


def _show_trained(report: TrainReport, json: bool) -> int:
    if rank_zero_output.is_rank_zero():
        console.show(report, _print_trained, json=json)
    # A whole run was written, yet of fewer epochs than the recipe has: a script must be able to see that.
    return Interrupted.exit_code if report.interrupted else 0


def _dry_run(recipe: Recipe, out: Path | None, strict: bool, budget_s: float | None, json: bool) -> int:
    if not rank_zero_output.is_rank_zero():
        return 0
    from ftx.runs.new_run import check_name_free
    from ftx.training import dry_run

    if out is not None:
        check_name_free(out)
    report = dry_run(recipe, strict=strict, budget_s=budget_s, progress=console.TerminalProgress())
    return console.show(report, _print_dry_run, json=json)


def _print_trained(report: TrainReport) -> None:
    metric = report.metric.replace("_", " ")
    best = f"{report.best_epoch} of {report.epochs}: {metric} {report.metrics[report.metric]:.1%} on validation images"
    console.print_facts(
        [
            ("model", f"{report.model}, {report.method}, computed in {report.precision}"),
            ("trained", f"{report.trainable_parameters:,} parameters"),
            ("images", _images(report.images, report.classes)),
            ("best epoch", f"{best}, loss {report.loss:.3f}"),
            ("time", f"{report.seconds:.0f} s"),
        ]
    )
    if why := _why_kept(report):
        console.print_note(why, "dim")
    console.print_facts([("run", str(report.run))], "strong")
    console.print_note(f"next: {shell_command('ftx merge', report.run)}", "dim")


def _why_kept(report: TrainReport) -> str | None:
    """Why another epoch was kept than the one with the highest figure; None if none is higher."""
    from ftx.runs.train_jsonl import read_epochs

    epochs = [] if report.run is None else read_epochs(Path(report.run))
    highest = max(epochs, key=lambda epoch: epoch.metrics[report.metric], default=None)
    if highest is None or highest.smoothed is None or highest.metrics[report.metric] <= report.metrics[report.metric]:
        return None
    return (
        f"epoch {highest.epoch} had {highest.metrics[report.metric]:.1%}, but its mean with up to two epochs "
        f"before is {highest.smoothed:.1%}. Of each epoch the lower of these two figures counts"
    )


def _print_dry_run(report: DryRunReport) -> None:
    splits = list(report.images)
    console.print_table(
        ("class", *splits),
        [(name, *(str(counts.get(split, 0)) for split in splits)) for name, counts in report.counts.items()],
    )
    if report.layers:
        columns = ("layer", "number", "targets", "inputs", "outputs", "rank", "parameters")
        console.print_table(columns, layer_rows(report.layers), title="\nadapted layers")
    tokens = [f"{count} from block {block} on" for block, count in report.tokens.items()]
    console.print_facts(
        [
            ("images", _images(report.images, len(report.counts))),
            ("model", f"{report.model} at {report.image_size} px, {report.method}, computed in {report.precision}"),
            *([("tokens", ", ".join(tokens))] if tokens else []),
            ("seen", report.seen),
            ("to train", f"{report.trainable_parameters:,} parameters, {report.trainable_share:.1%} of the model"),
            ("memory", f"about {report.memory_mb:,} MB, of {report.free_mb:,} MB that are free"),
            ("time", _times(report)),
        ]
    )
    if report.memory_mb > report.free_mb:
        console.print_note("this will not fit into memory: a smaller --batch-size or --image-size needs less", "bad")
    console.print_note("nothing was trained, and no run was written", "dim")


def layer_rows(layers: Sequence[PlannedLayer]) -> list[tuple[str, ...]]:
    """Layers that are alike but for their numbers as one row: ``blocks.N.attn.qkv``, how many, and what is in them."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for layer in layers:
        name = numberless(layer.name)
        sides = (f"{layer.inputs:,}", f"{layer.outputs:,}", str(layer.rank))
        alike.setdefault((name, " ".join(layer.targets), *sides), []).append(layer.parameters)
    return [
        (name, str(len(counts)), targets, *sides, f"{sum(counts):,}")
        for (name, targets, *sides), counts in alike.items()
    ]


def _times(report: DryRunReport) -> str:
    if report.seconds is None or report.seconds_per_epoch is None or report.seconds_before is None:
        return "not tried"
    epochs = f"{report.epochs} epoch{'s' * (report.epochs != 1)} of {_duration(report.seconds_per_epoch)}"
    estimate = f"about {_duration(report.seconds)}: {epochs}"
    return f"{estimate}, and {_duration(report.seconds_before)} before" if report.seconds_before >= 1 else estimate


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _images(counts: dict[str, int], classes: int) -> str:
    return f"{', '.join(f'{count:,} {split}' for split, count in counts.items())}; {classes} classes"
