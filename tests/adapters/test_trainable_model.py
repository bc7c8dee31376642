"""From a recipe to a model: each key of it reaches the part that it is for, and what trains is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ftx.adapters.adapter_spec import AdapterSpec
from ftx.adapters.attach import adapter_layers
from ftx.adapters.trainable_model import adapter_spec, prepare
from ftx.backbones.build import build
from ftx.backbones.kept_tokens import kept_fractions
from ftx.recipe.schema import Recipe

# Six blocks, 64 wide, an MLP of three times that.
TINY = {"name": "test_vit", "weights": "none", "image_size": 32}


def recipe(**keys: Any) -> Recipe:
    return Recipe.named({**TINY, **keys})


def test_every_key_of_the_adapter_reaches_it() -> None:
    keys = {
        "peft": "dora",
        "rank": {"q": 2, "v": 3, "fc2": 5},
        "alpha": {"q": 8.0, "v": 1.5, "fc2": 4.0},
        "targets": "q,v,fc2",
        "blocks": [1, 4],
        "init": "pissa",
        "rslora": True,
    }
    made = prepare(recipe(**keys), 3)
    ranks, alphas = {"q": 2, "v": 3, "fc2": 5}, {"q": 8.0, "v": 1.5, "fc2": 4.0}
    assert made.spec == AdapterSpec("dora", ranks, alphas, blocks=(1, 4), init="pissa", rslora=True)
    assert made.method == "dora"
    assert made.layers == tuple(f"blocks.{block}.{leaf}" for block in (1, 4) for leaf in ("attn.qkv", "mlp.fc2"))
    assert tuple(name for name, _ in adapter_layers(made.backbone.module)) == made.layers
    assert all(hasattr(layer, "start_A") for _, layer in adapter_layers(made.backbone.module))
    assert adapter_spec(recipe(peft="lora", blocks="all", dropout=0.3, rank=4, alpha=6.0)) == AdapterSpec(
        "lora",
        dict.fromkeys(("q", "k", "v", "proj", "fc1", "fc2"), 4),
        dict.fromkeys(("q", "k", "v", "proj", "fc1", "fc2"), 6.0),
        dropout=0.3,
    )
    named = adapter_spec(recipe(peft="lora", layers=r"blocks\.0\.mlp\.fc1", rank=4, alpha=6.0))
    assert named == AdapterSpec("lora", {"layer": 4}, {"layer": 6.0}, blocks="auto", layers=r"blocks\.0\.mlp\.fc1")


def test_all_blocks_are_adapted_by_default() -> None:
    made = prepare(recipe(peft="lora", targets="proj", blocks="auto"), 3)
    assert made.layers == tuple(f"blocks.{block}.attn.proj" for block in range(6))
    named = prepare(recipe(peft="lora", layers=r"blocks\.\d\.mlp\.fc1", blocks="auto"), 3)
    assert len(named.layers) == 6  # a name says where


@pytest.mark.parametrize("saved", [False, True])
def test_the_plain_adapter_of_the_files_is_put_in_to_be_filled(saved: bool) -> None:
    """PiSSA's lies in the files with twice the rank, against weights that nothing was taken off."""
    keys = {"peft": "lora", "targets": "proj", "rank": 4, "alpha": 2.0, "init": "pissa"}
    made, plain = prepare(recipe(**keys), 3, saved=saved), prepare(recipe(peft="none"), 3)
    for name, layer in adapter_layers(made.backbone.module):
        assert layer.lora_A.shape == ((8 if saved else 4), 64)
        assert layer.scaling == 0.5
        assert torch.equal(layer.weight, plain.backbone.module.get_parameter(f"{name}.weight")) is saved
        assert bool(layer.lora_B.any()) is not saved


def test_the_model_is_built_as_the_recipe_says(tmp_path: Path) -> None:
    weights = build("test_vit", weights="none", num_classes=0, image_size="auto", seed=7).module.state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    keys = {"weights": str(tmp_path / "weights.safetensors"), "image_size": "64x32", "keep_tokens": {2: 0.5}}
    made = prepare(recipe(peft="none", **keys), 5).backbone
    assert (made.preprocess.height, made.preprocess.width) == (64, 32)
    assert made.module.pos_embed.shape == (1, 1 + 4 * 2, 64)
    assert kept_fractions(made.module) == {2: 0.5}
    assert made.module.num_classes == 5
    assert torch.equal(made.module.blocks[3].mlp.fc1.weight, weights["blocks.3.mlp.fc1.weight"])
    drawn = [prepare(recipe(peft="none", seed=seed), 5).backbone.module.head.weight for seed in (0, 1, 0)]
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


HEAD = 3 * 64 + 3


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"peft": "none", "freeze_backbone": True}, HEAD),
        ({"peft": "lora", "rank": 2, "targets": "proj", "blocks": 1}, 2 * 64 + 64 * 2 + HEAD),
        ({"peft": "dora", "rank": 2, "targets": "proj", "blocks": 1}, 2 * 64 + 64 * 2 + 64 + HEAD),
        # A of both targets, B and magnitudes of the rows that each has of qkv
        ({"peft": "lora", "rank": 2, "targets": "q,v", "blocks": 1}, 4 * 64 + 2 * 64 * 2 + HEAD),
        ({"peft": "dora", "rank": 2, "targets": "q,v", "blocks": 2}, 2 * (4 * 64 + 2 * 64 * 2 + 2 * 64) + HEAD),
    ],
)
def test_what_trains_is_what_the_method_trains(keys: dict[str, Any], expected: int) -> None:
    made = prepare(recipe(**keys), 3)
    assert made.trainable == expected
    frozen = {name for name, one in made.backbone.module.named_parameters() if not one.requires_grad}
    assert {"patch_embed.proj.weight", "pos_embed", "blocks.5.mlp.fc1.bias", "norm.weight"} <= frozen
    whole = prepare(recipe(peft="none"), 3)
    assert whole.trainable == sum(one.numel() for one in whole.backbone.module.parameters())
    assert (whole.method, whole.spec, whole.layers) == ("full", None, ())
