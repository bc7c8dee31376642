"""The picture of a study, read from its SVG: where each trial is, and what the line through the best ones says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ftx.tuning.report import TriedTrial, draw_trials


def tried(number: int, metric: float | None, latency_ms: float | None = None) -> TriedTrial:
    return TriedTrial(
        number=number, state="complete", keys={}, metric=metric, latency_ms=latency_ms, epochs=1, run=None
    )


def lines(svg: str) -> list[np.ndarray]:
    """The corners of each line that is drawn open, in pixels from the left and from above. Shape: [corners, 2]."""
    paths = re.findall(r'<g id="line2d_\d+">\s*<path d="([^"]*)" clip-path', svg)
    return [np.array(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path), float) for path in paths]


def markers(svg: str) -> list[tuple[float, float]]:
    """The places of trials, in the order in which they are drawn."""
    groups = re.findall(r'<g id="PathCollection_\d+">(.*?)</g>\s*</g>', svg, re.DOTALL)
    used = [re.findall(r'<use xlink:href="[^"]*" x="([^"]*)" y="([^"]*)"', one) for one in groups]
    return [(float(x), float(y)) for one in used for x, y in one]


def test_the_front_reaches_an_accuracy_only_from_the_latency_of_the_trial_that_has_it(tmp_path: Path) -> None:
    trials = [tried(0, 0.7, 10.0), tried(1, 0.9, 30.0), tried(2, 0.8, 40.0), tried(3, 0.85, 20.0), tried(4, None)]
    draw_trials(trials, [0, 1, 3], "accuracy", tmp_path / "trials.svg")
    svg = (tmp_path / "trials.svg").read_text()
    places = markers(svg)
    slow, fast, middle, beaten = places[1], places[0], places[3], places[2]
    assert len(places) == 4 + 3  # each trial that was timed, and the best ones once more
    assert fast[0] < middle[0] < slow[0] < beaten[0]
    assert slow[1] < middle[1] < beaten[1] < fast[1]  # from above
    (front,) = [line for line in lines(svg) if len(line) == 5]
    expected = [fast, (middle[0], fast[1]), middle, (slow[0], middle[1]), slow]
    np.testing.assert_allclose(front, expected, rtol=0, atol=1e-3)  # six digits of an SVG
    for text in ("median latency of one image, ms", "accuracy on validation images, %"):
        assert f"<!-- {text} -->" in svg
    for best in (0, 1, 3):
        assert f"<!-- {best} -->" in svg
    assert "<!-- 2 -->" not in svg


def test_of_one_objective_trials_stand_in_their_order_without_a_line(tmp_path: Path) -> None:
    trials = [tried(0, 0.7), tried(1, None), tried(2, 0.9), tried(5, 0.8)]
    draw_trials(trials, [2], "f1_macro", tmp_path / "trials.svg")
    svg = (tmp_path / "trials.svg").read_text()
    first, best, last, again = markers(svg)
    assert best == again
    # As far apart as their numbers, as high as their metrics.
    assert np.isclose((last[0] - best[0]) / (best[0] - first[0]), 1.5, rtol=1e-4)
    assert np.isclose((first[1] - last[1]) / (first[1] - best[1]), 0.5, rtol=1e-4)
    assert "<!-- trial -->" in svg
    assert "<!-- f1 macro on validation images, % -->" in svg
    assert not [line for line in lines(svg) if len(line) > 2]


def test_without_a_trial_there_is_a_picture_all_the_same(tmp_path: Path) -> None:
    draw_trials([tried(0, None)], [], "accuracy", tmp_path / "trials.svg")
    assert markers((tmp_path / "trials.svg").read_text()) == []
