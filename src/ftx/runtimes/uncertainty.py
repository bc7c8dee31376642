"""How sure an opened model is of an image: its prediction set, by the calibration for the way that it runs here."""

from __future__ import annotations

import numpy as np

from ftx.runs.calibration import Calibration
from ftx.tasks.base import Task
from ftx.tasks.thresholds import Floats


class Uncertainty:
    """Prediction sets with a coverage, by calibration images: ``elsewhere`` if these were run with other kernels."""

    def __init__(self, task: Task, calibration: Calibration, coverage: float, *, elsewhere: bool = False) -> None:
        self.task, self.coverage = task, coverage
        self.unproved = calibration.too_few(coverage)
        self.thresholds_C = None if self.unproved else calibration.thresholds(task, coverage)
        if elsewhere and self.unproved is None:
            self.unproved = "the model was calibrated with other kernels"
        self.guarantee = (
            f"prediction sets are unproved: {self.unproved}" if self.unproved else calibration.guarantee(task, coverage)
        )

    def prediction_set(self, logits_C: Floats) -> list[str] | None:
        """The labels of one image, in the order of a prediction; None with too few calibration images. Shape: [C]."""
        if self.thresholds_C is None:
            return None
        (chosen_C,) = self.task.prediction_set(logits_C[None], self.thresholds_C)
        rows = self.task.in_order(np.flatnonzero(chosen_C).tolist(), logits_C)
        return [self.task.labels.names[row] for row in rows]
