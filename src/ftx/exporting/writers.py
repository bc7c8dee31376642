"""What writes each artifact of an export, and compares it with the trained model before it gets its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftx.core.errors import GateFailed
from ftx.core.third_parties import no_telemetry
from ftx.evaluating.certify import certify_run
from ftx.evaluating.comparison import Reference, Subject, compare
from ftx.evaluating.judge import ParityJudgement, judge
from ftx.evaluating.logit_bounds import Bounds
from ftx.evaluating.measure import graph_logits, measure_folder
from ftx.exporting.export_source import Source, card_of
from ftx.exporting.onnx import write_onnx
from ftx.exporting.openvino import compress_to_fp16, write_ir
from ftx.runs.artifacts import (
    DENSE,
    FLOAT_IR_FILE,
    FLOAT_IR_WEIGHTS,
    IR_FILE,
    IR_FP16,
    IR_FP32,
    IR_INT8,
    IR_INT8_CHECKED,
    IR_INT8_SAFE,
    IR_INT8_WEIGHTS,
    IR_WEIGHTS,
    ONNX,
    Artifact,
    finer_variants,
)
from ftx.runs.card_json import write_card
from ftx.runs.parity_json import Verdict
from ftx.runs.reference_safetensors import write_reference
from ftx.runtimes.model_api import model_info
from ftx.runtimes.onnx import OnnxPredictor

with no_telemetry():
    import openvino as ov

if TYPE_CHECKING:
    from ftx.exporting.int8.search import QuantizedBody


@dataclass(frozen=True)
class Writer:
    """``write`` fills the folder of an artifact, and returns how INT8 was made; ``judge`` takes the accepted drop."""

    write: Callable[[Source, Artifact, Path], QuantizedBody | None]
    judge: Callable[[Source, Artifact, Path, float], ParityJudgement]


def check_accuracy(source: Source, artifact: Artifact, staged: Path) -> tuple[Verdict, str]:
    """The verdict on a model before it gets its name, from only the reference images, and a summary of it.

    Raises: GateFailed if its predictions are certainly not those of the trained model.
    """
    judged = WRITERS[artifact].judge(source, artifact, staged, source.run.recipe().validation.max_drop)
    verdict, summary = judged.verdicts[artifact.name], judged.summary[artifact.name]
    if verdict == "failed":
        finer = finer_variants(artifact)
        raise GateFailed(
            f"{artifact} predicts differently from the trained model, and is not kept",
            where=source.run.path,
            found=summary,
            fix=f"export in a finer precision: --precision {' or --precision '.join(finer)}"
            if finer
            else f"merge again: {DENSE.command(source.run.path)}; if the error stays, report it as a bug in ftx",
        )
    return verdict, summary


def _compressed(source: Source, folder: Path) -> ov.Model:
    from ftx.exporting.int8.quantize import compress_weights

    return compress_weights(source.parted)


# The body of each IR, or how INT8 was made; it may use the folder as scratch.
BODIES: Mapping[Artifact, Callable[[Source, Path], ov.Model | QuantizedBody]] = {
    IR_FP32: lambda source, _: source.body,
    IR_FP16: lambda source, folder: compress_to_fp16(source.body, folder),
    IR_INT8_WEIGHTS: _compressed,
    IR_INT8: lambda source, _: source.int8,
    IR_INT8_SAFE: lambda source, _: source.quantized(overflow_safe=True),
}


def _write_ir(source: Source, artifact: Artifact, folder: Path) -> QuantizedBody | None:
    """An IR folder that a device opens without anything else."""
    made = BODIES[artifact](source, folder)
    body, quantized = (made, None) if isinstance(made, ov.Model) else (made.model, made)
    card = card_of(source.run, artifact.variant, source.manifest.digest(DENSE))
    write_ir(body, card, folder)
    write_reference(source.reference, folder)
    write_card(folder, card)
    return quantized


def write_checked(source: Source, folder: Path) -> None:
    """The int8 IR and the float one, without a bound between them."""
    card = card_of(source.run, IR_INT8_CHECKED.variant, source.manifest.digest(DENSE))
    write_ir(source.body, card, folder)
    for made, name in ((IR_FILE, FLOAT_IR_FILE), (IR_WEIGHTS, FLOAT_IR_WEIGHTS)):
        (folder / made).rename(folder / name)
    write_ir(source.int8.model, card, folder)
    write_reference(source.reference, folder)
    write_card(folder, card)


def _write_certified(source: Source, artifact: Artifact, folder: Path) -> QuantizedBody:
    """Both, and the bound for this machine."""
    write_checked(source, folder)
    certify_run(source.run, folder, source.data, source.progress)
    return source.int8


def _judge_ir(source: Source, artifact: Artifact, folder: Path, max_drop: float) -> ParityJudgement:
    return measure_folder(folder, Bounds.of(None), source.progress, timed=False).judged(max_drop)


def _write_onnx(source: Source, artifact: Artifact, folder: Path) -> None:
    write_onnx(source.program, model_info(source.run.task, source.manifest.preprocess, embedded=False), folder)


def _judge_onnx(source: Source, artifact: Artifact, folder: Path, max_drop: float) -> ParityJudgement:
    """By the reference images, which an IR folder contains and an ONNX folder does not."""
    task, known = source.run.task, source.reference
    predictor = OnnxPredictor(folder, source.manifest.preprocess, task)
    with source.progress.track("Validating", len(known.paths)) as bar:
        logits_NC = graph_logits(predictor, known.pixels_NHWC, bar)
    expected = Reference(known.paths, known.logits_NC, known.targets_NC, task, known.groups, known.clear_N)
    subject = Subject(artifact, "graph", predictor.compute)
    bound = Bounds.of(None).pick(artifact, "graph", predictor.compute, drops_patches=expected.drops_patches)
    return judge([compare(expected, logits_NC, subject, bound)], max_drop)


WRITERS: Mapping[Artifact, Writer] = {
    ONNX: Writer(_write_onnx, _judge_onnx),
    **dict.fromkeys(BODIES, Writer(_write_ir, _judge_ir)),
    IR_INT8_CHECKED: Writer(_write_certified, _judge_ir),
}
