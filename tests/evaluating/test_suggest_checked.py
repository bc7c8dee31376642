from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ftx.evaluating.comparison import Reference, Subject, compare
from ftx.evaluating.logit_bounds import FREE, Bounds
from ftx.evaluating.measure import Measurements
from ftx.evaluating.suggest_checked import suggest_checked
from ftx.runs.artifacts import IR_FP32, IR_INT8
from ftx.runs.compute_precision import F32, ComputePrecision, Dtype
from ftx.tasks.labels import Labels
from ftx.tasks.multiclass import Multiclass

# Ten images of two labels by fp32, and by int8: it moves the first by 0.5 and the second by 1.5.
EXACT_NC = np.array([[0.2, 0.0], [2.5, 0.0], *([3.0, 0.0] for _ in range(8))], np.float32)
MOVED_N = np.array([0.5, 1.5, *[0.1] * 8], np.float32)


# As a CPU without bf16 runs them.
AUTO = ComputePrecision("f32", chosen_by_runtime=True)


@pytest.fixture(autouse=True)
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftx.evaluating.suggest_checked.default_compute", lambda: AUTO)


def measured(quick_NC: np.ndarray, int8_ms: float, auto: ComputePrecision = AUTO) -> Measurements:
    task = Multiclass(Labels.multiclass("ab"))
    known = Reference(tuple("abcdefghij"), EXACT_NC, EXACT_NC[:0], task)
    subjects = [(IR_FP32, "graph", F32, 1.0), (IR_FP32, "files", F32, 10.0), (IR_INT8, "files", auto, int8_ms)]
    found = Measurements(known, Bounds.of(None))
    for subject in subjects:
        found.comparisons.append(compare(known, EXACT_NC, Subject(*subject), FREE))
    found.from_files.update({(IR_FP32, F32): EXACT_NC, (IR_INT8, auto): quick_NC})
    return found


@pytest.mark.parametrize(("int8_ms", "pays"), [(7.0, True), (7.1, False)])
def test_it_is_suggested_where_one_image_takes_less(int8_ms: float, pays: bool) -> None:
    quick_NC = EXACT_NC - MOVED_N[:, None] * np.array([1, 0], np.float32)
    # int8's margins are 0.3 (for the other label), 1.0 and 2.9. fp32 moves the first decision by 0.5 towards the other
    # label, and makes the others clearer. So one of ten runs twice.
    said = suggest_checked(Path("runs/x"), measured(quick_NC, int8_ms)) or ""
    assert said.startswith("int8 changes 1 of 10 labels of fp32; int8-checked ")
    if pays:
        assert said.endswith("keeps them in about 0.80 of its time: ftx export runs/x --precision int8-checked")
    else:
        assert said.endswith("would not pay on this machine: about 0.81 of the time of fp32")


def test_nothing_is_suggested_if_no_label_changes_or_one_of_both_is_missing() -> None:
    assert suggest_checked(Path("runs/x"), measured(EXACT_NC, 1.0)) is None
    alone = measured(EXACT_NC[::-1], 1.0)
    del alone.from_files[IR_FP32, F32]
    assert suggest_checked(Path("runs/x"), alone) is None


@pytest.mark.parametrize(("dtype", "part"), [("f32", "1.10"), ("bf16", "0.60")])
def test_bf16_counts_where_the_cpu_computes_in_it(dtype: Dtype, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = ComputePrecision(dtype, chosen_by_runtime=True)
    monkeypatch.setattr("ftx.evaluating.suggest_checked.default_compute", lambda: auto)
    found = measured(EXACT_NC - MOVED_N[:, None] * np.array([1, 0], np.float32), 10.0, auto)
    # fp32 moves the first decision of bf16 by 0.2, and the margin of the second is 0.1. So one of ten runs twice.
    found.from_files[IR_FP32, auto] = np.concatenate([[[0.4, 0.0], [0.1, 0.0]], EXACT_NC[2:]]).astype(np.float32)
    found.comparisons.append(compare(found.reference, EXACT_NC, Subject(IR_FP32, "files", auto, 5.0), FREE))
    assert f"about {part} of" in (suggest_checked(Path("runs/x"), found) or "")
