"""How much more images would help: what linear probes gain from 40 % of the training images to 80 %.

Each probe predicts images of another fifth, which it was not trained on; all of one size have the penalty that is best
for these. Twice as many images than there are cannot be measured. They usually gain less than the doubling before.

Shapes: N images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ftx.core.progress import SILENT, Progress
from ftx.core.statistics import Z_TWO_SIDED
from ftx.curating.probes import frozen_features, out_of_fold, stratified_folds
from ftx.data.check import CheckedDataset, DataReport, LearningCurve
from ftx.data.near_duplicates import near_duplicate_groups
from ftx.recipe.schema import Recipe
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.thresholds import Thresholds

# Fewer groups of images that are not near-duplicates say nothing: a normal interval needs about this many.
_FEWEST = 20
# A doubling that gains less than this fraction of the images does not pay for labelling them.
_HARDLY = 0.01


def with_learning_curve(recipe: Recipe, checked: CheckedDataset, progress: Progress = SILENT) -> DataReport:
    """The report on a data set with the learning curve of its training images, on the features of the recipe's model.

    If it cannot be measured, the warnings have the reason.
    Raises: ModelError or EnvironmentFault, as building the model does.
    """
    report, dataset, entries = checked.report, checked.dataset, checked.dataset.split("train")
    if not report.ok:
        return _with_warnings(report, ["no learning curve: ftx train would reject the data"])
    groups = near_duplicate_groups(entries, checked.opened.fingerprints, progress)
    count = len(set(groups.subjects))
    if count < _FEWEST:
        reason = f"no learning curve: it needs {_FEWEST} images, the data has {count} (near-duplicates count once)"
        return _with_warnings(report, [*groups.notes, reason])
    task, given = TASKS[report.task](dataset.labels, Thresholds()), [entry.labels for entry in entries]
    targets_NC = task.targets(given)
    features_NW = frozen_features(recipe, dataset.root, entries, task, progress).values_NW
    fold_N = stratified_folds(given, groups.subjects)
    parts = [np.ones(len(entries), dtype=bool), *halves(given, groups.subjects)]
    correct = list[NDArray[np.float64]]()
    with progress.track("Fitting probes", len(parts)) as bar:
        for known_N in parts:
            probed = out_of_fold(features_NW, targets_NC, dataset.labels, fold_N, known_N)
            correct.append(task.correct(probed.logits_NC, targets_NC).astype(np.float64))
            bar.advance()
    curve = _curve(np.mean(correct[1:], axis=0), correct[0], groups.subjects)
    return _with_warnings(report.model_copy(update={"learning_curve": curve}), groups.notes)


def _with_warnings(report: DataReport, more: Sequence[str]) -> DataReport:
    return report.model_copy(update={"warnings": [*report.warnings, *more]})


def halves(given: Sequence[tuple[str, ...]], subjects: Sequence[str]) -> list[NDArray[np.bool_]]:
    """Both halves of the images by two divisions; a label is spread evenly, and near-duplicates stay together."""
    quarter_N = stratified_folds(given, subjects, most=4)
    return [np.isin(quarter_N, quarters) for quarters in ((0, 1), (2, 3), (0, 2), (1, 3))]


def _curve(of_40_N: NDArray[np.float64], of_80_N: NDArray[np.float64], subjects: Sequence[str]) -> LearningCurve:
    gain, error = _mean_of_subjects(of_80_N - of_40_N, subjects)
    # If hardly an image differs, its error is unknown rather than 0: as wide as Wilson's interval at no hit.
    least = Z_TWO_SIDED**2 / (len(set(subjects)) + Z_TWO_SIDED**2)
    half = max(Z_TWO_SIDED * error, least)
    low, high = gain - half, gain + half
    if high < _HARDLY:
        summary = "more images of the same kind would hardly help"
    elif low > 0:
        summary = "more images have helped until now; twice as many usually gain less than this"
    else:
        summary = "unproved: these images cannot show whether more would help"
    return LearningCurve(
        images=len(subjects),
        accuracy_40=round(float(of_40_N.mean()), 4),
        accuracy_80=round(float(of_80_N.mean()), 4),
        gain=round(gain, 4),
        gain_low=round(low, 4),
        gain_high=round(high, 4),
        summary=summary,
    )


def _mean_of_subjects(gain_N: NDArray[np.float64], subjects: Sequence[str]) -> tuple[float, float]:
    """The mean gain of an image, and its standard error if subjects, not images, are drawn independently.

    Source: the ratio estimator of cluster sampling, Cochran, Sampling Techniques (1977), section 9A.
    """
    _, subject_N = np.unique(subjects, return_inverse=True)
    sums, sizes = np.bincount(subject_N, gain_N), np.bincount(subject_N)
    mean = float(sums.sum() / sizes.sum())
    residuals = sums - mean * sizes
    count = len(sizes)
    variance = count / (count - 1) * float(np.square(residuals).sum()) / float(sizes.sum()) ** 2
    return mean, math.sqrt(variance)
