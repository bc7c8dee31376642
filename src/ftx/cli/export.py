"""``ftx export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ftx.cli import console
from ftx.cli.shared_options import (
    DataOption,
    JsonFlag,
    RunArgument,
    check_usage,
    open_run,
    parse_precisions,
    split_commas,
)
from ftx.cli.verdict_words import VERDICT_WORDS
from ftx.core.errors import InputError, check_known, shell_command
from ftx.runs.artifacts import EXPORT_IR, FORMATS, IRS

# A format of --format that no runtime of ours reads: a folder made of IRs.
OVMS = "ovms"

if TYPE_CHECKING:
    from ftx.exporting import ExportReport
    from ftx.exporting.base_ir import BaseReport, UpdateReport
    from ftx.exporting.export import ExportedArtifact
    from ftx.exporting.ovms import OvmsReport
    from ftx.runs.artifacts import Format
    from ftx.runs.quantize_json import QuantizeReport


def command(
    run: RunArgument = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="LIST",
            help="openvino, onnx, or both: openvino,onnx. ovms: a repository for OpenVINO Model Server, from models "
            "that are already exported.  [default: openvino]",
        ),
    ] = None,
    precisions: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            metavar="LIST",
            help=f"Precisions of the OpenVINO models, separated by commas: {', '.join(IRS)}. int8-weights: only the "
            "weights are int8. int8-checked: int8 or bf16 first, then fp32 for doubtful images. "
            "int8-overflow-safe: for CPUs without VNNI. ONNX models are always fp32.  [default: fp32]",
        ),
    ] = None,
    data: DataOption = None,
    base: Annotated[
        Path | None,
        typer.Option(
            "--base",
            metavar="DIR",
            help="Write the base model into DIR, once for all updates (--precision fp32 or fp16). With "
            "--as-update: read it from DIR.",
        ),
    ] = None,
    as_update: Annotated[
        Path | None,
        typer.Option(
            "--as-update",
            metavar="FILE",
            help="Write an update into FILE. Needs --base DIR. On the device, `ftx apply` merges the update into the "
            "base model.",
        ),
    ] = None,
    after: Annotated[
        Path | None,
        typer.Option(
            "--after",
            metavar="FILE",
            help="The previous update. ftx marks the new update as newer, because devices accept only newer updates. "
            "Needs --as-update.",
        ),
    ] = None,
    recover: Annotated[
        bool,
        typer.Option(
            "--recover",
            help="First train a little more with simulated int8 (quantization-aware training). This makes a new run. "
            "Its int8 model usually loses less accuracy.",
        ),
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Add outputs for `ftx explain`: saliency_map and feature_vector."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The folder that --format ovms writes.  [default: ovms]"),
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Export the model to OpenVINO or ONNX, or write a base model and updates for devices.

    An OpenVINO model takes images of any size: it resizes, crops and normalises them itself. Its folder contains
    everything that a device needs, including the labels, hashes and reference outputs. ftx calibrates the int8 model on
    training images.
    """
    chosen, updates = split_commas(formats), base is not None or as_update is not None or after is not None
    if formats is not None:
        check_known("--format", chosen, [*FORMATS, OVMS])
    precisions = parse_precisions(precisions, tuple(IRS))
    flag = "--recover" if recover else "--explain"
    check_usage(
        (
            out is not None and OVMS not in chosen,
            InputError(
                "--out is only for --format ovms: other models go into their run",
                found=f"--out {out}",
                fix="run the command without --out, or add --format ovms",
            ),
        ),
        (
            updates and chosen,
            InputError(
                "--format cannot be combined with --base: a base model and its updates are always for OpenVINO",
                found=f"--format {','.join(chosen)}",
                fix="run the command without --format",
            ),
        ),
        (
            as_update is not None and precisions,
            InputError(
                "--precision cannot be combined with --as-update: an update has the precision of its base",
                found=f"--precision {','.join(precisions)}",
                fix="run the command without --precision",
            ),
        ),
        (
            updates and recover,
            InputError(
                "--recover is only for int8, and an update is never int8",
                found="--recover",
                fix="run the command without --recover",
            ),
        ),
        (
            updates and explain,
            InputError(
                "--explain cannot be combined with --base: an update changes only weights",
                found="--explain",
                fix="run the command without --explain",
            ),
        ),
        (
            updates and base is None,
            InputError(
                "an update needs the base that the devices have",
                fix="name the folder of the base: --base DIR",
            ),
        ),
        (
            after is not None and as_update is None,
            InputError("--after is only for an update", fix="name the update to write: --as-update FILE"),
        ),
        (
            OVMS in chosen and set(chosen) != {OVMS},
            InputError(
                "--format ovms cannot be combined with other formats: it uses models that are already exported",
                found=f"--format {','.join(sorted(set(chosen) - {OVMS}))}",
                fix="export these formats first, then run ftx export --format ovms",
            ),
        ),
        (
            OVMS in chosen and data is not None,
            InputError(
                "--data must not be given with --format ovms",
                found=f"--data {data}",
                fix="run the command without --data",
            ),
        ),
        (
            OVMS in chosen and (recover or explain),
            InputError(
                f"{flag} cannot be combined with --format ovms",
                found=flag,
                fix=f"run {EXPORT_IR} {flag} first, then ftx export --format ovms",
            ),
        ),
    )
    if run is not None and str(run) in IRS and not run.exists():
        raise InputError(
            "RUN must be a run folder",
            found=str(run),
            fix="separate several precisions with commas: --precision fp32,int8",
        )
    open_run(run, data, needs_images=not updates and "openvino" in (chosen or ["openvino"]))
    if base is not None and as_update is not None:
        return _update(run, as_update, base, after, json=json)
    if base is not None:
        return _base(run, base, precisions or ["fp32"], data, json=json)
    if OVMS in chosen:
        return _repository(run, out or Path(OVMS), precisions or ["fp32"], json=json)
    from ftx.exporting import export

    if any(one.startswith("int8") and one != "int8-weights" for one in precisions):
        console.print_note("the int8 export takes some minutes: ftx compares several settings", "dim")
    # ``export`` checks the precisions.
    report = export(
        run,
        formats=cast("list[Format]", chosen or ["openvino"]),
        precisions=precisions or ["fp32"],
        data=data,
        recover=recover,
        explain=explain,
        progress=console.TerminalProgress(),
    )
    return console.show(report, print_export, json=json)


