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

from make_transcripts import (  # noqa: E402
    CUT,
    Block,
    Command,
    Folders,
    blocks,
    files,
    printed_by,
    rewritten,
    shape,
    transcripts,
)
from terminal import animated, draw, plain, screen  # noqa: E402

FILES = files()
# Whose commands run as they stand there, which takes an hour for all; those of the pages run in tests/test_pages.py.
REAL = [path for path in FILES if path == ROOT / "README.md"]
FIVE = """
```console
$ ftx a
one
...
six
$ ftx b 'c d'
```
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The set-ups of pages, made once for all."""
    return Folders(tmp_path_factory.mktemp("pages"))


def test_a_transcript_is_rewritten_with_as_many_lines_as_it_shows() -> None:
    a, b = transcripts(FIVE)[0]
    assert (a, b) == (Command("ftx a", ("one", CUT, "six")), Command("ftx b 'c d'", ()))
    screens = [[[f"\x1b[1m{number}\x1b[0m" for number in range(5)], ["x", "y "]]]
    assert rewritten(FIVE, screens) == "\n```console\n$ ftx a\n0\n...\n4\n$ ftx b 'c d'\nx\ny\n```\n"


def test_blocks_of_a_page_run_except_those_that_say_why_not() -> None:
    page = "\n\n".join(
        [
            "<!-- not run: needs a GPU -->\n```sh\nftx a\n```",
            "```sh\npip install b\nftx b\n```",
            "```python\nprint(1)\n```",
            "```text\nold\n```",
            "```text\nother\n```",
        ]
    )
    b = Command("ftx b", ())
    assert blocks(page) == [Block("sh", (b,)), Block("python", code="print(1)\n", text="old\n")]
    assert rewritten(page, [[["b"]], [["1"]]]) == page.replace("old", "1")


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


def test_a_long_line_breaks_between_words() -> None:
    first, second = "a" * 50 + " " + "b" * 48, "c" * 3
    assert screen(f"{first} {second}\r\nd") == [f"\x1b[m{line}\x1b[0m" for line in (f"{first} ", second, "d")]
    assert [plain(line) for line in screen(f"{first}bc {second}")] == ["a" * 50, "b" * 48 + "bc ccc"]
    assert [len(plain(line)) for line in screen("a" * 103)] == [100, 3]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_a_transcript_are_valid_and_have_output(path: Path) -> None:
    program: Any = typer.main.get_command(app)
    for commands in transcripts(path.read_text(encoding="utf-8")):
        for command in commands:
            name, *words = shlex.split(command.line)
            assert name == "ftx"
            if words == ["--version"]:
                continue
            context = program.make_context("ftx", list(words), resilient_parsing=True)
            one = program.get_command(context, words[0])
            if hasattr(one, "list_commands"):
                one, words = one.get_command(context, words[1]), words[1:]
            one.make_context(words[0], list(words[1:]))
            assert command.shown, f"make transcripts: {command.line}"


@pytest.mark.slow
@pytest.mark.parametrize("path", REAL, ids=lambda path: str(path.relative_to(ROOT)))
def test_output_has_the_structure_that_a_transcript_shows(path: Path, tmp_path: Path, folders: Folders) -> None:
    """Also that all other commands and the Python code of a page run."""
    text = path.read_text(encoding="utf-8")
    for block, screens in zip(blocks(text), printed_by(text, tmp_path, folders), strict=True):
        shown = [Command(block.code, tuple((block.text or "").splitlines()))] if block.code else list(block.commands)
        for command, printed in zip(shown, screens, strict=True):
            if block.kind == "console" or block.text is not None:
                now = command.trimmed([plain(line) for line in printed])
                assert shape(now) == shape(list(command.shown)), command.line
