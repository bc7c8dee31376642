"""Figures inside the page: SVG by matplotlib, whose colours are the page's own, in light and in dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from ftx.core.pages import drawn
from ftx.reporting.calibration import Calibration
from ftx.runs.train_jsonl import Epoch
from ftx.tasks.thresholds import Flags, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that stand in for those of the page (core/shipped/pages/page.css), which a browser knows and matplotlib not.
_TEXT, _LINE, _FIRST, _SECOND = "#010203", "#010204", "#010205", "#010206"
_OF_PAGE = {_TEXT: "currentColor", _LINE: "var(--line)", _FIRST: "var(--mark)", _SECOND: "var(--second)"}
# Of a curve that is 2.9 inches wide, so that those of many labels stay small.
_MOST_STEPS = 600
_SETTINGS: dict[str, str | float] = {
    "path.simplify": False,  # of a line up and down again it would leave out the tip
    "svg.fonttype": "none",  # text stays text: it is read aloud, searched, and takes the page's font
    "text.parse_math": 0,  # a name with $ in it is no formula
    "font.size": 10,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _LINE,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "grid.color": _LINE,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": 0,
    "axes.spines.top": 0,
    "axes.spines.right": 0,
}


def svg(name: str, description: str, inches: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """A figure as an element of a page; screen readers read ``description``; ids of its parts start with ``name``."""
    stream = io.BytesIO()
    with drawn(stream, inches, _SETTINGS) as figure:
        draw(figure)
    text = stream.getvalue().decode()
    text = text[text.index("<svg") :]
    # A style would change the whole page.
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for stands_in, colour in _OF_PAGE.items():
        text = text.replace(stands_in, colour)
    width, height = (round(96 * side) for side in inches)
    opening = f'<svg class="figure" role="img" aria-label="{escape(description)}" width="{width}" height="{height}"'
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', lambda found: f"{opening} {found[1]}>", text, count=1)


def loss_curve(epochs: Sequence[Epoch], best: int) -> str:
    """Loss on training and on validation images, epoch by epoch."""

    def draw(figure: Figure) -> None:
        axes = _axes(figure, "epoch", "loss")
        numbers = [epoch.epoch for epoch in epochs]
        axes.plot(numbers, [epoch.loss for epoch in epochs], "o--", color=_SECOND, markersize=4, label="train")
        axes.plot(numbers, [epoch.val_loss for epoch in epochs], "o-", color=_FIRST, markersize=4, label="validation")
        _kept(axes, best)
        axes.set_ylim(bottom=0)
        axes.legend()

    return svg("loss", f"Loss of {len(epochs)} epochs, of training and of validation images", (4.6, 3.1), draw)


def metric_curve(epochs: Sequence[Epoch], metric: str, best: int) -> str:
    """The metric that chose the epoch; its mean with the two epochs before is a line next to the points."""
    title = metric.replace("_", " ")
    values = [epoch.metrics.get(metric, epoch.accuracy) for epoch in epochs]

    def draw(figure: Figure) -> None:
        axes = _axes(figure, "epoch", f"{title} on validation images")
        axes.plot([epoch.epoch for epoch in epochs], values, "o-", color=_FIRST, markersize=4)
        if len(epochs) > 1 and all(epoch.smoothed is not None for epoch in epochs):
            means = [epoch.smoothed or 0.0 for epoch in epochs]
            axes.plot([epoch.epoch for epoch in epochs], means, "--", color=_FIRST, linewidth=1, label="mean of three")
            axes.legend()
        _kept(axes, best)
        axes.set_ylim(max(0.0, min(values) - 0.1), min(1.02, max(values) + 0.05))

    return svg("metric", f"{title} of {len(epochs)} epochs, at best {max(values):.3f}", (4.6, 3.1), draw)


def compared_curves(runs: Sequence[tuple[str, Sequence[Epoch]]]) -> str:
    """Accuracy on validation images of several runs, by name."""
    styles = [(colour, line) for line in ("-", "--", ":", "-.") for colour in (_FIRST, _SECOND, _TEXT)]

    def draw(figure: Figure) -> None:
        axes = _axes(figure, "epoch", "accuracy on validation images")
        for (_, epochs), (colour, line) in zip(runs, styles * len(runs), strict=False):
            numbers, values = [one.epoch for one in epochs], [one.accuracy for one in epochs]
            axes.plot(numbers, values, marker="o", linestyle=line, color=colour, markersize=4)
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        # Explicitly, as one that begins with _ would be left out; with a space before it, as that is warned of.
        axes.legend(axes.lines, [f" {name}" for name, _ in runs])

    each = "; ".join(f"{name}: at best {max(one.accuracy for one in epochs):.3f}" for name, epochs in runs)
    return svg("curves", f"Accuracy on validation images, epoch by epoch. {each}", (6.4, 4.2), draw)


def reliability(found: Calibration) -> str:
    """Fraction correct against mean score, with intervals; on the diagonal scores are probabilities."""

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        bins = [(one.score, one.correct, one.correct_low, one.correct_high) for one in found.bins]
        scores, correct, low, high = np.array(bins).T
        upper.plot([0, 1], [0, 1], "--", color=_LINE)
        upper.errorbar(
            scores, correct, yerr=[correct - low, high - correct], fmt="o", color=_FIRST, markersize=5, elinewidth=1.2
        )
        upper.set_ylabel("fraction correct")
        upper.set_xlim(0, 1)
        upper.set_ylim(0, 1.02)
        widths = [one.high - one.low for one in found.bins]
        lower.bar([one.low for one in found.bins], [one.predictions for one in found.bins], widths, align="edge",
                  color=_SECOND, edgecolor="none")  # fmt: skip
        lower.set_ylabel("predictions")
        lower.set_xlabel("score")

    return svg("reliability", f"Reliability diagram, expected calibration error {found.ece:.3f}", (4.6, 4.4), draw)


def precision_recall(name: str, number: int, scores_N: Floats, true_N: Flags, threshold: float) -> str:
    """Precision against recall of one label over all thresholds, with the one that is in use.

    Shape: [N].
    """
    recall, precision = recall_and_precision(scores_N, true_N)
    predicted = scores_N > threshold
    hits = int((predicted & true_N).sum())

    def draw(figure: Figure) -> None:
        axes = _axes(figure, "recall", "precision")
        # Up to each recall its own precision, as the average precision sums them.
        axes.step(recall, precision, where="pre", color=_FIRST)
        if predicted.any():
            axes.plot(hits / max(1, int(true_N.sum())), hits / int(predicted.sum()), "D", color=_SECOND, markersize=6)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.05)

    return svg(f"pr{number}", f"Precision against recall of {name}; threshold {threshold:.3f}", (2.9, 2.5), draw)


def recall_and_precision(scores_N: Floats, true_N: Flags) -> tuple[Floats, Floats]:
    """Recall and precision as more images are predicted, from the first hit on; its precision also is at recall 0.

    Of one recall the first and the last, between which precision only falls. Shape: [P] both.
    """
    order = np.argsort(-scores_N, kind="stable")
    hits_N = true_N[order].cumsum()
    # The last image of each score: images of equal scores are predicted together.
    ends = np.append(np.flatnonzero(np.diff(scores_N[order])), len(order) - 1)
    ends = ends[hits_N[ends] > 0]
    turns = np.flatnonzero(np.diff(hits_N[ends], prepend=0, append=-1))
    kept = np.union1d(turns[:-1], turns[1:] - 1)
    if len(kept) > _MOST_STEPS:
        kept = kept[np.linspace(0, len(kept) - 1, _MOST_STEPS).astype(int)]
    ends = ends[kept]
    precision, recall = hits_N[ends] / (ends + 1), hits_N[ends] / max(1, int(true_N.sum()))
    before = [0.0][: len(recall)]
    return np.array([*before, *recall], np.float32), np.array([*precision[:1], *precision], np.float32)


def bars(name: str, description: str, rows: Sequence[tuple[str, float]], unit: str) -> str:
    """A bar a row, the first on top, with its figure next to it."""
    height = 0.7 + 0.34 * len(rows)

    def draw(figure: Figure) -> None:
        axes = _axes(figure, unit, "")
        names, values = [row[0] for row in rows], [row[1] for row in rows]
        drawn_bars = axes.barh(range(len(rows)), values, color=_FIRST, height=0.62)
        axes.set_yticks(range(len(rows)), names)
        axes.bar_label(drawn_bars, [f"{value:.1f}" for value in values], padding=3)
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.spines[["left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)

    return svg(name, description, (6.4, height), draw)


def heatmap(name: str, description: str, share_CC: Floats) -> str:
    """A square of fractions, for more labels than a table can show. Shape: [C, C]."""

    def draw(figure: Figure) -> None:
        axes = _axes(figure, "predicted label", "true label")
        axes.imshow(share_CC, cmap="cividis", vmin=0, vmax=1, interpolation="none")

    return svg(name, description, (6.4, 6.4), draw)


def _axes(figure: Figure, across: str, upwards: str) -> Axes:
    axes = figure.subplots()
    axes.set_xlabel(across)
    axes.set_ylabel(upwards)
    return axes


def _kept(axes: Axes, best: int) -> None:
    axes.axvline(best, color=_LINE, linestyle=":", zorder=0)
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