def _repository(run: Path | None, out: Path, precisions: list[str], *, json: bool) -> int:
    """A repository for OpenVINO Model Server, made of IRs of the run."""
    from ftx.exporting.ovms import export_ovms

    written = export_ovms(run, out, precisions=precisions, progress=console.TerminalProgress())
    return console.show(written, _print_repository, json=json)


def _base(run: Path | None, base: Path, precisions: list[str], data: Path | None, *, json: bool) -> int:
    """The base IR that devices need once."""
    from ftx.exporting.base_ir import export_base

    (precision,) = precisions if len(precisions) == 1 else ("",)
    if precision not in ("fp32", "fp16"):
        found = ", ".join(precisions)
        raise InputError("--base must be fp32 or fp16", found=found, fix="ftx export --base DIR --precision fp32")
    written = export_base(run, base, precision=precision, data=data, progress=console.TerminalProgress())
    return console.show(written, _print_base, json=json)


def _update(run: Path | None, file: Path, base: Path, after: Path | None, *, json: bool) -> int:
    """The update that ``ftx apply`` turns a base into a model with."""
    from ftx.exporting.base_ir import export_update

    update = export_update(run, file, base, after=after, progress=console.TerminalProgress())
    if update.verdict is None:
        console.print_note(
            "this update has no verdict for the devices. To add one, run "
            f"{EXPORT_IR}, then {shell_command('ftx validate', update.run)}, and write the update again",
            "dim",
        )
    return console.show(update, _print_update, json=json)


