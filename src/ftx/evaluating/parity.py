"""``ftx validate``: held-out images through every artifact, each against the trained model in torch f32.

A run is compared with its trained model; an exported folder on a device, where there is no torch, with
the answers of that model which lie beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from ftx.core.errors import InputError, RunError, shell_command
from ftx.core.progress import SILENT, Progress
from ftx.core.progress import Task as ProgressTask
from ftx.core.strict_json import JsonError, read_json
from ftx.data.dataset import Entry, groups_of
from ftx.data.preprocess import Pixels, Preprocess, load_pixels
from ftx.data.store import EncodedImage, ImageStore
from ftx.evaluating.answers import ask_files, ask_graph, ask_graph_of_files, files_latency_ms, graph_latency_ms
from ftx.evaluating.bounds import Bounds, kind_of
from ftx.evaluating.card_verdicts import tell_card
from ftx.evaluating.comparison import Compared, Reference, Subject, compare
from ftx.evaluating.folder_parity import validate_folder
from ftx.evaluating.parity_report import ParityReport
from ftx.evaluating.proof_file import Answers, ir_digest, keep_proof, reference_answers
from ftx.evaluating.stated_labels import identity_faults
from ftx.evaluating.verdict import judge, passes, rests_on_labels
from ftx.recipe.schema import Recipe
from ftx.runs.card import CARD
from ftx.runs.run import Run
from ftx.runtimes import Compute, Predictor, load_artifact
from ftx.runtimes.machine import this_machine
from ftx.runtimes.openvino import OpenVinoPredictor, default_compute
from ftx.tasks.thresholds import Floats

# The graph view in f32 compares numbers, and a fault in a graph moves the logits of any image: so many, spread
# over the held-out ones, show it. What rests on labels is asked about them all, as the view from files is.
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
    max_drop: float | None = None,
    require_proof: bool = False,
    progress: Progress = SILENT,
) -> ParityReport:
    """Compare every artifact of a run, or one exported folder, with the trained model, and give each a verdict.

    ``target`` is the latest run by default; ``data`` says where the run's images are now; ``bounds`` lays values over
    the table of ``ftx.evaluating.bounds``; ``images`` takes so many of the held-out ones, spread over them, which
    proves nothing; ``max_drop`` is the share of images that may be lost (the recipe's by default). A run gets
    ``reports/parity.json``, and each OpenVINO model its ``proof.json``. ``ok`` is false where an artifact failed, or,
    with ``require_proof``, is not proved; nothing is raised for it.
    Raises: RunError if nothing is exported, or a file is altered or stale; ExportError for a folder; DataError.
    """
    table = Bounds.of(bounds)
    if max_drop is not None and not 0 < max_drop < 1:
        raise InputError(
            f"--max-drop {max_drop:g} is no margin", mend="it is a share of the images between 0 and 1, as 0.02"
        )
    path = target.path if isinstance(target, Run) else Run.open().path if target is None else Path(target)
    folder = path.parent if path.is_file() else path
    if (folder / CARD).is_file():
        if data is not None or images is not None:
            raise InputError(
                "an exported folder is validated on its own reference images, and takes neither --data nor --images",
                where=folder,
                mend="leave them out, or name the run",
            )
        report = validate_folder(folder, table, max_drop, progress)
        report.require_proof, report.ok = require_proof, passes(report.verdicts, require_proof=require_proof)
        return report
    run = target if isinstance(target, Run) else Run.open(path)
    return _validate_run(run, _Wish(data, table, images, max_drop, require_proof), progress)


@dataclass(frozen=True)
class _Wish:
    """What the caller of ``validate`` said of a run's validation."""

    data: Path | None
    table: Bounds
    images: int | None
    max_drop: float | None
    require_proof: bool


@dataclass(frozen=True)
class _Samples:
    """The held-out images, and which of them the graph view in f32 takes."""

    entries: tuple[Entry, ...]
    images: tuple[EncodedImage, ...]
    chosen: tuple[int, ...]
    # Shape: [chosen, H, W, 3]; [tinted, H, W, 3].
    pixels: Pixels
    tinted: Pixels
    preprocess: Preprocess


@dataclass(frozen=True)
class _References:
    """All held-out images, those of the graph view in f32, and the tinted copies of the first of these."""

    whole: Reference
    chosen: Reference
    tinted: Reference


def margin_of(run: Run) -> float:
    """The share of images that an artifact of a run may lose, by its recipe."""
    return Recipe.load(run.file("recipe.yaml")).validation.max_drop


def _validate_run(run: Run, wish: _Wish, progress: Progress) -> ParityReport:
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
    # As they are now: what is exported meanwhile is another model than the one that is asked.
    manifest, irs = run.manifest, {name: ir_digest(run.path / name) for name in exported if name != "onnx"}
    margin = margin_of(run) if wish.max_drop is None else wish.max_drop
    table = wish.table
    samples = _samples(run, wish.data, wish.images)
    partial = _partial(run, samples, table)
    asked = list(_computes(["dense", *exported]))
    total = len(samples.images) + len(samples.tinted) + sum(_images_asked(*one, samples) for one in asked)
    compared: list[Compared] = []
    mistaken: dict[str, list[str]] = {}
    answers: dict[str, list[Answers]] = {}
    with progress.track("validating", total) as bar:
        references = _references(run, samples, compared, table, bar)
        for artifact, compute in asked:
            predictor = load_artifact(run, artifact, compute=compute)
            if compute == "f32":
                mistaken[artifact] = identity_faults(run, artifact, predictor)
            compared += _compare(artifact, predictor, references, samples, table, bar)
            if isinstance(predictor, OpenVinoPredictor):
                answers.setdefault(artifact, []).append(reference_answers(run.path / artifact, predictor))
    judged = judge(compared, margin, mistaken=mistaken, partial=partial)
    report = ParityReport(
        run=str(run.path),
        ok=passes(judged.verdicts, require_proof=wish.require_proof),
        require_proof=wish.require_proof,
        reference="trained/ in torch f32, before its merge",
        split=samples.entries[0].split,
        whole=partial is None,
        max_drop=margin,
        machine=this_machine(),
        family=judged.family,
        verdicts=judged.verdicts,
        said=judged.said,
        rows=judged.rows,
        problems=judged.problems,
        faulty=[name for name, verdict in sorted(judged.verdicts.items()) if verdict == "failed"],
        digests={name: manifest.digest(name) for name in ("trained", "dense", *exported)},
    )
    if partial is not None and _is_proved_already(run, report):
        progress.note("reports/parity.json and proof.json stay as all held-out images left them: this was for looking")
        return report
    run.keep_report("parity", report, progress)
    tell_card(run, report, progress)
    for artifact, own in answers.items():
        keep_proof(run.path / artifact, irs[artifact], report, artifact, own, progress)
    return report


def _is_proved_already(run: Run, report: ParityReport) -> bool:
    """Whether the run's report is of these very artifacts, on all images."""
    path = run.path / "reports" / "parity.json"
    try:
        kept = ParityReport.model_validate(read_json(path))
    except (OSError, JsonError, ValidationError):  # none, or of another version
        return False
    return kept.whole and kept.digests == report.digests


def _partial(run: Run, samples: _Samples, table: Bounds) -> str | None:
    """Why what was asked is no proof; None where it may be one."""
    held_out = len(run.report_entries())
    if len(samples.entries) < held_out:
        return f"only {len(samples.entries)} of {held_out} held-out images were asked, and a proof takes all"
    return None if table == Bounds.of(None) else "bounds of your own prove nothing"


def _computes(artifacts: Sequence[str]) -> Iterator[tuple[str, Compute]]:
    for artifact in artifacts:
        yield artifact, "f32"
        if artifact.startswith("openvino/"):
            yield artifact, "auto"


def _images_asked(artifact: str, compute: Compute, samples: _Samples) -> int:
    by_labels = rests_on_labels(artifact, default_compute() if compute == "auto" else compute)
    of_graph = len(samples.images if by_labels else samples.chosen)
    if kind_of(artifact, compute) != "int8":
        of_graph += len(samples.tinted)
    return of_graph if artifact == "dense" else of_graph + len(samples.images)


def _samples(run: Run, data: Path | None, images: int | None) -> _Samples:
    entries = run.report_entries()
    entries = tuple(entries[index] for index in _spread(len(entries), images or len(entries)))
    store = ImageStore(run.data_root(data))
    encoded = tuple(store[entry] for entry in entries)
    chosen = _spread(len(entries), GRAPH_IMAGES)
    pixels = np.stack([load_pixels(encoded[index], run.manifest.preprocess) for index in chosen])
    grey = bool((pixels == pixels[..., :1]).all())
    tinted = np.rint(pixels[:TINTED_IMAGES] * TINT).astype(np.uint8) if grey else pixels[:0]
    return _Samples(entries, encoded, chosen, pixels, tinted, run.manifest.preprocess)


def _spread(count: int, wanted: int) -> tuple[int, ...]:
    """So many of the first ``count`` numbers, evenly, in order."""
    return (
        tuple(sorted({index * count // wanted for index in range(wanted)})) if wanted < count else tuple(range(count))
    )


def _references(run: Run, samples: _Samples, compared: list[Compared], table: Bounds, bar: ProgressTask) -> _References:
    """Ask the trained model, and give it a row of its own."""
    trained = load_artifact(run, "trained")
    task = run.task
    names = tuple(entry.path for entry in samples.entries)
    targets_NC = task.targets([entry.labels for entry in samples.entries])
    logits_NC = ask_files(trained, samples.images, bar)
    whole = Reference(names, logits_NC, targets_NC, task, groups_of(samples.entries))
    chosen = _rows_of(whole, samples.chosen)
    tinted = _rows_of(whole, samples.chosen[: len(samples.tinted)])
    if len(samples.tinted):
        tinted = replace(
            tinted,
            names=tuple(f"{name} (tinted)" for name in tinted.names),
            logits=ask_graph(trained, samples.tinted, bar),
            targets=targets_NC[:0],
        )
    subject = Subject("trained", "torch", "files", "f32", files_latency_ms(trained, samples.images))
    compared.append(compare(whole, logits_NC, subject, table.pick("trained", "files", "f32")))
    return _References(whole, chosen, tinted)


def _rows_of(reference: Reference, rows: Sequence[int]) -> Reference:
    """Some of a reference's images."""
    some = list(rows)
    return replace(
        reference,
        names=tuple(reference.names[row] for row in some),
        logits=reference.logits[some],
        targets=reference.targets[some],
        groups=tuple(reference.groups[row] for row in some) if reference.groups else (),
    )


def _followed(first: Reference, more: Reference) -> Reference:
    """A reference with another's images, which have no truth, behind its own."""
    return replace(
        first,
        names=first.names + more.names,
        logits=np.concatenate([first.logits, more.logits]),
        groups=first.groups + more.groups,
    )


def _compare(
    artifact: str,
    predictor: Predictor,
    references: _References,
    samples: _Samples,
    table: Bounds,
    bar: ProgressTask,
) -> Iterator[Compared]:
    """The rows of one artifact under one precision."""
    compute = predictor.compute
    reference = references.whole if rests_on_labels(artifact, compute) else references.chosen
    if reference is references.whole:
        logits_NC = ask_graph_of_files(predictor, samples.images, samples.preprocess, bar)
    else:
        logits_NC = ask_graph(predictor, samples.pixels, bar)
    # Int8 is calibrated on what the data holds: on grey data its answer to colour says nothing.
    if len(samples.tinted) and kind_of(artifact, compute) != "int8":
        reference = _followed(reference, references.tinted)
        logits_NC = np.concatenate([logits_NC, ask_graph(predictor, samples.tinted, bar)])
    subject = Subject(artifact, predictor.name, "graph", compute, graph_latency_ms(predictor, samples.pixels))
    yield compare(reference, logits_NC, subject, table.pick(artifact, "graph", compute))
    if artifact == "dense":
        return  # its image path is the training path, so the other view would be this one again
    from_files_NC: Floats = ask_files(predictor, samples.images, bar)
    subject = Subject(artifact, predictor.name, "files", compute, files_latency_ms(predictor, samples.images))
    yield compare(references.whole, from_files_NC, subject, table.pick(artifact, "files", compute))
