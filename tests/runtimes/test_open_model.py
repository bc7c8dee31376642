from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gates.faults import edit_json, edit_report

from ftx.core.errors import ExportError, GateFailed, RunError
from ftx.runs.artifacts import DENSE, IR_FP16, IR_FP32, IR_INT8
from ftx.runs.run import Run
from ftx.runtimes import load, load_artifact
from ftx.runtimes.choose_artifact import best_ir, furthest
from ftx.runtimes.openvino import default_compute

IRS = ("openvino/fp32", "openvino/fp16", "openvino/int8")


@pytest.fixture
def run(validated_run: Path, tmp_path: Path) -> Path:
    """By its report alone: what lies beside the models is asked for in tests/evaluating/test_isa_parity.py."""
    return Path(shutil.copytree(validated_run, tmp_path / "run", ignore=shutil.ignore_patterns("proof.json")))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """A document of a run, with the hash that run.json has of it."""
    if path.parent.name == "reports":
        edit_report(path.parent.parent, f"reports/{path.name}", change)
    else:
        edit_json(path, change)


def forget(run: Path, *prefixes: str) -> None:
    def change(document: Any) -> None:
        document["files"] = {k: v for k, v in document["files"].items() if not k.startswith(prefixes)}

    edit(run / "run.json", change)


def say(report: Any, verdict: str, *artifacts: str) -> None:
    report["verdicts"].update(dict.fromkeys(artifacts, verdict))


def take(report: Any, artifact: str, ms: float) -> None:
    """So long one image takes, as it is deployed; in f32 and from files it would be the other way round."""
    for row in report["rows"]:
        if row["artifact"] == artifact:
            row["latency_ms"] = ms if row["view"] == "graph" and row["compute"] != "f32" else 100 - ms


def rows_of(fp32: float, fp16: float, int8: float) -> Callable[[Any], None]:
    def change(report: Any) -> None:
        for artifact, ms in (("openvino/fp32", fp32), ("openvino/fp16", fp16), ("openvino/int8", int8)):
            take(report, artifact, ms)

    return change


@pytest.mark.parametrize(
    ("latencies", "change", "expected"),
    [
        ((3, 4, 2), lambda report: None, "openvino/int8"),
        ((2, 4, 3), lambda report: None, "openvino/fp32"),
        ((3, 1, 2), lambda report: None, "openvino/fp16"),
        ((3, 4, 2), lambda report: say(report, "unproved", "openvino/int8"), "openvino/fp32"),
        ((3, 4, 2), lambda report: say(report, "failed", "openvino/int8", "openvino/fp32"), "openvino/fp16"),
        ((3, 4, 2), lambda report: report["digests"].update({"openvino/int8": "another"}), "openvino/fp32"),
        # Where nothing is proved the most exact is taken that has not failed.
        ((3, 4, 2), lambda report: say(report, "unproved", *IRS), "openvino/fp32"),
        ((3, 4, 2), lambda report: say(report, "unproved", *IRS) or say(report, "failed", IRS[0]), "openvino/fp16"),
        # Figures of another machine are none of this one.
        ((3, 4, 2), lambda report: report["machine"].update(cpu="another"), "openvino/fp32"),
        ((3, 4, 2), lambda report: report["machine"].update(openvino="2020.1"), "openvino/fp32"),
        ((3, 4, 2), lambda report: report.clear(), "openvino/fp32"),
    ],
    ids=[
        "int8 is fastest",
        "fp32 is fastest, as with AMX",
        "fp16 is fastest",
        "int8 unproved",
        "two failed",
        "int8 exported anew",
        "all unproved",
        "fp32 failed and nothing proved",
        "on another CPU",
        "with another OpenVINO",
        "unreadable",
    ],
)
def test_the_best_is_the_fastest_that_is_proved(
    run: Path, latencies: tuple[float, float, float], change: Any, expected: str
) -> None:
    edit(run / "reports" / "parity.json", rows_of(*latencies))
    edit(run / "reports" / "parity.json", change)
    assert best_ir(Run.open(run))[0].name == expected


def test_what_was_chosen_says_why(run: Path) -> None:
    report = run / "reports" / "parity.json"
    edit(report, rows_of(3, 4, 2))
    assert best_ir(Run.open(run))[1] == (
        "the fastest proved one on this machine: 2.0 ms an image; openvino/fp32 3.0 ms, openvino/fp16 4.0 ms"
    )
    edit(report, lambda document: say(document, "unproved", *IRS))
    # In bf16 labels judge, in f32 logits.
    said = "logits within " if default_compute().dtype == "f32" else "at most "
    assert best_ir(Run.open(run))[1].startswith(f"the most exact, as none is proved: {said}")
    edit(report, lambda document: document["machine"].update(cpu="another"))
    assert "ftx validate ran on another machine (another (" in best_ir(Run.open(run))[1]
    report.unlink()
    assert best_ir(Run.open(run))[1] == f"the most exact, as nothing was validated yet: ftx validate {run}"