def _print_repository(report: OvmsReport) -> None:
    console.print_table(
        ("model", "channels", "made from"), [(one.name, one.channels.upper(), one.artifact) for one in report.models]
    )
    console.print_note(f"{report.path}: {report.size_bytes / 1e6:.1f} MB", "good")
    console.print_note(f"next: {shell_command('ovms --rest_port 8000 --config_path', report.config)}", "dim")


def _print_base(report: BaseReport) -> None:
    size = f"{report.size_bytes / 1e6:.1f} MB"
    console.print_note(
        f"{report.path}: base in {report.precision}, {size}; the same for all runs of this model", "good"
    )
    console.print_note(f"next: {shell_command('ftx export', report.run)} --base {report.path} --as-update FILE", "dim")


def _print_update(report: UpdateReport) -> None:
    verdict = "" if report.verdict is None else f", {report.verdict} here"
    size = f"{report.size_bytes / 1e6:.2f} MB"
    console.print_note(f"{report.path}: update {report.sequence} of {report.base}, {size}{verdict}", "good")
    console.print_note(f"next, on a device: ftx apply {report.path} {report.base} OUT", "dim")


def print_export(report: ExportReport) -> None:
    """A row for each model, and a first verdict in a sentence; with ``-v`` what int8 was chosen from."""
    if (recovered := report.recovered) is not None:
        console.print_note(
            f"recovered in {recovered.run}, {recovered.steps} steps: the mean logit error fell from "
            f"{recovered.error_before:.4f} to {recovered.error_after:.4f}; "
            f"{recovered.metric} {recovered.metrics[recovered.metric]:.1%}"
        )
    console.print_table(
        ("model", "MB", "seconds", "written to"),
        [
            (item.artifact, f"{item.size_bytes / 1e6:.1f}", f"{item.seconds:.1f}", item.path)
            for item in report.artifacts
        ],
    )
    for item in report.artifacts:
        if item.searched is not None:
            print_search(item.searched, setting(item))
        if item.certificates:
            used = min(item.certificates, key=lambda one: one.time_vs_fp32)
            console.print_note(f"{item.artifact}, {used.quick} first: {used.summary}; {used.cost}", "dim")
        if console.shows_details() or item.verdict == "failed":
            sentence = f"{item.artifact}: {VERDICT_WORDS[item.verdict]} on its reference images, {item.summary}"
            console.print_note(sentence, "bad" if item.verdict == "failed" else "dim")
    if report.suggestion is not None:
        console.print_note(report.suggestion, "dim")
    console.print_note(f"next: {shell_command('ftx validate', report.run)}", "dim")


def print_search(report: QuantizeReport, chosen_as: str = "") -> None:
    """How many int8 settings were tried; with ``-v`` a row for each."""
    if not console.shows_details():
        tried = f"the best of {len(report.candidates)} settings (-v shows them)"
        console.print_note(f"{report.artifact}: {chosen_as}{', ' if chosen_as else ''}{tried}", "dim")
        return
    console.print_table(
        ("setting", "logit error", "labels changed", "time vs fp32", ""),
        [
            (
                row.setting,
                "no number" if row.mean_abs is None else f"{row.mean_abs:.4f}",
                f"{row.changed} of {row.images}",
                f"{row.work:.2f}",
                "chosen" if row.chosen else "",
            )
            for row in report.candidates
        ],
        title=f"\n{report.artifact}: settings tried",
    )
    console.print_note(
        "chosen: the smallest product of logit error and estimated time, on training images that did not calibrate; "
        "reports/ has a picture",
        "dim",
    )


def setting(item: ExportedArtifact) -> str:
    """How much of int8 computes in 8 bits, and by which preset; nothing for other precisions."""
    if item.int8_share is None:
        return ""
    preset = "" if item.preset is None else f", {item.preset} preset"
    return f"{100 * item.int8_share:.0f} % of layers are int8{preset}"
