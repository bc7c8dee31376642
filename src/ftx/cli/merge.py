"""``ftx merge``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from pydantic_core import PydanticCustomError

from ftx.adapters.peft_config import check_adapter_folder
from ftx.cli import console
from ftx.cli.shared_options import DataOption, JsonFlag, RunArgument, check_usage, open_run, split_commas
from ftx.core.errors import InputError, check_known, shell_command
from ftx.core.untrusted_input import read_file
from ftx.recipe.value_types import auto_or_size
from ftx.runs.artifacts import EXPORT_IR

if TYPE_CHECKING:
    from ftx.merging.combine_adapters import CombineReport, How
    from ftx.merging.merge_and_prove import MergeReport


def command(
    ctx: typer.Context,
    run: RunArgument = None,
    data: DataOption = None,
    adapter: Annotated[
        list[Path] | None,
        typer.Option(
            "--adapter",
            metavar="DIR",
            help="Merge this adapter instead of RUN: an adapter folder that peft or ftx wrote, or a run. Repeat this "
            "option to merge several adapters of the same base model.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="NAME|DIR",
            help="The model that the adapter was trained on: a name that `ftx models` lists, or a folder of timm or "
            "transformers (ViT, DINOv2).  [default: the base model of the first adapter]",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str, typer.Option("--weights", metavar="auto|FILE", help="The weights of --base NAME.")
    ] = "auto",
    image_size: Annotated[
        str, typer.Option("--image-size", metavar="auto|SIZE", help="The input size of --base NAME.")
    ] = "auto",
    shares: Annotated[
        list[str] | None,
        typer.Option(
            "--shares",
            metavar="LIST",
            show_default=False,
            help="The fraction of each adapter in the merged model, for example 0.7,0.3. The fractions must add up to "
            "1.  [default: equal]",
        ),
    ] = None,
    combine: Annotated[
        str,
        typer.Option(
            "--combine",
            metavar="linear|ties",
            help="linear: add the changes of the adapters. ties: keep only the largest changes, and of these only the "
            "ones with the majority sign (TIES).",
        ),
    ] = "linear",
    density: Annotated[
        float,
        typer.Option(
            "--density", min=0.001, max=1, metavar="FRACTION", help="The fraction of changes that TIES keeps."
        ),
    ] = 0.2,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="LIST|FILE",
            show_default=False,
            help="The class names, if neither the adapter nor the base model contains them: a list (a,b,c), or a .txt "
            "file with one name per line.",
        ),
    ] = None,
    no_head: Annotated[bool, typer.Option("--no-head", help="Merge only the backbone, not the head.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", show_default=False, help="The folder to write, with --adapter.  [default: merged]"
        ),
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Write the trained model as one dense model, and check it.

    Export needs this model, even if you trained only the head. If you trained an adapter, it is merged into the weights
    of its base model. The dense model in RUN/dense opens in timm and transformers.

    ftx compares each merged layer with the unmerged forward, both in float64. It also compares the outputs of both
    models on test images.

    With --adapter, you merge one or more adapters into a new folder. All of them must have the same base model. They
    can come from peft or ftx.
    """
    options = ", ".join(
        f"--{name.replace('_', '-')}" for name in (("data",) if adapter else _OF_ADAPTERS) if _given(ctx, name)
    )
    check_usage(
        (
            options and adapter,
            InputError(
                f"{options} cannot be combined with --adapter",
                found="--adapter",
                fix=f"run the command without {options}",
            ),
        ),
        (
            options,
            InputError(
                f"{options} is only for --adapter", fix=f"add --adapter DIR, or run the command without {options}"
            ),
        ),
        (
            adapter and run is not None,
            InputError(
                "a run cannot be combined with --adapter",
                found=str(run),
                fix=f"name the run with --adapter too: --adapter {run}",
            ),
        ),
    )
    if not adapter:
        return _merge_run(run, data, json=json)
    check_known("--combine", [combine], ("linear", "ties"))
    if combine == "linear" and _given(ctx, "density"):
        raise InputError("--density is only for --combine ties", found="--combine linear", fix="add --combine ties")
    for one in adapter:
        check_adapter_folder(one)
    from ftx.merging.combine_adapters import combine as combine_adapters

    report = combine_adapters(
        adapter,
        out or Path("merged"),
        base=base,
        weights=weights,
        image_size=_size(image_size),
        shares=_numbers(shares),
        how=cast("How", combine),
        density=density,
        labels=_names(labels),
        head=not no_head,
        progress=console.TerminalProgress(),
    )
    return console.show(report, _print_combined, json=json)


