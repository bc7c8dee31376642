"""The values of the page of a run, section by section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ftx.core.errors import DataError, FtxError
from ftx.core.progress import Progress
from ftx.data.dataset import SPLITS, Dataset
from ftx.data.image_store import ImageStore
from ftx.data.near_duplicates import NearDuplicate
from ftx.data.open_dataset import class_counts
from ftx.evaluating.evaluate import ClassScore
from ftx.explaining.explain import open_explainer
from ftx.reporting.calibration import calibration
from ftx.reporting.confusion import confusions, label_errors
from ftx.reporting.facts import RunFacts, dates, provenance
from ftx.reporting.figures import loss_curve, metric_curve, precision_recall, reliability
from ftx.reporting.headline import tiles
from ftx.reporting.held_out import HeldOutPredictions, class_scores_of
from ftx.reporting.leakage import leakage
from ftx.reporting.measurements import certificate_rows, chain, latency, set_rows, shown_precision, verdict_matrix
from ftx.reporting.pictures import Case, PictureBudget, cases, samples
from ftx.runs.best_epoch import best_epoch
from ftx.tasks.base import choosing_metric
from ftx.tasks.labels import Labels

# Images shown of each kind: most confident errors, least certain predictions.
CASES = 18
# Labels whose curves are drawn; of more those with the lowest average precision.
CURVES = 24
# Labels of a table: of more those with the fewest images, or the lowest F1.
TABLE_LABELS = 1_500


def page_values(
    facts: RunFacts, predictions: HeldOutPredictions | None, notes: Sequence[str], data: Path | None, progress: Progress
) -> tuple[dict[str, object], list[str]]:
    """Everything else that report.html names, and its notes: ``notes``, and what the page does not show and why."""
    notes = list(notes)
    store = _store(facts, data, notes)
    budget = PictureBudget()
    scores = class_scores_of(predictions)
    of_scores = calibration(*predictions.confidences()) if predictions else None
    values: dict[str, object] = {
        "facts": facts,
        "predictions": predictions,
        "precision": shown_precision(predictions.compute) if predictions else None,
        "title": facts.run.path.resolve().name,
        "tiles": tiles(facts, predictions),
        "dates": dates(facts),
        "splits": _splits(facts),
        "counts": _counts(facts),
        "table_labels": TABLE_LABELS,
        "confusions": confusions(predictions) if predictions else [],
        "singles": label_errors(predictions) if predictions else [],
        "scores": _lowest(scores),
        "score_of": {score.name: score for score in scores},
        "tree": _tree(facts.manifest.labels),
        "precision_recall": _precision_recall(predictions, scores),
        "calibration": of_scores,
        "reliability": reliability(of_scores) if of_scores else None,
        "hops": chain(facts),
        "set_rows": set_rows(facts),
        "runtimes": verdict_matrix(facts),
        "certificate_rows": certificate_rows(facts),
        "latency": latency(facts),
        "provenance": provenance(facts),
        **_curves(facts),
        **_cases(facts, predictions, store, budget, notes, progress),
        "samples": _samples(facts, store, budget),
        "pairs": _leakage(facts, store, notes, progress),
    }
    if budget.left_out:
        notes.append(f"{budget.left_out} images are not shown, to keep this file small.")
    return values, notes


def _store(facts: RunFacts, data: Path | None, notes: list[str]) -> ImageStore | None:
    try:
        return ImageStore(facts.run.data_root(data))
    except DataError as error:
        if data is not None:  # a folder that was named is there, or it is a mistake
            raise
        notes.append(f"Images are not shown: {error.what} ({error.where}). Add the folder of the images: --data DIR.")
        return None


def _splits(facts: RunFacts) -> list[tuple[str, int]]:
    entries = facts.entries or ()
    counted = [(str(split), sum(entry.split == split for entry in entries)) for split in SPLITS]
    return [(name, images) for name, images in counted if images]


def _counts(facts: RunFacts) -> Mapping[str, Mapping[str, int]]:
    """Images of each label in each split, ancestors counted with their children."""
    if facts.entries is None:
        return {}
    dataset = Dataset(root=facts.run.path, labels=facts.manifest.labels, entries=facts.entries)
    counts = class_counts(dataset)
    rare = set(sorted(counts, key=lambda name: sum(counts[name].values()))[:TABLE_LABELS])
    return {
        name: {str(split): images for split, images in each.items()} for name, each in counts.items() if name in rare
    }


def _curves(facts: RunFacts) -> dict[str, object]:
    epochs = facts.epochs
    if not epochs:
        return {"waiting": 0.0, "curves": [], "kept": None}
    balanced = facts.recipe is not None and facts.recipe.train.balance != "none"
    metric = choosing_metric(facts.run.task, balanced=balanced)
    kept = best_epoch(epochs, metric)
    seconds = sum(one.seconds for one in epochs)
    return {
        "waiting": sum(one.waiting_share * one.seconds for one in epochs) / seconds if seconds else 0.0,
        "curves": [loss_curve(epochs, kept.epoch), metric_curve(epochs, metric, kept.epoch)],
        "kept": kept,
    }


def _lowest(scores: Sequence[ClassScore]) -> Sequence[ClassScore]:
    """All of them in their order, or as many as a table holds, those with the lowest F1."""
    if len(scores) <= TABLE_LABELS:
        return scores
    lowest = {score.name for score in sorted(scores, key=lambda score: score.f1)[:TABLE_LABELS]}
    return [score for score in scores if score.name in lowest]


def _tree(labels: Labels) -> Mapping[str | None, Sequence[str]]:
    """The labels below each label, and the roots below None; empty if no label has a parent."""
    below: dict[str | None, list[str]] = {}
    for name in labels.names if labels.parents else ():
        below.setdefault(labels.parents.get(name), []).append(name)
    return below


def _precision_recall(
    predictions: HeldOutPredictions | None, scores: Sequence[ClassScore]
) -> list[tuple[ClassScore, str]]:
    """Curves of independent labels, those with the lowest average precision first."""
    if predictions is None:
        return []
    labels = predictions.task.labels
    thresholds = predictions.task.thresholds.of(labels.names)
    # One below another has a score that is its fraction of that, and no curve over all images.
    roots = set(labels.singles) - set(labels.parents)
    own = [score for score in scores if score.name in roots and score.average_precision is not None]
    own.sort(key=lambda score: score.average_precision or 0.0)
    drawn: list[tuple[ClassScore, str]] = []
    for score in own[:CURVES]:
        row = labels.index(score.name)
        scores_N, true_N = predictions.scores[:, row], predictions.true[:, row]
        drawn.append((score, precision_recall(score.name, row, scores_N, true_N, float(thresholds[row]))))
    return drawn


def _samples(facts: RunFacts, store: ImageStore | None, budget: PictureBudget) -> Mapping[str, list[tuple[str, str]]]:
    if store is None or facts.entries is None:
        return {}
    train = [entry for entry in facts.entries if entry.split == "train"]
    return samples(train, facts.manifest.labels.names, store, budget)


def _cases(
    facts: RunFacts,
    predictions: HeldOutPredictions | None,
    store: ImageStore | None,
    budget: PictureBudget,
    notes: list[str],
    progress: Progress,
) -> dict[str, object]:
    """Rows of the most confident errors and the least certain predictions, and pictures of each by its path."""
    if predictions is None:
        return {"worst": [], "unsure": [], "cases": {}, "mistakes": 0}
    worst, unsure = predictions.worst(CASES), predictions.least_certain(CASES)
    seen: Mapping[str, Case] = {}
    if store is not None:
        explainer = None
        try:
            explainer = open_explainer(facts.run, "reciprocam", progress)
        except FtxError as error:
            notes.append(f"Saliency maps are not shown: {error.what}.")
        rows = dict.fromkeys([*worst, *unsure])
        chosen = [(predictions.entries[row], _explained_labels(predictions, row)) for row in rows]
        left_out = budget.left_out
        seen = cases(chosen, store, explainer, budget, progress)
        gone = len(chosen) - len(seen) - (budget.left_out - left_out)
        if gone:
            notes.append(f"{gone} of {len(chosen)} images are not shown: they are missing, or changed since training.")
    return {"worst": worst, "unsure": unsure, "cases": seen, "mistakes": int((~predictions.correct).sum())}


def _explained_labels(predictions: HeldOutPredictions, row: int) -> list[str]:
    """The label of the most confident error and the one missed; of a correct prediction the last label."""
    names = predictions.task.labels.names
    predicted, true, known = predictions.predicted[row], predictions.true[row], predictions.known[row]
    order = np.argsort(-predictions.mistakes[row], kind="stable")
    off = [names[index] for index in order if predicted[index] and not true[index] and known[index]]
    missed = [names[index] for index in order if true[index] and not predicted[index]]
    return [*off[:1], *missed[:1]] or [label.name for label in predictions.labels_of(row)][-1:]


def _leakage(
    facts: RunFacts, store: ImageStore | None, notes: list[str], progress: Progress
) -> Sequence[NearDuplicate] | None:
    if store is None or facts.entries is None:
        return None
    try:
        return leakage(facts.run, facts.entries, store, progress)
    except DataError as error:
        notes.append(f"Near-duplicates were not searched: {error.what} ({error.where}).")
        return None