def test_where_all_have_failed_none_is_taken(run: Path) -> None:
    edit(run / "reports" / "parity.json", lambda report: say(report, "failed", *IRS))
    with pytest.raises(GateFailed, match="every OpenVINO model of this run failed") as caught:
        best_ir(Run.open(run))
    assert caught.value.exit_code == 1


def test_what_failed_elsewhere_is_not_taken_here(run: Path) -> None:
    report = run / "reports" / "parity.json"
    edit(report, lambda document: document["machine"].update(cpu="another"))
    edit(report, lambda document: say(document, "failed", IRS[0]))
    assert best_ir(Run.open(run))[0] == IR_FP16
    edit(report, lambda document: say(document, "failed", *IRS))
    with pytest.raises(GateFailed):
        best_ir(Run.open(run))
    assert furthest(Run.open(run)) == DENSE


def test_a_wider_margin_than_the_recipes_proves_nothing_here(run: Path) -> None:
    edit(run / "reports" / "parity.json", lambda document: document.update(max_drop=0.9))
    assert "a wider margin than the recipe's (--max-drop 0.9)" in best_ir(Run.open(run))[1]


def test_an_ir_of_an_older_dense_model_is_not_taken(run: Path) -> None:
    edit(run / "reports" / "parity.json", rows_of(3, 4, 2))
    edit(run / "run.json", lambda document: document["lineage"]["openvino/int8"].update(digest="another"))
    assert best_ir(Run.open(run))[0] == IR_FP32


def test_without_proof_the_most_exact_is_best(run: Path) -> None:
    (run / "reports" / "parity.json").unlink()
    assert best_ir(Run.open(run))[0] == IR_FP32
    forget(run, "openvino/fp32/")
    assert best_ir(Run.open(run))[0] == IR_FP16
    forget(run, "openvino/fp16/")
    assert best_ir(Run.open(run))[0] == IR_INT8
    forget(run, "openvino/")
    with pytest.raises(RunError, match="no OpenVINO model yet"):
        best_ir(Run.open(run))


def test_every_way_to_name_a_model_opens_it(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "latest").symlink_to("../run")
    monkeypatch.chdir(tmp_path)
    ways = (None, Run.open(run), run, str(run), run / "openvino/int8", run / "openvino/int8/model.xml", "openvino/int8")
    for way in ways:
        predictor = load(way)
        assert predictor.name == "openvino"
        assert predictor.task.labels.names == ("amber", "blue", "green", "red")


def test_dense_and_onnx_folders_answer_as_the_run_does(run: Path, tmp_path: Path) -> None:
    outside = Path(shutil.copytree(run / "dense", tmp_path / "elsewhere" / "dense"))
    opened = {"inside": load(run / "dense"), "outside": load(outside), "onnx": load(run / "onnx")}
    assert opened["outside"].preprocess == opened["inside"].preprocess == Run.open(run).manifest.preprocess
    assert opened["outside"].task.labels == opened["inside"].task.labels
    pixels = np.random.default_rng(0).integers(0, 256, size=(5, 32, 32, 3), dtype=np.uint8)
    expected = opened["inside"].logits(pixels)
    np.testing.assert_array_equal(opened["outside"].logits(pixels), expected)
    # f32 in another order of sums: the graph bound of the design.
    np.testing.assert_allclose(opened["onnx"].logits(pixels), expected, rtol=0, atol=1e-4 * max(1, abs(expected).max()))


def test_the_dense_model_answers_as_timm_does(run: Path) -> None:
    import timm
    import torch

    from ftx.data.preprocess import normalise

    predictor = load_artifact(Run.open(run), "dense")
    oracle = timm.create_model(f"local-dir:{run / 'dense'}", pretrained=True).eval()
    pixels = np.random.default_rng(1).integers(0, 256, size=(3, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = oracle(torch.from_numpy(normalise(pixels, predictor.preprocess))).numpy()
    np.testing.assert_array_equal(predictor.logits(pixels), expected)


def test_what_the_run_does_not_vouch_for_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "dense" / "config.json").write_text("{}")
    with pytest.raises(RunError, match="is not what was written"):
        load(run / "dense")
    alone = Path(shutil.copytree(run / "onnx", tmp_path / "alone"))
    with pytest.raises(ExportError, match="no model here") as caught:
        load(alone)
    assert "outside its run" in str(caught.value)
    with pytest.raises(ExportError, match="no model here"):
        load(tmp_path / "gone")
    with pytest.raises(RunError, match="no artifact 'openvino/int4'"):
        load_artifact(Run.open(run), "openvino/int4")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    with pytest.raises(ExportError, match="does not hold"):
        load(broken)
