"""The proofs of merging adapters from elsewhere fire, by adapters written by hand that no rounding can hold."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.adapters.test_scaling import LAYER, by_hand, one_block, small
from tests.gates.faults import Tensors, edit_tensors

from ftx.core.errors import AdapterError, EnvironmentFault, GateFailed, InputError
from ftx.merging.combine_adapters import combine
from ftx.merging.merge_and_prove import LAYER_BOUND
from ftx.merging.ties import elected, election_error

A, B = (f"base_model.model.{LAYER}.lora_{factor}.weight" for factor in "AB")
SCALING = 2  # alpha 4 of rank 2


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return one_block(tmp_path / "base")


def merged(base: Path, **config: object) -> float:
    """Combine what was written by hand with its base, and give the error of its layer."""
    adapter, out = base.parent / "adapter", base.parent / "out"
    try:
        return combine([adapter], out, base=str(base), labels=["a", "b", "c"]).max_relative_error
    finally:
        assert out.exists() is (out / "merge.json").exists()


def test_an_adapter_that_f32_can_hold_is_within_one_rounding(base: Path) -> None:
    by_hand(base.parent / "adapter", r=2, lora_alpha=4, use_dora=True)
    assert 0 < merged(base) <= 2.0**-24


def test_a_layer_that_float64_does_not_give_away_fails(base: Path) -> None:
    by_hand(base.parent / "adapter", r=2, lora_alpha=4, use_dora=True)
    row_I = small().state_dict()[f"{LAYER}.weight"][3].numpy()

    def nearly_cancelled(tensors: Tensors) -> None:
        tensors[A][0] = row_I
        tensors[B][3] = -(1 - 1e-6) / SCALING, 0

    edit_tensors(base.parent / "adapter" / "adapter_model.safetensors", nearly_cancelled)
    with pytest.raises(GateFailed, match="does not compute the same as its unmerged forward") as caught:
        merged(base)
    assert caught.value.where == LAYER


def test_a_model_that_does_not_answer_as_its_base_with_the_adapter_beside_it_fails(base: Path) -> None:
    by_hand(base.parent / "adapter", r=2, lora_alpha=4)

    def opposed(tensors: Tensors) -> None:
        """Two ranks take each other away, of ten million times the weight: float64 sums them, f32 cannot."""
        almost_one = np.float32(1 + 2**-9)
        tensors[A][0] *= 1e6
        tensors[A][1] = tensors[A][0] * almost_one
        tensors[B][:, 1] = -tensors[B][:, 0] / almost_one

    edit_tensors(base.parent / "adapter" / "adapter_model.safetensors", opposed)
    with pytest.raises(GateFailed, match="does not compute the same logits as the base with its adapters") as caught:
        merged(base)
    # The base is timm's own, whose epsilon is no reason to look at.
    assert "epsilon" not in str(caught.value)


def test_answers_that_are_no_numbers_fail(base: Path) -> None:
    """Each weight can be stored, and of what they make f32 holds nothing: no difference is above any bound."""
    by_hand(base.parent / "adapter", r=2, lora_alpha=4)
    edit_tensors(base.parent / "adapter" / "adapter_model.safetensors", lambda tensors: tensors[B].__imul__(1e37))
    with pytest.raises(GateFailed, match="does not compute the same logits as the base with its adapters") as caught:
        merged(base)
    assert "logits differ by nan" in str(caught.value.found)


def test_a_disk_without_room_for_the_model_is_refused_before_anything_is_read(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand(base.parent / "adapter", r=2, lora_alpha=4)
    needed = 4 * sum(parameter.numel() for parameter in small().parameters())
    with_disk(monkeypatch, needed - 1)
    with pytest.raises(EnvironmentFault, match="the disk is too full"):
        merged(base)
    with_disk(monkeypatch, needed)
    assert merged(base) < LAYER_BOUND


def with_disk(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    """A disk with so many bytes left."""
    disk = SimpleNamespace(f_blocks=1 << 40, f_bfree=free_bytes, f_bavail=free_bytes, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda _path: disk)


def test_the_card_says_what_went_in_and_how_it_was_proved(base: Path) -> None:
    folders = [base.parent / name for name in ("first", "second")]
    for folder in folders:
        by_hand(folder, r=2, lora_alpha=4)
    edit_tensors(folders[1] / "adapter_model.safetensors", lambda tensors: tensors[B].__imul__(-0.5))
    words = {"base": str(base), "labels": ["a", "b", "c"], "shares": [0.75, 0.25]}
    combine(folders, base.parent / "ties", how="ties", density=0.5, **words)
    combine(folders, base.parent / "linear", **words)
    combine(folders[:1], base.parent / "alone", base=str(base), labels=["a", "b", "c"])
    told = {
        "ties": ["| 0.75 of | first |", "| 0.25 of | second |", "| joined by | TIES, density 0.5 |", "follow the rule"],
        "linear": [
            "| 0.75 of | first |",
            "| 0.25 of | second |",
            "Each of the 1 merged layers",
        ],
        "alone": ["| adapter | first |", "the logits of the base with unmerged adapters"],
    }
    for how, parts in told.items():
        card = (base.parent / how / "README.md").read_text()
        assert [part for part in parts if part not in card] == []
        assert ("joined by" in card) is (how == "ties")
        density = json.loads((base.parent / how / "merge.json").read_text())["density"]
        assert density == (0.5 if how == "ties" else None)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shares_that_are_wrong_are_mended_as_the_error_says(count: int, tmp_path: Path) -> None:
    paths = [tmp_path / f"adapter-{number}" for number in range(count)]
    with pytest.raises(InputError, match="shares must be one number above 0 for each adapter") as caught:
        combine(paths, tmp_path / "out", shares=[0.7] * count)
    flag, _, numbers = str(caught.value.fix).removeprefix("use ").partition(" ")
    shares = [float(number) for number in numbers.split(",")]
    assert (flag, len(shares)) == ("--shares", count)
    assert max(shares) - min(shares) < 0.001
    with pytest.raises(AdapterError, match="the adapter does not exist"):  # what comes after the shares
        combine(paths, tmp_path / "out", shares=shares)


def test_an_election_is_held_to_one_rounding_of_its_entries() -> None:
    rng = np.random.default_rng(0)
    base = rng.standard_normal((40, 30))
    changes = [0.1 * rng.standard_normal((40, 30)) for _ in range(2)]
    shares, least = [0.6, 0.4], [0.05, 0.05]
    right = base + elected(changes, shares, least)
    assert election_error(base, right.astype(np.float32), changes, shares, least) <= 2.0**-24
    wrong = (right * (1 + 2.0**-22)).astype(np.float32)
    assert election_error(base, wrong, changes, shares, least) > LAYER_BOUND
