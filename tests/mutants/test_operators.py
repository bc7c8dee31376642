from __future__ import annotations

import tomllib
from pathlib import Path
from textwrap import dedent

import pytest
from cosmic_ray.mutating import mutate_code
from tests.mutants.operators import OWN
from tests.mutants.sample import Mutant, draw, mutants_of

SOURCE = '''
"""Words of 3 kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    x = 1

__all__ = ["f" + "g"]
Width = Literal[8, 16]


@dataclass(frozen=True)
class A:
    side: int | None = 7


def f(progress, *names: Literal[3]) -> Literal[4]:
    assert len(names) > 1
    progress.note("so far")
    if names[0] is None:
        raise InputError(f"{len(names) + 1} names", where=names[2])
    return f"{5 + 6}"
'''


@pytest.mark.parametrize("operator", OWN, ids=lambda operator: operator.__name__)
def test_an_operator_changes_what_its_examples_say(operator: type) -> None:
    for example in operator.examples():
        assert mutate_code(example.pre_mutation_code, operator(), example.occurrence) == example.post_mutation_code


def in_repository(root: Path, source: str) -> Path:
    (root / "src" / "ftx" / "tasks").mkdir(parents=True, exist_ok=True)
    (root / "src" / "ftx" / "tasks" / "a.py").write_text(dedent(source))
    return root


def test_words_types_and_invariants_are_left_alone(tmp_path: Path) -> None:
    found = {(mutant.operator, mutant.line) for mutant, _ in mutants_of(in_repository(tmp_path, SOURCE)).values()}
    assert found == {
        ("NumberReplacer", "side: int | None = 7"),
        ("AddNot", "if names[0] is None:"),
        ("Is_IsNot", "if names[0] is None:"),
        ("NumberReplacer", "if names[0] is None:"),
        ("RemoveStatement", 'raise InputError(f"{len(names) + 1} names", where=names[2])'),
        ("ReturnNone", 'return f"{5 + 6}"'),
    }


def test_an_edit_elsewhere_leaves_a_mutant_what_it_was(tmp_path: Path) -> None:
    before = "def f(a):\n    if a > 1:\n        a += 2\n    return a\n"
    first, gone = draw(in_repository(tmp_path, before), [])
    assert gone == []
    edited = "def g(a):\n    return a > 1\n\n\n" + before.replace("a += 2", "a += 4").replace(
        ":\n", ":\n    b = 3\n", 1
    )
    second, gone = draw(in_repository(tmp_path, edited), first)
    assert {mutant.line for mutant in gone} == {"a += 2"}
    assert [mutant.id for mutant in second[: len(first) - len(gone)]] == ids(first, without="a += 2")


def ids(mutants: list[Mutant], without: str) -> list[str]:
    return [mutant.id for mutant in mutants if mutant.line != without]


def test_each_fault_by_hand_is_one_place_of_the_source() -> None:
    root = Path(__file__).parents[2]
    faults = tomllib.loads((root / "tests" / "mutants" / "by_hand.toml").read_text(encoding="utf-8"))["fault"]
    sources = {one["file"]: (root / "src" / "ftx" / one["file"]).read_text(encoding="utf-8") for one in faults}
    assert [(one["file"], one["old"]) for one in faults if sources[one["file"]].count(one["old"]) != 1] == []
