"""``ftx adapters``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.adapters.peft_config import CONFIG, check_adapter_folder, read_config
from ftx.cli import console
from ftx.cli.shared_options import JsonFlag, numberless
from ftx.core.errors import InputError
from ftx.runs.artifacts import TRAINED
from ftx.runs.run_json import MANIFEST_FILE
from ftx.runs.runs_folder import LATEST, RUNS

if TYPE_CHECKING:
    from ftx.merging.compare_adapters import AdaptersReport


def command(
    adapters: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DIR", show_default=False, help="Runs, or peft adapter folders.  [default: all runs in runs/]"
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="NAME|DIR",
            show_default=False,
            help="The base model of the adapters, if no DIR is a run.",
        ),
    ] = None,
    weights: Annotated[
        str, typer.Option("--weights", metavar="auto|FILE", help="The weights of --base NAME.")
    ] = "auto",
    layers: Annotated[bool, typer.Option("--layers", help="Show every layer, not only every kind of layer.")] = False,
    json: JsonFlag = False,
) -> int:
    """Compare adapters: how much each changes the base model, and whether they change the same directions.

    Change is |W' - W| / |W|: W is a base weight, W' the merged one. The overlap is the fraction of directions that two
    adapters share, once for inputs and once for outputs. For comparison, ftx also prints the overlap of two random
    adapters.
    """
    for one in adapters or ():
        check_adapter_folder(one)
    from ftx.merging.compare_adapters import compare

    report = compare(adapters or _of_one_base(), base=base, weights=weights, progress=console.TerminalProgress())
    return console.show(report, partial(print_adapters, each_layer=layers), json=json)


def _of_one_base() -> list[Path]:
    """The runs below runs/ that have an adapter of the base of the newest."""
    runs = [one for one in RUNS.iterdir() if one != LATEST] if RUNS.is_dir() else []
    folders = [one / TRAINED.name for one in runs if (one / MANIFEST_FILE).is_file()]
    folders = [one for one in folders if (one / CONFIG).is_file()]
    if not folders:
        raise InputError(
            "there is no adapter in runs/",
            fix="give the folders of adapters: ftx adapters DIR DIR, or train an adapter: ftx train --method dora",
        )
    bases = {one.parent: read_config(one).base_digest for one in sorted(folders)}
    newest = max(bases, key=lambda run: (run / MANIFEST_FILE).stat().st_mtime)
    if others := [str(run) for run, digest in bases.items() if digest != bases[newest]]:
        console.print_note(f"adapters of another base than {newest}'s are left out: {', '.join(others)}")
    return [run for run, digest in bases.items() if digest == bases[newest]]


def print_adapters(report: AdaptersReport, *, each_layer: bool) -> None:
    """A line an adapter, a line a pair, and the layers."""
    numbers = [str(index + 1) for index in range(len(report.adapters))]
    console.print_table(
        ("", "adapter", "kind", "layers", "rank", "parameters", "MB", "change"),
        [
            (
                number,
                one.path,
                one.kind,
                str(one.layers),
                "-".join(map(str, sorted({one.ranks[0], one.ranks[-1]}))),
                f"{one.parameters:,}",
                f"{one.size_bytes / 1e6:.2f}",
                f"{one.change:.2%}",
            )
            for number, one in zip(numbers, report.adapters, strict=True)
        ],
        title=f"adapters of {report.base}",
    )
    if report.overlaps:
        console.print_table(
            ("pair", "reads", "by chance", "writes", "by chance"),
            [
                (
                    f"{numbers[one.first]} {numbers[one.second]}",
                    f"{one.inputs:.1%}",
                    f"{one.inputs_by_chance:.1%}",
                    f"{one.outputs:.1%}",
                    f"{one.outputs_by_chance:.1%}",
                )
                for one in report.overlaps
            ],
            title="\noverlap, mean of the layers",
        )
    kinds: dict[str, list[list[float | None]]] = {}
    for layer in report.layers:
        kinds.setdefault(layer.layer if each_layer else numberless(layer.layer), []).append(layer.changes)
    rows = [(name, *map(_range, zip(*changes, strict=True))) for name, changes in kinds.items()]
    console.print_table(("layer", *numbers), rows, title="\nchange of each layer" if each_layer else "\nchange")


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    low, high = (console.figure(end(known, default=None), ".2%") for end in (min, max))
    return low if low == high else f"{low} to {high}"
