"""``ftx validate``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.print_sets import print_coverage, print_releases, print_sets
from ftx.cli.shared_options import DeviceOption, JsonFlag, RequireProofFlag, TargetArgument, check_usage, split_commas
from ftx.cli.verdict_words import VERDICT_STYLES, VERDICT_WORDS, in_table
from ftx.core.errors import InputError, check_known, shell_command
from ftx.runs.artifacts import EXPORT_IR, IR_INT8_CHECKED, IR_INT8_SAFE, TRAINED
from ftx.runs.machine import CPU, INSTRUCTION_SETS, InstructionSet, this_set

if TYPE_CHECKING:
    from ftx.evaluating import ParityReport, ParityRow


# Columns of a terminal that hold the mean difference and the cosine as well.
_WIDE = 120


def command(
    target: TargetArgument = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="The folder of the images, if you have moved it since training. For the folder of an exported model: "
            "images that this device predicts. Prediction sets need their labels; int8-checked does not.",
        ),
    ] = None,
    bound: Annotated[
        list[str] | None,
        typer.Option(
            "--bound",
            metavar="KEY=VALUE",
            help="Change a bound, for example int8.graph.max_abs=2; you can repeat this option. With an unknown key, "
            "the error message lists all keys.",
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option("--images", min=1, metavar="N", help="Use only N of the test images.  [default: all]")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            metavar="FRACTION",
            help="How much accuracy a model may lose: 0.02 is 2 points.  [default: that of the recipe, 0.02]",
        ),
    ] = None,
    isa: Annotated[
        list[str] | None,
        typer.Option(
            "--isa",
            metavar="native|all|LIST",
            help=f"Also verify with the kernels of these instruction sets: native (those of this CPU), all, or some of "
            f"{', '.join(INSTRUCTION_SETS)}.",
        ),
    ] = None,
    openvino: Annotated[
        list[str] | None,
        typer.Option(
            "--openvino",
            metavar="LIST",
            help="Also verify a run with these releases of OpenVINO, for example 2025.4,2026.2. pip installs them, not "
            "into your environment.",
        ),
    ] = None,
    wheels: Annotated[
        Path | None,
        typer.Option("--wheels", metavar="DIR", help="Install them from the wheels in DIR, without a network."),
    ] = None,
    device: DeviceOption = CPU,
    require_proof: RequireProofFlag = False,
    json: JsonFlag = False,
) -> int:
    """Verify that the exported models are as accurate as the trained model.

    Each model gets a verdict. proved: with 95 % confidence it loses at most 2 points of accuracy (--max-drop). failed:
    with 95 % confidence it loses more, or its outputs differ from those of the trained model by more than a bound.
    unproved: there are too few images to decide. If a model failed, the exit status is 1.

    ftx compares the models in three views. graph: both models get the same pixels. files: each model has its own
    preprocessing of the image files. one_image: the int8 model gets one image at a time; ftx shows this view only if
    the int8 model uses other CPU kernels for one image than for several.
    """
    check_usage(
        (
            wheels and not openvino,
            InputError(
                "--wheels is only for --openvino", fix="add --openvino LIST, or run the command without --wheels"
            ),
        )
    )
    from ftx.evaluating import validate

    report = validate(
        target,
        data=data,
        bounds=parse_bounds(bound or ()),
        images=images,
        max_drop=max_drop,
        isa=parse_sets(isa or ()),
        openvino=split_commas(openvino or ()),
        wheels=wheels,
        device=device,
        require_proof=require_proof,
        progress=console.TerminalProgress(),
    )
    status = console.show(report, print_parity, json=json)
    print_what_saturates(report, data)
    return status


def parse_bounds(given: Sequence[str]) -> dict[str, float]:
    """``KEY=VALUE`` each, as a mapping.

    Raises: InputError if one is not written so.
    """
    bounds: dict[str, float] = {}
    for text in given:
        key, _, value = text.partition("=")
        try:
            bounds[key.strip()] = float(value)
        except ValueError:
            raise InputError(
                "--bound must be KEY=VALUE with a number", found=text, fix="write it as --bound int8.graph.max_abs=2"
            ) from None
    return bounds


def parse_sets(given: Sequence[str]) -> list[InstructionSet]:
    """Instruction sets by name, as ``avx2,avx512``; ``native`` is the one in use here, ``all`` every one.

    Raises: InputError naming the nearest.
    """
    own = this_set()
    sets: dict[str, Sequence[InstructionSet]] = {one: [one] for one in INSTRUCTION_SETS}
    sets |= {"native": [] if own is None else [own], "all": INSTRUCTION_SETS}
    names = split_commas(given)
    if given:
        check_known("--isa", names, list(sets))
    return [one for name in names for one in sets[name]]


def print_parity(report: ParityReport) -> None:
    """A row for each model, then each verdict in a sentence, then the problems; every comparison with ``-v``."""
    # Accuracies can be compared, so they are of the same images: those of the rows with most.
    most = max((row.images for row in report.own_rows), default=0)
    _print_models(report, most)
    if console.shows_details():
        _print_comparisons(report, most)
    print_sets(report)
    print_coverage(report)
    print_releases(report)
    for artifact, verdict in report.verdicts.items():
        figures = report.summary[artifact] if console.shows_details() else without_details(report.summary[artifact])
        console.print_note(f"{artifact}: {VERDICT_WORDS[verdict]}, {figures}", VERDICT_STYLES[verdict])
    for one in report.certificates:
        console.print_note(f"{IR_INT8_CHECKED} on {one.way}: {one.summary}; {one.cost}", "dim")
    for problem in report.problems:
        console.print_note(problem, "bad")
    if console.shows_details():
        if (worst := _worst_class(report.own_rows)) is not None:
            console.print_note(worst, "dim")
        if len(report.family.artifacts) > 1:
            console.print_note(
                f"{', '.join(report.family.artifacts)} are tested together, each at a stricter level (Holm), so that "
                f"one of them is wrong in at most {report.family.alpha:.0%} of cases",
                "dim",
            )
    if report.run is None:
        return
    if any(row.needed_images for row in report.rows):
        console.print_note("to prove more, use more test images, or allow more loss: --max-drop", "dim")
    if not console.shows_details():
        console.print_note("with -v, this command shows every comparison", "dim")
    console.print_note(f"next: {shell_command('ftx report', report.run)}", "dim")


def without_details(summary: str) -> str:
    """The summary of a verdict without the images that were lost and gained, and without logits if labels are named."""
    short = re.sub(r": [\d.]+ lost, [\d.]+ gained(?: of [\d,]+)?(?=;|$)", "", summary)
    return re.sub(r"^logits within \S+ of the trained model's(?: \(bound \S+\))?, ", "", short)


def _print_models(report: ParityReport, most: int) -> None:
    """A row for each model as it is deployed: the precision that the runtime chooses, from image files if there are."""
    from ftx.runs.parity_json import latency_rows

    rows = report.own_rows
    deployed: dict[str, ParityRow] = {}
    for row in sorted(rows, key=lambda row: (row.view == "files", row.compute.chosen_by_runtime)):
        deployed[row.artifact] = row
    deployed = {row.artifact: deployed[row.artifact] for row in rows}  # in the order of the work
    times = {(row.artifact, row.compute.dtype): row.latency_ms for row in latency_rows(rows)}
    console.print_table(
        ("model", "computes in", "accuracy", "labels changed", "ms/image", "verdict"),
        [
            (
                artifact,
                row.compute.title,
                "-" if row.accuracy is None or row.images < most else f"{100 * row.accuracy:.1f} %",
                f"{100 * row.changed:.1f} %",
                f"{times.get((artifact, row.compute.dtype), row.latency_ms):.1f}",
                in_table(report.verdicts.get(artifact, "")),
            )
            for artifact, row in deployed.items()
        ],
        styles=["bad" if report.verdicts.get(artifact) == "failed" else "plain" for artifact in deployed],
        title=f"compared with the trained model on {most:,} {report.split} images",
    )
    fewer = [row.images for row in deployed.values() if row.images < most]
    if fewer and not console.shows_details():
        console.print_note(f"-: compared on only {max(fewer)} images, too few for an accuracy", "dim")


def _print_comparisons(report: ParityReport, most: int) -> None:
    """A row for each view and precision of each model."""
    wide = console.width() >= _WIDE
    columns = ["artifact", "view", "compute", "max |d|", "bound", "accuracy %", "lost", "gained", "ms", ""]
    if wide:
        columns[5:5] = ["mean |d|", "cosine", "same %"]
    console.print_table(
        columns,
        [_cells(row, wide=wide, of_all=row.images == most) for row in report.own_rows],
        styles=["plain" if row.ok else "bad" for row in report.own_rows],
        title=f"\nevery comparison with {report.reference}: {_images(report.own_rows)} images",
    )
    if any(row.images < most for row in report.own_rows):
        console.print_note(f"accuracy is on all {most:,} images; rows with fewer images have none", "dim")


def print_what_saturates(report: ParityReport, data: Path | None) -> None:
    """The command that exports a model for CPUs without VNNI, if int8 fails there only."""
    if not report.int8_saturates or IR_INT8_SAFE.name in report.verdicts:
        return
    where = "" if report.run else "on the server, "
    again = f"{shell_command(EXPORT_IR, report.run)} --precision {IR_INT8_SAFE.variant}"
    again += f" {shell_command('--data', data)}" if data else ""
    console.print_note(
        f"without VNNI the products of int8 saturate; with weights in 7 bits they do not: {where}{again}", "strong"
    )


def _worst_class(rows: Sequence[ParityRow]) -> str | None:
    """The label that lost most in any artifact, as a rare one hides inside the margin of all."""
    found = [(row, row.worst_class) for row in rows if row.worst_class is not None and row.subject != TRAINED]
    if not found:
        return None
    row, label = max(found, key=lambda item: (item[1].drop, item[1].drop_high))
    counts = f"{label.lost:.4g} lost, {label.gained:.4g} gained of its {label.labelled}"
    return (
        f"worst label: {label.name}, {row.artifact} ({row.view} view, {row.compute.title}): {counts}; "
        f"at most {100 * max(label.drop_high, 0.0):.1f} points lost (95 %)"
    )


def _images(rows: Sequence[ParityRow]) -> str:
    """How many each view saw: in f32 the graph is compared only on some."""
    seen: dict[str, set[int]] = {}
    for row in rows:
        seen.setdefault(row.view, set()).add(row.images)
    return ", ".join(
        f"{' or '.join(f'{count:,}' for count in sorted(counts))} ({view})" for view, counts in sorted(seen.items())
    )


def _cells(row: ParityRow, *, wide: bool, of_all: bool) -> tuple[str, ...]:
    mean_abs, cosine = console.figure(row.mean_abs, ".1e"), console.figure(row.cosine, ".6f")
    return (
        row.artifact,
        row.view,
        row.compute.title,
        console.figure(row.max_abs, ".1e"),
        console.figure(row.bound.max_abs, ".1e"),
        *((mean_abs, cosine, f"{100 * row.agreement:.1f}") if wide else ()),
        accuracy(row) if of_all else "-",
        f"{row.lost:.4g}",
        f"{row.gained:.4g}",
        f"{row.latency_ms:.1f}",
        in_table(row.verdict),
    )


def accuracy(row: ParityRow) -> str:
    """The accuracy in percent and its 95 % interval; a dash if the truth is unknown."""
    if row.accuracy is None or row.accuracy_low is None or row.accuracy_high is None:
        return "-"
    return f"{100 * row.accuracy:.1f} {100 * row.accuracy_low:.1f}-{100 * row.accuracy_high:.1f}"
