"""Figures of a page: its colours, parts that do not clash, and text that is read aloud."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np

from ftx.reporting.calibration import calibration
from ftx.reporting.figures import bars, curves_beside, loss_curve, precision_recall, reliability
from ftx.runs.train_jsonl import Epoch

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
