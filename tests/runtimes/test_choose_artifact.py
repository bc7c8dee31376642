"""Which model is taken: by what was proved where, and by how fast it was as it will run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any, Unpack

import pytest
from tests.conftest import Listener
from tests.gates.faults import edit_json, edit_report, vouch_for

from ftx.core.errors import GateFailed
from ftx.core.processors import cores
from ftx.runs.artifacts import DENSE, IR_FP16, IR_FP32, IR_INT8, TRAINED, Artifact
from ftx.runs.machine import this_machine, this_set
from ftx.runs.parity_json import read_parity
from ftx.runs.proof_json import ir_digest
from ftx.runs.run import Run
from ftx.runs.tuning_json import OpenvinoSetting, TuningResult, keep_tuned
from ftx.runtimes import LoadOptions
from ftx.runtimes.choose_artifact import best_ir, best_of, check_proof, furthest, why_not_here

WRITTEN = Path(__file__).parents[1] / "written" / "v1" / "multiclass-dora"
IRS = (IR_FP32, IR_FP16, IR_INT8)
needs_a_set = pytest.mark.skipif(this_set() is None, reason="this CPU has none of the instruction sets")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """All its models proved on this machine; fp32 is the slowest, int8 the fastest."""
    path = Path(shutil.copytree(WRITTEN, tmp_path / "run", ignore=shutil.ignore_patterns("proof.json")))
    milliseconds = {"openvino/fp32": 9.0, "openvino/fp16": 7.0, "openvino/int8": 5.0}

    def proved_here(report: Any) -> None:
        report["machine"] = this_machine().model_dump(mode="json")
        report["verdicts"] = dict.fromkeys(report["verdicts"], "proved")
        for row in report["rows"]:
            deployed = row["view"] == "graph" and row["compute"] != "f32"
            # Otherwise than as it is deployed it would be the other way round.
            row["latency_ms"] = milliseconds.get(row["artifact"], 1.0) if deployed else 1 / row["latency_ms"]

    edit_report(path, "reports/parity.json", proved_here)
    with chdir(tmp_path):
        yield path


def tuned(p50_ms: float) -> TuningResult:
    setting = OpenvinoSetting(threads=1, streams=1)
    return TuningResult(
        machine=this_machine(), processors=cores(), latency=setting, p50_ms=p50_ms, throughput=setting, images_per_s=1.0
    )


def test_settings_of_some_models_do_not_choose_between_them_and_others(run: Path) -> None:
    """Milliseconds of ``ftx bench --save`` and of ``ftx validate`` are not compared with each other."""
    assert best_ir(Run.open(run))[0] == IR_INT8
    keep_tuned(run / "openvino/fp16", tuned(0.25))
    chosen, why = best_ir(Run.open(run))
    assert (chosen, "(5.0 ms per image)" in why) == (IR_INT8, True)
    keep_tuned(run / "openvino/int8", tuned(3.0))
    assert best_ir(Run.open(run))[0] == IR_INT8
    keep_tuned(run / "openvino/fp32", tuned(2.0))
    chosen, why = best_ir(Run.open(run))
    assert chosen == IR_FP16
    assert why.endswith("(0.2 ms per image)")


def test_what_is_not_proved_needs_no_setting(run: Path) -> None:
    edit_report(run, "reports/parity.json", lambda report: report["verdicts"].update({"openvino/int8": "unproved"}))
    for artifact, ms in ((IR_FP32, 2.0), (IR_FP16, 4.0)):
        keep_tuned(run / artifact.name, tuned(ms))
    assert best_ir(Run.open(run))[0] == IR_FP32


def test_a_wider_margin_counts_if_the_recipe_asked_for_it(run: Path) -> None:
    found = read_parity(run)
    assert found is not None
    assert why_not_here(found, Run.open(run)) is None
    wide = found.model_copy(update={"max_drop": 0.3})
    assert "a wider margin than the recipe's (--max-drop 0.3)" in str(why_not_here(wide, Run.open(run)))
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("max_drop: 0.02", "max_drop: 0.3"))
    edit_report(run, "reports/parity.json", lambda raw: raw.update(max_drop=0.3))
    vouch_for(run, "recipe.yaml")
    assert why_not_here(wide, Run.open(run)) is None
    assert best_ir(Run.open(run))[0] == IR_INT8
    assert "(--max-drop 0.31)" in str(why_not_here(found.model_copy(update={"max_drop": 0.31}), Run.open(run)))


def test_nearest_to_the_device_is_the_best_ir_then_dense_then_what_was_trained(run: Path) -> None:
    def forget(prefix: str) -> None:
        def change(raw: Any) -> None:
            raw["files"] = {name: digest for name, digest in raw["files"].items() if not name.startswith(prefix)}

        edit_json(run / "run.json", change)

    assert furthest(Run.open(run)) == IR_INT8
    forget("openvino/")
    assert furthest(Run.open(run)) == DENSE
    forget("dense/")
    assert furthest(Run.open(run)) == TRAINED


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """The models alone, each proved for this instruction set on another machine: fp16 the fastest, then int8."""
    folder = Path(shutil.copytree(WRITTEN / "openvino", tmp_path / "device"))
    for artifact, ms in ((IR_FP32, 9.0), (IR_FP16, 4.0), (IR_INT8, 6.0)):
        prove(folder, artifact, ms)
    return folder


def prove(folder: Path, artifact: Artifact, ms: float, **changed: Any) -> None:
    machine = this_machine().model_copy(update={"cpu": "another"}).model_dump(mode="json")

    def change(proof: Any) -> None:
        proof.update(schema_version=3, ir=ir_digest(folder / artifact.variant))
        if "said" in proof["run"]:  # as schema 2 has it
            proof["run"]["summary"] = proof["run"].pop("said")
        proof["run"] |= {"verdict": "proved", "machine": machine, "isa": this_set(), "emulated": False} | changed
        for row in proof["run"]["rows"]:
            deployed = row["view"] == "graph" and row["compute"] != "f32"
            row["latency_ms"] = ms if deployed else 10 - ms

    edit_json(folder / artifact.variant / "proof.json", change)


def found_here(folder: Path, artifact: Artifact, verdict: str, **changed: Any) -> None:
    """What ``ftx validate IR`` leaves on this machine."""
    transfer = {
        "verdict": verdict, "summary": f"it is {verdict}", "max_drop": 0.02, "same": True, "max_abs": 0.0,
        "bound": 1e-4, "changed": 0.0, "changed_high": 0.25, "machine": this_machine().model_dump(mode="json"),
    }  # fmt: skip
    edit_json(folder / artifact.variant / "proof.json", lambda proof: proof.update(devices=[transfer | changed]))


def chosen_of(device: Path) -> tuple[str, str]:
    folder, why = best_of(device)
    return folder.name, why


@needs_a_set
def test_of_a_folder_the_fastest_that_is_proved_for_this_set_is_taken(device: Path) -> None:
    name, why = chosen_of(device)
    assert name == "fp16"
    assert f"proved on another machine for {this_set()} (4.0 ms per image" in why
    prove(device, IR_FP16, 4.0, verdict="unproved")
    assert chosen_of(device)[0] == "int8"
    prove(device, IR_FP16, 4.0, emulated=True)
    assert f"proved (emulated) for {this_set()}" in chosen_of(device)[1]
    keep_tuned(device / "int8", tuned(2.0))  # timed here
    assert chosen_of(device)[0] == "int8"


@needs_a_set
@pytest.mark.parametrize("changed", [{"machine": {"openvino": "2020.1"}}, {"isa": "another"}, {"isa": None}])
def test_a_proof_with_another_openvino_or_of_another_set_is_none_here(changed: dict[str, Any], device: Path) -> None:
    """Also where all else of its machine is the same."""
    if "machine" in changed:
        machine = this_machine().model_dump(mode="json") | {"cpu": "another"} | changed["machine"]
        changed = {"machine": machine}
    if changed.get("isa") == "another":
        changed = {"isa": "avx2" if this_set() != "avx2" else "avx512"}
    prove(device, IR_FP16, 4.0, **changed)
    assert chosen_of(device)[0] == "int8"
    for artifact in (IR_FP32, IR_INT8):
        prove(device, artifact, 1.0, **changed)
    name, why = chosen_of(device)
    assert (name, why.startswith("the most exact, as none is proved for this machine")) == ("fp32", True)


@needs_a_set
def test_a_set_that_was_asked_in_a_process_held_to_it_counts_too(device: Path) -> None:
    for artifact in IRS:
        prove(device, artifact, 9.0, isa="avx2" if this_set() != "avx2" else "avx512")
    path = device / "int8" / "proof.json"
    held = json.loads(path.read_text())["run"] | {"isa": this_set(), "emulated": True}
    edit_json(path, lambda proof: proof.update(sets=[held | {"verdict": "failed"}]))
    assert chosen_of(device)[0] == "fp32"
    edit_json(path, lambda proof: proof.update(sets=[held]))
    name, why = chosen_of(device)
    assert (name, "proved (emulated)" in why) == ("int8", True)


@needs_a_set
def test_what_this_machine_found_comes_before_what_another_did(device: Path) -> None:
    found_here(device, IR_FP32, "proved")
    name, why = chosen_of(device)
    assert (name, why) == ("fp32", "the fastest verified model here (9.0 ms per image; the only one)")
    found_here(device, IR_INT8, "proved")
    assert chosen_of(device)[0] == "int8"
    # The one that is proved elsewhere failed here.
    found_here(device, IR_INT8, "failed")
    found_here(device, IR_FP16, "failed")
    found_here(device, IR_FP32, "unproved")
    assert chosen_of(device)[0] == "fp32"
    found_here(device, IR_FP32, "failed")
    with pytest.raises(GateFailed, match="every model of this folder failed"):
        best_of(device)


@needs_a_set
def test_of_proved_ones_that_nobody_timed_the_one_with_the_least_bits_is_taken(device: Path) -> None:
    for artifact in (IR_FP32, IR_INT8):
        found_here(device, artifact, "proved")
        prove(device, artifact, 1.0, isa=None)
    name, why = chosen_of(device)
    assert (name, f"ftx bench --save {device} finds the fastest" in why) == ("int8", True)
    for artifact, ms in ((IR_FP32, 1.0), (IR_INT8, 2.0)):
        keep_tuned(device / artifact.variant, tuned(ms))
    assert chosen_of(device)[0] == "fp32"


@needs_a_set
def test_of_a_run_that_another_machine_validated_what_is_proved_for_this_set_is_taken(run: Path) -> None:
    edit_report(run, "reports/parity.json", lambda report: report["machine"].update(cpu="another"))
    assert best_ir(Run.open(run))[0] == IR_FP32  # the most exact, as nothing lies beside them
    for artifact, ms in ((IR_FP16, 4.0), (IR_INT8, 3.0)):
        shutil.copy(WRITTEN / artifact.name / "proof.json", run / artifact.name)
        prove(run / "openvino", artifact, ms)
    chosen, why = best_ir(Run.open(run))
    assert (chosen, f"proved on another machine for {this_set()} (3.0 ms per image" in why) == (IR_INT8, True)
    # The report knows that it is no longer so.
    edit_report(run, "reports/parity.json", lambda report: report["verdicts"].update({"openvino/int8": "unproved"}))
    assert best_ir(Run.open(run))[0] == IR_FP16
    edit_report(run, "reports/parity.json", lambda report: report["digests"].update({"openvino/fp16": "another"}))
    assert best_ir(Run.open(run))[0] == IR_FP32


def noted(folder: Path, **options: Unpack[LoadOptions]) -> list[str]:
    listener = Listener()
    check_proof(folder, listener, **options)
    return listener.said


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("proved", []),
        ("unproved", ["this model is unproved on this machine: it is unproved"]),
        ("failed", ["this model is failed on this machine: it is failed"]),
    ],
)
def test_who_predicts_with_a_model_that_is_not_proved_here_is_told(verdict: str, said: list[str], device: Path) -> None:
    folder = device / "fp16"
    again = f"this model is not validated yet on this CPU and version of OpenVINO: run ftx validate {folder}"
    assert noted(folder) == [again]  # proved elsewhere, for this set
    assert noted(folder, require_proof=True) == [again]
    found_here(device, IR_FP16, verdict)
    assert noted(folder, allow_failed=True) == said
    for refused, options in (
        (verdict == "failed", LoadOptions()),
        (verdict != "proved", LoadOptions(require_proof=True)),
        (verdict != "proved", LoadOptions(require_proof=True, allow_failed=True)),
    ):
        if refused:
            with pytest.raises(GateFailed) as caught:
                noted(folder, **options)
            assert f"it is {verdict}" in str(caught.value.found)
        else:
            assert noted(folder, **options) == said
    found_here(device, IR_FP16, verdict, max_drop=0.03)  # the run's margin is 0.02
    assert noted(folder) == [again]
    prove(device, IR_FP16, 1.0, max_drop=0.03)
    assert noted(folder, allow_failed=True) == said


def test_a_proof_on_the_cpu_is_none_on_another_device(device: Path) -> None:
    folder = device / "fp16"
    found_here(device, IR_FP16, "proved")
    assert noted(folder) == []
    again = f"this model is not validated yet on AUTO of this machine: run ftx validate {folder} --device AUTO"
    assert noted(folder, device="AUTO") == [again]
    with pytest.raises(GateFailed, match="--require-proof"):
        noted(folder, device="AUTO", require_proof=True)
    assert best_of(device, "AUTO")[0].name == "fp32"
    on_auto = this_machine("AUTO").model_dump(mode="json")
    found_here(device, IR_FP16, "proved", machine=on_auto)
    assert noted(folder, device="AUTO", require_proof=True) == []
    assert noted(folder) != []
    assert best_of(device, "AUTO")[0].name == "fp16"
    found_here(device, IR_FP32, "failed", machine=on_auto)
    found_here(device, IR_FP16, "failed", machine=on_auto)
    assert best_of(device, "AUTO")[0].name == "int8"
    with pytest.raises(GateFailed, match=r"failed ftx validate on this machine on AUTO"):
        noted(folder, device="AUTO")


@needs_a_set
def test_a_proof_on_a_gpu_is_none_on_the_cpu(device: Path) -> None:
    gpu = this_machine("GPU").model_dump(mode="json") | {"cpu": "another"}

    def change(proof: Any) -> None:
        proof["sets"] = [proof["run"] | {"machine": gpu, "isa": this_set()}]
        proof["run"] |= {"verdict": "unproved"}

    edit_json(device / "fp16" / "proof.json", change)
    assert chosen_of(device)[0] == "int8"
    with pytest.raises(GateFailed, match="--require-proof"):
        noted(device / "fp16", require_proof=True)


def test_a_verdict_of_another_release_counts_once_that_is_installed(device: Path) -> None:
    """``ftx validate RUN --openvino`` keeps it next to the models."""
    here = this_machine().model_dump(mode="json")

    def change(proof: Any) -> None:
        proof["sets"] = [proof["run"] | {"machine": here | {"openvino": one}, "verdict": "failed"} for one in versions]

    versions = ["2025.4.1"]
    edit_json(device / "fp16" / "proof.json", change)
    assert len(noted(device / "fp16")) == 1
    versions.append(here["openvino"])
    edit_json(device / "fp16" / "proof.json", change)
    with pytest.raises(GateFailed, match="failed ftx validate"):
        noted(device / "fp16")


def test_the_machine_that_judged_the_run_needs_no_other_proof(device: Path) -> None:
    prove(device, IR_FP16, 1.0, machine=this_machine().model_dump(mode="json"))
    assert noted(device / "fp16") == []
    prove(device, IR_FP16, 1.0, machine=this_machine().model_dump(mode="json"), verdict="unproved", summary="of 8")
    assert noted(device / "fp16") == ["this model is unproved on this machine: of 8"]


def test_what_was_found_of_the_model_since_comes_before_the_verdict_of_its_run(device: Path) -> None:
    for since, told in (("unproved", ["this model is unproved on this machine: it is unproved"]), ("proved", [])):
        before = "proved" if since == "unproved" else "failed"
        prove(device, IR_FP16, 1.0, machine=this_machine().model_dump(mode="json"), verdict=before)
        found_here(device, IR_FP16, since)
        assert noted(device / "fp16") == told
        assert (chosen_of(device)[0] == "fp16") == (since == "proved")
