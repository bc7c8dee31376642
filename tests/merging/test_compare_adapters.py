"""``ftx adapters`` on adapters written by hand, whose sizes are known without it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from tests.adapters.test_scaling import LAYER, by_hand, one_block, small

from ftx.core.errors import AdapterError
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


# Each rank another, so that a pair and its side are known by their numbers.
SIDES = {"mlp.fc1": (192, 48), "mlp.fc2": (48, 192), "attn.proj": (48, 48)}


def of_layers(folder: Path, rank: int, *leaves: str) -> Path:
    """An adapter in these layers of the one block, of random factors."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(rank)
    tensors = {}
    for leaf in leaves:
        outputs, inputs = SIDES[leaf]
        prefix = f"base_model.model.blocks.0.{leaf}"
        tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator)
        tensors[f"{prefix}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors")
    names = [f"blocks.0.{leaf}" for leaf in leaves]
    document = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": names}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return folder


def test_three_adapters_of_different_layers(tmp_path: Path) -> None:
    """Each lacks a layer that another has: pairs stay pairs, and each is measured by the layers that it has."""
    base, has = one_block(tmp_path / "base"), {2: ["mlp.fc1"], 3: ["mlp.fc2", "attn.proj"], 5: ["mlp.fc1", "mlp.fc2"]}
    paths = [of_layers(tmp_path / f"rank-{rank}", rank, *leaves) for rank, leaves in has.items()]
    report = compare(paths, base=str(base))
    assert [Path(one.path).name for one in report.adapters] == ["rank-2", "rank-3", "rank-5"]
    assert [(one.layers, one.ranks) for one in report.adapters] == [(1, [2]), (2, [3]), (2, [5])]
    sizes = [sum(sum(SIDES[leaf]) for leaf in leaves) * rank for rank, leaves in has.items()]
    assert [one.parameters for one in report.adapters] == sizes

    state = {name: tensor.double().numpy() for name, tensor in small().state_dict().items()}
    moved, whole, spaces = {}, {}, {}
    for index, (rank, leaves) in enumerate(has.items()):
        for leaf in leaves:
            factors = load_file(paths[index] / "adapter_model.safetensors")
            A, B = (factors[f"base_model.model.blocks.0.{leaf}.lora_{name}.weight"].astype(float) for name in "AB")
            moved[index, leaf], whole[index, leaf] = (
                np.linalg.norm(B @ A),
                np.linalg.norm(state[f"blocks.0.{leaf}.weight"]),
            )
            spaces[index, leaf] = np.linalg.qr(A.T)[0], np.linalg.qr(B)[0]
            assert A.shape[0] == rank
    for layer in report.layers:
        leaf = layer.layer.removeprefix("blocks.0.")
        found = [moved.get((index, leaf)) for index in range(3)]
        # f32 factors whose W + B·A - W is taken in float64
        assert layer.norms == [None if one is None else pytest.approx(one, rel=1e-10) for one in found]
        shares = [None if one is None else one / whole[index, leaf] for index, one in enumerate(found)]
        assert layer.changes == [None if one is None else pytest.approx(one, rel=1e-10) for one in shares]
    # Of each over the layers that it has, whichever the others have.
    expected = [
        np.sqrt(sum(moved[i, leaf] ** 2 for leaf in leaves) / sum(whole[i, leaf] ** 2 for leaf in leaves))
        for i, leaves in enumerate(has.values())
    ]
    assert [one.change for one in report.adapters] == pytest.approx(expected, rel=1e-10)

    def overlap(first: int, second: int, leaf: str, side: int) -> float:
        product = spaces[first, leaf][side].T @ spaces[second, leaf][side]
        return float((product**2).sum() / min(product.shape))

    pairs = {layer.layer: [(one.first, one.second) for one in layer.overlaps] for layer in report.layers}
    assert pairs == {"blocks.0.mlp.fc1": [(0, 2)], "blocks.0.mlp.fc2": [(1, 2)], "blocks.0.attn.proj": []}
    for one, leaf in zip(report.overlaps, ("mlp.fc1", "mlp.fc2"), strict=True):
        inputs, outputs = (overlap(one.first, one.second, leaf, side) for side in (0, 1))
        assert (one.inputs, one.outputs) == pytest.approx((inputs, outputs), rel=1e-9)
        height, width = SIDES[leaf]
        # The larger of both ranks: 5 of rank 2 and of rank 3.
        assert (one.inputs_by_chance, one.outputs_by_chance) == pytest.approx((5 / width, 5 / height))


def test_overlaps_are_means_of_the_layers_that_both_adapt(tmp_path: Path) -> None:
    base = one_block(tmp_path / "base")
    paths = [
        of_layers(tmp_path / "first", 2, "mlp.fc1", "mlp.fc2", "attn.proj"),
        of_layers(tmp_path / "second", 3, "mlp.fc1", "mlp.fc2"),
    ]
    report = compare(paths, base=str(base))
    (mean,) = report.overlaps
    each = [layer.overlaps[0] for layer in report.layers if layer.overlaps]
    assert len(each) == 2
    for key in ("inputs", "outputs", "inputs_by_chance", "outputs_by_chance"):
        first, second = (getattr(one, key) for one in each)
        assert first != second
        assert getattr(mean, key) == pytest.approx((first + second) / 2)


def test_an_adapter_in_no_layer_is_named(tmp_path: Path) -> None:
    base, good = one_block(tmp_path / "base"), of_layers(tmp_path / "good", 2, "mlp.fc1")
    none = of_layers(tmp_path / "none", 2, "mlp.fc1")
    (none / "adapter_config.json").write_text(
        json.dumps(
            {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["fc1"], "modules_to_save": ["mlp"]}
        )
    )
    with pytest.raises(AdapterError) as caught:
        compare([good, none], base=str(base))
    assert str(tmp_path / "none") in str(caught.value.where)
