"""What lies in a run and is not what the run wrote there is refused by every command that reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from tests.effects.lab import call
from tests.gates.faults import edit_json, keep, vouch
from tests.gates.test_validate import relabel

from ftx.runs.card_json import read_card, write_card

FP32 = "openvino/fp32"


@pytest.fixture
def run(validated_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(validated_run, tmp_path / "run"))


@pytest.fixture
def image(run: Path) -> str:
    return str(next(Path(json.loads((run / "run.json").read_text())["data_root"]).rglob("*.png")))


@pytest.fixture(scope="module")
def others(validated_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another run, whose models name their labels in another order, and hold in themselves."""
    run = Path(shutil.copytree(validated_run, tmp_path_factory.mktemp("others") / "run"))
    for name in ("fp32", "fp16", "int8"):
        relabel(run / "openvino" / name, ["blue", "amber", "green", "red"])
    vouch(run)
    return run


def swap(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


COMMANDS = ("validate IR", "predict IMAGE --artifact IR", "bench IR", "explain IMAGE --artifact IR")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("source", ["another run's", "another precision", "one weight"])
def test_another_model_in_the_place_of_a_runs_is_refused(
    command: str, source: str, run: Path, others: Path, image: str
) -> None:
    if source == "one weight":
        card = read_card(run / FP32)
        with (run / FP32 / "model.bin").open("r+b") as weights:
            weights.seek(4000)
            weights.write(b"\x01\x02\x03\x04")
        write_card(run / FP32, card)
    else:
        swap(others / FP32 if source == "another run's" else run / "openvino" / "fp16", run / FP32)
    said = call(*({"IR": str(run / FP32), "IMAGE": image}.get(word, word) for word in command.split()))
    assert said.status == 2
    assert "a file of the run has changed since ftx wrote it" in " ".join(said.err.split())
    assert "card.json" in said.err


@pytest.mark.parametrize("spelling", ["above", "beside", "a link", "a link to the run", "a link to openvino"])
def test_however_its_place_is_spelt(spelling: str, run: Path, others: Path, tmp_path: Path) -> None:
    swap(others / FP32, run / FP32)
    links = {"a link": FP32, "a link to the run": ".", "a link to openvino": "openvino"}
    if spelling in links:
        (tmp_path / "link").symlink_to(run / links[spelling])
    named = {
        "above": run / "openvino" / "int8" / ".." / "fp32",
        "beside": Path("..", "fp32"),
        "a link": tmp_path / "link",
        "a link to the run": tmp_path / "link" / FP32,
        "a link to openvino": tmp_path / "link" / "fp32",
    }[spelling]
    with chdir(run / "openvino" / "int8"):
        said = call("validate", str(named))
    assert said.status == 2
    assert "a file of the run has changed since ftx wrote it" in " ".join(said.err.split())


def test_a_model_that_the_run_does_not_have_is_refused(run: Path, others: Path) -> None:
    keep(run, "openvino/int8")
    swap(others / FP32, run / FP32)
    said = call("validate", str(run / FP32))
    assert said.status == 2


def test_the_same_model_elsewhere_stands_for_itself(others: Path, image: str, tmp_path: Path) -> None:
    swap(others / FP32, tmp_path / "device")
    assert call("predict", "--artifact", str(tmp_path / "device"), image).status == 0


EDITS: dict[str, Callable[[Any], object]] = {
    "failed": lambda report: report["verdicts"].update({FP32: "failed"}),
    "proved": lambda report: report["verdicts"].update({"openvino/int8": "proved"}),
    "unproved": lambda report: report["verdicts"].update({"openvino/int8": "unproved"}),
    "latency": lambda report: [row.update(latency_ms=0.001) for row in report["rows"]],
    "machine": lambda report: report["machine"].update(cpu="another"),
    "digest": lambda report: report["digests"].update({FP32: "0" * 64}),
    "margin": lambda report: report.update(max_drop=0.5),
    "summary": lambda report: report["summary"].update({FP32: "all is well"}),
    "spelling": lambda report: report.update(ok=report["ok"]),
    "nothing": lambda report: report.clear(),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_validation_is_not_believed(name: str, run: Path, image: str) -> None:
    edit_json(run / "reports" / "parity.json", EDITS[name])
    said = call("predict", image, "--artifact", str(run))
    assert said.status == 2
    told = " ".join(said.err.split())
    assert "parity.json" in told
    assert f"ftx validate {run}" in told.replace("'", "")


def test_validating_again_mends_it(run: Path) -> None:
    keep(run, FP32)
    edit_json(run / "reports" / "parity.json", EDITS["failed"])
    assert call("validate", str(run)).status == 0
    assert json.loads((run / "reports" / "parity.json").read_text())["verdicts"][FP32] == "proved"
