"""What a model answered is kept for the images and the files that it was of, up to a size."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.gates.faults import vouch_for
from tests.runs.small_run import ENTRIES, make, small_run

from ftx.runs import kept_logits
from ftx.runs.artifacts import DENSE, IR_FP32, IR_INT8
from ftx.runs.compute_precision import F32, ComputePrecision
from ftx.runs.data_jsonl import write_entries
from ftx.runs.kept_logits import KEPT_LOGITS, keep_logits, read_logits
from ftx.runs.machine import this_machine
from ftx.runs.run import Run

# Three images, two labels.
LOGITS = np.array([[1.5, -2.25], [1 / 3, 7], [-1e-7, 0]], np.float32)
BF16 = ComputePrecision("bf16", chosen_by_runtime=True)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return small_run(tmp_path / "run", (DENSE, IR_FP32, IR_INT8))


def test_what_was_kept_is_read_back_to_the_bit(run: Run) -> None:
    keep_logits(run, IR_INT8, BF16, LOGITS)
    found = read_logits(run, IR_INT8)
    assert found is not None
    np.testing.assert_array_equal(found.logits_NC, LOGITS)
    assert (found.compute, found.machine) == (BF16, this_machine())
    assert read_logits(run, IR_FP32) is None


@pytest.mark.parametrize(("most_bytes", "kept"), [(LOGITS.nbytes, True), (LOGITS.nbytes - 1, False), (0, False)])
def test_the_limit_is_one_of_bytes(most_bytes: int, kept: bool, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_logits, "MOST_BYTES", most_bytes)
    keep_logits(run, IR_FP32, F32, LOGITS)
    assert (read_logits(run, IR_FP32) is not None) == kept
    assert (run.path / KEPT_LOGITS).exists() == kept


def test_another_export_or_other_images_make_them_worthless(run: Run) -> None:
    for artifact in (IR_FP32, IR_INT8):
        keep_logits(run, artifact, F32, LOGITS)
    make(run, IR_FP32, "another")
    assert read_logits(run, IR_FP32) is None
    assert read_logits(run, IR_INT8) is not None
    keep_logits(run, IR_FP32, F32, LOGITS)
    assert read_logits(run, IR_FP32) is not None
    # As many images, one of which has another label now.
    write_entries(run.path, [*ENTRIES[:-1], replace(ENTRIES[-1], labels=("b",))])
    vouch_for(run.path, "data.jsonl")
    assert [read_logits(run, artifact) for artifact in (IR_FP32, IR_INT8)] == [None, None]


def test_answers_of_one_model_under_the_name_of_another_are_not_taken(run: Run) -> None:
    make(run, IR_INT8, "openvino/fp32")  # the same bytes
    keep_logits(run, IR_FP32, F32, LOGITS)
    name = KEPT_LOGITS / "openvino-int8.safetensors"
    shutil.copy(run.path / KEPT_LOGITS / "openvino-fp32.safetensors", run.path / name)
    vouch_for(run.path, name.as_posix())
    assert read_logits(run, IR_INT8) is None


@pytest.mark.parametrize("logits", [LOGITS[:2], LOGITS[:, :1]])
def test_answers_for_another_number_of_images_or_labels_are_not_taken(logits: np.ndarray, run: Run) -> None:
    keep_logits(run, IR_FP32, F32, logits)
    assert read_logits(run, IR_FP32) is None
