"""``ftx export``: the dense weights of a run as ONNX and OpenVINO models, each whole or not there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from ftx.core.command_report import CommandReport
from ftx.core.errors import EnvironmentFault, InputError, check_known
from ftx.core.files import check_space, staged_file
from ftx.core.progress import SILENT, Progress
from ftx.exporting.recover_report import RecoverReport
from ftx.runs.artifacts import (
    DENSE,
    EXPORTED,
    FORMATS,
    IR_INT8,
    IR_INT8_SAFE,
    IRS,
    Artifact,
    Format,
    IrVariant,
)
from ftx.runs.parity_json import Verdict
from ftx.runs.quantize_json import QUANTIZE_FILES, QuantizeReport
from ftx.runs.run import Run

if TYPE_CHECKING:
    from ftx.exporting.int8.search import Quantized
    from ftx.exporting.shared_parts import Source


class ExportedArtifact(BaseModel):
    """One model that was written. ``size_bytes`` counts the model's own files, not the reference beside them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifact: str
    precision: IrVariant
    path: str
    size_bytes: int
    seconds: float
    # INT8 alone, chosen on training images that did not calibrate it. With attention: the strength of SmoothQuant, -1
    # where it was best left out. Without: NNCF's preset.
    smooth_quant_alpha: float | None = None
    preset: Literal["performance", "mixed"] | None = None
    # INT8 alone: the share of linear layers and convolutions that this CPU computes in 8 bits.
    int8_share: float | None = None
    # By the 64 reference images alone, which lie beside an IR: ``ftx validate`` asks all held-out ones.
    verdict: Verdict
    summary: str
    # INT8 alone, and null where nothing was searched for.
    searched: QuantizeReport | None = None


class ExportReport(CommandReport):
    """What ``ftx export`` wrote, in order."""

    verb: str = "export"
    # Of a run that was made for this export, by training through 8 bits; null without ``--recover``.
    recovered: RecoverReport | None = None
    artifacts: list[ExportedArtifact]


def export(
    run: Run | Path | str | None = None,
    *,
    formats: Sequence[Format],
    precisions: Sequence[str] = ("fp32",),
    data: Path | None = None,
    recover: bool = False,
    explain: bool = False,
    progress: Progress = SILENT,
) -> ExportReport:
    """Write each format in each precision; ONNX is fp32 alone, so precisions mean OpenVINO where both are given.

    With ``recover`` it is a new run that is exported, merged, whose weights were trained a little more through 8 bits.
    With ``explain`` models answer with a map of each label and what the classifier reads, too, and take longer.
    Each is asked about the reference images before it gets its name. If one fails, those before it stay and are whole,
    and the error is raised: never another one in its place.
    Raises: InputError for what ftx does not export; RunError if dense/ is missing or stale; ExportError if a
    converter refuses the model; GateFailed if what it wrote does not answer as the trained model did; DataError if the
    images of the run are gone.
    """
    wanted = wanted_artifacts(formats, precisions)
    recovered = _recovered(run, wanted, data, progress) if recover else None
    if recovered is not None:
        run = recovered.run
    opened = run if isinstance(run, Run) else Run.open(run)
    dense = opened.require(DENSE)
    # Imported here: torch alone takes seconds, and what was typed wrong is said before.
    from ftx.exporting.shared_parts import Source

    source = Source(opened, data, progress, explain=explain)
    dense_bytes = sum(path.stat().st_size for path in dense.iterdir())
    written: list[ExportedArtifact] = []
    with progress.track("exporting", len(wanted)) as task:
        for artifact in wanted:
            check_space(opened.path, dense_bytes)
            written.append(_write(source, artifact))
            task.advance(artifact=artifact.name)
    return ExportReport(run=str(opened.path), recovered=recovered, artifacts=written)


def _recovered(
    run: Run | Path | str | None, wanted: Sequence[Artifact], data: Path | None, progress: Progress
) -> RecoverReport:
    """Make the new run, and merge it."""
    if not {IR_INT8, IR_INT8_SAFE} & set(wanted):
        raise InputError("--recover is for int8", fix="name it: --precision int8 --recover")
    from ftx.exporting.int8.recover import recover
    from ftx.merging.merge_and_prove import merge

    report = recover(run, data=data, progress=progress)
    merge(Path(report.run or ""), data=data, progress=progress)
    return report


def wanted_artifacts(formats: Sequence[str], precisions: Sequence[str]) -> list[Artifact]:
    """The artifacts that formats and precisions ask for, in the order of the pipeline, once each.

    Raises: InputError for a name that is none, and for ONNX in another precision than fp32.
    """
    check_known("format", formats, FORMATS)
    check_known("precision", precisions, list(IRS))
    if "openvino" not in formats and set(precisions) != {"fp32"}:
        raise InputError(
            "ONNX is written in fp32 alone",
            found=f"precision {', '.join(precisions)}",
            fix="leave --precision out, or add --format openvino for it",
        )
    return [
        artifact
        for artifact in EXPORTED
        if artifact.runtime in formats and (artifact.runtime != "openvino" or artifact.variant in precisions)
    ]


def _write(source: Source, artifact: Artifact) -> ExportedArtifact:
    from ftx.exporting.accuracy_gate import refuse_what_failed
    from ftx.exporting.shared_parts import WRITERS

    started = time.monotonic()
    with source.run.add(artifact, source.progress) as staged:
        quantized = WRITERS[artifact](source, staged)
        searched = _keep_search(source, artifact, quantized) if quantized and quantized.candidates else None
        verdict, summary = refuse_what_failed(source, artifact, staged)
        size_bytes = sum(path.stat().st_size for path in staged.iterdir() if path.name.startswith("model."))
    return ExportedArtifact(
        artifact=artifact.name,
        precision=artifact.variant or artifact.precision,
        path=str(source.run.folder(artifact)),
        size_bytes=size_bytes,
        seconds=round(time.monotonic() - started, 3),
        smooth_quant_alpha=quantized and quantized.setting.alpha,
        preset=quantized and quantized.setting.preset,
        int8_share=quantized and round(quantized.int8_share, 3),
        verdict=verdict,
        summary=summary,
        searched=searched,
    )


def _keep_search(source: Source, artifact: Artifact, quantized: Quantized) -> QuantizeReport:
    """Write what INT8 was chosen from beside the run's other reports, whatever becomes of the model."""
    from ftx.exporting.int8.report import draw, report_of

    report, name = report_of(quantized, artifact), QUANTIZE_FILES[artifact]
    source.run.keep_report(name.stem, report, source.progress)
    picture = (source.run.path / name).with_suffix(".svg")
    try:
        with staged_file(picture) as staged:
            draw(report, staged)
    except (OSError, EnvironmentFault, ModuleNotFoundError) as error:
        source.progress.note(f"{picture.name} is not drawn: {error}")
    return report
