from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import Listener
from tests.evaluating.written_runs import keep, written_run
from tests.gates.faults import edit_json, edit_report, vouch_for

from ftx.core.errors import DataError, InputError, RunError
from ftx.core.files import sha256_file
from ftx.evaluating import ParityReport, validate
from ftx.evaluating.logit_bounds import coarsest_rounding
from ftx.evaluating.parity_report import _is_proved_already
from ftx.runs.artifacts import ARTIFACTS, IR_FP32, IR_INT8
from ftx.runs.card_json import read_card
from ftx.runs.compute_precision import F32
from ftx.runs.parity_json import read_parity
from ftx.runs.proof_json import read_proof
from ftx.runs.run import Run

IRS = ("openvino/fp32", "openvino/fp16", "openvino/int8")


def copy_with(run: Path, folder: Path, *artifacts: str) -> Path:
    """A copy of a run with some of its exports only."""
    copy = Path(shutil.copytree(run, folder / "run"))
    document = json.loads((copy / "run.json").read_text())
    exported = tuple(f"{name}/" for name in ("onnx", *IRS) if name not in artifacts)
    document["files"] = {name: digest for name, digest in document["files"].items() if not name.startswith(exported)}
    (copy / "run.json").write_text(json.dumps(document))
    return copy


def test_an_untouched_run_passes_in_every_row(validated_run: Path) -> None:
    text = (validated_run / "reports" / "parity.json").read_text()
    report = ParityReport.model_validate(json.loads(text, parse_constant=pytest.fail))
    assert report.ok
    assert report.problems == []
    rows = {(row.artifact, row.runtime, row.view, str(row.compute).partition(":")[0]) for row in report.rows}
    assert rows == {
        ("trained", "torch", "files", "f32"),
        ("dense", "torch", "graph", "f32"),
        ("onnx", "onnx", "graph", "f32"),
        ("onnx", "onnx", "files", "f32"),
        *(
            (name, "openvino", view, compute)
            for name in IRS
            for view in ("graph", "files")
            for compute in ("f32", "auto")
        ),
    }
    # In f32 the graph is compared on 128 of the 240 held-out images; what rests on labels is asked about them all.
    for row in report.rows:
        by_logits = row.view == "graph" and coarsest_rounding(row.subject, row.compute) == "fp32"
        assert row.images == (128 if by_logits else 240)
    assert report.verdicts == dict.fromkeys(["dense", "onnx", *IRS], "proved"), report.summary
    assert all(row.verdict == "proved" for row in report.rows)
    assert (report.whole, report.split, report.max_drop) == (True, "test", 0.02)
    # The classes are plain colours: a model that did not learn them would prove nothing by agreeing.
    assert all(row.accuracy is not None and row.accuracy > 0.9 for row in report.rows)
    assert {row.latency_ms > 0 for row in report.rows} == {True}
    run = Run.open(validated_run)
    assert report.digests["openvino/int8"] == run.manifest.digest(IR_INT8)


def test_the_trained_model_equals_itself(validated_run: Path) -> None:
    report = ParityReport.model_validate_json((validated_run / "reports" / "parity.json").read_bytes())
    (trained,) = [row for row in report.rows if row.artifact == "trained"]
    assert (trained.max_abs, trained.agreement) == (0.0, 1.0)


@pytest.mark.representative
def test_fewer_images_are_spread_over_the_classes(whole_run: Path, tmp_path: Path) -> None:
    run = copy_with(whole_run, tmp_path, "openvino/fp32")
    report = validate(run, images=8)
    assert {row.images for row in report.rows} == {8}
    (row,) = [row for row in report.rows if row.artifact == "trained"]
    assert {name.split("/")[1] for name in row.worst} >= {"amber", "blue"}
    # A part of the images proves nothing, not even in f32.
    assert report.whole is False
    assert set(report.verdicts.values()) == {"unproved"}
    assert report.summary["openvino/fp32"].endswith("only 8 of 240 held-out images were run, and a proof takes all")
    assert report.ok
    assert not validate(run, images=8, require_proof=True).ok


def test_images_that_are_gone_or_changed_are_named(whole_run: Path, tmp_path: Path) -> None:
    run = copy_with(whole_run, tmp_path, "openvino/fp32")
    with pytest.raises(DataError, match="the folder of the images must exist"):
        validate(run, data=tmp_path / "nowhere")
    data = Path(shutil.copytree(Run.open(run).manifest.data_root, tmp_path / "data"))
    held_out = Run.open(run).report_entries()[0]
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(data / held_out.path)
    with pytest.raises(DataError, match="has changed since training"):
        validate(run, data=data)


