"""``ftx validate`` of a run whose int8 saturates on older CPUs: it prints what helps, and writes no model."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.effects.lab import call
from tests.gates.faults import edit_json, keep

from ftx.evaluating.held_process import MODULE, HeldModel, HeldRows, measure_here
from ftx.runs.artifacts import EXPORT_IR, IR_INT8
from ftx.runs.machine import cpu_flags, sets_of, this_set
from ftx.runs.proof_json import ReferenceLogits

ONE_OF_TWO = pytest.mark.skipif(
    this_set() == "avx2" or "avx2" not in sets_of(cpu_flags()), reason="AVX2 is to be an older set of this CPU"
)


@pytest.fixture
def saturating(monkeypatch: pytest.MonkeyPatch) -> list[HeldModel]:
    """A CPU whose products of 8 bits saturate so much under AVX2 that INT8 answers nothing; what it was asked."""
    asked: list[HeldModel] = []
    run = subprocess.run
    right: list[HeldRows] = []  # as INT8 answers here, which the safer one does under any set

    def started(command: Sequence[str], **given: Any) -> subprocess.CompletedProcess[str]:
        if MODULE not in command:
            return run(command, **given)
        model = HeldModel.model_validate_json(given["input"])
        asked.append(model)
        right[:] = right or [measure_here(model)]
        rows = []
        for row in right[0].rows:
            told = row.logits.array * (0 if model.folder.name == IR_INT8.variant else 1)
            again = ReferenceLogits.of(row.logits.compute, np.ascontiguousarray(told), row.logits.view)
            rows.append(row.model_copy(update={"isa": "avx2", "emulated": True, "logits": again}))
        return subprocess.CompletedProcess(list(command), 0, "\n" + HeldRows(rows=rows).model_dump_json(), "")

    monkeypatch.setattr("ftx.core.child_process.subprocess.run", started)
    return asked


@ONE_OF_TWO
@pytest.mark.representative
def test_a_command_for_a_safer_model_is_printed_and_nothing_is_exported(
    whole_run: Path, saturating: list[HeldModel], tmp_path: Path
) -> None:
    """Each set is run on the images where they are now, with the same number of them, bounds and margin."""
    run = Path(shutil.copytree(whole_run, tmp_path / "run", symlinks=True))
    keep(run, "openvino/int8")
    edit_json(run / "run.json", lambda raw: raw.update(data_root=str(tmp_path / "gone")))
    data = whole_run.parents[1] / "data"
    words = ("--data", str(data), "--images", "12", "--isa", "avx2", "--max-drop", "0.25")
    said = call("validate", str(run), *words, "--bound", "int8.graph.max_abs=9", "--json")
    assert said.status == 1  # without VNNI it fails
    assert [model.folder.name for model in saturating] == [IR_INT8.variant]
    assert (saturating[0].images, saturating[0].data) == (12, data)
    assert {one["artifact"]: one["verdict"] for one in said.json["sets"]} == {IR_INT8.name: "failed"}
    assert said.json["max_drop"] == 0.25
    rows = [row for row in said.json["rows"] if row["view"] == "graph" and row["artifact"] == IR_INT8.name]
    assert {row["bound"]["max_abs"] for row in rows} == {9.0}
    # The images are elsewhere by now: the command says where.
    assert f"{EXPORT_IR} {run} --precision int8-overflow-safe --data {data}\n" in said.err
    assert not (run / "openvino" / "int8-overflow-safe").exists()
