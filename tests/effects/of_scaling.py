"""What the flags of ``ftx predict --out`` change."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import write_colour_ir
from tests.effects.lab import Lab, Said


def _answered(lab: Lab, name: str, *words: object, status: int = 0) -> Said:
    said = lab.call("predict", "noise/val", "--artifact", _model(lab), "--out", lab.root / name, *words)
    assert said.status == status, said.err
    return said


def _model(lab: Lab) -> Path:
    folder = lab.root / "colour-ir"
    if not folder.exists():
        folder.mkdir()
        write_colour_ir(folder)
    return folder


def out(lab: Lab, flag: str, value: str) -> None:
    said = _answered(lab, "answers-out.jsonl")
    lines = lab.done("predict", "noise/val", "--artifact", _model(lab), "--json").out
    assert (lab.root / "answers-out.jsonl").read_text() == lines
    assert "answers-out.jsonl" in said.out
    _answered(lab, "answers-out.jsonl", status=2)


def form(lab: Lab, flag: str, value: str) -> None:
    _answered(lab, "answers-form", flag, value)
    assert (lab.root / "answers-form").read_bytes()[:4] == b"PAR1"
    _answered(lab, "answers-form.jsonl")
    assert (lab.root / "answers-form.jsonl").read_bytes()[:1] == b"{"
    _answered(lab, "answers-wrong", flag, "parque", status=2)


def engine(lab: Lab, flag: str, value: str) -> None:
    said = _answered(lab, "answers-ray.jsonl", flag, value, "--json").json
    assert said["engine"] == "ray"
    assert said["workers"] >= 1
    assert _answered(lab, "answers-local.jsonl", "--json").json["engine"] == "local"
    assert (lab.root / "answers-ray.jsonl").read_text() == (lab.root / "answers-local.jsonl").read_text()


def address(lab: Lab, flag: str, value: str) -> None:
    said = _answered(lab, "answers-address.jsonl", "--engine", "ray", flag, value, status=3)
    assert "Ray does not respond" in said.err
    assert value in said.err


def workers(lab: Lab, flag: str, value: str) -> None:
    said = _answered(lab, "answers-workers.jsonl", "--engine", "ray", flag, value, "--json").json
    assert said["workers"] == int(value)
