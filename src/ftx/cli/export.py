"""``ftx export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ftx.cli import console
from ftx.cli.shared_options import DataOption, JsonFlag, RunArgument, open_run
from ftx.core.errors import InputError, check_known, shell_command
from ftx.runs.artifacts import EXPORT_IR, FORMATS, IRS

# A format of --format that no runtime of ours reads: a folder made of IRs.
OVMS = "ovms"

if TYPE_CHECKING:
    from ftx.exporting import ExportReport
    from ftx.exporting.export import ExportedArtifact
    from ftx.runs.artifacts import Format
    from ftx.runs.quantize_json import QuantizeReport


def command(
    run: RunArgument = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="|".join([*FORMATS, OVMS]),
            help="May be given more than once; ovms, alone, turns IRs of the run into a repository for OpenVINO Model "
            "Server.  [default: openvino]",
        ),
    ] = None,
    precisions: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            metavar="|".join(IRS),
            help="Of the IR; may be given more than once. ONNX is fp32 and takes no other.  [default: fp32]",
        ),
    ] = None,
    data: DataOption = None,
    base: Annotated[
        Path | None,
        typer.Option(
            "--base", metavar="DIR", help="Write what devices need once to take updates: the base IR, in fp32 or fp16."
        ),
    ] = None,
    as_update: Annotated[
        Path | None,
        typer.Option(
            "--as-update", metavar="FILE", help="Write the update that ftx apply turns the base of --base into."
        ),
    ] = None,
    after: Annotated[
        Path | None, typer.Option("--after", metavar="FILE", help="The update before: devices take newer ones alone.")
    ] = None,
    recover: Annotated[
        bool,
        typer.Option(
            "--recover",
            help="First train a little more through 8 bits: a new run, merged, whose int8 loses less.",
        ),
    ] = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Let the model answer with what each label comes from, too: saliency_map, feature_vector."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where --format ovms goes.  [default: ovms]"),
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Write the dense model as OpenVINO IR or ONNX; or a base IR and updates of it.

    An IR takes raw images of any size: resize, crop and normalisation are inside. Each folder below openvino/
    is complete for a device, with labels, hashes and reference answers. int8 is calibrated on training images.
    """
    if out is not None and OVMS not in (formats or ()):
        raise InputError("models go into their run", found=f"--out {out}", fix="leave it out; it is for --format ovms")
    if formats is not None:
        check_known("format", formats, [*FORMATS, OVMS])
    open_run(run, data, needs_images=base is None and as_update is None and "openvino" in (formats or ["openvino"]))
    if base is not None or as_update is not None or after is not None:
        _refuse_both(formats, as_update, precisions, recover=recover, explain=explain)
        return _base_or_update(run, base, as_update, after, precisions or ["fp32"], data, json=json)
    if OVMS in (formats or ()):
        _refuse_beside_ovms(formats or [], data, recover=recover, explain=explain)
        return _repository(run, out or Path(OVMS), precisions or ["fp32"], json=json)
    from ftx.exporting import export

    # What is no precision is refused by export itself.
    report = export(
        run,
        formats=cast("list[Format]", formats or ["openvino"]),
        precisions=precisions or ["fp32"],
        data=data,
        recover=recover,
        explain=explain,
        progress=console.TerminalProgress(),
    )
    if json:
        console.print_json(report)
    else:
        print_export(report)
    return 0


def _refuse_both(
    formats: list[str] | None, as_update: Path | None, precisions: list[str] | None, *, recover: bool, explain: bool
) -> None:
    if formats:
        raise InputError("a base and updates are OpenVINO's", found="--format", fix="leave it out")
    if as_update is not None and precisions:
        raise InputError("an update has the precision of its base", found="--precision", fix="leave it out")
    if recover:
        raise InputError("--recover is for int8, and no update is", fix="leave it out")
    if explain:
        raise InputError("--explain is for models, and an update changes weights alone", fix="leave it out")


def _refuse_beside_ovms(formats: list[str], data: Path | None, *, recover: bool, explain: bool) -> None:
    if set(formats) != {OVMS}:
        others = ", ".join(sorted(set(formats) - {OVMS}))
        raise InputError(
            "ovms is made of IRs that the run holds", found=f"--format {others}", fix="export these first, then ovms"
        )
    if data is not None:
        raise InputError("ovms is made of IRs, and asks no image", found=f"--data {data}", fix="leave it out")
    if recover or explain:
        flag = "--recover" if recover else "--explain"
        raise InputError("ovms is made of IRs that the run holds", found=flag, fix=f"{EXPORT_IR} {flag}, then ovms")


