from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import ColourModel
from tests.gates.faults import edit_json, edit_report

from ftx.core.errors import ExportError, GateFailed, RunError
from ftx.core.processors import cores
from ftx.core.third_parties import no_telemetry
from ftx.runs.artifacts import DENSE, IR_FP16, IR_FP32, IR_INT8
from ftx.runs.card_json import read_card, write_card
from ftx.runs.machine import this_machine
from ftx.runs.proof_json import ir_digest
from ftx.runs.run import Run
from ftx.runs.tuning_json import OpenvinoSetting, TuningResult, keep_tuned
from ftx.runtimes import load, load_artifact, load_folder
from ftx.runtimes.choose_artifact import best_ir, furthest
from ftx.runtimes.open_model import UNTUNED
from ftx.runtimes.openvino import OpenVinoPredictor, default_compute

with no_telemetry():
    import openvino

WRITTEN = Path(__file__).parents[1] / "written" / "v1" / "multiclass-dora"
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
    assert best_ir(Run.open(run))[1] == ("the fastest verified model here (2.0 ms per image)")
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
    with pytest.raises(RunError, match="has changed since ftx wrote it"):
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
    with pytest.raises(ExportError, match="is invalid"):
        load(broken)


@pytest.fixture
def two(colour_model: ColourModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Models of two runs under one name, of one graph; and a cache of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first, second = (Path(shutil.copytree(colour_model.folder, tmp_path / name / "fp32")) for name in ("a", "b"))
    write_card(second, read_card(second).model_copy(update={"dense_digest": "another"}))
    return first, second


def compiled(tmp_path: Path) -> list[str]:
    """By which names compiled models are kept."""
    return sorted(path.name for path in (tmp_path / "cache" / "ftx" / "openvino").iterdir())


def test_compiled_models_are_kept_by_the_digest_of_their_card(two: tuple[Path, Path], tmp_path: Path) -> None:
    for goal in ("latency", "throughput"):
        for folder in two:
            load_folder(folder, goal=goal)
    assert compiled(tmp_path) == sorted(ir_digest(folder) for folder in two)
    load_folder(two[0])  # who asks for no goal, as ftx validate, has it compiled now
    moved = two[0].rename(tmp_path / "moved")
    load_folder(moved, goal="latency")
    assert compiled(tmp_path) == sorted(ir_digest(folder) for folder in (moved, two[1]))


def test_a_cache_that_does_not_hold_is_removed_and_the_model_opened_without(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some versions of OpenVINO refuse what they find in it; of another model it stays."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    first, second = (load_folder(folder, goal="latency").logits(pixels) for folder in two)
    real = openvino.Core.compile_model

    def refusing(self: openvino.Core, model: Any, device: str, config: Any) -> Any:
        if str(config.get("CACHE_DIR", "")).endswith(ir_digest(two[0])):
            raise RuntimeError("the blob is corrupted")
        return real(self, model, device, config)

    with monkeypatch.context() as patch:
        patch.setattr(openvino.Core, "compile_model", refusing)
        np.testing.assert_array_equal(load_folder(two[0], goal="latency").logits(pixels), first)
        np.testing.assert_array_equal(load_folder(two[1], goal="latency").logits(pixels), second)
        assert compiled(tmp_path) == [ir_digest(two[1])]
    load_folder(two[0], goal="latency")
    (blob,) = (tmp_path / "cache" / "ftx" / "openvino" / ir_digest(two[0])).iterdir()
    assert blob.stat().st_size > 0


def test_a_model_that_does_not_hold_is_refused_with_its_cache_or_without(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: object) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr(openvino.Core, "compile_model", refusing)
    for goal in ("latency", None):
        with pytest.raises(ExportError, match="OpenVINO cannot open this model"):
            load_folder(two[0], goal=goal)


def test_every_way_to_name_a_model_runs_it_for_the_goal_and_in_the_precision_that_are_given(tmp_path: Path) -> None:
    written = Path(shutil.copytree(WRITTEN, tmp_path / "run"))
    device = Path(shutil.copytree(written / "openvino", tmp_path / "device"))
    run = Run.open(written)
    ways = (run, written, str(written), written / "openvino" / "fp32", device, device / "fp32" / "model.xml")
    for goal, compute in (("latency", "auto"), ("throughput", "f32")):
        for way in ways:
            opened = load(way, compute=compute, goal=goal)
            assert isinstance(opened, OpenVinoPredictor)
            assert opened.batch == UNTUNED[goal].batch
            assert opened.compute.chosen_by_runtime == (compute == "auto")
            if goal == "throughput":
                assert opened.streams == cores()
    assert UNTUNED["latency"].batch != UNTUNED["throughput"].batch


def test_what_was_found_fastest_for_a_goal_is_taken_for_that_goal_unless_a_precision_is_named(
    colour_model: ColourModel, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(colour_model.folder, tmp_path / "fp32"))
    keep_tuned(
        folder,
        TuningResult(
            machine=this_machine(),
            processors=cores(),
            latency=OpenvinoSetting(compute="f32", batch=3, threads=1, streams=1),
            p50_ms=1.0, throughput=OpenvinoSetting(compute="auto", batch=7, threads=1, streams=1), images_per_s=9.0,
        ),
    )  # fmt: skip
    for goal, named, batch, chosen in (
        ("latency", "auto", 3, False),
        ("throughput", "auto", 7, True),
        ("latency", "f32", 3, False),
        ("throughput", "f32", 7, False),
    ):
        opened = load_folder(folder, goal=goal, compute=named)
        assert isinstance(opened, OpenVinoPredictor)
        assert (opened.batch, opened.threads, opened.streams) == (batch, 1, 1)
        assert opened.compute.chosen_by_runtime == chosen
        assert str(opened.compute) == ("f32" if not chosen else str(default_compute()))
