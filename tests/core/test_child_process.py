"""A function in a process of its own: its answer, its errors, its death."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from ftx.core.child_process import ask
from ftx.core.errors import EnvironmentFault, ExportError


class Number(BaseModel):
    value: int


CODE = """
import os, signal
from pydantic import BaseModel
from ftx.core.child_process import answer_on_stdout
from ftx.core.errors import ExportError

class Number(BaseModel):
    value: int

def answer(question):
    print("what a library says meanwhile")
    if question.value == 0:
        raise ExportError("nothing", where="here", found="zero", fix="one")
    if question.value == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if question.value == 2:
        raise ZeroDivisionError("of ours")
    return Number(value=question.value * int(os.environ.get("FACTOR", "2")))

answer_on_stdout(Number, answer)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "asked_by_test.py").write_text(CODE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    return "asked_by_test"


def test_an_answer_comes_back_whatever_else_was_printed(module: str) -> None:
    assert ask(module, Number(value=21), Number).value == 42


def test_its_environment_is_its_own(module: str) -> None:
    assert ask(module, Number(value=21), Number, {"FACTOR": "10"}).value == 210
    assert "FACTOR" not in os.environ


def test_an_error_of_ours_is_raised_here(module: str) -> None:
    with pytest.raises(ExportError) as raised:
        ask(module, Number(value=0), Number)
    assert raised.value.details() == [("where", "here"), ("found", "zero"), ("fix", "one")]


@pytest.mark.parametrize(
    ("value", "found"), [(1, "killed by SIGKILL"), (2, "exit status 1: ZeroDivisionError: of ours")]
)
def test_a_process_that_died_is_the_machines_fault(module: str, value: int, found: str) -> None:
    with pytest.raises(EnvironmentFault) as raised:
        ask(module, Number(value=value), Number)
    assert raised.value.found == found


def test_no_module_of_the_current_folder_is_taken_for_ours(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "pydantic.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(here)
    assert ask(module, Number(value=3), Number).value == 6
