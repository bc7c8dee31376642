"""Run what README.md and the pages show, and write the output into them; draw the terminal of README.md.

The fenced blocks of a page run one after the other, in a new folder that contains ``photos``, the images that come with
ftx:

- ``console``: its lines that begin with ``$`` are commands. What a command prints on a terminal of 100 columns takes
  the place of the lines below it. A line ``...`` leaves out what is between the number of lines before it and after it.
- ``sh``: each line that begins with ``ftx`` runs; nothing is written.
- ``python``: all blocks of a page share one interpreter. What a block prints takes the place of a block ``text`` that
  follows directly.

A comment ``<!-- not run: why -->`` before a block leaves it out. A comment ``<!-- setup`` with commands runs before all
blocks of a page; pages with the same set-up share it.

    python docs/make_transcripts.py             # all, and the picture
    python docs/make_transcripts.py README.md   # only this file
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from subprocess import PIPE

from terminal import THEMES, animated, draw, plain, record, screen

from ftx.data.bundled_sample import place_sample

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = ROOT / "docs" / "pages"
BLOCK = re.compile(
    r"(?P<out><!-- not run: [^>]+ -->\n+)?^```(?P<kind>console|sh|python)\n(?P<code>.*?)^```$"
    r"(?:\n\n```text\n(?P<text>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
SETUP = re.compile(r"^<!-- setup\n(.*?)^-->$", re.MULTILINE | re.DOTALL)
CUT = "..."
# Of the animation: after a command, and between two lines.
PAUSE_S, LINE_S = 1.2, 0.12


@dataclass(frozen=True)
class Command:
    """A command of a transcript, and the lines that stand below it."""

    line: str
    shown: tuple[str, ...]

    def trimmed(self, printed: list[str]) -> list[str]:
        """What was printed, with as many lines before and after ``...`` as now."""
        if CUT not in self.shown:
            return printed
        at = self.shown.index(CUT)
        after = len(self.shown) - at - 1
        return [*printed[:at], CUT, *printed[len(printed) - after :]]


@dataclass(frozen=True)
class Block:
    """A fenced block that runs: the commands of ``console`` or ``sh``, or the code of ``python`` and what it prints."""

    kind: str
    commands: tuple[Command, ...] = ()
    code: str = ""
    text: str | None = None


def blocks(text: str) -> list[Block]:
    """The blocks of a file that run, in their order."""
    return [_block(found) for found in BLOCK.finditer(text) if not found["out"]]


def _block(found: re.Match[str]) -> Block:
    kind, code = found["kind"], found["code"]
    if kind == "console":
        return Block(kind, tuple(_commands(code)))
    if kind == "sh":
        return Block(kind, tuple(Command(line, ()) for line in code.splitlines() if line.startswith("ftx ")))
    return Block(kind, code=code, text=found["text"])


def transcripts(text: str) -> list[list[Command]]:
    """The commands of each block ``console`` of a file."""
    return [list(block.commands) for block in blocks(text) if block.kind == "console"]


def _commands(block: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, *shown = part.rstrip("\n").split("\n")
        yield Command(line, tuple(shown))


def shape(lines: list[str]) -> list[str]:
    """Lines without what differs between two runs and machines: figures, precisions that the CPU chooses, spaces."""
    found = (re.sub(r"\b(bf16|fp32|fp16)\b", "PRECISION", line) for line in lines)
    return [" ".join(re.sub(r"\d+(?:[.,:]\d+)*", "0", line).split()) for line in found]


class Folders:
    """The folders that pages begin with: each set-up runs once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def place(self, text: str, folder: Path) -> None:
        """Fill an empty folder with what a page begins with."""
        found = SETUP.search(text)
        lines = found[1].splitlines() if found else []
        kept = self._root / sha256("\n".join(lines).encode()).hexdigest()[:8]
        if not kept.exists():
            made = self._root / "being-made"
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir(parents=True)
            shutil.move(place_sample("multiclass", made), made / "photos")
            for line in lines:
                record(line, made)
            made.rename(kept)
        shutil.copytree(kept, folder, symlinks=True, dirs_exist_ok=True)


