"""Write the output of commands into README.md and the pages, from real runs; and draw the terminal of README.md.

A fenced block of the language ``console`` is a transcript. Its lines that begin with ``$`` are commands, which run one
after the other in a new folder that contains ``photos``, the images that come with ftx. What a command prints on a
terminal of 100 columns takes the place of the lines below it. A line ``...`` leaves out what is between the number of
lines that stand before it and after it.

    python docs/make_transcripts.py             # all, and the picture
    python docs/make_transcripts.py README.md   # only this file
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from terminal import THEMES, animated, draw, plain, record, screen

from ftx.data.bundled_sample import place_sample

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
FENCE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
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


def transcripts(text: str) -> list[list[Command]]:
    """The commands of each block of a file."""
    return [list(_commands(block)) for block in FENCE.findall(text)]


def _commands(block: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, *shown = part.rstrip("\n").split("\n")
        yield Command(line, tuple(shown))


def shape(lines: list[str]) -> list[str]:
    """Lines without what differs between two runs and machines: figures, precisions that the CPU chooses, spaces."""
    found = (re.sub(r"\b(bf16|fp32|fp16)\b", "PRECISION", line) for line in lines)
    return [" ".join(re.sub(r"\d+(?:[.,:]\d+)*", "0", line).split()) for line in found]


def printed_by(text: str, folder: Path) -> list[list[list[str]]]:
    """The screen after each command of each block of a file, with its colours."""
    shutil.move(place_sample("multiclass", folder), folder / "photos")
    return [[screen(record(command.line, folder).rstrip()) for command in commands] for commands in transcripts(text)]


def rewritten(text: str, screens: list[list[list[str]]]) -> str:
    """A file with what its commands printed."""
    blocks = iter(zip(transcripts(text), screens, strict=True))

    def block(_found: re.Match[str]) -> str:
        lines: list[str] = []
        for command, printed in zip(*next(blocks), strict=True):
            lines += [f"$ {command.line}", *command.trimmed([plain(line) for line in printed])]
        return "\n".join(["```console", *lines, "```"])

    return FENCE.sub(block, text)


def draw_terminal(text: str, screens: list[list[list[str]]]) -> None:
    """The last commands of README.md and what they printed, each line at its time: docs/images/terminal-*.svg."""
    lines: list[str] = []
    pauses: list[float] = []
    for command, printed in zip(transcripts(text)[-1], screens[-1], strict=True):
        kept = command.trimmed([*printed])
        lines += [f"\x1b[1m$ {command.line}\x1b[0m", *kept]
        pauses += [LINE_S, PAUSE_S, *([LINE_S] * (len(kept) - 1))] if kept else [LINE_S]
    shown = [at for at, line in enumerate(lines) if plain(line).strip()]
    times = list(accumulate(pauses))
    for theme in THEMES:
        drawn = animated(draw(lines, theme), dict(enumerate(times[at] for at in shown)))
        (ROOT / "docs" / "images" / f"terminal-{theme}.svg").write_text(drawn, encoding="utf-8")


def main() -> None:
    """Run and rewrite the files that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="README.md or pages  [default: all with transcripts]")
    given = parser.parse_args().files or [README, *sorted((ROOT / "docs" / "pages").glob("*.md"))]
    for path in (one.resolve() for one in given):
        text = path.read_text(encoding="utf-8")
        if not transcripts(text):
            continue
        with tempfile.TemporaryDirectory() as folder:
            screens = printed_by(text, Path(folder))
        path.write_text(rewritten(text, screens), encoding="utf-8")
        if path == README:
            draw_terminal(text, screens)


if __name__ == "__main__":
    main()
