"""The INT8 model for CPUs without VNNI, made where the usual one fails there alone."""

from __future__ import annotations

from pathlib import Path

from ftx.core.errors import FtxError
from ftx.core.progress import SILENT, Progress
from ftx.exporting.export import export
from ftx.runs.artifacts import IR_INT8, IR_INT8_SAFE
from ftx.runs.instruction_sets import WITHOUT_VNNI
from ftx.runs.parity_json import ParityReport


def saturates(report: ParityReport) -> bool:
    """Whether INT8 fails without VNNI, and nowhere else: two products of 8 bits are added in 16 there, and saturate."""
    failed = {one.isa for one in report.sets if one.artifact == IR_INT8.name and one.verdict == "failed"}
    own = {one.isa for one in report.sets if not one.emulated and one.artifact == IR_INT8.name}
    fails_here = report.verdicts.get(IR_INT8.name) == "failed" and not own & WITHOUT_VNNI
    return bool(failed) and failed <= WITHOUT_VNNI and not fails_here


def make_safe(report: ParityReport, data: Path | None = None, progress: Progress = SILENT) -> bool:
    """Give a run the model whose weights have 7 bits, where its INT8 saturates and it has none; whether it has one now.

    What was measured is there already, so that none could be made is a note and no error.
    """
    if report.run is None or IR_INT8_SAFE.name in report.verdicts or not saturates(report):
        return False
    progress.note(f"{IR_INT8.name} fails without VNNI alone, where products saturate: making {IR_INT8_SAFE.name}")
    try:
        export(
            report.run, formats=("openvino",), precisions=(IR_INT8_SAFE.variant or "",), data=data, progress=progress
        )
    except FtxError as error:
        progress.note(f"{IR_INT8_SAFE.name} could not be made: {error}")
        return False
    return True
