"""Print both tables as markdown: ``python -m tests.effects``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.effects.flags import FLAGS
from tests.effects.recipe_keys import KEYS


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of GitHub's; a bar inside a cell is no border."""
    cells = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)


def coded(text: str) -> str:
    """As code, where there is something."""
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    print(table(("key", "value", "seen"), [(coded(row.key), coded(row.value), row.seen) for row in KEYS]))
    print()
    print(table(("flag", "value", "seen"), [(coded(f"ftx {row.name}"), row.value, row.seen) for row in FLAGS]))
