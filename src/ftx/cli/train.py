"""``ftx train``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.layer_names import numberless
from ftx.cli.options import JsonFlag, OutOption, SetOption, StrictFlag
from ftx.core.errors import INTERRUPTED, shell_command
from ftx.core.resources import recipe_file
from ftx.recipe.schema import Recipe, notes_on_otx
from ftx.recipe.targets import TARGETS, WORDS

if TYPE_CHECKING:
    from ftx.training import DryRunReport, TrainReport
    from ftx.training.report import PlannedLayer

_DEFAULTS = Recipe()


def _key(flag: str, metavar: str, text: str, default: object) -> typer.models.OptionInfo:
    # The value stays text here: the recipe checks all of them together and reports every error at once.
    shown = f"{text}  [default: {default}]"
    return typer.Option(flag, metavar=metavar, show_default=False, help=shown)


def command(
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE|NAME",
            help="A recipe: a YAML file (OTX's too) or one of `ftx recipes`.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        _key(
            "--data",
            "PATH",
            "Folder of images, one subfolder a class, a .csv or .jsonl table, or COCO or Datumaro annotations.",
            _DEFAULTS.data.path,
        ),
    ] = None,
    task: Annotated[
        str | None, _key("--task", "TASK", "multiclass, multilabel or hierarchical.", _DEFAULTS.task)
    ] = None,
    model: Annotated[
        str | None,
        _key("--model", "NAME", "dinov2-small, which is embedded, or a model of timm.", _DEFAULTS.model.name),
    ] = None,
    weights: Annotated[
        str | None,
        _key(
            "--weights", "auto|none|FILE", "Pretrained, seeded random, or a .safetensors file.", _DEFAULTS.model.weights
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        _key(
            "--image-size",
            "auto|PIXELS|HxW",
            "Side of the square image, or height and width as 224x160.",
            "auto: the pretrained size, 224 for dinov2",
        ),
    ] = None,
    peft: Annotated[
        str | None, _key("--peft", "lora|dora|none", "The adapter; none trains everything.", _DEFAULTS.model.peft)
    ] = None,
    freeze_backbone: Annotated[
        bool | None,
        typer.Option(
            "--freeze-backbone/--no-freeze-backbone",
            show_default=False,
            help="Train the head alone (linear probing); goes with --peft none, which is then the default.",
        ),
    ] = None,
    rank: Annotated[
        str | None,
        _key("--rank", "R", "Rank of the adapter, or of each target: attn=4,mlp=16.", 8),
    ] = None,
    alpha: Annotated[
        str | None, _key("--alpha", "A", "The adapter is scaled by alpha / rank; also one for each target.", "16")
    ] = None,
    rslora: Annotated[
        bool | None,
        typer.Option("--rslora/--no-rslora", show_default=False, help="Scale by alpha / sqrt(rank) instead."),
    ] = None,
    targets: Annotated[
        str | None,
        _key("--targets", "LIST", f"Which layers, out of {','.join(TARGETS)}, or {', '.join(WORDS)}.", "all of them"),
    ] = None,
    blocks: Annotated[
        str | None,
        _key(
            "--blocks",
            "all|N|first:N|LIST",
            "All transformer blocks, the last N, the first N, or those listed, counted from 0, as 0,3,6-8.",
            _DEFAULTS.adapter.blocks,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        _key(
            "--layers",
            "REGEX",
            "Instead of targets: the linear layers whose whole name the expression matches, for families that ftx "
            "does not know.",
            _DEFAULTS.adapter.layers,
        ),
    ] = None,
    dropout: Annotated[
        str | None,
        _key(
            "--dropout",
            "P",
            "Dropout on the adapter's input, with peft's meaning; above 0 the layer cannot compute with the merged "
            "weight while it trains, which is slower.",
            f"{_DEFAULTS.adapter.dropout:g}",
        ),
    ] = None,
    epochs: Annotated[str | None, _key("--epochs", "N", "Epochs at most.", _DEFAULTS.train.epochs)] = None,
    lr: Annotated[str | None, _key("--lr", "LR", "Peak learning rate.", _DEFAULTS.train.lr)] = None,
    batch_size: Annotated[
        str | None, _key("--batch-size", "N", "Images in a step.", _DEFAULTS.train.batch_size)
    ] = None,
    augment: Annotated[
        str | None, _key("--augment", "light|none", "How training images are varied.", _DEFAULTS.train.augment)
    ] = None,
    precision: Annotated[
        str | None,
        _key(
            "--precision", "auto|f32|bf16", "auto is bf16 where the hardware computes in it.", _DEFAULTS.train.precision
        ),
    ] = None,
    seed: Annotated[str | None, _key("--seed", "N", "Seed of everything random.", _DEFAULTS.seed)] = None,
    set_: SetOption = None,
    out: OutOption = None,
    strict: StrictFlag = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what was understood (data, layers, memory) and train nothing.")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Train an adapter, a head or the whole model on a folder of images.

    A folder with train/, val/ and perhaps test/ is taken as it is; one tree of class folders is split by
    content. Ctrl-C ends training with the best epoch so far saved. Keys without a flag of their own:
    `ftx schema recipe` lists them.
    """
    flags = {
        "task": task,
        "seed": seed,
        "data.path": data,
        "data.image_size": image_size,
        "model.name": model,
        "model.weights": weights,
        "model.peft": peft,
        "model.freeze_backbone": freeze_backbone,
        "adapter.rank": rank,
        "adapter.alpha": alpha,
        "adapter.targets": targets,
        "adapter.blocks": blocks,
        "adapter.layers": layers,
        "adapter.dropout": dropout,
        "adapter.rslora": rslora,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.lr": lr,
        "train.precision": precision,
        "train.augment": augment,
    }
    recipe = read_recipe(config, set_ or (), flags)
    if dry_run:
        _dry_run(recipe, out, strict, json)
        return 0
    return _train(recipe, out, strict, json)


