"""What a search found, in figures: each under its own name, and what no number can be is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

import openvino as ov
import pytest
from matplotlib.figure import Figure
from openvino import opset13

from ftx.exporting.int8 import report as int8_report
from ftx.exporting.int8.quantize import Int8Setting
from ftx.exporting.int8.report import draw, report_of
from ftx.exporting.int8.search import Candidate, QuantizedBody
from ftx.runs.artifacts import IR_INT8
from ftx.runs.quantize_json import CandidateRow, LayerSensitivity


def test_each_figure_has_its_name() -> None:
    broken, chosen = (
        Int8Setting(alpha=0.5),
        Int8Setting(alpha=0.25, ranges="widest", bias_correction=False, in_float=("qkv",)),
    )
    tried = (
        Candidate(broken, mean_abs=inf, changed=7, images=31, work=0.28125),
        Candidate(chosen, mean_abs=0.0125, changed=2, images=32, work=0.31253),
    )
    felt = (LayerSensitivity(layer="blocks.1.fc1", kind="linear", multiplications=6400, gain=0.375),)
    number = opset13.parameter([1])
    report = report_of(QuantizedBody(ov.Model([number], [number]), chosen, tried, felt), IR_INT8)
    assert report.artifact == "openvino/int8"
    assert report.sensitivities == [
        LayerSensitivity(layer="blocks.1.fc1", kind="linear", multiplications=6400, gain=0.375)
    ]
    first, second = report.candidates
    assert (first.mean_abs, first.changed, first.images, first.chosen) == (None, 7, 31, False)
    assert second == CandidateRow(
        setting="SmoothQuant 0.25, widest ranges, no bias correction, 1 in float",
        smooth_quant_alpha=0.25,
        preset=None,
        ranges="widest",
        bias_correction=False,
        in_float=["qkv"],
        accuracy_control=False,
        mean_abs=0.0125,
        changed=2,
        images=32,
        work=0.3125,
        chosen=True,
    )


def test_the_picture_has_a_point_and_a_name_for_each_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The errors begin at 0, and a setting without an error has no point."""
    figure = Figure()

    @contextmanager
    def drawn(*_: object) -> Iterator[Figure]:
        yield figure

    monkeypatch.setattr(int8_report, "drawn", drawn)
    one, two, broken = (Int8Setting(alpha=alpha) for alpha in (0.15, 0.5, 0.95))
    tried = (
        Candidate(one, mean_abs=0.5, changed=3, images=32, work=0.25),
        Candidate(broken, mean_abs=inf, changed=7, images=32, work=0.25),
        Candidate(two, mean_abs=0.25, changed=1, images=32, work=0.375),
    )
    number = opset13.parameter([1])
    draw(report_of(QuantizedBody(ov.Model([number], [number]), two, tried, ()), IR_INT8), Path("no.svg"))
    points, names = figure.axes
    assert [(line.get_xdata()[0], line.get_ydata()[0], line.get_fillstyle()) for line in points.lines] == [
        (0.25, 0.5, "none"),
        (0.375, 0.25, "full"),
    ]
    assert points.get_ylim()[0] == 0
    texts = [text.get_text() for text in names.texts]
    assert texts == ["1", "SmoothQuant 0.15: 3 of 32 labels", "2", "SmoothQuant 0.5: 1 of 32 labels"]
    assert {text.get_fontsize() for text in names.texts} == {8}
