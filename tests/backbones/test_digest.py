"""The base's digest: every value of every tensor counts, and nothing but what it is said to be of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ftx.backbones.digest import base_digest

STATE = {
    "patch_embed.weight": torch.linspace(-1, 1, 7 * 3 * 8).reshape(7, 3, 8),
    "norm.bias": torch.linspace(0, 3, 65),
    "blocks.0.scale": torch.tensor(0.5),
    "head.weight": torch.linspace(1, 2, 20).reshape(4, 5),
    "header.weight": torch.linspace(5, 6, 100),
}


def changed(name: str, change: Callable[[Tensor], Tensor]) -> str:
    return base_digest({**STATE, name: change(STATE[name].clone())}, ("head",))


def test_it_is_the_hash_of_names_shapes_and_values_in_the_order_of_names() -> None:
    expected = hashlib.sha256()
    for name, shape in (
        ("blocks.0.scale", "[]"),
        ("header.weight", "[100]"),
        ("norm.bias", "[65]"),
        ("patch_embed.weight", "[7, 3, 8]"),
    ):
        expected.update(f"{name} {shape}\n".encode() + STATE[name].numpy().astype("<f4").tobytes())
    assert base_digest(STATE, ("head",)) == expected.hexdigest()
    assert base_digest(dict(reversed(STATE.items())), ("head",)) == expected.hexdigest()


@pytest.mark.parametrize("name", [name for name in STATE if name != "head.weight"])
@pytest.mark.parametrize("place", [0, -1])
def test_the_first_and_the_last_value_of_each_tensor_count(name: str, place: int) -> None:
    def by_one_rounding(tensor: Tensor) -> Tensor:
        flat = tensor.reshape(-1)
        flat[place] = torch.nextafter(flat[place], torch.tensor(9.0))
        return tensor

    assert changed(name, by_one_rounding) != base_digest(STATE, ("head",))


def test_the_head_does_not_count_and_dtype_and_layout_neither() -> None:
    digest = base_digest(STATE, ("head",))
    assert changed("head.weight", lambda tensor: tensor + 1) == digest
    assert changed("norm.bias", lambda tensor: tensor.double()) == digest
    assert changed("patch_embed.weight", lambda tensor: tensor.mT.contiguous().mT) == digest
    halves = {name: tensor.half() for name, tensor in STATE.items()}
    assert base_digest(halves, ("head",)) == base_digest({name: t.float() for name, t in halves.items()}, ("head",))
    assert changed("norm.bias", lambda tensor: tensor.reshape(5, 13)) != digest
    assert base_digest({name: tensor for name, tensor in STATE.items() if name != "norm.bias"}, ("head",)) != digest
