"""A function in a process of its own: its answer, its errors, its death."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from ftx.core.child_process import Fault, run_in_child
from ftx.core.errors import EnvironmentFault, ExportError, FtxError, GateFailed, InputError
from ftx.training.loop import Diverged


class Number(BaseModel):
    value: int


CODE = """
import os, signal
from pathlib import Path
from pydantic import BaseModel
from ftx.core.child_process import reply_on_stdout
from ftx.core.errors import ExportError
from ftx.core.untrusted_input import require_file

class Number(BaseModel):
    value: int

def answer(question):
    print("what a library says meanwhile")
    if question.value == 0:
        raise ExportError("nothing", where="here", found="zero", fix="one")
    if question.value == 7:
        require_file(Path.home())
    if question.value == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if question.value == 2:
        raise ZeroDivisionError("of ours")
    return Number(value=question.value * int(os.environ.get("FACTOR", "2")))

reply_on_stdout(Number, answer)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "asked_by_test.py").write_text(CODE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    return "asked_by_test"


def test_an_answer_comes_back_whatever_else_was_printed(module: str) -> None:
    assert run_in_child(module, Number(value=21), Number).value == 42


def test_its_environment_is_its_own(module: str) -> None:
    assert run_in_child(module, Number(value=21), Number, {"FACTOR": "10"}).value == 210
    assert "FACTOR" not in os.environ


def test_what_is_given_goes_over_what_the_shell_has(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTOR", "3")
    assert run_in_child(module, Number(value=21), Number).value == 63
    assert run_in_child(module, Number(value=21), Number, {"FACTOR": "10"}).value == 210


def test_an_error_of_ours_is_raised_here(module: str) -> None:
    with pytest.raises(ExportError) as raised:
        run_in_child(module, Number(value=0), Number)
    assert raised.value.details() == [("where", "here"), ("found", "zero"), ("fix", "one")]


def test_an_error_of_another_module_is_raised_as_the_kind_that_it_is_of(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match="must be a regular file") as raised:
        run_in_child(module, Number(value=7), Number)
    assert raised.value.exit_code == 2
    assert raised.value.details() == [
        ("where", str(tmp_path)),
        ("found", "a folder"),
        ("fix", "give the path of a regular file"),
    ]


@pytest.mark.parametrize("error", [Diverged("x", found="nan"), EnvironmentFault("x", fix="y"), GateFailed("x")])
def test_what_is_told_has_the_status_and_the_words_of_the_error(error: FtxError) -> None:
    told = Fault.model_validate_json(Fault.of(error).model_dump_json()).as_error()
    assert isinstance(error, type(told))
    assert (told.exit_code, str(told)) == (error.exit_code, str(error))


@pytest.mark.parametrize(
    ("value", "found"), [(1, "killed by SIGKILL"), (2, "exit status 1: ZeroDivisionError: of ours")]
)
def test_a_process_that_died_is_the_machines_fault(module: str, value: int, found: str) -> None:
    with pytest.raises(EnvironmentFault) as raised:
        run_in_child(module, Number(value=value), Number)
    assert raised.value.found == found


def test_no_module_of_the_current_folder_is_taken_for_ours(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "pydantic.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(here)
    assert run_in_child(module, Number(value=3), Number).value == 6
