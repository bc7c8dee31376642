"""What a search found, in figures: each under its own name, and what no number can be is none."""

from __future__ import annotations

from math import inf

import openvino as ov
from openvino import opset13

from ftx.exporting.int8.quantize import Int8Setting
from ftx.exporting.int8.report import report_of
from ftx.exporting.int8.search import Candidate, QuantizedBody
from ftx.runs.artifacts import IR_INT8
from ftx.runs.quantize_json import CandidateRow, LayerSensitivity


def test_each_figure_has_its_name() -> None:
    broken, chosen = (
        Int8Setting(alpha=0.5),
        Int8Setting(alpha=0.25, ranges="widest", bias_correction=False, in_float=("qkv",)),
    )
    tried = (
        Candidate(broken, mean_abs=inf, changed=7, images=31, work=0.28125, latency_ms=4.0006),
        Candidate(chosen, mean_abs=0.0125, changed=2, images=32, work=0.31253, latency_ms=3.14159),
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
        latency_ms=3.142,
        chosen=True,
    )
