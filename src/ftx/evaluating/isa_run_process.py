"""One OpenVINO model of a run, asked in a process held to an instruction set: ``python -m`` this, by ``isa_parity``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from pydantic import BaseModel, ConfigDict

from ftx.core.child_process import reply_on_stdout
from ftx.core.progress import SILENT
from ftx.evaluating.answers import ask_graph, ask_graph_of_files, graph_latency_ms
from ftx.evaluating.read_reference import reference_answers
from ftx.evaluating.run_parity import Samples, take_samples
from ftx.evaluating.verdict import rests_on_labels
from ftx.runs.artifacts import ARTIFACTS, Artifact
from ftx.runs.compute_precision import Compute
from ftx.runs.instruction_sets import InstructionSet
from ftx.runs.parity_json import VIEW_OF, KernelPath
from ftx.runs.proof_json import Answers
from ftx.runs.run import Run
from ftx.runtimes import load_artifact
from ftx.runtimes.openvino import OpenVinoPredictor, default_compute, kernel_paths

MODULE = "ftx.evaluating.isa_run_process"


class Question(BaseModel):
    """Which model, and which of the run's held-out images (None: all)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Path
    artifact: str
    data: Path | None
    images: int | None


class HeldRow(BaseModel):
    """What it answered there to the same pixels, under one precision: in the graph view, or as for one image.

    ``asked`` are all the images (``whole``), or those of the graph view in f32; ``reference`` those beside the model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    isa: InstructionSet
    emulated: bool
    primitives: dict[str, int]
    latency_ms: float
    whole: bool
    asked: Answers
    reference: Answers


class HeldModel(BaseModel):
    """In the precision that OpenVINO chooses there, and in f32 where that is another; each as for one image too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: list[HeldRow]


def answer(question: Question) -> HeldModel:
    """Ask the model.

    Raises: RunError, DataError, ExportError as the validation of a run does.
    """
    run, artifact = Run(question.run), ARTIFACTS[question.artifact]
    samples = take_samples(run, question.data, question.images)
    computes: tuple[Compute, ...] = ("auto",) if default_compute().dtype == "f32" else ("auto", "f32")
    return HeldModel(rows=[row for compute in computes for row in _rows(compute, run, artifact, samples)])


def _rows(compute: Compute, run: Run, artifact: Artifact, samples: Samples) -> Iterator[HeldRow]:
    predictor = cast("OpenVinoPredictor", load_artifact(run, artifact, compute=compute))
    for path in kernel_paths(predictor.folder, compute):
        opened = predictor if path == "batch" else OpenVinoPredictor(predictor.folder, compute, kernels=path)
        yield _row(opened, path, samples)


def _row(predictor: OpenVinoPredictor, path: KernelPath, samples: Samples) -> HeldRow:
    whole = rests_on_labels(predictor.card.artifact, predictor.compute)
    with SILENT.track("", None) as bar:
        if whole:
            logits_NC = ask_graph_of_files(predictor, samples.images, samples.preprocess, bar)
        else:
            logits_NC = ask_graph(predictor, samples.pixels, bar)
    kernels = predictor.kernels()
    assert kernels.isa is not None, "a process held to a set has one"
    return HeldRow(
        isa=kernels.isa,
        emulated=kernels.emulated,
        primitives=dict(kernels.primitives),
        latency_ms=graph_latency_ms(predictor, samples.pixels),
        whole=whole,
        asked=Answers.of(predictor.compute, logits_NC, VIEW_OF[path]),
        reference=reference_answers(predictor, path),
    )


if __name__ == "__main__":
    reply_on_stdout(Question, answer)
