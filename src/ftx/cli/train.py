"""``ftx train``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.recipe_flags import OTHER, RESUME, START, TIME, read_recipe, with_recipe_flags
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
from ftx.core.errors import InputError, Interrupted, shell_command, shown
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import PRESET_NAMES, RENAMED_PRESETS
from ftx.runs.compute_precision import precision_title

if TYPE_CHECKING:
    from ftx.training import DryRunReport, TrainReport
    from ftx.training.report import PlannedLayer


@with_recipe_flags
def command(
    *,
    flags: Mapping[str, object],
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="|".join(PRESET_NAMES),
            help="How much to train. fast: only the head, in one pass over the images. auto: what --method selects, by "
            "default an adapter in all blocks for 16 epochs. auto is usually more accurate.  [default: auto]",
            show_default=False,
            rich_help_panel=START,
        ),
    ] = None,
    out: OutOption = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Train nothing: report what ftx finds in the data, what ftx would train, and how long it would take.",
            rich_help_panel=START,
        ),
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="TIME",
            help="Train only as many epochs as fit into this time, for example 90s, 10m or 1h30m.",
            rich_help_panel=TIME,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="cpu|cuda|cuda:N",
            help="The PyTorch device to train on.  [default: the first NVIDIA GPU, otherwise the CPU]",
            show_default=False,
            rich_help_panel=TIME,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            help="Resume interrupted training. The result is the same as without the interruption, byte for byte.",
            rich_help_panel=RESUME,
        ),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Start from a finished run, on more images or with more labels.",
            rich_help_panel=RESUME,
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="NAME|FILE",
            help="A recipe: a name from `ftx recipes`, or a YAML file. The file can also be a recipe of OpenVINO "
            "Training Extensions (OTX).",
            rich_help_panel=OTHER,
        ),
    ] = None,
    set_: SetOption = None,
    strict: StrictFlag = False,
    json: JsonFlag = False,
) -> int:
    """Train a model on your images: an adapter, only the head, or all weights.

    Your data is a folder with one subfolder for each class. If it has train/, val/ or test/, ftx uses this split.
    Images for validation come from train/ if there is no val/. Ctrl-C stops the training and saves its state and the
    best epoch so far. To resume the training, use --resume.
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
    options = ", ".join(flag for flag, value in with_resume.items() if value)
    check_usage(
        (
            resume is not None and options,
            InputError(
                f"{options} cannot be combined with --resume",
                found=f"--resume {resume}",
                fix="give only --resume RUN: the run has its recipe and its folder",
            ),
        ),
        (
            from_ is not None and (config or preset),
            InputError(
                "--from cannot be combined with --config or --preset: it takes the recipe of its run",
                found=f"--from {from_}",
                fix=f"run: {shell_command('ftx train --from', from_)}. "
                "To change a key of the recipe, add --set KEY=VALUE",
            ),
        ),
    )
    choose_device(device)
    if resume is not None:
        return _resume(resume, set_ or (), flags, json)
    budget_s = parse_duration(budget, "--budget")
    if from_ is not None:
        recipe = _recipe_from(from_, set_ or (), flags)
    else:
        if preset is not None and preset in RENAMED_PRESETS:
            new = RENAMED_PRESETS[preset]
            console.print_note(f"--preset {preset} is now called {new}, and trains differently", "dim")
        recipe = read_recipe(config, set_ or (), flags, preset)
    if dry_run:
        return _dry_run(recipe, out, strict, budget_s, json)
    from ftx.training import train

    progress = console.TerminalProgress()
    report = train(recipe, out=out, strict=strict, budget_s=budget_s, progress=progress, on_epoch=progress.note_epoch)
    return _show_trained(report, json)


def choose_device(name: str | None) -> None:
    """Let torch, which is not imported yet, see only the device of this name; None: all that it finds.

    Raises: InputError if it is no name of a device; EnvironmentFault if there is no such GPU.
    """
    if name is None:
        return
    kind, _, number = name.partition(":")
    if name != "cpu" and not (kind == "cuda" and (number.isdecimal() if ":" in name else True)):
        raise InputError("--device must be cpu, cuda or cuda:N", found=shown(name), fix="train with --device cpu")
    if number and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise InputError(
            "--device must be cpu or cuda if several processes train together: each has a GPU of its own",
            found=name,
            fix=f"run the command without --device, with CUDA_VISIBLE_DEVICES={number},... before torchrun",
        )
    if name == "cpu" or number:
        os.environ["CUDA_VISIBLE_DEVICES"] = number
    if name == "cpu":
        return
    from ftx.training import require_gpu

    require_gpu(name)


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
    reached = f"{metric} {100 * report.metrics[report.metric]:.1f} % on validation images"
    best = f"{report.best_epoch} of {report.epochs}: {reached}"
    console.print_facts(
        [
            ("model", f"{report.model}, {report.method}, computed in {precision_title(report.precision)}"),
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
        f"epoch {highest.epoch} had {highest.metrics[report.metric]:.1%}, but its mean with up to two epochs before "
        f"is {highest.smoothed:.1%}. ftx uses the lower figure of each epoch, because one epoch may be lucky"
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
    precision = precision_title(report.precision)
    tokens = [f"{count} from block {block} on" for block, count in report.tokens.items()]
    console.print_facts(
        [
            ("images", _images(report.images, len(report.counts))),
            (
                "model",
                f"{report.model} at {report.image_size} px, {report.method}, in {precision}",
            ),
            *([("tokens", ", ".join(tokens))] if tokens else []),
            ("augment", report.seen),
            ("to train", f"{report.trainable_parameters:,} parameters, {report.trainable_share:.1%} of the model"),
            ("memory", f"about {report.memory_mb:,} MB; {report.free_mb:,} MB are free"),
            ("time", _times(report)),
        ]
    )
    if report.memory_mb > report.free_mb:
        console.print_note("this does not fit into memory: use a smaller --batch-size or --image-size", "bad")
    console.print_note("nothing was trained; run the same command without --dry-run to train", "dim")


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
        return "not measured"
    epochs = f"{report.epochs} epoch{'s' * (report.epochs != 1)} of {_duration(report.seconds_per_epoch)}"
    estimate = f"about {_duration(report.seconds)}: {epochs}"
    return f"{estimate}, and {_duration(report.seconds_before)} before" if report.seconds_before >= 1 else estimate


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _images(counts: dict[str, int], classes: int) -> str:
    return f"{', '.join(f'{count:,} {split}' for split, count in counts.items())}; {classes} classes"
