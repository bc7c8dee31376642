"""The base's digest changes with every value, name and shape that it is over, and with nothing else."""

from __future__ import annotations

import hashlib
import struct

import pytest
import torch

from ftx.backbones.weights import base_digest

HEADS = ("head",)


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "patch.weight": torch.randn(20, 15, generator=generator),
        "blocks.0.bias": torch.randn(300, generator=generator),
        "scale": torch.tensor(1.5),
        "head.weight": torch.randn(3, 20, generator=generator),
        "heads.weight": torch.randn(3, generator=generator),
    }


@pytest.mark.parametrize("place", [0, 1, 63, 64, 150, 298, 299])
@pytest.mark.parametrize("name", ["patch.weight", "blocks.0.bias"])
def test_a_single_value_anywhere_counts(name: str, place: int) -> None:
    changed = state()
    # the next number that f32 has
    values = changed[name].flatten()
    values[place] = torch.nextafter(values[place], torch.tensor(9.0))
    assert base_digest(changed, HEADS) != base_digest(state(), HEADS)


def test_names_and_shapes_count_and_order_dtype_and_head_do_not() -> None:
    own = base_digest(state(), HEADS)
    changes = (
        {"patch.weight": state()["patch.weight"].view(15, 20)},
        {"scale": state()["scale"].view(1)},
        {"scale": torch.tensor(-1.5)},
        {"heads.weight": torch.zeros(3)},  # begins as the head's name does
        {"more": torch.zeros(0)},
    )
    assert len({own, *(base_digest({**state(), **change}, HEADS) for change in changes)}) == 1 + len(changes)
    renamed = {name.replace("patch", "match"): tensor for name, tensor in state().items()}
    assert base_digest(renamed, HEADS) != own
    for same in (
        dict(reversed(state().items())),
        {name: tensor.double() for name, tensor in state().items()},
        {**state(), "head.weight": torch.zeros(9, 20), "head.bias": torch.zeros(9)},
        {name: tensor.mT.contiguous().mT if tensor.ndim == 2 else tensor for name, tensor in state().items()},
    ):
        assert base_digest(same, HEADS) == own


def test_it_is_the_sha256_that_runs_hold() -> None:
    """By hand, so that no later version finds the bases of earlier runs altered."""
    tensors = {"b": torch.tensor([1.0, -2.0]), "a": torch.tensor(0.5, dtype=torch.float16), "head.bias": torch.ones(1)}
    text = b"a []\n" + struct.pack("<f", 0.5) + b"b [2]\n" + struct.pack("<2f", 1.0, -2.0)
    assert base_digest(tensors, HEADS) == hashlib.sha256(text).hexdigest()
