"""Figures of a page: its colours, parts that do not clash, and text that is read aloud."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from ftx.reporting.calibration import calibration
from ftx.reporting.figures import bars, curves_beside, loss_curve, precision_recall, recall_and_precision, reliability
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
    drawn = curves_beside([("a$\\foo$", EPOCHS), ("_base", EPOCHS)])
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
