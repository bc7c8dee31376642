"""The held-out images of a run, through each of its artifacts and compared with the trained model's answers.

Shapes: N images, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ftx.core.progress import SILENT, ProgressTask
from ftx.data.dataset import Entry, groups_of
from ftx.data.image_store import EncodedImage, ImageStore
from ftx.data.preprocess import Pixels, Preprocess, load_pixels
from ftx.evaluating.answers import ask_files, ask_graph, ask_graph_of_files, files_latency_ms, graph_latency_ms
from ftx.evaluating.logit_bounds import FREE, Bounds
from ftx.evaluating.parity_row import Compared, Reference, Subject, compare, rows_of
from ftx.evaluating.verdict import rests_on_labels
from ftx.runs.artifacts import DENSE, TRAINED, Artifact
from ftx.runs.compute_precision import F32, Compute, ComputePrecision
from ftx.runs.instruction_sets import Kernels
from ftx.runs.parity_json import VIEW_OF, KernelPath
from ftx.runs.run import Run
from ftx.runtimes import Predictor, load_artifact, load_with_all_tokens
from ftx.runtimes.openvino import OpenVinoPredictor, default_compute
from ftx.tasks.thresholds import Floats

if TYPE_CHECKING:
    from ftx.runtimes.torch import TorchPredictor

# The graph view in f32 compares numbers, and a fault in a graph moves the logits of any image: so many, spread
# over the held-out ones, show it. What rests on labels is asked about them all, as the view from files is.
GRAPH_IMAGES = 128
TINTED_IMAGES = 8
# Grey images answer alike with their channels swapped, so copies of some are tinted: the factors of R, G and B.
TINT = np.array([1.0, 0.75, 0.5])


@dataclass(frozen=True)
class Samples:
    """The held-out images, and which of them the graph view in f32 takes.

    Shape: pixels [chosen, H, W, 3], tinted [tinted, H, W, 3].
    """

    entries: tuple[Entry, ...]
    images: tuple[EncodedImage, ...]
    chosen: tuple[int, ...]
    pixels: Pixels
    tinted: Pixels
    preprocess: Preprocess

    @property
    def asked_of_trained(self) -> int:
        """How many images the trained model is asked."""
        return len(self.images) + len(self.tinted)

    def asked_of(self, artifact: Artifact, compute: Compute, paths: Sequence[KernelPath]) -> int:
        """How many images an artifact is asked, all views together."""
        by_labels = rests_on_labels(artifact, default_compute() if compute == "auto" else F32)
        of_graph = len(self.images if by_labels else self.chosen)
        if _takes_tinted(artifact):
            of_graph += len(self.tinted)
        if "single" in paths:
            of_graph += len(self.images)
        return of_graph if artifact == DENSE else of_graph + len(self.images)


def take_samples(run: Run, data: Path | None, images: int | None) -> Samples:
    """All held-out images of a run, or so many ``images`` spread over them; ``data`` says where they are now.

    Raises: RunError, DataError if they are not what training saw.
    """
    entries, preprocess = run.report_entries(), run.manifest.preprocess
    entries = tuple(entries[index] for index in _spread(len(entries), images or len(entries)))
    store = ImageStore(run.data_root(data))
    encoded = tuple(store[entry] for entry in entries)
    chosen = _spread(len(entries), GRAPH_IMAGES)
    pixels = np.stack([load_pixels(encoded[index], preprocess) for index in chosen])
    grey = bool((pixels == pixels[..., :1]).all())
    tinted = np.rint(pixels[:TINTED_IMAGES] * TINT).astype(np.uint8) if grey else pixels[:0]
    return Samples(entries, encoded, chosen, pixels, tinted, preprocess)


def _takes_tinted(artifact: Artifact) -> bool:
    """Int8 is calibrated on what the data holds: on grey data its answer to colour says nothing."""
    return artifact.precision != "int8"


def _spread(count: int, wanted: int) -> tuple[int, ...]:
    """So many of the first ``count`` numbers, evenly, in order."""
    wanted = min(wanted, count)
    return tuple(index * count // wanted for index in range(wanted))


@dataclass(frozen=True)
class Comparison:
    """What every artifact of a run is asked about, and what its answers are held to.

    The trained model's answers to all images (``whole``), to those of the graph view in f32 (``chosen``), and to the
    tinted copies of the first of these.
    """

    samples: Samples
    whole: Reference
    chosen: Reference
    tinted: Reference
    table: Bounds
    bar: ProgressTask
    # What was answered for all images, each from its file. Shape: [N, C].
    from_files: dict[tuple[Artifact, ComputePrecision], Floats] = field(
        default_factory=dict[tuple[Artifact, ComputePrecision], Floats]
    )

    def rows(self, artifact: Artifact, predictor: Predictor) -> Iterator[Compared]:
        """The rows of one artifact under one precision."""
        yield self.row_of_pixels(artifact, predictor, "batch")
        if artifact == DENSE:
            return  # its image path is the training path, so the other view would be this one again
        samples, compute = self.samples, predictor.compute
        from_files_NC = ask_files(predictor, samples.images, self.bar)
        self.from_files[artifact, compute] = from_files_NC
        latency_ms = files_latency_ms(predictor, samples.images)
        subject = Subject(artifact, "files", compute, latency_ms, _kernels(predictor))
        yield self._row(self.whole, from_files_NC, subject)

    def row_of_pixels(self, artifact: Artifact, predictor: Predictor, kernels: KernelPath) -> Compared:
        """The row of the same pixels, for a model that was opened with these kernels."""
        samples, compute = self.samples, predictor.compute
        if rests_on_labels(artifact, compute):
            reference = self.whole
            logits_NC = ask_graph_of_files(predictor, samples.images, samples.preprocess, self.bar)
        else:
            reference = self.chosen
            logits_NC = ask_graph(predictor, samples.pixels, self.bar)
        if len(samples.tinted) and _takes_tinted(artifact):
            reference = _followed(reference, self.tinted)
            logits_NC = np.concatenate([logits_NC, ask_graph(predictor, samples.tinted, self.bar)])
        latency_ms = graph_latency_ms(predictor, samples.pixels)
        return self._row(
            reference, logits_NC, Subject(artifact, VIEW_OF[kernels], compute, latency_ms, _kernels(predictor))
        )

    def with_all_tokens(self, run: Run) -> str | None:
        """How other libraries, which open ``dense/`` with all tokens, answer; None where the model drops none."""
        if not self.chosen.drops_patches:
            return None
        with SILENT.track("", None) as bar:
            logits_NC = ask_graph(load_with_all_tokens(run), self.samples.pixels, bar)
        found = compare(self.chosen, logits_NC, Subject(DENSE, "graph", F32), FREE)
        changed, asked = 100 * found.changes.drop, len(self.samples.pixels)
        return f"timm and transformers open it with all tokens: {changed:.2g} % of {asked} labels are others then"

    def _row(self, reference: Reference, logits_NC: Floats, subject: Subject) -> Compared:
        bound = self.table.pick(subject.artifact, subject.view, subject.compute, drops_patches=reference.drops_patches)
        return compare(reference, logits_NC, subject, bound)


def _kernels(predictor: Predictor) -> Kernels | None:
    return predictor.kernels() if isinstance(predictor, OpenVinoPredictor) else None


def ask_trained(run: Run, samples: Samples, table: Bounds, bar: ProgressTask) -> tuple[Comparison, Compared]:
    """Ask the trained model, which all others are compared with, and give it a row of its own."""
    trained, task = cast("TorchPredictor", load_artifact(run, TRAINED)), run.task
    names = tuple(entry.path for entry in samples.entries)
    targets_NC = task.targets([entry.labels for entry in samples.entries])
    with trained.choice_margins() as choices:
        logits_NC = ask_files(trained, samples.images, bar)
    whole = Reference(names, logits_NC, targets_NC, task, groups_of(samples.entries), choices.clear())
    tinted = rows_of(whole, samples.chosen[: len(samples.tinted)])
    if len(samples.tinted):
        with trained.choice_margins() as choices:
            of_tinted_NC = ask_graph(trained, samples.tinted, bar)
        tinted = replace(
            tinted,
            names=tuple(f"{name} (tinted)" for name in tinted.names),
            logits=of_tinted_NC,
            targets=targets_NC[:0],
            clear=choices.clear(),
        )
    subject = Subject(TRAINED, "files", F32, files_latency_ms(trained, samples.images))
    row = compare(whole, logits_NC, subject, table.pick(TRAINED, "files", F32))
    comparison = Comparison(samples, whole, rows_of(whole, samples.chosen), tinted, table, bar)
    comparison.from_files[TRAINED, F32] = logits_NC
    return comparison, row


def _followed(first: Reference, more: Reference) -> Reference:
    """A reference with another's images, which have no truth, behind its own."""
    return replace(
        first,
        names=first.names + more.names,
        logits=np.concatenate([first.logits, more.logits]),
        groups=first.groups + more.groups,
        clear=None if first.clear is None or more.clear is None else np.concatenate([first.clear, more.clear]),
    )
