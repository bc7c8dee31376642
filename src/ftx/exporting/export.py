"""``ftx export``: the dense weights of a run as ONNX and OpenVINO models, each complete or not written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ftx.core.closed_model import ClosedModel
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
    IR_INT8_CHECKED,
    IR_INT8_SAFE,
    IRS,
    Artifact,
    Format,
    IrVariant,
)
from ftx.runs.certificate import Certificate
from ftx.runs.certificate_json import read_certificates
from ftx.runs.parity_json import Verdict
from ftx.runs.quantize_json import QUANTIZE_FILES, QuantizeReport
from ftx.runs.run import Run

if TYPE_CHECKING:
    from ftx.exporting.export_source import Source
    from ftx.exporting.int8.search import QuantizedBody


class ExportedArtifact(ClosedModel):
    """One exported model."""

    artifact: str
    """The model of the run, for example ``openvino/int8``."""
    precision: IrVariant
    """The precision of its weights, as in ``--precision``."""
    path: str
    """The folder of the model."""
    size_bytes: int
    """The size of the model files in bytes, without the reference images."""
    seconds: float
    """The time of the export in seconds."""
    smooth_quant_alpha: float | None = None
    """Only for int8 with attention: the strength of SmoothQuant, or -1 without it. Otherwise null."""
    preset: Literal["performance", "mixed"] | None = None
    """Only for int8 without attention: the preset of NNCF. Otherwise null."""
    int8_share: float | None = None
    """Only for int8: the fraction of linear layers and convolutions that this CPU computes in 8 bits, from 0 to 1.
    Otherwise null.
    """
    verdict: Verdict
    """The verdict from only the reference images, at most 64. ``ftx validate`` runs all held-out images."""
    summary: str
    """The figures of the verdict, in a sentence."""
    searched: QuantizeReport | None = None
    """The settings that were compared for int8; null if none were."""
    certificates: list[Certificate] = []  # noqa: RUF012  pydantic copies it
    """Only for int8-checked: the bounds that decide which images also run in fp32."""


class ExportReport(CommandReport):
    """The models that ``ftx export`` wrote."""

    verb: str = "export"
    recovered: RecoverReport | None = None
    """The new run that ``--recover`` made, and that is exported; null without ``--recover``."""
    artifacts: list[ExportedArtifact]
    """The exported models, in the order of the export."""
    suggestion: str | None = None
    """Whether int8-checked would pay on this machine; null if int8 was not exported, or the run has int8-checked."""


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
    """Write each format in each precision; ONNX is only fp32, so with both formats the precisions are for OpenVINO.

    With ``recover``, a new run is made, merged and exported, whose weights were trained a little more through 8 bits.
    With ``explain``, models also output a map of each label and the input of the classifier, and take longer.
    Each model runs on the reference images before it gets its name. If one fails, the error is raised and those before
    it stay: ftx never writes another model in its place.
    Raises: InputError for what ftx does not export; RunError if dense/ is missing or stale; ExportError if a
    converter fails; GateFailed if a model does not predict what the trained model does; DataError if the
    images of the run are missing.
    """
    chosen = artifacts_of(formats, precisions)
    recovered = _recovered(run, chosen, data, progress) if recover else None
    if recovered is not None:
        run = recovered.run
    opened = run if isinstance(run, Run) else Run.open(run)
    dense = opened.require(DENSE)
    # Imported here: torch by itself takes seconds, and an error in the input is reported before.
    from ftx.exporting.export_source import Source

    source = Source(opened, data, progress, explain=explain)
    dense_bytes = sum(path.stat().st_size for path in dense.iterdir())
    written: list[ExportedArtifact] = []
    with progress.track("Exporting", len(chosen)) as task:
        for artifact in chosen:
            check_space(opened.path, dense_bytes)
            written.append(_write(source, artifact))
            task.advance(artifact=artifact.name)
    suggestion = None
    if IR_INT8 in chosen and not opened.has(IR_INT8_CHECKED):
        from ftx.exporting.suggest_checked import suggest_checked

        suggestion = suggest_checked(source)
    return ExportReport(run=str(opened.path), recovered=recovered, artifacts=written, suggestion=suggestion)


def _recovered(
    run: Run | Path | str | None, chosen: Sequence[Artifact], data: Path | None, progress: Progress
) -> RecoverReport:
    """Make the new run, and merge it."""
    if not {IR_INT8, IR_INT8_CHECKED, IR_INT8_SAFE} & set(chosen):
        raise InputError(
            "--recover needs --precision int8, int8-checked or int8-overflow-safe",
            fix="add one of them: --precision int8 --recover",
        )
    from ftx.exporting.int8.recover import recover
    from ftx.merging.merge_and_prove import merge

    report = recover(run, data=data, progress=progress)
    merge(Path(report.run or ""), data=data, progress=progress)
    return report


def artifacts_of(formats: Sequence[str], precisions: Sequence[str]) -> list[Artifact]:
    """The artifacts of some formats and precisions, in the order of the pipeline, once each.

    Raises: InputError for an unknown name, and for ONNX in another precision than fp32.
    """
    check_known("--format", formats, FORMATS)
    check_known("--precision", precisions, list(IRS))
    if "openvino" not in formats and set(precisions) != {"fp32"}:
        raise InputError(
            "--precision must be fp32 for --format onnx",
            found=", ".join(precisions),
            fix="run the command without --precision, or add --format openvino for it",
        )
    return [
        artifact
        for artifact in EXPORTED
        if artifact.runtime in formats and (not artifact.variant or artifact.variant in precisions)
    ]


def check_free(out: Path) -> None:
    """Raise InputError if something has this name already."""
    if out.exists() or out.is_symlink():
        raise InputError("this path already exists", where=out, fix="choose another folder, or move the existing one")


def _write(source: Source, artifact: Artifact) -> ExportedArtifact:
    from ftx.evaluating.calibrate import calibrate_run
    from ftx.exporting.writers import WRITERS, check_accuracy

    started = time.monotonic()
    with source.run.add(artifact, source.progress) as staged:
        quantized = WRITERS[artifact].write(source, artifact, staged)
        searched = _keep_search(source, artifact, quantized) if quantized and quantized.candidates else None
        verdict, summary = check_accuracy(source, artifact, staged)
        if artifact.variant:
            calibrate_run(source.run, staged, source.data, source.progress)
        certificates = read_certificates(staged).certificates if artifact == IR_INT8_CHECKED else []
        size_bytes = sum(path.stat().st_size for path in staged.iterdir() if path.name.startswith(("model.", "float.")))
    return ExportedArtifact(
        artifact=artifact.name,
        precision=artifact.variant or artifact.precision,
        path=str(source.run.folder(artifact)),
        size_bytes=size_bytes,
        seconds=round(time.monotonic() - started, 3),
        smooth_quant_alpha=quantized and quantized.setting.alpha,
        preset=quantized and quantized.setting.preset,
        int8_share=quantized and round(quantized.int8_fraction, 3),
        verdict=verdict,
        summary=summary,
        searched=searched,
        certificates=certificates,
    )


def _keep_search(source: Source, artifact: Artifact, quantized: QuantizedBody) -> QuantizeReport:
    """Write the search for INT8 next to the run's other reports, even if the model then fails."""
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
