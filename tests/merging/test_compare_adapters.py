"""``ftx adapters`` on adapters written by hand, whose sizes are known without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.adapters.test_scaling import LAYER, by_hand, one_block, small

from ftx.merging.compare_adapters import compare

# fc1 of a block of 48 channels: 192 outputs of 48 inputs
RANK, INPUTS, OUTPUTS = 2, 48, 192


def test_what_an_adapter_is_made_of(tmp_path: Path) -> None:
    base, plain, dora = one_block(tmp_path / "base"), tmp_path / "plain", tmp_path / "dora"
    tensors = [
        by_hand(plain, r=RANK, lora_alpha=4),
        by_hand(dora, r=RANK, lora_alpha=4, use_dora=True),
    ]
    report = compare([plain, dora], base=str(base))
    assert [one.kind for one in report.adapters] == ["lora", "dora"]
    factors = RANK * (INPUTS + OUTPUTS)
    assert [one.parameters for one in report.adapters] == [factors, factors + OUTPUTS]  # and a magnitude an output
    assert [(one.layers, one.ranks) for one in report.adapters] == [(1, [RANK])] * 2
    assert [one.size_bytes for one in report.adapters] == [
        (folder / "adapter_model.safetensors").stat().st_size for folder in (plain, dora)
    ]

    before = small().state_dict()[f"{LAYER}.weight"].double().numpy()
    A, B = (tensor.double().numpy() for tensor in list(tensors[0].values())[:2])
    summed = before + 4 / RANK * B @ A
    magnitude = list(tensors[1].values())[2].double().numpy()
    merged = [summed, summed * (magnitude / np.linalg.norm(summed, axis=1))[:, None]]
    expected = [np.linalg.norm(one - before) / np.linalg.norm(before) for one in merged]
    assert [one.change for one in report.adapters] == pytest.approx(expected, rel=1e-12)
    (layer,) = report.layers
    assert (layer.layer, layer.changes) == (LAYER, pytest.approx(expected, rel=1e-12))

    # Both read and write by the same factors; two planes drawn at random share 2 · 2 / n of themselves, of 2.
    (pair,) = report.overlaps
    assert (pair.first, pair.second) == (0, 1)
    assert (pair.inputs, pair.outputs) == (pytest.approx(1), pytest.approx(1))
    assert (pair.inputs_by_chance, pair.outputs_by_chance) == pytest.approx((RANK / INPUTS, RANK / OUTPUTS))