def test_a_run_without_exports_says_what_to_do(whole_run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing to validate") as caught:
        validate(copy_with(whole_run, tmp_path))
    assert "ftx export" in str(caught.value)


@pytest.mark.slow
def test_the_margin_is_the_recipes_unless_another_is_given(whole_run: Path, tmp_path: Path) -> None:
    run = copy_with(whole_run, tmp_path, "openvino/int8")
    path = run / "recipe.yaml"
    path.write_text(path.read_text().replace("max_drop: 0.02", "max_drop: 0.001"))
    manifest = json.loads((run / "run.json").read_text())
    manifest["files"]["recipe.yaml"] = sha256_file(path)
    (run / "run.json").write_text(json.dumps(manifest))
    report = validate(run)
    assert report.max_drop == 0.001
    assert report.verdicts["openvino/int8"] == "unproved"
    assert {row.max_drop for row in report.rows} == {0.001}
    wide = validate(run, max_drop=0.1)
    assert wide.verdicts["openvino/int8"] == "proved"
    with pytest.raises(InputError, match="--max-drop must be a fraction"):
        validate(run, max_drop=1.0)


@pytest.mark.representative
def test_each_ir_carries_what_was_found_of_it(validated_run: Path, tmp_path: Path) -> None:
    report = ParityReport.model_validate_json((validated_run / "reports" / "parity.json").read_bytes())
    # As a device gets it: the folder alone.
    folder = Path(shutil.copytree(validated_run / "openvino/int8", tmp_path / "int8"))
    proof = read_proof(folder).run
    assert proof is not None
    assert (proof.verdict, proof.summary) == ("proved", report.summary["openvino/int8"])
    assert [row.artifact for row in proof.rows] == ["openvino/int8"] * 4
    assert [str(answers.compute).partition(":")[0] for answers in proof.answers] == ["f32", "auto"]
    here = validate(folder)
    assert here.transfer is not None
    assert (here.transfer.same, here.verdicts) == (True, {"openvino/int8": "proved"})
    # By its 64 reference images alone it would be unproved.
    (folder / "proof.json").unlink()
    assert validate(folder).verdicts == {"openvino/int8": "unproved"}
    # Beside another model it says nothing.
    other = Path(shutil.copytree(validated_run / "openvino/fp16", tmp_path / "fp16"))
    shutil.copy(validated_run / "openvino/int8/proof.json", other / "proof.json")
    assert read_proof(other).run is None


@pytest.mark.representative
def test_the_groups_of_a_table_are_the_unit(whole_run: Path, tmp_path: Path) -> None:
    run = copy_with(whole_run, tmp_path, "openvino/int8")
    path = run / "data.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    held_out = [entry for entry in entries if entry["split"] == "test"]
    for number, entry in enumerate(held_out[:-40]):
        entry["group"] = f"patient {number // 10}"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    manifest = json.loads((run / "run.json").read_text())
    manifest["files"]["data.jsonl"] = sha256_file(path)
    (run / "run.json").write_text(json.dumps(manifest))
    report = validate(run)
    # 200 images of 20 patients, and 40 that stand for themselves.
    (row,) = [row for row in report.rows if (row.artifact, row.view, row.compute) == ("openvino/int8", "files", F32)]
    assert (row.images, row.labelled, row.unit) == (240, 60, "group")
    assert report.verdicts["openvino/int8"] == "unproved"
    assert "149 groups with no further loss would prove at most 2" in report.summary["openvino/int8"]


@pytest.mark.slow
def test_looking_leaves_the_proof_as_it_is(validated_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(validated_run, tmp_path / "run"))
    paths = [run / "reports" / "parity.json", run / "openvino/int8/proof.json", run / "dense" / "README.md"]
    before = [sha256_file(path) for path in paths]
    for settings in ({"images": 4}, {"images": 4, "bounds": {"int8.graph.max_abs": 1e-9}}):
        report = validate(run, **settings)
        assert report.whole is False
        assert [sha256_file(path) for path in paths] == before
    assert report.verdicts["openvino/int8"] == "failed"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A small run with one export, which was validated on all of its eight images."""
    run = written_run("multiclass-dora", tmp_path / "written")
    monkeypatch.chdir(tmp_path / "written")
    keep(run, "openvino/fp32")

    def of_one_export(report: Any) -> None:
        report["digests"] = {name: one for name, one in report["digests"].items() if run.has(ARTIFACTS[name])}

    edit_report(run.path, "reports/parity.json", of_one_export)
    return run


def test_a_look_leaves_a_proof_of_the_same_models_on_all_images_alone(written: Run) -> None:
    """And no other: of a model that was exported again it is the better of the two."""
    kept = read_parity(written.path)
    assert kept is not None
    look = kept.model_copy(update={"whole": False})
    assert _is_proved_already(written, look)
    for digests in (
        kept.digests | {"openvino/fp32": "another"},
        kept.digests | {"onnx": "one more"},
        {name: digest for name, digest in kept.digests.items() if name != "openvino/fp32"},
    ):
        assert not _is_proved_already(written, look.model_copy(update={"digests": digests}))
    edit_report(written.path, "reports/parity.json", lambda report: report.update(whole=False))
    assert not _is_proved_already(written, look)
    edit_report(written.path, "reports/parity.json", lambda report: report.update(whole=True))
    assert _is_proved_already(written, look)
    (written.path / "reports" / "parity.json").write_text("{}")
    assert not _is_proved_already(written, look)


@pytest.mark.representative
def test_a_look_at_a_model_that_was_exported_again_is_kept(written: Run) -> None:
    listener = Listener()
    card = read_card(written.folder(IR_FP32))
    edit_json(written.folder(IR_FP32) / "card.json", lambda raw: raw.update(ftx="0.2.0"))  # the same weights
    vouch_for(written.path, "openvino/fp32/card.json")
    assert read_card(written.folder(IR_FP32)).files == card.files
    report = validate(written, images=2, max_drop=0.3, progress=listener)
    assert read_parity(written.path) == report
    assert listener.said == []
    assert (report.whole, report.max_drop, {row.images for row in report.rows}) == (False, 0.3, {2})
    proof = read_proof(written.folder(IR_FP32)).run
    assert proof is not None
    assert (proof.whole, proof.verdict, proof.max_drop) == (False, "unproved", 0.3)
    # What some of the images were answered is no answer for all of them.
    assert not list((written.path / "reports").glob("answers/*"))