def _repository(run: Path | None, out: Path, precisions: list[str], *, json: bool) -> int:
    from ftx.exporting.ovms import export_ovms

    written = export_ovms(run, out, precisions=precisions, progress=console.TerminalProgress())
    if json:
        console.print_json(written)
        return 0
    console.print_table(
        ("model", "channels", "of"), [(one.name, one.channels.upper(), one.artifact) for one in written.models]
    )
    console.print_note(f"{written.path}: {written.size_bytes / 1e6:.1f} MB", "good")
    console.print_note(f"next: {shell_command('ovms --rest_port 8000 --config_path', written.config)}", "dim")
    return 0


def _base_or_update(
    run: Path | None,
    base: Path | None,
    as_update: Path | None,
    after: Path | None,
    precisions: list[str],
    data: Path | None,
    *,
    json: bool,
) -> int:
    from ftx.exporting.base_ir import export_base, export_update

    progress = console.TerminalProgress()
    if base is None:
        raise InputError("an update is of a base that devices have", fix="name its folder: --base DIR")
    if as_update is None:
        if after is not None:
            raise InputError("--after is for an update", fix="name the update to write: --as-update FILE")
        (precision,) = precisions if len(precisions) == 1 else ("",)
        if precision not in ("fp32", "fp16"):
            found = ", ".join(precisions)
            raise InputError("a base is in fp32 or fp16", found=found, fix="int8 is made from the merged model")
        written = export_base(run, base, precision=precision, data=data, progress=progress)
        said = f"{written.path}: base in {precision}, {written.size_bytes / 1e6:.1f} MB; the same for every run of it"
        following = f"next: {shell_command('ftx export', written.run)} --base {base} --as-update FILE"
    else:
        update = written = export_update(run, as_update, base, after=after, progress=progress)
        said = f"{update.path}: update {update.sequence} of {base}, {update.size_bytes / 1e6:.2f} MB"
        if update.verdict is None:
            console.print_note(
                "it carries no verdict for devices to repeat: "
                f"{EXPORT_IR}, then {shell_command('ftx validate', update.run)}, and write it again",
                "dim",
            )
        else:
            said += f", {update.verdict} here"
        following = f"next, on a device: ftx apply {as_update} {base} OUT"
    if json:
        console.print_json(written)
    else:
        console.print_note(said, "good")
        console.print_note(following, "dim")
    return 0


def print_export(report: ExportReport) -> None:
    """A row a model."""
    if (recovered := report.recovered) is not None:
        console.print_note(
            f"recovered: {recovered.run}: {recovered.steps} steps, a logit off by {recovered.error_before:.4f} before "
            f"and {recovered.error_after:.4f} after; {recovered.metric} {recovered.metrics[recovered.metric]:.1%}"
        )
    console.print_table(
        ("artifact", "precision", "MB", "seconds", "written to", "verdict"),
        [
            (
                item.artifact,
                item.precision + setting(item),
                f"{item.size_bytes / 1e6:.1f}",
                f"{item.seconds:.1f}",
                item.path,
                item.verdict,
            )
            for item in report.artifacts
        ],
    )
    for item in report.artifacts:
        if item.searched is not None:
            print_search(item.searched)
        console.print_note(f"{item.artifact}: {item.verdict} by its reference images: {item.summary}", "dim")
    console.print_note(f"next: {shell_command('ftx validate', report.run)}", "dim")


def print_search(report: QuantizeReport) -> None:
    """A row a setting that was tried."""
    console.print_table(
        (f"{report.artifact}, tried", "logit error", "labels", "work", "ms", ""),
        [
            (
                row.setting,
                "no number" if row.mean_abs is None else f"{row.mean_abs:.4f}",
                f"{row.changed} of {row.images} others",
                f"{row.work:.3f}",
                f"{row.latency_ms:.1f}",
                "chosen" if row.chosen else "",
            )
            for row in report.candidates
        ],
    )
    console.print_note(
        "chosen: the least error times work on training images that did not calibrate; the picture is in reports/",
        "dim",
    )


def setting(item: ExportedArtifact) -> str:
    """What int8 adds to its name: how it was made, and how much of it computes in 8 bits."""
    if item.int8_share is None:
        return ""
    if item.preset is not None:
        chosen = f"{item.preset} preset"
    else:
        alpha = item.smooth_quant_alpha
        chosen = "no SmoothQuant" if alpha is None or alpha < 0 else f"SmoothQuant {alpha:g}"
    return f" ({chosen}, {item.int8_share:.0%} of layers)"
