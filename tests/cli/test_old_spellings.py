"""Every spelling that has a new one: the old one works, and one line says how to write it now."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from ftx.cli.recipe_flags import method_keys
from ftx.cli.shared_options import parse_numbers, parse_precisions, split_commas
from ftx.core.errors import InputError
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import RENAMED_PRESETS

# What was written, what it is written as now, and what reads both. `ftx explain --method` is in the table of flags,
# `--preset best` in tests/recipe/test_presets.py.
OLD_SPELLINGS: Sequence[tuple[str, str, Callable[[], object], Callable[[], object]]] = [
    (
        "--peft dora",
        "--method dora",
        lambda: method_keys(None, "dora", None) | {"model.freeze_backbone": False},
        lambda: method_keys("dora", None, None),
    ),
    (
        "--peft none --freeze-backbone",
        "--method linear",
        lambda: method_keys(None, "none", True),
        lambda: method_keys("linear", None, None),
    ),
    (
        "--freeze-backbone",
        "--method linear",
        lambda: method_keys(None, None, True) | {"model.peft": "none"},
        lambda: method_keys("linear", None, None),
    ),
    (
        "--peft none",
        "--method full",
        lambda: method_keys(None, "none", None) | {"model.freeze_backbone": False},
        lambda: method_keys("full", None, None),
    ),
    (
        "--precision f32",
        "--precision fp32",
        lambda: parse_precisions(["f32"], ["fp32"]),
        lambda: parse_precisions(["fp32"], ["fp32"]),
    ),
    (
        "--compute f32",
        "--compute fp32",
        lambda: parse_precisions(["f32"], ["fp32"], "--compute"),
        lambda: parse_precisions(["fp32"], ["fp32"], "--compute"),
    ),
]


@pytest.mark.parametrize(("old", "new", "read_old", "read_new"), OLD_SPELLINGS, ids=[one[0] for one in OLD_SPELLINGS])
def test_an_old_spelling_works_with_one_line_of_notice(
    old: str,
    new: str,
    read_old: Callable[[], object],
    read_new: Callable[[], object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = read_old()
    assert capsys.readouterr().err == f"{old} still works; it is now written {new}\n"
    assert found == read_new()
    assert capsys.readouterr().err == ""


def test_both_spellings_together_are_an_error() -> None:
    for method in ("lora", "linear", "full"):
        with pytest.raises(InputError, match="--method replaces --peft and --freeze-backbone"):
            method_keys(method, "dora", None)


def test_a_recipe_reads_both_spellings_of_a_precision() -> None:
    for text in ("f32", "fp32"):
        assert Recipe.loads(f"train: {{precision: {text}}}").train.precision == "f32"  # what files contain
    with pytest.raises(InputError) as caught:
        Recipe.loads("train: {precision: fp64}")
    assert "train.precision: must be 'auto', 'fp32' or 'bf16'" in str(caught.value)


def test_former_presets_are_in_their_table() -> None:
    assert RENAMED_PRESETS == {"balanced": "auto", "best": "auto"}


def test_lists_take_commas_and_repeated_flags() -> None:
    assert split_commas(["a,b", " c ", "d,,"]) == ["a", "b", "c", "d"]
    assert split_commas(None) == []
    assert parse_numbers(["1,8", "16"], "--batch") == [1, 8, 16]
    assert parse_precisions(["fp32,int8", "fp16"], ["fp32", "fp16", "int8"]) == ["fp32", "int8", "fp16"]
    for given in ("0", "-1", "x", "1.5", "1025", "9" * 30):
        with pytest.raises(InputError, match="--batch must be whole numbers from 1 to 1,024"):
            parse_numbers([given], "--batch", most=1024)
    with pytest.raises(InputError, match="--precision must be one of fp32, int8") as caught:
        parse_precisions(["int9"], ["fp32", "int8"])
    assert caught.value.fix == "did you mean 'int8'?"
