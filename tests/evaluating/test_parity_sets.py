"""The models in processes held to other instruction sets, and what that is worth on a device that has such a CPU."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Listener
from tests.effects.lab import call

from ftx.cli.validate import parse_sets
from ftx.core.errors import GateFailed, InputError
from ftx.evaluating import held_process, validate
from ftx.runs.machine import INSTRUCTION_SETS, InstructionSet, cpu_flags, environment, sets_of, this_set
from ftx.runs.parity_json import ParityReport
from ftx.runs.proof_json import ReferenceLogits, read_proof
from ftx.runtimes import load
from ftx.runtimes.choose_artifact import best_of

OTHER: InstructionSet = "avx2"
pytestmark = pytest.mark.skipif(
    OTHER not in sets_of(cpu_flags()) or this_set() == OTHER, reason="this CPU has no other set than AVX2"
)


@pytest.fixture
def run(validated_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(validated_run, tmp_path / "run", symlinks=True))


@pytest.fixture
def folder(colour_model: Any, tmp_path: Path) -> Path:
    """On a device it has whatever name it was given."""
    return Path(shutil.copytree(colour_model.folder, tmp_path / "models" / "colours"))


def on_a_device(folder: Path) -> ParityReport:
    """What a CPU of the other set finds: as good as one, a process held to it."""
    command = [sys.executable, "-m", "ftx", "validate", str(folder), "--json"]
    done = subprocess.run(command, env=os.environ | environment(OTHER), stdout=subprocess.PIPE, check=True)
    return ParityReport.model_validate_json(done.stdout)


@pytest.mark.slow
def test_a_run_is_asked_in_the_other_set_and_the_proof_lies_beside_the_model(run: Path) -> None:
    report = validate(run, isa=(OTHER,))
    assert report.ok
    irs = [name for name in report.verdicts if name.startswith("openvino/")]
    assert [(one.artifact, one.isa, one.emulated) for one in report.sets] == [(name, OTHER, True) for name in irs]
    held = [row for row in report.rows if row.emulated]
    assert {row.isa for row in held} == {OTHER}
    assert {row.artifact for row in held} == set(irs)
    assert not [row for row in report.own_rows if row.isa == OTHER]
    for row in held:
        assert row.view == "graph"
        assert row.latency_ms > 0
        assert row.primitives
        assert not [kernel for kernel in row.primitives if "avx512" in kernel or "amx" in kernel]
    for name in irs:
        (of_set,) = read_proof(run / name).sets
        assert (of_set.isa, of_set.emulated, of_set.verdict) == (OTHER, True, "proved")
        assert any(OTHER.upper() in limit for limit in of_set.machine.instructions)
    # Asked again without the set, what is known of it stays.
    validate(run)
    assert [proof.isa for proof in read_proof(run / irs[0]).sets] == [OTHER]


@pytest.mark.slow
def test_where_int8_fails_without_vnni_the_command_that_is_printed_makes_a_model_that_does_not(run: Path) -> None:
    """A bound between what int8 is off here and what it is off there."""
    rows = [row for row in validate(run, isa=(OTHER,)).rows if row.artifact == "openvino/int8" and row.view == "graph"]
    here, there = (max(row.max_abs or 0 for row in rows if row.emulated is one) for one in (False, True))
    assert there > 1.2 * here  # the products saturate
    bound = f"int8.graph.max_abs={(here + there) / 2}"
    said = call("validate", str(run), "--isa", OTHER, "--bound", bound, "--json")
    assert said.status == 1
    assert not (run / "openvino" / "int8-overflow-safe").exists()
    (line,) = [line for line in said.err.splitlines() if "7 bits" in line]
    command = shlex.split(line[line.index("ftx export") :])
    assert call(*command[1:]).status == 0
    said = call("validate", str(run), "--isa", OTHER, "--bound", bound, "--json")
    assert "7 bits" not in said.err
    report = ParityReport.model_validate_json(said.out)
    found = {one.artifact: one.verdict for one in report.sets}
    assert found["openvino/int8"] == "failed"
    assert found["openvino/int8-overflow-safe"] != "failed"
    assert said.status == 1  # int8 is still there, and still fails in that set


@pytest.mark.slow
def test_a_device_of_the_set_repeats_the_answers_and_is_proved(run: Path, tmp_path: Path) -> None:
    validate(run, isa=(OTHER,))
    device = Path(shutil.copytree(run / "openvino", tmp_path / "device"))
    name = sorted(child.name for child in device.iterdir())[0]
    report = on_a_device(device / name)
    assert report.transfer is not None
    assert report.transfer.same
    assert report.transfer.verdict == "proved"
    assert f"which was limited to {OTHER} proved" in report.transfer.summary
    assert report.verdicts == {f"openvino/{name}": "proved"}
    known = read_proof(device / name)
    assert [proof.isa for proof in known.sets] == [OTHER]  # both are kept
    assert [found.verdict for found in known.devices] == ["proved"]


def test_a_folder_is_asked_in_the_other_set(folder: Path) -> None:
    listener = Listener()
    report = validate(folder, isa=(OTHER,), max_drop=0.3, progress=listener)
    assert {row.max_drop for row in report.rows} == {0.3}
    (one,) = report.sets
    assert (one.artifact, one.isa, one.emulated) == ("openvino/fp32", OTHER, True)
    assert one.verdict in ("proved", "unproved")
    assert {row.emulated for row in report.rows} == {False, True}
    machines = [found.machine.instructions for found in read_proof(folder).devices]
    assert len(machines) == 2  # by machine, and a process that is held to a set is one of its own


def test_a_set_that_the_cpu_lacks_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_process, "sets_of", lambda flags: ())
    report = validate(folder, isa=("amx", "avx512_bf16"))
    others = [one for one in report.sets if one.isa != this_set()]
    assert others
    assert {one.verdict for one in others} == {"not_run"}
    assert {one.artifact for one in report.sets} == {"openvino/fp32"} == set(report.verdicts)
    assert report.ok


def test_this_machines_own_set_needs_no_process(folder: Path) -> None:
    own = this_set()
    assert own is not None
    report = validate(folder, isa=(own,))
    (one,) = report.sets
    assert (one.isa, one.emulated, one.verdict) == (own, False, report.verdicts["openvino/fp32"])


def test_what_fails_in_a_set_fails_the_validation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = held_process.run_in_child

    def failed(module: str, question: Any, answer: Any, environment: Any) -> Any:
        rows = real(module, question, answer, environment).rows
        return answer(rows=[row.model_copy(update={"logits": wrong(row.logits)}) for row in rows])

    def wrong(logits: ReferenceLogits) -> ReferenceLogits:
        return ReferenceLogits.of(logits.compute, logits.array + 1, logits.view)

    monkeypatch.setattr(held_process, "run_in_child", failed)
    report = validate(folder, isa=(OTHER,))
    assert set(report.verdicts.values()) != {"failed"}
    assert not report.ok


def test_bounds_of_ones_own_and_sets_do_not_go_together(folder: Path) -> None:
    with pytest.raises(InputError, match="--bound cannot be combined with --isa"):
        validate(folder, isa=(OTHER,), bounds={"fp32.graph.max_abs": 1.0})


def test_sets_are_named_in_words() -> None:
    assert parse_sets(["avx2,amx", "avx512"]) == ["avx2", "amx", "avx512"]
    assert parse_sets(["all"]) == list(INSTRUCTION_SETS)
    assert parse_sets(["native"]) == [this_set()]
    with pytest.raises(InputError, match="--isa must be one of") as raised:
        parse_sets(["avx51"])
    assert (raised.value.found, raised.value.fix) == ("avx51", "did you mean 'avx512'?")


def write_proof(folder: Path, **changes: object) -> None:
    """The proof that is there, as of another machine, with its run's part changed."""
    path = folder / "proof.json"
    document = json.loads(path.read_text())
    document["run"]["machine"]["cpu"] = "another"
    document["run"] |= changes
    document["devices"] = []
    path.write_text(json.dumps(document))


def test_on_another_machine_what_is_proved_for_its_set_is_taken(run: Path, tmp_path: Path) -> None:
    device = Path(shutil.copytree(run / "openvino", tmp_path / "device"))
    models = [child for child in sorted(device.iterdir()) if child.is_dir()]
    for model in models:
        write_proof(model, verdict="proved", isa=this_set(), emulated=True)
    chosen, why = best_of(device)
    assert chosen in models
    assert f"proved (emulated) for {this_set()}" in why
    assert "ftx validate" in why
    listener = Listener()
    load(device, progress=listener)
    assert any(f"model: {chosen}" in note for note in listener.said)
    for model in models:
        write_proof(model, verdict="proved", isa="avx512" if this_set() != "avx512" else "avx2")
    assert "the most exact, as none is proved for this machine" in best_of(device)[1]


def test_a_folder_of_models_that_all_failed_here_is_refused(folder: Path) -> None:
    validate(folder)
    path = folder / "proof.json"
    document = json.loads(path.read_text())
    for found in document["devices"]:
        found["verdict"] = "failed"
    path.write_text(json.dumps(document))
    with pytest.raises(GateFailed, match="failed ftx validate"):
        best_of(folder.parent)
