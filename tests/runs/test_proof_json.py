"""What is known of a model is added up beside it: by machine, by instruction set, and for that model alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Listener
from tests.gates.faults import edit_json
from tests.runs.test_parity_json import WRITTEN

from ftx.core.errors import ExportError
from ftx.runs.artifacts import IR_FP32
from ftx.runs.card_json import CARD_FILE, PROOF_FILE
from ftx.runs.compute_precision import F32, ComputePrecision
from ftx.runs.machine import this_machine, this_set
from ftx.runs.parity_json import PARITY_FILE, Transfer, read_parity
from ftx.runs.proof_json import ReferenceLogits, RunProof, carry_proof, ir_digest, keep_proof, keep_transfer, read_proof

LOGITS = np.array([[1.5, -2.25, 1 / 3], [-1e-7, 0, 7]], np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WRITTEN / "openvino" / "fp32", tmp_path / "fp32"))


def found(cpu: str | None = None, **changed: Any) -> Transfer:
    machine = this_machine() if cpu is None else this_machine().model_copy(update={"cpu": cpu})
    known = Transfer(
        verdict="proved", summary="as there", max_drop=0.02, machine=machine, same=True, max_abs=0.0, bound=1e-4,
        changed=0.0, changed_high=0.25,
    )  # fmt: skip
    return known.model_copy(update=changed)


def of_set(folder: Path, isa: Any, summary: str) -> RunProof:
    run = read_proof(folder).run
    assert run is not None
    return run.model_copy(update={"isa": isa, "summary": summary, "emulated": True})


def test_each_machine_has_its_last_finding(folder: Path) -> None:
    for transfer in (
        found(summary="first"),
        found("another", summary="other"),
        found(summary="second", verdict="unproved"),
    ):
        keep_transfer(folder, read_proof(folder), transfer)
    devices = read_proof(folder).devices
    assert [(one.machine.cpu, one.summary) for one in devices] == [("another", "other"), (this_machine().cpu, "second")]
    assert read_proof(folder).run is not None  # what the run's machine found stays
    newer = this_machine().model_copy(update={"openvino": "2099.1"})
    keep_transfer(folder, read_proof(folder), found(machine=newer))
    assert len(read_proof(folder).devices) == 3


def test_a_validation_keeps_the_sets_that_were_not_asked_about_and_drops_what_devices_found(folder: Path) -> None:
    report = read_parity(WRITTEN)
    assert report is not None
    report = report.model_copy(update={"max_drop": 0.04, "split": "val", "whole": False})
    ir, answers = ir_digest(folder), [ReferenceLogits.of(F32, LOGITS)]
    sets = [of_set(folder, "avx2", "first"), of_set(folder, "avx512", "first")]
    keep_transfer(folder, read_proof(folder), found())
    keep_proof(folder, ir, report, IR_FP32, answers, sets=sets)
    again = of_set(folder, "avx512", "second")
    keep_proof(folder, ir, report, IR_FP32, answers, sets=[again])
    proof = read_proof(folder)
    assert [(one.isa, one.summary) for one in proof.sets] == [("avx2", "first"), ("avx512", "second")]
    on_gpu = again.model_copy(update={"machine": again.machine.model_copy(update={"device": "GPU"})})
    keep_proof(folder, ir, report, IR_FP32, answers, sets=[on_gpu])
    assert [(one.isa, one.machine.device) for one in read_proof(folder).sets] == [
        ("avx2", "CPU"), ("avx512", "CPU"), ("avx512", "GPU")
    ]  # fmt: skip
    assert proof.devices == []
    assert proof.run is not None
    assert (proof.run.verdict, proof.run.summary) == (report.verdicts["openvino/fp32"], report.summary["openvino/fp32"])
    assert {row.artifact for row in proof.run.rows} == {"openvino/fp32"}
    assert (proof.run.max_drop, proof.run.split, proof.run.whole) == (0.04, "val", False)
    assert (proof.run.machine, proof.run.family, proof.run.answers) == (report.machine, report.family, answers)
    assert (proof.run.isa, proof.run.emulated) == (this_set(), False)


def test_rows_of_other_sets_are_no_part_of_what_the_run_found(folder: Path) -> None:
    report = read_parity(WRITTEN)
    assert report is not None
    (row, *_) = [row for row in report.rows if row.subject == IR_FP32]
    rows = [row, row.model_copy(update={"emulated": True})]
    answers = [ReferenceLogits.of(F32, LOGITS)]
    keep_proof(folder, ir_digest(folder), report.model_copy(update={"rows": rows}), IR_FP32, answers)
    proof = read_proof(folder).run
    assert proof is not None
    assert proof.rows == [row]


def test_of_a_model_that_was_exported_again_nothing_is_known(folder: Path) -> None:
    listener = Listener()
    keep_transfer(folder, read_proof(folder), found())
    edit_json(folder / CARD_FILE, lambda card: card.update(architecture="another"))
    proof = read_proof(folder, listener)
    assert (proof.run, proof.sets, proof.devices) == (None, [], [])
    assert listener.said == [f"{PROOF_FILE} is not used: it is of another model"]
    (folder / CARD_FILE).unlink()
    with pytest.raises(ExportError, match="does not exist any more"):
        read_proof(folder)


def test_a_proof_is_carried_to_the_same_weights_without_what_devices_found_there(folder: Path, tmp_path: Path) -> None:
    keep_transfer(folder, read_proof(folder), found())
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    edit_json(other / CARD_FILE, lambda card: card.update(architecture="carried"))
    carry_proof(other, read_proof(folder))
    proof = read_proof(other)
    assert (proof.ir, proof.devices) == (ir_digest(other), [])
    assert proof.run == read_proof(folder).run is not None


def test_what_a_later_ftx_wrote_stays(folder: Path) -> None:
    listener = Listener()
    proof = read_proof(folder)
    edit_json(folder / PROOF_FILE, lambda known: known.update(schema_version=99))
    before = (folder / PROOF_FILE).read_bytes()
    keep_transfer(folder, proof, found(), listener)
    assert (folder / PROOF_FILE).read_bytes() == before
    assert listener.said == [f"{PROOF_FILE} stays as another ftx wrote it, without what was found here"]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_summary_is_read_under_its_old_name_and_written_under_its_new_one(version: str, tmp_path: Path) -> None:
    key = {"v1": "said", "v2": "summary"}[version]
    written = WRITTEN.parents[1] / version / WRITTEN.name
    report = read_parity(written)
    assert report is not None
    assert report.summary == json.loads((written / PARITY_FILE).read_text())[key]
    assert "said" not in json.loads(report.model_dump_json())
    shutil.copy(WRITTEN / "openvino" / "fp32" / CARD_FILE, tmp_path)
    shutil.copy(written / "openvino" / "fp32" / PROOF_FILE, tmp_path)
    before = json.loads((tmp_path / PROOF_FILE).read_text())["run"]
    proof = read_proof(tmp_path).run
    assert proof is not None
    assert proof.summary == before[key]
    keep_transfer(tmp_path, read_proof(tmp_path), found())
    after = json.loads((tmp_path / PROOF_FILE).read_text())["run"]
    assert (after["summary"], "said" in after) == (before[key], False)


def test_answers_are_read_back_to_the_bit_with_how_they_were_asked() -> None:
    compute = ComputePrecision("bf16", chosen_by_runtime=True)
    made = ReferenceLogits.of(compute, LOGITS, "one_image")
    again = ReferenceLogits.model_validate(json.loads(made.model_dump_json()))
    np.testing.assert_array_equal(again.array, LOGITS)
    assert (again.images, again.labels, again.view, again.compute) == (2, 3, "one_image", compute)
    with pytest.raises(ValueError, match="24 bytes must be 3 x 3 numbers"):
        ReferenceLogits.model_validate(json.loads(made.model_dump_json()) | {"images": 3})
