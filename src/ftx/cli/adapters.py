"""``ftx adapters``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.adapters.peft_config import CONFIG, check_adapter_folder, read_config
from ftx.cli import console
from ftx.cli.layer_names import numberless
from ftx.cli.shared_options import JsonFlag
from ftx.core.errors import InputError
from ftx.runs.artifacts import TRAINED
from ftx.runs.latest import LATEST, RUNS
from ftx.runs.run_json import MANIFEST_FILE

if TYPE_CHECKING:
    from ftx.merging.compare_adapters import AdaptersReport, Overlap


def command(
    adapters: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DIR...", show_default=False, help="Runs, or folders that peft wrote; all of runs/."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", metavar="NAME|DIR", show_default=False, help="What they were trained on, if it is no run's."
        ),
    ] = None,
    weights: Annotated[
        str, typer.Option("--weights", metavar="auto|FILE", help="Weights of a base that is a name.")
    ] = "auto",
    layers: Annotated[bool, typer.Option("--layers", help="Show each layer, not each kind of layer.")] = False,
    json: JsonFlag = False,
) -> None:
    """Adapters side by side: how much each changes the base, and whether they work in the same directions.

    change is |W' - W| / |W|; the overlap of two is the share of the directions of the smaller that the other has too,
    of those it reads and those it writes, beside what chance would give.
    """
    for one in adapters or ():
        check_adapter_folder(one)
    from ftx.merging.compare_adapters import compare

    report = compare(adapters or _of_one_base(), base=base, weights=weights, progress=console.TerminalProgress())
    if json:
        console.print_json(report)
    else:
        print_adapters(report, each_layer=layers)


def _of_one_base() -> list[Path]:
    """The runs below runs/ that have an adapter of the base of the newest."""
    runs = [one for one in RUNS.iterdir() if one != LATEST] if RUNS.is_dir() else []
    folders = [one / TRAINED.name for one in runs if (one / MANIFEST_FILE).is_file()]
    folders = [one for one in folders if (one / CONFIG).is_file()]
    if not folders:
        raise InputError("there is no adapter in runs/", fix="name adapters, or train one: ftx train --peft dora")
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
            [(f"{numbers[one.first]} {numbers[one.second]}", *_shares(one)) for one in report.overlaps],
            title="\noverlap, mean of the layers",
        )
    rows = report.layers if each_layer else []
    kinds: dict[str, list[list[float | None]]] = {}
    for layer in report.layers:
        kinds.setdefault(numberless(layer.layer), []).append(layer.changes)
    shown = [(layer.layer, *map(_share, layer.changes)) for layer in rows] or [
        (name, *(_range([row[index] for row in found]) for index in range(len(numbers))))
        for name, found in kinds.items()
    ]
    console.print_table(("layer", *numbers), shown, title="\nchange of each layer" if each_layer else "\nchange")


def _shares(one: Overlap) -> tuple[str, ...]:
    return tuple(f"{value:.1%}" for value in (one.inputs, one.inputs_by_chance, one.outputs, one.outputs_by_chance))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _range(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    low, high = f"{min(known):.2%}", f"{max(known):.2%}"
    return low if low == high else f"{low} to {high}"
