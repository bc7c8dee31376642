"""``ftx models``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from ftx.backbones.architecture_table import SupportedModel, missing_targets, read_architectures
from ftx.cli import console
from ftx.cli.shared_options import JsonFlag
from ftx.core.command_report import CommandReport
from ftx.recipe.adapter_targets import TARGETS


class ModelsReport(CommandReport):
    """The models that match the pattern."""

    verb: str = "models"
    timm: str
    """The version of timm that the list is made from."""
    models: list[SupportedModel]
    """The models; without a pattern, all of them."""


def command(
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="PATTERN", help="A name, a part of it, a pattern ('vit_*dino*') or a family."),
    ] = None,
    json: JsonFlag = False,
) -> int:
    """List the models that you can train, and what ftx supports for each.

    Without PATTERN, the list has one line for each family. With PATTERN, it has one line for each model. With the full
    name of a model, it has all details of this model.
    """
    table = read_architectures()
    report = ModelsReport(timm=table.timm, models=table.matching(pattern))
    status = console.show(report, _print_families if pattern is None else _print_models, json=json)
    with suppress(PackageNotFoundError):  # a device has no timm
        if (installed := version("timm")) != table.timm:
            note = f"timm {installed} is installed, this is of {table.timm}: a few models may differ"
            console.print_note(note, "dim")
    return status


def _print_families(report: ModelsReport) -> None:
    console.print_facts([("bundled", ", ".join(model.name for model in report.models if model.embedded))])
    families: dict[str, list[SupportedModel]] = {}
    for model in report.models:
        if not model.embedded:
            families.setdefault(model.family, []).append(model)
    columns = ("family", "models", "adapters", "probing", "any size", "weights", "targets", "for example")
    rows = [
        (
            family,
            *(str(len(models)) for models in _supported(members)),
            _targets(members),
            next((one.name for one in members if one.pretrained), members[0].name),
        )
        for family, members in sorted(families.items())
    ]
    total = [str(len(models)) for models in _supported([one for one in report.models if not one.embedded])]
    console.print_table(
        columns, [*rows, ("all", *total, "", "")], title="\ntimm, how many models of each family support what"
    )
    console.print_note("next: ftx models FAMILY, or ftx models NAME", "dim")


def _supported(models: Sequence[SupportedModel]) -> list[list[SupportedModel]]:
    """All; those that adapters reach, that take a head, that take other image sizes, that have published weights."""
    return [
        list(models),
        [one for one in models if one.adapted and one.classifier],
        [one for one in models if one.classifier],
        [one for one in models if one.any_size],
        [one for one in models if one.pretrained],
    ]


def _print_models(report: ModelsReport) -> None:
    if len(report.models) == 1:
        _print_model(report.models[0])
        return
    columns = "model", "parameters", "input", "blocks", "layers", "targets", "probing", "any size", "weights", "licence"
    console.print_table(
        columns,
        [
            (
                one.name,
                f"{one.parameters / 1e6:,.1f} M",
                _input(one),
                str(one.blocks),
                str(one.adapted),
                _targets([one]),
                "yes" if one.classifier else "-",
                "yes" if one.any_size else "-",
                str(len(one.pretrained)),
                ", ".join(sorted({_licence(licence) for licence in one.pretrained.values()})) or "-",
            )
            for one in report.models
        ],
    )
    console.print_note("next: ftx models NAME", "dim")


def _print_model(model: SupportedModel) -> None:
    untagged = "bundled with ftx" if model.embedded else "without a tag"
    tags = [f"{tag or untagged}, {_licence(licence)}" for tag, licence in model.pretrained.items()]
    layers = ", ".join(f"{target} {count}" for target, count in model.layers.items())
    sizes = "--image-size takes others" if model.any_size else "no other size"
    facts = [
        ("model", model.name + (f", bundled: timm's {model.architecture}" if model.embedded else "")),
        ("family", model.family),
        ("parameters", f"{model.parameters / 1e6:,.1f} M without a head"),
        ("input", f"{_input(model)} px, {model.input_size[0]} channels; {sizes}"),
        (
            "adapters",
            f"{model.adapted} layers in {model.blocks} blocks: {layers}" if layers else "none: no layer is known",
        ),
        ("methods", ", ".join(model.methods) or "none: it takes no head"),
        *zip(["weights", *[""] * len(tags)], tags or ["none published: --weights FILE or none"], strict=False),
    ]
    console.print_facts(facts)
    if model.classifier:
        console.print_note(f"next: {_next(model)}", "dim")


def _next(model: SupportedModel) -> str:
    words = ["ftx train --data photos --model", model.name]
    words.append(f"--method {'dora' if model.adapted else 'linear'}")
    if model.adapted and missing_targets(model):
        words.append(f"--targets {','.join(model.layers)}")
    if not (model.pretrained or model.embedded):
        words.append("--weights FILE.safetensors")
    return " ".join(words)


def _targets(models: Sequence[SupportedModel]) -> str:
    """Those of any of the models; all six as one word, for a terminal's width."""
    found = [target for target in TARGETS if any(target in one.layers for one in models)]
    return "all" if len(found) == len(TARGETS) else ", ".join(found) or "-"


def _input(model: SupportedModel) -> str:
    _, height, width = model.input_size
    return f"{height} x {width}"


def _licence(known: str | None) -> str:
    return known or "unknown licence"
