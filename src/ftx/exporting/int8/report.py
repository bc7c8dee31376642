"""The search for INT8 as ``reports/quantize.json``, and as a picture of error against latency."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ftx.core.pages import drawn
from ftx.exporting.int8.search import Candidate, QuantizedBody
from ftx.runs.artifacts import Artifact
from ftx.runs.machine import this_machine, this_set
from ftx.runs.quantize_json import CandidateRow, QuantizeReport


def report_of(quantized: QuantizedBody, artifact: Artifact) -> QuantizeReport:
    """The search in figures."""
    return QuantizeReport(
        artifact=artifact.name,
        machine=this_machine(),
        isa=this_set(),
        candidates=[_row(one, chosen=one.setting == quantized.setting) for one in quantized.candidates],
        sensitivities=list(quantized.sensitivities),
    )


def _row(candidate: Candidate, *, chosen: bool) -> CandidateRow:
    setting = candidate.setting
    return CandidateRow(
        setting=str(setting),
        smooth_quant_alpha=setting.alpha,
        preset=setting.preset,
        ranges=setting.ranges_of_activations,
        bias_correction=setting.bias_correction,
        in_float=list(setting.in_float),
        accuracy_control=setting.accuracy_control,
        mean_abs=candidate.mean_abs if np.isfinite(candidate.mean_abs) else None,
        changed=candidate.changed,
        images=candidate.images,
        work=round(candidate.work, 4),
        chosen=chosen,
    )


def draw(report: QuantizeReport, path: Path) -> None:
    """One point for each setting: its estimated time to the right, its error upwards; the chosen one is filled.

    Raises: ModuleNotFoundError where matplotlib is not installed.
    """
    with drawn(path, (11, 5)) as figure:
        axes, names = figure.subplots(1, 2, width_ratios=(3, 2))
        rows = [row for row in report.candidates if row.mean_abs is not None]
        for number, row in enumerate(rows, 1):
            colour = "#d55e00" if row.chosen else "#0072b2"
            axes.plot(row.work, row.mean_abs, "o", color=colour, fillstyle="full" if row.chosen else "none")
            place = (row.work, row.mean_abs or 0.0)
            axes.annotate(str(number), place, (5, 3), textcoords="offset points", fontsize=9, color=colour)
            label = f"{row.setting}: {row.changed} of {row.images} labels"
            weight = "bold" if row.chosen else "normal"
            height = 1 - number / (len(rows) + 1)
            names.text(0, height, f"{number}", color=colour, fontsize=8, weight=weight, transform=names.transAxes)
            names.text(0.08, height, label, color=colour, fontsize=8, weight=weight, transform=names.transAxes)
        names.set_axis_off()
        axes.set_xlabel("estimated time, as a fraction of the time in fp32")
        axes.set_ylabel("mean difference of a logit from the float model's")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.1)
        axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(f"{report.artifact}: settings tried, and how many labels are others", fontsize=9)
