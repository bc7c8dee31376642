"""The words that `make lint` finds."""

from __future__ import annotations

from pathlib import Path

from tests.words import found


def test_a_word_is_found_in_names_too_but_not_in_a_contract(tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text('class RefusedBody:\n    verb: str = "train"\n    """A verb goes on."""\n    retold = saidly = 1\n')
    assert [(number, word) for number, word, _ in found(path)] == [(1, "refused"), (3, "verb"), (3, "goes on")]
