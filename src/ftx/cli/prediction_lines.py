"""How ``ftx predict`` prints its predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftx.cli import console

if TYPE_CHECKING:
    from ftx.evaluating.predict import Prediction


@dataclass(frozen=True)
class PredictionLines:
    """How predictions are printed: how many labels, and in which form."""

    top_k: int | None
    csv: bool
    json: bool
    scores: bool

    @property
    def needs_scores(self) -> bool:
        """Whether every label needs its score."""
        return self.scores or self.top_k is not None

    def of(self, prediction: Prediction) -> Prediction:
        """The prediction with the labels to print."""
        from ftx.evaluating.predict import with_best

        if self.top_k is None or prediction.error is not None:
            return prediction
        return with_best(prediction, self.top_k, scores=self.scores)

    def begin(self) -> None:
        """Print what comes before the first line."""
        if self.csv:
            console.print_csv(("path", "label", "score"))

    def print(self, prediction: Prediction) -> None:
        """Print a line of JSON, or a line of CSV for each label; nothing for a table, which needs all of them."""
        if self.json:
            console.print_line(prediction.to_line())
        elif self.csv and prediction.error is None:
            for label in prediction.labels:
                console.print_csv((prediction.path, label.name, f"{label.score:.4f}"))
            if not prediction.labels:
                console.print_csv((prediction.path, "", ""))
