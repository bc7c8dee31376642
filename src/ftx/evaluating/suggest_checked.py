"""Whether an int8-checked model would pay on this machine, by what a validation measured of int8 and fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ftx.core.errors import shell_command
from ftx.evaluating.measure import Measurements
from ftx.runs.artifacts import EXPORT_IR, IR_FP32, IR_INT8, Artifact
from ftx.runs.certificate import MOST_TIME
from ftx.runs.compute_precision import F32, ComputePrecision
from ftx.runtimes.openvino import default_compute
from ftx.tasks.decisions import margins, movements


def suggest_checked(run: Path, measured: Measurements) -> str | None:
    """A sentence for a run that has int8 and fp32, but no int8-checked; None if int8 changes no label of fp32.

    Its bound and its time are estimates from the held-out images: the certificate takes others.
    """
    auto, task = default_compute(), measured.reference.task
    int8_NC, exact_NC = measured.from_files.get((IR_INT8, auto)), measured.from_files.get((IR_FP32, F32))
    if int8_NC is None or exact_NC is None:
        return None
    changed = int((task.predicted(int8_NC) != task.predicted(exact_NC)).any(axis=1).sum())
    if not changed:
        return None
    exact_ms = _latency_ms(measured, IR_FP32, F32)
    parts: list[float] = []
    for artifact in (IR_INT8, IR_FP32) if auto.dtype == "bf16" else (IR_INT8,):
        quick_NC = measured.from_files[artifact, auto]
        twice = float(np.mean(margins(task, quick_NC) <= movements(task, quick_NC, exact_NC).max()))
        parts.append(_latency_ms(measured, artifact, auto) / exact_ms + twice)
    part, what = min(parts), f"int8 changes {changed} of {len(int8_NC):,} labels of fp32"
    if part <= MOST_TIME:
        again = f"{shell_command(EXPORT_IR, run)} --precision int8-checked"
        return f"{what}; int8-checked keeps them in about {part:.2f} of its time: {again}"
    return f"{what}; int8-checked would not pay on this machine: about {part:.2f} of the time of fp32"


def _latency_ms(measured: Measurements, artifact: Artifact, compute: ComputePrecision) -> float:
    """The time of one image from its file."""
    return next(
        one.subject.latency_ms
        for one in measured.comparisons
        if (one.subject.artifact, one.subject.view, one.subject.compute) == (artifact, "files", compute)
    )
