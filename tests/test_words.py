"""The words that `make lint` finds."""

from __future__ import annotations

from pathlib import Path

from tests import sentences
from tests.words import found


def test_a_word_is_found_in_names_too_but_not_in_a_contract(tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text('class RefusedBody:\n    verb: str = "train"\n    """A verb goes on."""\n    retold = saidly = 1\n')
    assert [(number, word) for number, word, _ in found(path)] == [(1, "refused"), (3, "verb"), (3, "goes on")]


def test_a_sentence_of_over_40_words_is_found_where_people_read(tmp_path: Path) -> None:
    short, long = " ".join(["word"] * 40) + ".", " ".join(["word"] * 41) + "."
    for name, text in (
        ("a.md", f"# A\n\n{short} {short}\n\n    $ {long}\n\n```\n{long}\n```\n| {short} | {short} |\n- {long}\n"),
        ("b.html", f"<style>{long}</style><p>{short} {{{{ value }}}} <b>{short}</b></p><p>{long}</p>"),
        ("c.py", f'"""{long}"""\nraise X("{short}")\nraise X(f"{{a}} {long}")\n'),
        ("d.py", f'import typer\ndef command():\n    """{long}"""\ndef other():\n    """{long}"""\n'),
    ):
        path = tmp_path / name
        path.write_text(text)
        (one,) = sentences.found(path)
        assert one[0] == 41 + (name == "c.py")
