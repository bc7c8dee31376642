"""Figures of a page: its colours, parts that do not clash, and text that is read aloud."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from ftx.core.statistics import wilson_interval
from ftx.reporting.calibration import calibration
from ftx.reporting.figures import (
    bars,
    compared_curves,
    loss_curve,
    metric_curve,
    precision_recall,
    recall_and_precision,
    reliability,
)
from ftx.runs.train_jsonl import Epoch
from ftx.tasks.metrics import average_precision

EPOCHS = [Epoch(number, 1 / number, 1.1 / number, 0.5, {"accuracy": 0.5}, 1e-3, 10.0, 2.0) for number in (1, 2, 3)]


def test_colours_are_the_pages_own() -> None:
    drawn = loss_curve(EPOCHS, 3)
    assert "currentColor" in drawn
    assert "var(--mark)" in drawn
    # What is left would be black in a dark page.
    assert re.findall(r"#[0-9a-f]{6}", drawn) == []


def test_parts_of_two_figures_do_not_clash() -> None:
    found = calibration(np.array([0.2, 0.9], np.float32), np.array([False, True]))
    assert found is not None
    figures = [loss_curve(EPOCHS, 3), reliability(found), bars("latency", "said", [("a", 1.0)], "ms")]
    names = [name for figure in figures for name in re.findall(r'\bid="([^"]+)"', figure)]
    assert len(set(names)) == len(names)
    for figure in figures:
        own = set(re.findall(r'\bid="([^"]+)"', figure))
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', figure)) <= own


def test_a_label_with_html_in_it_stays_text() -> None:
    evil = '"><script>alert(1)</script>'
    drawn = precision_recall(evil, 0, np.array([0.1, 0.9], np.float32), np.array([False, True]), 0.5)
    assert "<script" not in drawn
    root = ElementTree.fromstring(drawn.replace("xlink:", ""))
    assert evil in root.attrib["aria-label"]
    assert root.attrib["role"] == "img"


def test_the_same_figures_give_the_same_drawing() -> None:
    assert loss_curve(EPOCHS, 2) == loss_curve(EPOCHS, 2)
    assert loss_curve(EPOCHS, 2) != loss_curve(EPOCHS, 3)


def test_names_are_no_formulas_and_none_is_left_out() -> None:
    """A dollar begins a formula for matplotlib, and a name with _ before it is hidden."""
    drawn = compared_curves([("a$\\foo$", EPOCHS), ("_base", EPOCHS)])
    assert "a$\\foo$" in drawn
    assert "_base" in drawn


def test_the_curve_goes_through_what_each_threshold_gives() -> None:
    generator = np.random.default_rng(0)
    true = generator.random(300) < 0.2
    scores = np.round(generator.random(300) + 0.3 * true, 2).astype(np.float32)  # some are equal
    recall, precision = recall_and_precision(scores, true)
    assert len(recall) < len(np.unique(scores))
    for threshold in np.unique(scores):
        called = scores >= threshold
        hits = int((called & true).sum())
        if hits:
            at = precision[np.isclose(recall, hits / true.sum())]
            assert at.min() - 1e-6 <= hits / called.sum() <= at.max() + 1e-6
    # The area below it is the average precision.
    area = float((np.diff(recall) * precision[1:]).sum())
    assert area == pytest.approx(average_precision(scores, true), abs=1e-6)


def test_no_tip_of_a_curve_is_cut() -> None:
    """matplotlib leaves out points between two that lie on a line with them, of a line up and down again the tip."""
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], np.float32)
    true = np.array([True, False, False, True, False, True])
    drawn = precision_recall("name", 0, scores, true, 0.55)  # two of four: half of what is called, two thirds found
    (mark,) = re.findall(r'<use xlink:href="#[^"]+" x="([\d.]+)" y="([\d.]+)" style="[^"]*var\(--second', drawn)
    lines = re.findall(r'<path d="([^"]+)"[^>]*style="fill: none; stroke: var\(--mark', drawn)
    points = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", " ".join(lines)), float)
    assert np.abs(points - np.array(mark, float)).max(axis=1).min() < 1e-3


def test_many_thresholds_make_no_large_file() -> None:
    generator = np.random.default_rng(1)
    true = generator.random(50_000) < 0.5
    drawn = precision_recall("name", 0, generator.random(50_000).astype(np.float32), true, 0.5)
    assert len(drawn) < 60_000


def lines_of(drawn: str) -> list[tuple[str, bool, list[tuple[float, float]]]]:
    """Each line of a figure: the variable of its colour, whether it is dashed, and its points, downwards positive."""
    found: list[tuple[str, bool, list[tuple[float, float]]]] = []
    for path, style in re.findall(r'<path d="(M [^"]*?)"[^>]*? style="(fill: none;[^"]*)"', drawn):
        points = [(float(x), float(y)) for x, y in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path)]
        colour = re.search(r"stroke: var\(--(\w+)\)", style)
        if colour is not None and len(points) > 1:
            found.append((colour[1], "stroke-dasharray" in style, points))
    return found


def shape(points: list[tuple[float, float]]) -> list[float]:
    """What does not depend on the scale of a figure: each step upwards as a share of the first."""
    heights = [-y for _, y in points]
    return [(after - before) / (heights[1] - heights[0]) for before, after in itertools.pairwise(heights)]


def measured(**each: list[float]) -> list[Epoch]:
    count = len(each["loss"])
    return [
        Epoch(
            number + 1,
            each["loss"][number],
            each["val_loss"][number],
            each["accuracy"][number],
            {"accuracy": each["accuracy"][number], "macro_f1": each["macro_f1"][number]},
            1e-3,
            10.0,
            2.0,
            smoothed=each["smoothed"][number],
        )
        for number in range(count)
    ]


CURVES = {
    "loss": [4.0, 2.0, 1.5, 1.25],
    "val_loss": [3.0, 2.5, 1.0, 2.0],
    "accuracy": [0.25, 0.5, 0.625, 0.5],
    "macro_f1": [0.2, 0.3, 0.6, 0.9],
    "smoothed": [0.2, 0.25, 0.35, 0.65],
}


def test_each_loss_is_the_line_of_its_name() -> None:
    """Dashed that of training, whole that of validation, as the legend has it."""
    drawn = loss_curve(measured(**CURVES), 3)
    lines = {(colour, dashed): shape(points) for colour, dashed, points in lines_of(drawn) if len(points) == 4}
    assert lines == {
        ("second", True): pytest.approx([1, 0.25, 0.125], rel=1e-3),  # of coordinates to a millionth
        ("mark", False): pytest.approx([1, 3, -2], rel=1e-3),
    }
    legend = drawn[drawn.index('id="loss-legend_') :]
    parts = re.findall(r"stroke: var\(--(second|mark)\)|>(train|validation)<", legend)
    assert list(dict.fromkeys(colour or name for colour, name in parts)) == ["second", "train", "mark", "validation"]


def test_a_metric_is_drawn_with_its_mean_where_there_is_one() -> None:
    epochs = measured(**CURVES)
    drawn = metric_curve(epochs, "macro_f1", 3)
    lines = {
        dashed: shape(points) for colour, dashed, points in lines_of(drawn) if colour == "mark" and len(points) == 4
    }
    assert lines == {False: pytest.approx([1, 3, 3], rel=1e-3), True: pytest.approx([1, 2, 6], rel=1e-3)}
    assert "macro f1 of 4 epochs, at best 0.900" in drawn
    assert "macro f1 on validation images" in drawn
    earlier = metric_curve([replace(epoch, smoothed=None) for epoch in epochs], "accuracy", 3)
    (line,) = [shape(points) for colour, _, points in lines_of(earlier) if colour == "mark" and len(points) == 4]
    assert line == pytest.approx([1, 0.5, -0.5], rel=1e-3)
    assert "mean of three" not in earlier


def test_the_epoch_that_is_kept_is_marked_and_no_other() -> None:
    epochs = measured(**CURVES)
    for draw in (lambda kept: loss_curve(epochs, kept), lambda kept: metric_curve(epochs, "macro_f1", kept)):
        at: list[float] = []
        for kept in (1, 2, 4):
            lines = lines_of(draw(kept))
            (upright,) = [points for colour, dashed, points in lines if (colour, dashed) == ("line", True)]
            assert upright[0][0] == upright[1][0]
            (curve, *_) = [points for colour, _, points in lines if len(points) == 4]
            assert upright[0][0] == pytest.approx(curve[kept - 1][0], abs=1e-3)
            at.append(upright[0][0])
        assert at == sorted(set(at))


def test_runs_are_told_apart_by_their_lines_as_the_legend_names_them() -> None:
    """By accuracy on validation images, whatever metric chose their epochs."""
    first, second = measured(**CURVES), measured(**(CURVES | {"accuracy": [0.25, 0.5, 0.25, 0.75]}))
    drawn = compared_curves([("one", first), ("two", second)])
    lines = {colour: shape(points) for colour, _, points in lines_of(drawn) if len(points) == 4}
    assert lines == {"mark": pytest.approx([1, 0.5, -0.5], rel=1e-3), "second": pytest.approx([1, -1, 2], rel=1e-3)}
    assert "one: at best 0.625; two: at best 0.750" in drawn
    legend = drawn[drawn.index('id="curves-legend_') :]
    parts = re.findall(r"stroke: var\(--(second|mark)\)|> (one|two)<", legend)
    assert list(dict.fromkeys(colour or name for colour, name in parts)) == ["mark", "one", "second", "two"]


NUMBER = r"([-\d.]+)"


def places(drawn: str, background: str, most: tuple[float, float]) -> Callable[[str, str], tuple[float, float]]:
    """What gives the values of a point of a figure whose axes go from 0 to these; ``background`` is their box."""
    corners = rf'<g id="{background}">\s*<path d="M {NUMBER} {NUMBER}\s+L {NUMBER} [^"]*?L [-\d.]+ {NUMBER}\s'
    ((left, bottom, right, top),) = [[float(number) for number in box] for box in re.findall(corners, drawn)]

    def place(x: str, y: str) -> tuple[float, float]:
        return most[0] * (float(x) - left) / (right - left), most[1] * (bottom - float(y)) / (bottom - top)

    return place


def points_of(drawn: str, colour: str) -> list[tuple[str, str]]:
    return re.findall(rf'<use [^>]*x="{NUMBER}" y="{NUMBER}" style="fill: var\(--{colour}\)', drawn)


def test_each_point_of_the_reliability_diagram_is_a_bin() -> None:
    """Across its mean score, upwards the share that is right, with an interval that reaches further where it must."""
    # 16 predictions of 0.25, of which 2 are right, and 4 of 0.75, of which 3 are.
    scores = np.repeat(np.array([0.25, 0.75], np.float32), (16, 4))
    found = calibration(scores, np.concatenate([np.arange(16) < 2, np.arange(4) < 3]))
    assert found is not None
    drawn = reliability(found)
    upper = drawn[drawn.index('id="reliability-axes_1"') : drawn.index('id="reliability-axes_2"')]
    place = places(upper, "reliability-patch_2", (1, 1.02))
    points = [place(x, y) for x, y in points_of(upper, "mark")]
    assert points == [pytest.approx((0.25, 0.125), abs=1e-3), pytest.approx((0.75, 0.75), abs=1e-3)]
    upright = rf'<path d="M {NUMBER} {NUMBER}\s+L {NUMBER} {NUMBER}\s+"[^>]*stroke: var\(--mark\); stroke-width: 1.2'
    ends = [(place(x, low)[1], place(again, high)[1]) for x, low, again, high in re.findall(upright, upper)]
    assert ends == [pytest.approx(wilson_interval(2, 16), abs=1e-3), pytest.approx(wilson_interval(3, 4), abs=1e-3)]
    assert f"expected calibration error {found.ece:.3f}" in drawn


def test_the_diamond_stands_at_the_threshold_in_use() -> None:
    scores = np.array([0.9, 0.8, 0.6, 0.4, 0.3, 0.1], np.float32)
    true = np.array([True, False, True, True, False, True])
    # Above 0.85 one of one, found one of four; above 0.35 three of four, found three of four.
    for threshold, recall, precision in ((0.85, 0.25, 1.0), (0.35, 0.75, 0.75)):
        drawn = precision_recall("name", 0, scores, true, threshold)
        (diamond,) = points_of(drawn, "second")
        assert places(drawn, "pr0-patch_2", (1.02, 1.05))(*diamond) == pytest.approx((recall, precision), abs=1e-3)
        assert f"threshold {threshold:.3f}" in drawn
    assert points_of(precision_recall("name", 0, scores, true, 0.95), "second") == []  # never called


def test_a_bar_has_its_name_and_its_figure() -> None:
    drawn = bars("latency", "said", [("slow", 8.25), ("quick", 2.0), ("middle", 4.0)], "milliseconds")
    filled = re.findall(r'<path d="M ([-\d.]+) ([-\d.]+)\s+L ([-\d.]+) [^"]*"[^>]*style="fill: var\(--mark\)"', drawn)
    tops, lengths = [float(y) for _, y, _ in filled], [float(right) - float(left) for left, _, right in filled]
    assert tops == sorted(tops)  # the first on top
    assert lengths == pytest.approx([8.25 / 2 * lengths[1], lengths[1], 2 * lengths[1]], rel=1e-3)
    texts = re.findall(r">([^<>]+)</text>", drawn)
    assert [text for text in texts if text in ("slow", "quick", "middle")] == ["slow", "quick", "middle"]
    assert [text for text in texts if text in ("8.2", "2.0", "4.0")][-3:] == ["8.2", "2.0", "4.0"]
