"""Commands as a terminal shows them: what they write under a pseudo-terminal, what is left on the screen, a picture."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from collections.abc import Iterable, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

COLUMNS, ROWS = 100, 50

# Background, text, and the eight plain colours, of which ftx uses red, green and cyan.
THEMES = {
    "light": TerminalTheme(
        (246, 248, 250),
        (31, 35, 40),
        [(36, 41, 47), (207, 34, 46), (17, 99, 41), (125, 78, 0)]
        + [(9, 105, 218), (130, 80, 223), (27, 124, 131), (110, 119, 129)],
    ),
    "dark": TerminalTheme(
        (13, 17, 23),
        (230, 237, 243),
        [(72, 79, 88), (255, 123, 114), (63, 185, 80), (210, 153, 34)]
        + [(88, 166, 255), (188, 140, 255), (57, 197, 207), (177, 186, 196)],
    ),
}

# Rich's own template takes a font from another host.
TEMPLATE = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font: {char_height}px/{line_height}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}}
.{unique_id}-title {{ font: 18px system-ui, sans-serif; }}
{styles}
</style>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""

_MOTION = """\
@keyframes show { from { opacity: 0; } }
.t-matrix text { animation: show 0.1s both; }
@media (prefers-reduced-motion: reduce) { .t-matrix text { animation: none; } }
"""

# A control sequence, a line break, a return to the line's start, or text.
_TOKEN = re.compile(
    r"\x1b\[(?P<numbers>[\d;?]*)(?P<final>[A-Za-z])|(?P<newline>\n)|(?P<home>\r)|(?P<text>[^\x1b\r\n]+)"
)


def record(command: str, folder: Path) -> str:
    """What a command writes to a terminal.

    Raises: SystemExit if it fails.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    program = subprocess.Popen(
        [sys.executable, "-m", *shlex.split(command)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm-256color"},
    )
    os.close(theirs)
    written = bytearray()
    try:
        while part := os.read(ours, 1 << 16):
            written += part
    except OSError:  # how Linux says that the last writer has gone
        pass
    os.close(ours)
    if status := program.wait():
        raise SystemExit(f"{command}: exit status {status}\n{written.decode()}")
    return written.decode()


def screen(written: str) -> list[str]:
    """The lines that stand on the terminal at the end, bars that were redrawn over each other gone.

    Of a terminal's control sequences those that rich writes: colours, an erased line, and a line up.
    """
    lines: list[list[tuple[str, str]]] = [[]]  # of letters, each with its style
    row, column, style = 0, 0, ""
    for token in _TOKEN.finditer(written):
        numbers, final = token["numbers"], token["final"]
        if token["home"]:
            column = 0
        elif token["newline"]:
            row += 1
            lines += [[]] * (row == len(lines))
        elif token["text"]:
            for letter in token["text"]:
                if column == COLUMNS:
                    lines[row], rest = _broken(lines[row])
                    row, column = row + 1, len(rest)
                    lines += [[]] * (row == len(lines))
                    lines[row] = rest
                lines[row] = [*lines[row][:column], (letter, style), *lines[row][column + 1 :]]
                column += 1
        elif final == "m":
            style = "" if numbers in ("", "0") else numbers
        elif final == "K":
            lines[row] = []
        elif final == "A":
            row -= int(numbers or 1)
        elif final not in "hl":  # the cursor shown and hidden
            raise ValueError(f"unknown control sequence {token.group()!r}")
    return ["".join(_styled(style, run) for style, run in groupby(line, itemgetter(1))) for line in lines]


def _broken(line: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """A full line, broken after its last space if it has one: a terminal breaks words, which are then hard to read."""
    end = max((at + 1 for at, (letter, _) in enumerate(line) if letter == " "), default=len(line))
    return line[:end], line[end:]


def _styled(style: str, run: Iterable[tuple[str, str]]) -> str:
    return f"\x1b[{style}m{''.join(letter for letter, _ in run)}\x1b[0m"


def plain(line: str) -> str:
    """A line of a screen without its colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", line).rstrip()


def animated(drawn: str, appears_s: Mapping[int, float]) -> str:
    """A picture whose lines appear at their times, once; all at once for those who prefer no motion."""
    rows = sorted({float(y) for y in re.findall(r'<text[^>]* y="([\d.]+)"[^>]*textLength', drawn)})
    delay = {y: appears_s[row] for row, y in enumerate(rows)}

    def timed(text: re.Match[str]) -> str:
        return f'{text[1]} style="animation-delay:{delay[float(text[2])]:.2f}s"'

    drawn = re.sub(r'(<text[^>]* y="([\d.]+)"[^>]*textLength="[\d.]+")', timed, drawn)
    return drawn.replace("</style>", _MOTION + "</style>", 1)


def draw(lines: list[str], theme: str) -> str:
    """The lines as a picture of a terminal."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True)
    drawn = console.export_svg(title="ftx", theme=THEMES[theme], code_format=TEMPLATE, unique_id="t")
    # Each text has its length, so no line needs a clip; line breaks are no text; a space takes two bytes, not six.
    drawn = re.sub(r' clip-path="url\(#t-line-\d+\)"|<text[^>]*>\n</text>', "", drawn).replace("&#160;", "\u00a0")
    return drawn.replace("rgba(255,255,255,0.35)", "rgba(128,128,128,0.5)")  # the frame is to be seen in both themes
