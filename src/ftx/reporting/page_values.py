"""What the page of a run is filled with, section by section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ftx.core.errors import DataError
from ftx.core.progress import Progress
from ftx.data.dataset import SPLITS, Dataset
from ftx.data.image_store import ImageStore
from ftx.data.near_duplicates import NearDuplicate
from ftx.data.open_dataset import class_counts
from ftx.evaluating.evaluate import ClassScore
from ftx.reporting.calibration import calibration
from ftx.reporting.confusion import confusions, errors_of_singles
from ftx.reporting.facts import RunFacts
from ftx.reporting.figures import loss_curve, metric_curve, precision_recall, reliability
from ftx.reporting.held_out import HeldOut, class_scores_of
from ftx.reporting.label_tree import label_tree
from ftx.reporting.latency import latency
from ftx.reporting.leakage import leakage
from ftx.reporting.parity_chain import chain, set_rows
from ftx.reporting.pictures import Case, PagePicture, PictureBudget, cases, explainer_of, samples
from ftx.reporting.provenance import dates, provenance
from ftx.reporting.tiles import tiles
from ftx.runs.train_jsonl import best_epoch
from ftx.tasks.base import choosing_metric

# Images shown of each kind: surest mistakes, least certain answers.
CASES = 18
# Labels whose curves are drawn; of more those with the lowest average precision.
CURVES = 24
# Labels of a table: of more those with the fewest images, or the lowest F1.
TABLE_LABELS = 1_500


def page_values(
    facts: RunFacts, answers: HeldOut | None, notes: Sequence[str], data: Path | None, progress: Progress
) -> tuple[dict[str, object], list[str]]:
    """Everything else that report.html names, and its notes: what it does not show, and why, beside ``notes``."""
    said = list(notes)
    store = _store(facts, data, said)
    budget = PictureBudget()
    scores = class_scores_of(answers)
    of_scores = calibration(*answers.confidences()) if answers else None
    values: dict[str, object] = {
        "facts": facts,
        "answers": answers,
        "title": facts.run.path.resolve().name,
        "tiles": tiles(facts, answers),
        "dates": dates(facts),
        "splits": _splits(facts),
        "counts": _counts(facts),
        "table_labels": TABLE_LABELS,
        "confusions": confusions(answers) if answers else [],
        "singles": errors_of_singles(answers) if answers else [],
        "scores": _lowest(scores),
        "tree": label_tree(facts.manifest.labels, scores),
        "precision_recall": _precision_recall(answers, scores),
        "calibration": of_scores,
        "reliability": reliability(of_scores) if of_scores else None,
        "hops": chain(facts),
        "set_rows": set_rows(facts),
        "latency": latency(facts),
        "provenance": provenance(facts),
        **_curves(facts),
        **_cases(facts, answers, store, budget, said, progress),
        "samples": _samples(facts, store, budget),
        "pairs": _leakage(facts, store, said, progress),
    }
    if budget.refused:
        said.append(f"{budget.refused} pictures were left out, to keep this file small.")
    return values, said


def _store(facts: RunFacts, data: Path | None, said: list[str]) -> ImageStore | None:
    try:
        return ImageStore(facts.run.data_root(data))
    except DataError as error:
        if data is not None:  # a folder that was named is there, or it is a mistake
            raise
        said.append(f"Images are not shown: {error.what} ({error.where}); --data DIR says where they are now.")
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
    task, balanced = facts.run.task, facts.recipe is not None and facts.recipe.train.balance != "none"
    metric = choosing_metric(task, balanced=balanced)
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


def _precision_recall(answers: HeldOut | None, scores: Sequence[ClassScore]) -> list[tuple[ClassScore, str]]:
    """Of labels that decide by themselves, those with the lowest average precision first."""
    if answers is None:
        return []
    labels = answers.task.labels
    thresholds = answers.task.thresholds.of(labels.names)
    # One below another has a score that is its share of that, and no curve over all images.
    alone = set(labels.singles) - set(labels.parents)
    own = [score for score in scores if score.name in alone and score.average_precision is not None]
    own.sort(key=lambda score: score.average_precision or 0.0)
    drawn: list[tuple[ClassScore, str]] = []
    for score in own[:CURVES]:
        row = labels.index(score.name)
        curve = precision_recall(score.name, row, answers.scores[:, row], answers.true[:, row], float(thresholds[row]))
        drawn.append((score, curve))
    return drawn


def _samples(facts: RunFacts, store: ImageStore | None, budget: PictureBudget) -> Mapping[str, Sequence[PagePicture]]:
    if store is None or facts.entries is None:
        return {}
    train = [entry for entry in facts.entries if entry.split == "train"]
    return samples(train, facts.manifest.labels.names, store, budget)


def _cases(
    facts: RunFacts,
    answers: HeldOut | None,
    store: ImageStore | None,
    budget: PictureBudget,
    said: list[str],
    progress: Progress,
) -> dict[str, object]:
    """The surest mistakes and the least certain answers: their rows, and what is seen of each by its path."""
    if answers is None:
        return {"worst": [], "unsure": [], "cases": {}, "mistakes": 0}
    worst, unsure = answers.worst(CASES), answers.least_certain(CASES)
    seen: Mapping[str, Case] = {}
    if store is not None:
        explainer, why = explainer_of(facts.run, progress)
        if why is not None:
            said.append(f"There are no maps of what the answers come from: {why}.")
        rows = list(dict.fromkeys([*worst, *unsure]))
        wanted = [(answers.entries[row], _explained_labels(answers, row)) for row in rows]
        refused = budget.refused
        seen = cases(wanted, store, explainer, budget, progress)
        gone = len(wanted) - len(seen) - (budget.refused - refused)
        if gone:
            said.append(f"{gone} of {len(wanted)} images to look at are not there, or not what training saw.")
    return {"worst": worst, "unsure": unsure, "cases": seen, "mistakes": int((~answers.correct).sum())}


def _explained_labels(answers: HeldOut, row: int) -> list[str]:
    """The label that was called in the surest mistake and the one missed; of a right answer the last called."""
    names = answers.task.labels.names
    called, true, known = answers.predicted[row], answers.true[row], answers.known[row]
    surest = np.argsort(-answers.mistakes[row], kind="stable")
    off = [names[index] for index in surest if called[index] and not true[index] and known[index]]
    missed = [names[index] for index in surest if true[index] and not called[index]]
    return [*off[:1], *missed[:1]] or [label.name for label in answers.answer(row)][-1:]


def _leakage(
    facts: RunFacts, store: ImageStore | None, said: list[str], progress: Progress
) -> Sequence[NearDuplicate] | None:
    if store is None or facts.entries is None:
        return None
    try:
        return leakage(facts.run, facts.entries, store, progress)
    except DataError as error:
        said.append(f"Near-duplicates were not looked for: {error.what} ({error.where}).")
        return None
