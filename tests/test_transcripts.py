"""The output that README.md and the pages show: from commands that exist, and of the same structure when they run."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from ftx.cli.app import app

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from make_transcripts import CUT, Command, printed_by, rewritten, shape, transcripts  # noqa: E402
from terminal import animated, draw, plain, screen  # noqa: E402

FILES = [
    path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs" / "pages").glob("*.md")))
    if transcripts(path.read_text(encoding="utf-8"))
]
FIVE = """
```console
$ ftx a
one
...
six
$ ftx b 'c d'
```
"""


def test_a_transcript_is_rewritten_with_as_many_lines_as_it_shows() -> None:
    a, b = transcripts(FIVE)[0]
    assert (a, b) == (Command("ftx a", ("one", CUT, "six")), Command("ftx b 'c d'", ()))
    screens = [[[f"\x1b[1m{number}\x1b[0m" for number in range(5)], ["x", "y "]]]
    assert rewritten(FIVE, screens) == "\n```console\n$ ftx a\n0\n...\n4\n$ ftx b 'c d'\nx\ny\n```\n"


def test_two_runs_are_alike_but_for_figures() -> None:
    lines = ["openvino/fp32  bf16   79.8 %  16.0", "time  1,203.5 s"]
    assert shape(lines) == ["openvino/PRECISION PRECISION 0 % 0", "time 0 s"]
    assert shape(lines) == shape(["openvino/fp32 fp32 9.81 % 7", "time 3 s"])
    assert shape(lines) != shape(["openvino/fp32  bf16   79.8 %  16.0  proved", "time  1,203.5 s"])


def test_lines_of_a_terminal_appear_one_after_the_other() -> None:
    lines = screen("\x1b[1m$ ftx a\x1b[0m\r\n\r\nresult\x1b[32m good\x1b[0m")
    assert [plain(line) for line in lines] == ["$ ftx a", "", "result good"]
    drawn = animated(draw(lines, "light"), {0: 0.5, 1: 2.0})
    assert re.findall(r"animation-delay:([\d.]+)s", drawn) == ["0.50", "2.00", "2.00"]
    assert "prefers-reduced-motion" in drawn


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_commands_of_a_transcript_are_valid_and_have_output(path: Path) -> None:
    program: Any = typer.main.get_command(app)
    for commands in transcripts(path.read_text(encoding="utf-8")):
        for command in commands:
            name, *words = shlex.split(command.line)
            assert name == "ftx"
            context = program.make_context("ftx", list(words), resilient_parsing=True)
            one = program.get_command(context, words[0])
            if hasattr(one, "list_commands"):
                one, words = one.get_command(context, words[1]), words[1:]
            one.make_context(words[0], list(words[1:]))
            assert command.shown, f"make transcripts: {command.line}"


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_output_has_the_structure_that_a_transcript_shows(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for commands, screens in zip(transcripts(text), printed_by(text, tmp_path), strict=True):
        for command, printed in zip(commands, screens, strict=True):
            now = command.trimmed([plain(line) for line in printed])
            assert shape(now) == shape(list(command.shown)), command.line