def printed_by(text: str, folder: Path, folders: Folders) -> list[list[list[str]]]:
    """What each block of a file that runs prints: a screen for each command, with its colours, or one for its code."""
    folders.place(text, folder)
    screens: list[list[list[str]]] = []
    with _interpreter(folder) as run:
        for block in blocks(text):
            if block.kind == "python":
                screens.append([run(block.code).splitlines()])
            else:
                screens.append([screen(record(command.line, folder).rstrip()) for command in block.commands])
    return screens


# Runs the code that it reads, a line of JSON each, and writes what that prints.
_RUN_CODE = """
import contextlib, io, json, sys
names = {"__name__": "__main__"}
for line in sys.stdin:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(json.loads(line), names)
    print(json.dumps(printed.getvalue()), flush=True)
"""


@contextmanager
def _interpreter(folder: Path) -> Iterator[Callable[[str], str]]:
    """A function that runs Python code in an interpreter of its own, and returns what the code printed."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str) -> str:
        if not started:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", _RUN_CODE], cwd=folder, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True
                )
            )
        process = started[0]
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(json.dumps(code) + "\n")
        process.stdin.flush()
        if not (printed := process.stdout.readline()):
            raise SystemExit(f"{code}\n{process.stderr.read()}")
        return str(json.loads(printed))

    yield run
    for process in started:
        process.communicate()


def rewritten(text: str, screens: list[list[list[str]]]) -> str:
    """A file with what its blocks printed."""
    made = iter(zip(blocks(text), screens, strict=True))

    def block(found: re.Match[str]) -> str:
        if found["out"]:
            return found[0]
        one, printed = next(made)
        if one.kind == "console":
            lines: list[str] = []
            for command, shown in zip(one.commands, printed, strict=True):
                lines += [f"$ {command.line}", *command.trimmed([plain(line) for line in shown])]
            return "\n".join(["```console", *lines, "```"])
        if one.text is not None:
            lines = Command("", tuple(one.text.splitlines())).trimmed(printed[0])
            return "\n".join([f"```python\n{one.code}```\n", "```text", *lines, "```"])
        return found[0]

    return BLOCK.sub(block, text)


def draw_terminal(text: str, screens: list[list[list[str]]]) -> None:
    """The last commands of README.md and what they printed, each line at its time: docs/images/terminal-*.svg."""
    lines: list[str] = []
    pauses: list[float] = []
    for command, printed in zip(blocks(text)[-1].commands, screens[-1], strict=True):
        kept = command.trimmed([*printed])
        lines += [f"\x1b[1m$ {command.line}\x1b[0m", *kept]
        pauses += [LINE_S, PAUSE_S, *([LINE_S] * (len(kept) - 1))] if kept else [LINE_S]
    shown = [at for at, line in enumerate(lines) if plain(line).strip()]
    times = list(accumulate(pauses))
    for theme in THEMES:
        drawn = animated(draw(lines, theme), dict(enumerate(times[at] for at in shown)))
        (ROOT / "docs" / "images" / f"terminal-{theme}.svg").write_text(drawn, encoding="utf-8")


def files() -> list[Path]:
    """README.md and the pages that have blocks to run."""
    return [path for path in (README, *sorted(PAGES.rglob("*.md"))) if blocks(path.read_text(encoding="utf-8"))]


def main() -> None:
    """Run and rewrite the files that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="README.md or pages  [default: all with blocks to run]")
    given = parser.parse_args().files or files()
    with tempfile.TemporaryDirectory() as kept:
        for path in (one.resolve() for one in given):
            sys.stderr.write(f"{path.relative_to(ROOT)}\n")
            text = path.read_text(encoding="utf-8")
            with tempfile.TemporaryDirectory() as folder:
                screens = printed_by(text, Path(folder), Folders(Path(kept)))
            path.write_text(rewritten(text, screens), encoding="utf-8")
            if path == README:
                draw_terminal(text, screens)


if __name__ == "__main__":
    main()
