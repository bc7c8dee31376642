"""A model in 8 bits has other kernels for one image than for many: both are asked, and the verdict is of both."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.conftest import Listener, made_once, make_whole_run
from tests.gates.faults import vouch_for

from ftx.cli.validate import print_parity
from ftx.core.third_parties import no_telemetry
from ftx.evaluating import validate
from ftx.reporting.facts import gather
from ftx.reporting.measurements import chain, latency, shown_precision
from ftx.runs.artifacts import IR_INT8
from ftx.runs.card_json import PROOF_FILE
from ftx.runs.machine import WITHOUT_VNNI, InstructionSet, cpu_flags, sets_of, this_set
from ftx.runs.parity_json import ParityReport, ParityRow
from ftx.runs.proof_json import PROOF_SCHEMA, read_proof
from ftx.runs.run import Run
from ftx.runtimes import compiled_network, load, load_folder
from ftx.runtimes.choose_artifact import best_ir, best_of, check_proof
from ftx.runtimes.openvino import OpenVinoPredictor, default_compute
from ftx.runtimes.single_kernels import ModelParts

with no_telemetry():
    import openvino as ov
    from openvino import opset13 as ops

# With AVX2 alone there is but one way to run it, as for one image; with AMX but one as well, the whole.
TWO_WAYS = this_set() not in (None, "amx", "avx2")
two_ways = pytest.mark.skipif(not TWO_WAYS, reason="int8 has the same kernels here for one image and for many")
pytestmark = pytest.mark.slow
INT8 = str(IR_INT8)


@pytest.fixture(scope="module")
def many_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in 8 bits whose layers take 197 tokens, and its validation."""

    def make(root: Path) -> None:
        make_whole_run(root, image_size=224, precisions=("int8",))
        assert validate(root / "runs" / "colours").ok

    return made_once(tmp_path_factory, "many_tokens", make) / "runs" / "colours"


@pytest.fixture
def run(many_tokens: Path, tmp_path: Path) -> Run:
    return Run.open(Path(shutil.copytree(many_tokens, tmp_path / "run", symlinks=True)))


def kept(run: Run) -> ParityReport:
    return ParityReport.model_validate_json((run.path / "reports" / "parity.json").read_bytes())


def of_view(report: ParityReport, view: str) -> list[ParityRow]:
    return [row for row in report.own_rows if row.artifact == INT8 and row.view == view]


@two_ways
def test_a_run_is_asked_both_ways_on_all_images(run: Run) -> None:
    report = kept(run)
    whole, alone = of_view(report, "graph"), of_view(report, "one_image")
    # Pinned to f32 it is asked where that is another precision than this CPU's own.
    asked = ["f32", "auto:bf16"] if default_compute().dtype == "bf16" else ["auto:f32"]
    assert [str(row.compute) for row in alone] == asked
    deployed = alone[-1]
    assert deployed.images == len(run.report_entries()) == whole[-1].images
    # The kernels are those of ftx.load: convolutions where the whole has linear layers.
    predictor = load(run.folder(IR_INT8))
    assert isinstance(predictor, OpenVinoPredictor)
    assert deployed.primitives == dict(predictor.kernels().primitives) != whole[-1].primitives
    assert report.verdicts[INT8] == "proved"


@two_ways
def test_how_long_an_image_takes_is_how_long_ftx_load_takes_for_it(run: Run) -> None:
    folder = run.folder(IR_INT8)
    for path in (run.path / "reports" / "parity.json", folder / PROOF_FILE):
        known = json.loads(path.read_bytes())
        for row in (known["run"] if path.name == PROOF_FILE else known)["rows"]:
            row["latency_ms"] = 5.5 if row["view"] == "one_image" else 90.5
        path.write_text(json.dumps(known))
    vouch_for(run.path, "reports/parity.json")
    assert "5.5 ms per image" in best_ir(run)[1]
    assert "5.5 ms per image" in best_of(folder.parent)[1]
    facts = gather(run)
    shown = latency(facts)
    assert shown is not None
    assert {row[-1] for row in shown.rows if row[0] == "onnx"} == {"90.5"}
    assert shown.rows[-1][:2] + shown.rows[-1][-1:] == (INT8, shown_precision(kept(run).rows[-1].compute), "5.5")
    assert [dict(hop.figures)["time per image"] for hop in chain(facts) if hop.name == INT8][-1] == "5.5 ms"


def other_answers(change: Callable[[ov.Output], ov.Output]) -> Callable[..., ModelParts | None]:
    """``single_parts`` with a fault in what it makes."""
    made = compiled_network.single_parts

    def with_a_fault(*asked: object) -> ModelParts | None:
        parts = made(*asked)  # pyright: ignore[reportArgumentType]
        if parts is None:
            return None
        body = parts.body
        outputs = [ops.result(change(body.output(0).get_node().input_value(0)))]
        return ModelParts(parts.preprocessing, ov.Model(outputs, body.get_parameters(), "body"))  # pyright: ignore[reportGeneralTypeIssues]

    return with_a_fault


def times(factor: float, logits: ov.Output) -> ov.Output:
    return ops.multiply(logits, ops.constant([[factor]], ov.Type.f32)).output(0)


