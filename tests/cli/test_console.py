"""What is drawn on a terminal of a known width: nothing is lost there, and columns stay apart."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest

from ftx.cli import console
from ftx.core.errors import RunError

LONG = "/".join(["a folder"] * 12)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def terminal(term: str = "dumb", columns: int = 40) -> Iterator[Terminal]:
    """A terminal of so many columns, without colours."""
    with pytest.MonkeyPatch.context() as patch, Terminal() as shown, redirect_stdout(shown), redirect_stderr(shown):
        for name, value in {"COLUMNS": str(columns), "LINES": "25", "TERM": term}.items():
            patch.setenv(name, value)
        yield shown


def test_what_is_said_stays_one_line_to_copy() -> None:
    """The terminal breaks a long line by itself, and gives it back whole."""
    with terminal() as shown:
        console.print_note(LONG)
        console.print_error(RunError(LONG, where=LONG))
        console.print_facts([("run", LONG)])
        console.TerminalProgress().note(LONG)
        lines = shown.getvalue().splitlines()
    assert lines == [LONG, f"error: {LONG}", f"  where: {LONG}", f"run  {LONG}", LONG]


@pytest.mark.parametrize(
    "text", ["a\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "\u202etxt", "a\rb", "\x00", "x\nerror: forged", "\u2028y"]
)
def test_what_a_file_says_does_not_steer_the_terminal(text: str) -> None:
    with terminal() as shown:
        console.print_note(text)
        console.print_error(RunError(text, where=text, found=text, fix=text))
        console.print_facts([("run", text)])
        console.print_table(("name",), [(text,)], title=text)
        console.print_tree(text, [console.TreeLine(text, text)])
        console.TerminalProgress().note(text)
        said = shown.getvalue()
    assert said.count(ascii(text)[1:-1]) == 8 + 4 * ("\n" not in text)  # an error of several lines is indented
    assert not [line for line in said.splitlines() if line.startswith("error: forged")]
    assert all(one.isprintable() or one == "\n" for one in said)


def test_a_table_that_is_too_wide_is_folded_and_loses_nothing() -> None:
    names = ("b" * 35, "c" * 35)
    with terminal() as shown:
        console.print_table(("first", "second", "share"), [(*names, "12.5")], title=LONG)
        title, _, *lines = shown.getvalue().splitlines()
    assert title == LONG
    assert all(len(line) <= 40 for line in lines)
    assert lines[0].split()[2] == "12.5"  # half a number is none
    cells = [line.split()[:2] for line in lines]  # a blank stands between two columns
    assert ["".join(column) for column in zip(*cells, strict=True)] == list(names)


def test_numbers_stand_flush_right_and_names_flush_left() -> None:
    with terminal() as shown:
        console.print_table(("of", "n", "m"), [("ab", "5", "x"), ("c", "10", "-")])
        lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert lines == ["of   n  m", "ab   5  x", "c   10  -"]


def test_a_share_above_nothing_is_seen() -> None:
    with redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")):
        assert [len(console.bar(share, 20)) for share in (0.0, 0.001, 0.5, 1.0)] == [0, 1, 10, 20]


def test_what_is_said_is_seen_at_once() -> None:
    """A log is read while the work goes on: a note must not wait until a buffer is full."""
    log = io.BytesIO()
    with redirect_stderr(io.TextIOWrapper(log, encoding="utf-8")):
        console.print_note("half way")
        assert log.getvalue() == b"half way\n"


def test_a_step_is_one() -> None:
    with terminal("xterm") as shown:
        with console.TerminalProgress().track("decoding", 7) as bar:
            bar.advance()
            time.sleep(0.15)  # it is drawn ten times a second
        text = shown.getvalue()
    assert "1/7" in text
    assert "2/7" not in text


def test_a_bar_whose_work_is_done_does_not_come_back() -> None:
    """Neither while other work of the same command goes on, nor when its next piece begins."""
    with terminal("xterm") as shown:
        progress = console.TerminalProgress()

        def drawn() -> str:
            shown.truncate(0)
            progress._bars.refresh()
            return shown.getvalue()

        with progress.track("outer", 9):
            with progress.track("first", 3):
                assert all(name in drawn() for name in ("outer", "first"))
            assert "first" not in drawn()
            with pytest.raises(ZeroDivisionError), progress.track("second", 3):
                raise ZeroDivisionError
            with progress.track("third", 3):
                text = drawn()
                assert all(name in text for name in ("outer", "third"))
                assert not any(name in text for name in ("first", "second"))
        with progress.track("again", None):
            text = drawn()
            assert "again" in text
            assert "outer" not in text
            assert "0/" not in text  # how much there is nobody knows


def test_a_bar_has_characters_that_the_terminal_can_show() -> None:
    with io.TextIOWrapper(io.BytesIO(), encoding="ascii") as ascii_only, redirect_stdout(ascii_only):
        assert console.bar(0.75, 4) == "###"
    with io.TextIOWrapper(io.BytesIO(), encoding="utf-8") as unicode, redirect_stdout(unicode):
        assert console.bar(0.75, 4) == "███"


def test_the_cursor_is_hidden_once_and_comes_back_after_the_last_bar() -> None:
    with terminal("xterm") as shown:
        progress = console.TerminalProgress()
        with progress.track("outer", 1) as outer, progress.track("inner", None):
            outer.advance()
        text = shown.getvalue()
    assert [text.count(code) for code in ("\x1b[?25l", "\x1b[?25h")] == [1, 1]


def test_what_others_write_to_stdout_is_no_json(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A C library writes to the file descriptor, Python code to ``sys.stdout``."""
    stdout = os.dup(1)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(console, "_results", None)
    try:
        console.reserve_stdout()
        os.write(1, b"by C\n")
        print("by Python")  # noqa: T201
        console.print_line("{}")
    finally:
        if console._results is not None:
            console._results.close()
        os.dup2(stdout, 1)
        os.close(stdout)
    out, err = capfd.readouterr()
    assert out == "{}\n"
    assert "by C\n" in err
    assert "by Python\n" in err


def test_a_bar_shows_the_fields_of_its_last_step() -> None:
    with terminal("xterm", columns=80) as shown:
        with console.TerminalProgress().track("steps", 2) as bar:
            bar.advance(val_loss="0.25")
            time.sleep(0.3)  # a terminal is drawn ten times a second
        assert "val loss 0.25" in shown.getvalue()


def test_json_and_fields_hold_nothing_that_steers_the_terminal() -> None:
    text = "é \x9b31m\u202e.png\u2028"
    with terminal() as shown:
        console.print_line(json.dumps({"path": text}, ensure_ascii=False, indent=2))
        console.print_fields([text, "a\nb", "\x1b[2J"])
        said = shown.getvalue()
    document, fields = said[: said.index("}") + 1], said[said.index("}") + 2 :]
    assert json.loads(document) == {"path": text}
    assert fields == "é \\x9b31m\\u202e.png\\u2028\ta\\nb\t\\x1b[2J\n"
    assert all(one.isprintable() or one in "\n\t" for one in said)
    assert "é" in document
