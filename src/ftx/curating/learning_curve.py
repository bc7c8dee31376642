"""How much more images would help: what linear probes gain from half of the images to all of them.

Each probe predicts images of a fold that it was not trained on, so both accuracies are of the same images. The step
from half to all is measured; the step to twice as many is not. Accuracy usually gains less with each doubling.

Shapes: N images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ftx.core.errors import DataError
from ftx.core.progress import SILENT, Progress
from ftx.core.statistics import Z_TWO_SIDED
from ftx.curating.probes import frozen_features, out_of_fold, stratified_folds
from ftx.data.check import CheckedDataset, LearningCurve
from ftx.data.dataset import Entry
from ftx.data.near_duplicates import near_duplicate_groups
from ftx.recipe.schema import Recipe
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.thresholds import Thresholds

# Ways to divide the images into halves; each half has its own probes.
_DIVISIONS = 2


def learning_curve(recipe: Recipe, checked: CheckedDataset, progress: Progress = SILENT) -> LearningCurve:
    """Measure it on the training images of a data set, on the features of the recipe's model.

    Raises: DataError for fewer than two groups of images that are not near-duplicates; ModelError or EnvironmentFault,
    as building the model does.
    """
    dataset, entries = checked.dataset, checked.dataset.split("train")
    task = TASKS[checked.report.task](dataset.labels, Thresholds())
    subjects = near_duplicate_groups(entries, checked.opened.fingerprints, progress).subjects
    if len(set(subjects)) < 2:
        raise DataError(
            "a learning curve needs images that are not near-duplicates of each other",
            where=dataset.root,
            found=f"{len(entries)} training images in {len(set(subjects))} group",
            fix="add images of other objects or scenes",
        )
    given, targets_NC = [entry.labels for entry in entries], task.targets([entry.labels for entry in entries])
    features_NW = frozen_features(recipe, dataset.root, entries, task, progress).values_NW
    fold_N = stratified_folds(given, subjects)

    def correct(known_N: NDArray[np.bool_]) -> NDArray[np.float64]:
        probed = out_of_fold(features_NW, targets_NC, dataset.labels, fold_N, known_N, progress=progress)
        return task.correct(probed.logits_NC, targets_NC).astype(np.float64)

    of_all_N = correct(np.ones(len(entries), dtype=bool))
    of_half_N = np.mean([correct(half_N) for half_N in _halves(entries, subjects)], axis=0)
    gain, error = _mean_of_subjects(of_all_N - of_half_N, subjects)
    return LearningCurve(
        images=len(entries),
        accuracy_half=round(float(of_half_N.mean()), 4),
        accuracy_all=round(float(of_all_N.mean()), 4),
        gain=round(gain, 4),
        gain_low=round(gain - Z_TWO_SIDED * error, 4),
        gain_high=round(gain + Z_TWO_SIDED * error, 4),
    )


def _halves(entries: Sequence[Entry], subjects: Sequence[str]) -> list[NDArray[np.bool_]]:
    """Both halves of the images by each division; a label is spread evenly, and near-duplicates stay together."""
    given = [entry.labels for entry in entries]
    divisions = [
        stratified_folds(given, [f"{number} {subject}" for subject in subjects], most=2) for number in range(_DIVISIONS)
    ]
    return [half_N == one for half_N in divisions for one in (0, 1)]


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