@two_ways
def test_a_fault_for_one_image_alone_fails_the_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_network, "single_parts", other_answers(partial(times, -1.0)))
    report = validate(run)
    assert report.verdicts[INT8] == "failed"
    assert {row.verdict for row in of_view(report, "graph") + of_view(report, "files")} == {"proved"}
    assert {row.verdict for row in of_view(report, "one_image")} == {"failed"}
    assert all("one_image view" in problem for problem in report.problems)


@two_ways
def test_a_device_that_answers_one_image_otherwise_does_not_answer_as_there(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run.folder(IR_INT8)
    found = validate(folder)
    assert found.transfer is not None
    assert (found.transfer.same, found.transfer.verdict) == (True, "proved")
    assert [row.view for row in found.rows].count("one_image") == len(of_view(kept(run), "one_image"))
    monkeypatch.setattr(compiled_network, "single_parts", other_answers(partial(times, 1.01)))
    found = validate(folder)
    assert found.transfer is not None
    assert (found.transfer.same, found.transfer.changed) == (False, 0)
    assert "computes other logits than the one that judged it" in found.transfer.summary
    monkeypatch.setattr(compiled_network, "single_parts", other_answers(partial(times, -1.0)))
    found = validate(folder)
    assert found.transfer is not None
    assert (found.transfer.same, found.transfer.verdict) == (False, "failed")
    assert found.transfer.changed > 0.9


@two_ways
def test_a_proof_from_before_says_nothing_of_one_image(run: Run) -> None:
    folder = run.folder(IR_INT8)
    known = json.loads((folder / PROOF_FILE).read_bytes())
    assert known["schema_version"] == PROOF_SCHEMA
    known["run"]["answers"] = [one for one in known["run"]["answers"] if one["view"] == "graph"]
    # A process that was held to this very set, whose precision alone it was asked in.
    deployed = [one for one in known["run"]["answers"] if one["compute"].startswith("auto")]
    held = known["run"] | {"emulated": True, "answers": deployed}
    for proof in (known, known | {"sets": [held]}):
        (folder / PROOF_FILE).write_text(json.dumps(proof))
        found = validate(folder)
        assert found.transfer is not None
        assert not found.transfer.same
        assert "it was not run there in each way that it runs here" in found.transfer.summary
    # The schema before knew no views; of int8 it is not used, by predict neither.
    for one in known["run"]["answers"]:
        del one["view"]
    known["run"]["rows"] = [row for row in known["run"]["rows"] if row["view"] != "one_image"]
    (folder / PROOF_FILE).write_text(json.dumps(known | {"schema_version": 1}))
    listener = Listener()
    check_proof(folder, listener)
    assert "this model is not validated yet on this CPU" in listener.said[0]
    found = validate(folder, progress=listener)
    assert "which did not run int8 on single images" in listener.said[1]
    assert found.transfer is not None
    assert (found.transfer.verdict, found.transfer.same) == ("unproved", False)
    # What is written again is of today's schema, and says so.
    assert json.loads((folder / PROOF_FILE).read_bytes())["schema_version"] == PROOF_SCHEMA


@pytest.mark.skipif(
    not [isa for isa in sets_of(cpu_flags()) if isa not in WITHOUT_VNNI | {this_set(), "amx"}],
    reason="this CPU has no other set with VNNI than its own",
)
def test_in_another_set_it_is_asked_both_ways_too(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    sets: list[InstructionSet] = [isa for isa in sets_of(cpu_flags()) if isa not in WITHOUT_VNNI | {this_set(), "amx"}]
    report = validate(run, isa=sets[:1])
    held = [(row.isa, row.view) for row in report.rows if row.emulated]
    assert {(sets[0], "graph"), (sets[0], "one_image")} == set(held)
    # By other kernels, as here.
    kernels = {row.view: row.primitives for row in report.rows if row.emulated and row.compute.chosen_by_runtime}
    assert kernels["graph"] != kernels["one_image"]
    (of_set,) = read_proof(run.folder(IR_INT8)).sets
    assert {answers.view for answers in of_set.answers} == {"graph", "one_image"}
    # A line a set: labels changed of the way that changed most, milliseconds of one image.
    for row_number, row in enumerate(report.rows):
        if row.emulated:
            told = {"changed": 0.375, "latency_ms": 977.0} if row.view == "graph" else {"latency_ms": 433.0}
            report.rows[row_number] = row.model_copy(update=told)
    print_parity(report)
    of_verdicts, _, _ = capsys.readouterr().out.partition("prediction sets:")
    (line,) = [line for line in of_verdicts.splitlines() if line.startswith(f"{sets[0]} ")]
    assert ("37.5" in line, "433" in line, "977" in line) == (True, True, False)


@pytest.mark.skipif(TWO_WAYS, reason="int8 has kernels of its own for one image here")
def test_where_there_is_one_way_it_is_asked_once(run: Run) -> None:
    assert {row.view for row in kept(run).rows} == {"graph", "files"}
    assert (load_folder(run.folder(IR_INT8)).kernel_path == "single") == (this_set() == "avx2")  # pyright: ignore[reportAttributeAccessIssue]
