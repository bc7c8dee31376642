"""What ``ftx train --help`` says of the flags that stand for keys of the recipe."""

from __future__ import annotations

import os
import re

import pytest

from ftx.cli.app import run
from ftx.cli.recipe_flags import FLAGS
from ftx.cli.train import choose_device
from ftx.core.errors import InputError
from ftx.recipe.error_lines import dotted_keys
from ftx.recipe.schema import Recipe

RECIPE = Recipe()


@pytest.mark.parametrize(
    ("flag", "metavar", "default"),
    [
        ("--data", "PATH", RECIPE.data.path),
        ("--model", "NAME", "dinov2-small"),
        ("--rank", "R", 8),
        ("--alpha", "A", 16),
        ("--epochs", "auto|N", "auto"),
        ("--lr", "LR", RECIPE.train.lr),
        ("--augment", "auto|light|none", "auto"),
        ("--seed", "N", RECIPE.seed),
    ],
)
def test_a_flag_says_what_it_takes_and_its_default(
    flag: str, metavar: str, default: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["train", "--help"]) == 0
    said = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    start = said.index(f"{flag} {metavar} ")
    assert f"[default: {default}]" in said[start:].partition(" --")[0]


def test_a_flag_stands_for_one_key_and_a_key_has_one_flag() -> None:
    keys = [flag.key for flag in FLAGS]
    assert len(keys) == len(set(keys)) == len({flag.name for flag in FLAGS})
    assert set(keys) <= set(dotted_keys(Recipe))


def test_each_flag_is_spelled_and_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["train", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for flag in FLAGS:
        spelled = f"{flag.flag} {flag.metavar}" if flag.metavar else f"{flag.flag} / --no-{flag.flag[2:]}"
        assert f" {spelled} {flag.text}" in said, spelled


@pytest.mark.parametrize("words", ["--config multiclass-lora", "--out other", "--strict", "--dry-run"])
def test_a_training_that_goes_on_has_its_recipe_and_its_folder(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--resume", "runs/gone", *words.split()]) == 2
    assert f"{words.split()[0]} cannot be combined with --resume" in capsys.readouterr().err


def test_which_gpus_torch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """One by its number, and all of them by none: of several processes each has its own."""
    monkeypatch.setattr("ftx.training.require_gpu", lambda name: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    for name, seen in ((None, "4,5"), ("cuda", "4,5"), ("cuda:2", "2"), ("cpu", "")):
        choose_device(name)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == seen
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    choose_device("cuda")
    with pytest.raises(InputError, match="several processes") as caught:
        choose_device("cuda:1")
    assert "CUDA_VISIBLE_DEVICES=1," in str(caught.value.fix)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5"
