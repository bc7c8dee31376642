"""Which model a name stands for, and which of a run's is taken, from edited copies of its parity.json."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Listener
from tests.exporting.conftest import Validated
from tests.gates.faults import edit_report, vouch_for
from torchmetrics.functional.classification import multiclass_f1_score

from ftx.core.errors import ExportError, GateFailed, RunError
from ftx.evaluating.evaluate import EvalReport, evaluate
from ftx.recipe.sections import MAX_DROP
from ftx.runs.artifacts import DENSE, IR_FP16, IR_FP32, IR_INT8_CHECKED, Artifact
from ftx.runs.card_json import PROOF_FILE
from ftx.runs.machine import this_machine
from ftx.runs.parity_json import read_parity
from ftx.runs.run import Run
from ftx.runtimes import load, load_artifact
from ftx.runtimes.choose_artifact import _fastest, best_ir, furthest

REPORT = "reports/parity.json"


@pytest.fixture
def run(validated: Validated, tmp_path: Path) -> Run:
    """Without the models themselves, which a choice does not read."""
    heavy = shutil.ignore_patterns("*.bin", "*.onnx", "*.safetensors")
    return Run.open(shutil.copytree(validated.run.path, tmp_path / "run", ignore=heavy))


def judged(run: Run, **latency_ms: float) -> None:
    """Every IR is proved, and takes so long as it is deployed; in f32 it is the other way round."""

    def change(report: Any) -> None:
        report["verdicts"].update({f"openvino/{name}": "proved" for name in latency_ms})
        for row in report["rows"]:
            name = row["artifact"].partition("/")[2]
            if name in latency_ms:
                deployed = row["view"] == "graph" and row["compute"] != "f32"
                row["latency_ms"] = latency_ms[name] if deployed else 100 - latency_ms[name]

    edit_report(run.path, REPORT, change)


def test_the_fastest_proved_ir_is_taken_by_its_deployed_latency(run: Run) -> None:
    judged(run, fp32=3, fp16=2)
    why = "the fastest verified model here (2.0 ms per image)"
    assert best_ir(run) == (IR_FP16, why)
    judged(run, fp32=2, fp16=3)
    assert best_ir(run)[0] == IR_FP32
    # An IR that was exported again since is not what was proved.
    edit_report(run.path, REPORT, lambda report: report["digests"].update({"openvino/fp32": "another"}))
    why = "the fastest verified model here (3.0 ms per image; the only one)"
    assert best_ir(run) == (IR_FP16, why)


@pytest.mark.parametrize(("checked_ms", "chosen"), [(2.4, IR_INT8_CHECKED), (2.41, IR_FP16)])
def test_int8_checked_is_taken_where_it_saves_a_fifth_of_the_time_of_fp32(checked_ms: float, chosen: Artifact) -> None:
    assert _fastest({IR_FP32: 3.0, IR_FP16: 2.9, IR_INT8_CHECKED: checked_ms}, "model")[0] == chosen


def test_where_nothing_counts_the_most_exact_that_has_not_failed_is_taken(run: Run) -> None:
    judged(run, fp32=3, fp16=2)
    for artifact in (IR_FP32, IR_FP16):  # what another machine proved for this one's instruction set would count
        (run.folder(artifact) / PROOF_FILE).unlink()
    again = f"ftx validate {run.path}"
    edit_report(run.path, REPORT, lambda report: report["machine"].update(cpu="another"))
    name, why = best_ir(run)
    assert name == IR_FP32
    assert why.startswith("the most exact, as ftx validate ran on another machine (another (")
    edit_report(run.path, REPORT, lambda report: report["machine"].update(cpu=this_machine().cpu))
    edit_report(run.path, REPORT, lambda report: report.update(max_drop=0.9))
    why = f"ftx validate ran with a wider margin than the recipe's (--max-drop 0.9): {again}"
    assert best_ir(run) == (IR_FP32, f"the most exact, as {why}")
    edit_report(run.path, REPORT, lambda report: report.update(max_drop=MAX_DROP))
    edit_report(run.path, REPORT, lambda report: report["verdicts"].update({"openvino/fp16": "unproved"}))
    edit_report(run.path, REPORT, lambda report: report["verdicts"].update({"openvino/fp32": "failed"}))
    said = read_parity(run.path).summary["openvino/fp16"]  # pyright: ignore[reportOptionalMemberAccess]
    assert best_ir(run) == (IR_FP16, f"the most exact, as none is proved: {said}")
    edit_report(run.path, REPORT, lambda report: report["verdicts"].update({"openvino/fp16": "failed"}))
    with pytest.raises(GateFailed, match="every OpenVINO model of this run failed"):
        best_ir(run)
    assert furthest(run) == DENSE
    edit_report(run.path, REPORT, lambda report: report["digests"].update({"openvino/fp16": "another"}))
    assert best_ir(run) == (IR_FP16, f"the most exact, as none is proved: {again}")
    for text in ("{", "[]", "{}"):  # cut short, and what another version wrote
        (run.path / REPORT).write_text(text)
        vouch_for(run.path, REPORT)
        assert best_ir(run) == (IR_FP32, f"the most exact, as nothing was validated yet: {again}")


def test_a_model_is_opened_by_the_latest_run_by_its_run_and_by_its_folder(
    validated: Validated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = validated.run.path
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "latest").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    names = validated.run.manifest.labels.names
    best, _ = best_ir(validated.run)
    for way in (None, path):
        listener = Listener()
        predictor = load(way, progress=listener)
        assert (predictor.name, predictor.task.labels.names) == ("openvino", names)
        said, guarantee = listener.said
        assert guarantee == "prediction sets are unproved: 12 calibration images, and sets need 19"
        assert said.startswith("model: ")
        assert f"/{best}, the " in said
    # As ftx eval names it, of the latest run; and by a folder of the run, which vouches for it.
    assert load("dense").name == "torch"
    assert load(path / "onnx").name == "onnx"
    with pytest.raises(RunError, match="no artifact 'openvino/int4'"):
        load_artifact(validated.run, "openvino/int4")


def test_what_is_no_model_says_what_is_there(
    validated: Validated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "plan.txt").touch()
    shutil.copytree(validated.run.path / "onnx", tmp_path / "alone")
    for name, found in {
        "gone": "no such folder",
        "empty": "an empty folder",
        "notes": "plan.txt",
        "alone": "an ONNX file outside its run",
    }.items():
        with pytest.raises(ExportError, match="there is no model here that ftx can open") as caught:
            load(tmp_path / name)
        assert caught.value.fix == "name a run, or a folder that ftx export wrote (it contains card.json)"
        assert caught.value.found is not None
        assert caught.value.found.startswith(found)
    with pytest.raises(ExportError, match="no model here") as caught:
        load("openvino/fp23")
    assert caught.value.fix == "did you mean openvino/fp32?"
    # Where there is no run, the name of an artifact is none.
    with pytest.raises(RunError, match="must be a finished run in runs/"):
        load("onnx")


def test_an_evaluation_is_kept_and_counts_as_torchmetrics_does(validated: Validated, tmp_path: Path) -> None:
    import torch

    run = validated.copy(tmp_path)
    report = evaluate(run, "onnx")
    matrix = np.array(report.confusion)
    truth, called = (torch.from_numpy(np.repeat(axis.ravel(), matrix.ravel())) for axis in np.indices((3, 3)))
    macro = float(multiclass_f1_score(called, truth, 3, average="macro"))
    # The weights are random and the classes equally many: macro and micro differ, and only one is meant.
    assert abs(macro - float(multiclass_f1_score(called, truth, 3, average="micro"))) > 0.01
    assert report.macro_f1 == pytest.approx(macro, rel=1e-6)  # torchmetrics divides in f32
    assert report.accuracy == np.trace(matrix) / 12
    assert matrix.sum(axis=1).tolist() == [4, 4, 4]
    assert (report.artifact, report.runtime, report.split, report.images) == ("onnx", "onnx", "test", 12)
    kept = EvalReport.model_validate_json((run.path / "reports" / "eval.json").read_bytes())
    assert kept == report
