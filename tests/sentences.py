"""Sentences that are too long to be read once: ``python -m tests.sentences`` finds them where people read.

README.md, the changelog, the pages, the help and the messages of the command line, HTML pages and model cards.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.words import READ

ROOT = Path(__file__).parents[1]
MOST_WORDS = 40
# Functions whose docstrings are the help of a command.
_COMMANDS = ("command", "program", "look", "check", "sample", "shard")
_WORD = re.compile(r"[^\W_][\w'’.,/-]*")


def in_text(text: str) -> Iterator[str]:
    """The sentences of plain text; a line break does not end one."""
    yield from re.split(r"(?<=[.!?])(?:[\"')\]]*)\s+", " ".join(text.split()))


def in_markdown(text: str) -> Iterator[str]:
    """The sentences of Markdown, without code; a cell, an entry of a list and a heading end one each."""
    prose = re.sub(r"```.*?```|^ {4}[^\n]*$|<[^>]+>|`[^`]*`", " ", text, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", prose)
    for block in re.split(r"\n\s*\n|^\s*[-*] |^\s*\d+\. |^#+ |\|", prose, flags=re.MULTILINE):
        yield from in_text(block)


def in_html(text: str) -> Iterator[str]:
    """The sentences of a page or its template, without scripts and styles; an element ends one."""
    code = r"<(script|style)\b.*?</\1>|\{% block (?:script|style|policy) %\}.*?\{% endblock %\}"
    prose = re.sub(rf"{code}|\{{[{{%#].*?[}}%#]\}}", " ", text, flags=re.DOTALL)
    for block in re.split(r"<(?!/?(?:b|i|em|strong|code|a|span)\b)[^>]+>", prose):
        yield from in_text(re.sub(r"<[^>]+>", "", block))


def in_python(text: str) -> Iterator[str]:
    """The sentences of all strings, each value in them as one word; docstrings only of commands, which are help."""
    tree = ast.parse(text)
    inside = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and isinstance(node.body[0] if node.body else None, ast.Expr)
        and not ("import typer" in text and getattr(node, "name", "") in _COMMANDS)
    }
    for node in ast.walk(tree):
        if id(node) in inside | docstrings:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (str(one.value) if isinstance(one, ast.Constant) else "value" for one in node.values)
            for block in re.split(r"\n\s*\n|\n- ", "".join(parts)):
                yield from in_text(block)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for block in re.split(r"\n\s*\n|\n- ", node.value):
                # In help a line of \b keeps the lines of its paragraph.
                for part in block.split("\n") if block.lstrip().startswith("\b") else [block]:
                    yield from in_text(part)


READERS = {".md": in_markdown, ".html": in_html, ".py": in_python}


# No sentences: timm's names of keys, between spaces.
EXEMPT = {ROOT / "src" / "ftx" / "backbones" / "timm_config.py"}


def found(path: Path) -> Iterator[tuple[int, str]]:
    """Each sentence of more than ``MOST_WORDS`` words, and how many it has."""
    for sentence in READERS[path.suffix](path.read_text(encoding="utf-8")):
        count = len(_WORD.findall(sentence))
        if count > MOST_WORDS:
            yield count, sentence


def main() -> int:
    """Print each long sentence; 1 if there is one."""
    read = READ
    source = sorted(path for path in (ROOT / "src").rglob("*.*") if path.suffix in (".py", ".html"))
    wrong = [(path, *one) for path in (*read, *source) if path not in EXEMPT for one in found(path)]
    for path, count, sentence in wrong:
        print(f"{path.relative_to(ROOT)}: {count} words: {sentence[:100]}...")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