_OF_ADAPTERS = ("base", "weights", "image_size", "shares", "combine", "density", "labels", "no_head", "out")


def _given(ctx: typer.Context, name: str) -> bool:
    """Whether the user gave this flag; else it has its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _merge_run(run: Path | None, data: Path | None, *, json: bool) -> int:
    """The adapter of a run, into the run's dense model."""
    open_run(run, data)
    from ftx.merging.merge_and_prove import merge

    return console.show(merge(run, data=data, progress=console.TerminalProgress()), print_merge, json=json)


def _size(text: str) -> int | str:
    try:
        return cast("int | str", auto_or_size(text))
    except PydanticCustomError as error:
        raise InputError(
            f"--image-size {error.message()}",
            found=text,
            fix="run the command without --image-size: ftx finds the size",
        ) from None


def _numbers(given: list[str] | None) -> list[float]:
    words = split_commas(given)
    try:
        if given and not words:
            raise ValueError
        return [float(word) for word in words]
    except ValueError:
        found = ",".join(given or ())
        raise InputError("--shares must be numbers", found=found, fix="write them as --shares 0.7,0.3") from None


def _names(given: str | None) -> list[str]:
    """Names between commas, or those in the lines of a .txt file."""
    if given is None:
        return []
    if not given.endswith(".txt"):
        return [name.strip() for name in given.split(",") if name.strip()]
    try:
        lines = read_file(Path(given)).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "--labels: the file cannot be read", where=given, found=str(error), fix="name a text file in UTF-8"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def print_merge(report: MergeReport) -> None:
    """What was merged where, and the two proofs."""
    layers = f"{len(report.layers)}, within {report.max_relative_error:.1e} of the unmerged computation in float64"
    logits = f"within {report.max_logit_difference:.1e} of the trained model on {report.images} {report.images_from}"
    console.print_facts(
        [
            ("merged", f"{report.method} into {report.path}, {report.size_bytes / 1e6:.1f} MB"),
            *([("layers", f"{layers} (bound {report.layer_bound:.0e})")] if report.layers else []),
            ("logits", f"{logits} (bound {report.logit_bound:.0e})"),
        ]
    )
    console.print_note("the dense model has the same outputs as the trained one, except for rounding", "good")
    console.print_note(f"next: {shell_command(EXPORT_IR, report.run)} --precision fp32,int8", "dim")


def _print_combined(report: CombineReport) -> None:
    parts = [
        f"{weight:.3g} x {path}" if len(report.shares) > 1 else path
        for weight, path in zip(report.shares, report.adapters, strict=True)
    ]
    size, ties = f"--image-size {report.image_size}", report.how == "ties"
    kind = f"{report.labels} classes at {report.image_size} px" if report.labels else f"no head, {report.image_size} px"
    layers = f"{len(report.layers)}, within {report.max_relative_error:.1e}"
    against = "the rule applied entry by entry" if ties else "the unmerged computation in float64"
    other = "the model that was written" if ties else "the base with the adapters unmerged"
    console.print_facts(
        [
            ("merged", f"{' + '.join(parts)}{' by TIES' if ties else ''}"),
            ("into", f"{report.base}: {report.path}, {report.size_bytes / 1e6:.1f} MB, {kind}"),
            ("layers", f"{layers} of {against} (bound {report.layer_bound:.0e})"),
            ("outputs", f"within {report.max_logit_difference:.1e} of {other} (bound {report.logit_bound:.0e})"),
        ]
    )
    if report.labels:
        following = shell_command("ftx predict IMAGES --artifact", report.path)
    else:
        weights = shell_command("--weights", f"{report.path}/model.safetensors")
        following = f"ftx train --model {report.architecture} {weights} {size} --method linear"
    console.print_note(f"next: {following}", "dim")
