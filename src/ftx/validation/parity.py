"""``ftx validate``: held-out images through every artifact, each against the trained model in torch f32.

A run is compared with its trained model; an exported folder on a device, where there is no torch, with
the answers of that model which lie beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ftx.card import CARD
from ftx.data.dataset import Entry
from ftx.data.preprocess import load_pixels
from ftx.errors import InputError, RunError, shell_command
from ftx.progress import SILENT, Progress
from ftx.progress import Task as ProgressTask
from ftx.run import Run
from ftx.runtimes import Compute, Predictor, load_artifact
from ftx.runtimes.base import Pixels
from ftx.tasks.base import Floats
from ftx.validation.asking import ask_files, ask_graph, files_latency_ms, graph_latency_ms
from ftx.validation.comparison import Reference, Subject, compare
from ftx.validation.device import validate_folder
from ftx.validation.identity import identity_faults
from ftx.validation.report import ParityReport, ParityRow
from ftx.validation.tolerance import Bounds, kind_of

# The graph view compares numbers, and a fault in a graph moves the logits of any image: so many, spread
# over the held-out ones, show it. Accuracy needs them all, and the view from files takes them.
GRAPH_IMAGES = 128
TINTED_IMAGES = 8
# Grey images answer alike with their channels swapped, so copies of some are tinted: the factors of R, G and B.
TINT = np.array([1.0, 0.75, 0.5])

EXPORTED = ("onnx", "openvino/fp32", "openvino/fp16", "openvino/int8")


def validate(
    target: Run | Path | str | None = None,
    *,
    data: Path | None = None,
    bounds: Mapping[str, float] | Bounds | None = None,
    images: int | None = None,
    progress: Progress = SILENT,
) -> ParityReport:
    """Compare every artifact of a run, or one exported folder, with the trained model.

    ``target`` is the latest run by default; ``data`` says where the run's images are now; ``bounds`` lays values over
    the table of ``ftx.validation.tolerance``; ``images`` takes so many of the held-out ones, spread over them.
    A run gets ``reports/parity.json``. A bound that is passed makes ``ok`` false and raises nothing.
    Raises: RunError if nothing is exported, or a file is altered or stale; ExportError for a folder; DataError.
    """
    table = Bounds.of(bounds)
    if isinstance(target, Run) or target is None:
        return _validate_run(target or Run.open(), data, table, images, progress)
    path = Path(target)
    folder = path.parent if path.is_file() else path
    if (folder / CARD).is_file():
        if data is not None or images is not None:
            raise InputError(
                "an exported folder is validated on its own reference images, and takes neither --data nor --images",
                where=folder,
                mend="leave them out, or name the run",
            )
        return validate_folder(folder, table, progress)
    return _validate_run(Run.open(path), data, table, images, progress)


@dataclass(frozen=True)
class _Samples:
    """The held-out images, and which of them the graph view takes."""

    entries: tuple[Entry, ...]
    paths: tuple[Path, ...]
    chosen: tuple[int, ...]
    # Shape: [chosen, H, W, 3]; [tinted, H, W, 3].
    pixels: Pixels
    tinted: Pixels


@dataclass(frozen=True)
class _References:
    files: Reference
    graph: Reference
    # The graph view with the tinted copies at its end.
    tinted: Reference


def _validate_run(run: Run, data: Path | None, table: Bounds, images: int | None, progress: Progress) -> ParityReport:
    exported = [name for name in EXPORTED if run.has(name)]
    if not exported:
        raise RunError(
            "there is nothing to validate: this run has no exported model yet",
            where=run.path,
            found=f"it holds {', '.join(run.artifacts())}",
            mend=f"run: {shell_command('ftx export --format openvino', run.path)}",
        )
    for artifact in exported:  # hashes and lineage of all, before the first number
        run.require(artifact)
    samples = _samples(run, data, images)
    asked = list(_computes(["dense", *exported]))
    total = sum(_images_asked(artifact, samples) for artifact in ["trained", *(artifact for artifact, _ in asked)])
    rows: list[ParityRow] = []
    problems: list[str] = []
    faulty: set[str] = set()
    with progress.track("validating", total) as bar:
        references = _references(run, samples, rows, table, bar)
        for artifact, compute in asked:
            predictor = load_artifact(run, artifact, compute=compute)
            faults = [] if compute == "auto" else identity_faults(run, artifact, predictor)
            for row, passed in _compare(artifact, predictor, references, samples, table, bar):
                rows.append(row)
                faults += passed
            problems += faults
            faulty |= {artifact} if faults else set()
    manifest = run.manifest
    report = ParityReport(
        run=str(run.path),
        ok=not problems,
        reference="trained/ in torch f32, before its merge",
        split=samples.entries[0].split,
        whole=images is None and table == Bounds.of(None),
        rows=rows,
        problems=problems,
        faulty=sorted(faulty),
        digests={name: manifest.digest(name) for name in ("trained", "dense", *exported)},
    )
    run.keep_report("parity", report, progress)
    return report


def _computes(artifacts: Sequence[str]) -> Iterator[tuple[str, Compute]]:
    for artifact in artifacts:
        yield artifact, "f32"
        if artifact.startswith("openvino/"):
            yield artifact, "auto"


def _images_asked(artifact: str, samples: _Samples) -> int:
    of_graph = len(samples.chosen) + len(samples.tinted)
    if artifact == "trained":
        return len(samples.paths) + len(samples.tinted)
    return of_graph if artifact == "dense" else of_graph + len(samples.paths)


def _samples(run: Run, data: Path | None, images: int | None) -> _Samples:
    entries = run.report_entries()
    entries = tuple(entries[index] for index in _spread(len(entries), images or len(entries)))
    root = run.data_root(data)
    paths = tuple(entry.locate(root) for entry in entries)
    chosen = _spread(len(entries), GRAPH_IMAGES)
    pixels = np.stack([load_pixels(paths[index], run.manifest.preprocess) for index in chosen])
    grey = bool((pixels == pixels[..., :1]).all())
    tinted = np.rint(pixels[:TINTED_IMAGES] * TINT).astype(np.uint8) if grey else pixels[:0]
    return _Samples(entries, paths, chosen, pixels, tinted)


def _spread(count: int, wanted: int) -> tuple[int, ...]:
    """So many of the first ``count`` numbers, evenly, in order."""
    return (
        tuple(sorted({index * count // wanted for index in range(wanted)})) if wanted < count else tuple(range(count))
    )


def _references(run: Run, samples: _Samples, rows: list[ParityRow], table: Bounds, bar: ProgressTask) -> _References:
    """Ask the trained model, and give it a row of its own."""
    trained = load_artifact(run, "trained")
    task = run.task
    names = tuple(entry.path for entry in samples.entries)
    targets_NC = task.targets([entry.labels for entry in samples.entries])
    logits_NC = ask_files(trained, samples.paths, bar)
    whole = Reference(names, logits_NC, targets_NC, task)
    chosen = list(samples.chosen)
    graph = Reference(tuple(names[index] for index in chosen), logits_NC[chosen], targets_NC[chosen], task)
    tinted = graph
    if len(samples.tinted):
        more = tuple(f"{name} (tinted)" for name in graph.names[: len(samples.tinted)])
        logits = np.concatenate([graph.logits, ask_graph(trained, samples.tinted, bar)])
        tinted = Reference(graph.names + more, logits, graph.targets, task)
    subject = Subject("trained", "torch", "files", "f32", files_latency_ms(trained, samples.paths))
    row, _ = compare(whole, logits_NC, subject, table.pick("trained", "files", "f32"))
    rows.append(row)
    return _References(whole, graph, tinted)


def _compare(
    artifact: str,
    predictor: Predictor,
    references: _References,
    samples: _Samples,
    table: Bounds,
    bar: ProgressTask,
) -> Iterator[tuple[ParityRow, list[str]]]:
    """The rows of one artifact under one precision."""
    compute = predictor.compute
    # Int8 is calibrated on what the data holds: on grey data its answer to colour says nothing.
    takes_tint = kind_of(artifact, compute) != "int8"
    reference = references.tinted if takes_tint else references.graph
    pixels = np.concatenate([samples.pixels, samples.tinted]) if takes_tint else samples.pixels
    logits_NC: Floats = ask_graph(predictor, pixels, bar)
    subject = Subject(artifact, predictor.name, "graph", compute, graph_latency_ms(predictor, samples.pixels))
    yield compare(reference, logits_NC, subject, table.pick(artifact, "graph", compute))
    if artifact == "dense":
        return  # its image path is the training path, so the other view would be this one again
    logits_NC = ask_files(predictor, samples.paths, bar)
    subject = Subject(artifact, predictor.name, "files", compute, files_latency_ms(predictor, samples.paths))
    yield compare(references.files, logits_NC, subject, table.pick(artifact, "files", compute))