def read_recipe(config: str | None, overrides: Sequence[str], flags: Mapping[str, object]) -> Recipe:
    """The recipe of a file or a name, with what goes over it; what became of one in OTX's form is shown."""
    path = None if config is None else recipe_file(config)
    recipe = Recipe.build(path, overrides, flags)
    notes = None if path is None else notes_on_otx(path)
    if notes is not None:
        console.print_note("this OTX recipe is in ftx (other keys have their defaults):", "strong")
        console.print_note(recipe.dumps(defaults=False).rstrip())
        for note in notes:
            console.print_note(f"note: {note}", "dim")
    return recipe


def _train(recipe: Recipe, out: Path | None, strict: bool, json: bool) -> int:
    from ftx.training import train

    report = train(recipe, out=out, strict=strict, progress=console.TerminalProgress())
    if json:
        console.print_json(report)
    else:
        _print_trained(report)
    # A whole run was written, yet fewer epochs than were asked for: a script must be able to tell.
    return INTERRUPTED if report.interrupted else 0


def _dry_run(recipe: Recipe, out: Path | None, strict: bool, json: bool) -> None:
    from ftx.runs.new_run import refuse_existing
    from ftx.training import dry_run

    if out is not None:
        refuse_existing(out)
    report = dry_run(recipe, strict=strict, progress=console.TerminalProgress())
    if json:
        console.print_json(report)
    else:
        _print_dry_run(report)


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
    console.print_facts([("run", str(report.run))], "strong")
    console.print_note(f"next: {shell_command('ftx merge', report.run)}", "dim")


def _print_dry_run(report: DryRunReport) -> None:
    sides = list(report.images)
    console.print_table(
        ("class", *sides),
        [(name, *(str(counts.get(side, 0)) for side in sides)) for name, counts in report.counts.items()],
    )
    if report.layers:
        columns = ("layer", "number", "targets", "inputs", "outputs", "rank", "parameters")
        console.print_table(columns, layer_rows(report.layers), title="\nadapted layers")
    console.print_facts(
        [
            ("images", _images(report.images, len(report.counts))),
            ("model", f"{report.model} at {report.image_size} px, {report.method}, computed in {report.precision}"),
            ("to train", f"{report.trainable_parameters:,} parameters, {report.trainable_share:.1%} of the model"),
            ("memory", f"about {report.memory_mb:,} MB, of {report.free_mb:,} MB that are free"),
            ("time", _times(report)),
        ]
    )
    if report.memory_mb > report.free_mb:
        console.print_note("this will not fit into memory: a smaller --batch-size or --image-size needs less", "bad")
    console.print_note("nothing was trained or written", "dim")


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
    told = f"about {_duration(report.seconds)}: {epochs}"
    return f"{told}, and {_duration(report.seconds_before)} before" if report.seconds_before >= 1 else told


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _images(counts: dict[str, int], classes: int) -> str:
    return f"{', '.join(f'{count:,} {side}' for side, count in counts.items())}; {classes} classes"
