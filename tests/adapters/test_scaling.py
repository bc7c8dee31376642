"""alpha / rank as numbers: what a spec asks for, what a layer computes with, what stands in the file, and what is read.

A mistake made alike in all of them would agree with itself and, as the file is written from the layer, with peft.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ftx.adapters.adapter_spec import AdapterSpec
from ftx.adapters.attach import adapter_layers, attach, attach_saved
from ftx.adapters.peft_config import read_config
from ftx.adapters.peft_network import load_adapter, read_adapter, save_adapter
from ftx.adapters.pissa import spec_on_file
from ftx.backbones.build import build
from ftx.backbones.kept_tokens import keep_tokens
from ftx.core.errors import AdapterError
from ftx.merging.merge_and_prove import merged_state
from ftx.recipe.adapter_targets import Role
from ftx.recipe.method_defaults import AdapterName
from ftx.recipe.sections import AdapterInit

LAYER = "blocks.0.mlp.fc1"


def small() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=48, num_classes=3).eval()


def spec(ranks: dict[Role, int], alphas: dict[Role, float], **more: Any) -> AdapterSpec:
    return AdapterSpec("lora", ranks, alphas, **more)


@pytest.mark.parametrize(
    ("rank", "alpha", "rslora", "scaling"),
    [
        (8, 16, False, 2.0),
        (16, 4, False, 0.25),
        (4, 4, False, 1.0),
        # arXiv:2312.03732, eq. 3: alpha / √r
        (4, 6, True, 3.0),
        (16, 8, True, 2.0),
    ],
)
def test_a_layer_computes_with_alpha_over_rank(rank: int, alpha: float, rslora: bool, scaling: float) -> None:
    module = small()
    before = module.get_parameter(f"{LAYER}.weight").detach().clone()
    attach(module, spec({"fc1": rank}, {"fc1": alpha}, rslora=rslora), generator=torch.Generator().manual_seed(0))
    ((name, layer),) = adapter_layers(module)
    assert (name, layer.scaling) == (LAYER, scaling)
    with torch.no_grad():
        layer.lora_A[0] = torch.arange(48.0)
        layer.lora_A[1:] = 0
        layer.lora_B[5, 0] = 0.5
        layer.lora_B[5, 1:] = 7
    expected = before.clone()
    expected[5] += scaling * 0.5 * torch.arange(48.0)
    # f32: numbers up to 71
    torch.testing.assert_close(layer.merged_weight(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("ranks", "alphas", "more", "r", "lora_alpha"),
    [
        ({"fc1": 4}, {"fc1": 12.0}, {}, 4, 12),
        ({"fc1": 4}, {"fc1": 2.0}, {}, 4, 2),
        ({"fc1": 4}, {"fc1": 6.0}, {"rslora": True}, 4, 6),
        # q and v of a fused layer are one adapter of the summed rank, whose alpha grows with it: 12 / 4 = 24 / 8.
        ({"q": 4, "v": 4}, {"q": 12.0, "v": 12.0}, {}, 8, 24),
        # PiSSA keeps its first factors beside the trained: twice the rank, and alpha with it, or with its root.
        ({"fc1": 4}, {"fc1": 12.0}, {"init": "pissa"}, 8, 24),
        ({"fc1": 4}, {"fc1": 6.0}, {"init": "pissa", "rslora": True}, 8, 6 * math.sqrt(2)),
    ],
)
def test_the_file_says_rank_and_alpha(
    ranks: dict[Role, int], alphas: dict[Role, float], more: dict[str, Any], r: int, lora_alpha: float, tmp_path: Path
) -> None:
    module = small()
    asked = spec(ranks, alphas, **more)
    attach(module, asked, generator=torch.Generator().manual_seed(0))
    save_adapter(module, asked, base_model="vit", base_digest="0", folder=tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["use_rslora"]) == (r, more.get("rslora", False))
    assert config["lora_alpha"] == pytest.approx(lora_alpha, rel=1e-12)
    assert (config["fan_in_fan_out"], config["use_dora"], config["bias"]) == (False, False, "none")
    assert config["lora_dropout"] == 0  # none was asked for; peft refuses what is no probability


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_file_says_how_training_dropped(dropout: float, tmp_path: Path) -> None:
    """So that peft, which trains on from it, drops as much; and which base it is of, and how much of it was seen."""
    module = build("test_vit", weights="none", num_classes=3, image_size=64, seed=0).module
    shares = {2: 0.5, 4: 0.25} if dropout else {}
    keep_tokens(module, shares)
    asked = spec({"fc1": 2}, {"fc1": 4.0}, dropout=dropout)
    attach(module, asked, generator=torch.Generator().manual_seed(0))
    save_adapter(module, asked, base_model="test_vit", base_digest="abc", folder=tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["lora_dropout"] == dropout
    config = read_config(tmp_path)
    assert (config.base_model, config.base_digest, config.token_fractions) == ("test_vit", "abc", shares)


def by_hand(folder: Path, **config: object) -> dict[str, torch.Tensor]:
    """An adapter of rank 2 as someone else would write it."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(3)
    prefix = f"base_model.model.{LAYER}"
    tensors = {
        f"{prefix}.lora_A.weight": torch.randn(2, 48, generator=generator),
        f"{prefix}.lora_B.weight": torch.randn(192, 2, generator=generator),
    }
    if config.get("use_dora"):
        tensors[f"{prefix}.lora_magnitude_vector"] = 1 + torch.rand(192, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    document = {"peft_type": "LORA", "target_modules": ["fc1"], "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return tensors


def one_block(folder: Path) -> Path:
    """The base of such adapters, as timm saves models."""
    folder.mkdir()
    save_file(small().state_dict(), folder / "model.safetensors")
    args = {"img_size": 32, "depth": 1, "embed_dim": 48}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "model_args": args}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {"input_size": [3, 32, 32]}}))
    return folder


@pytest.mark.parametrize(
    ("config", "scaling"),
    [
        ({"r": 2, "lora_alpha": 6}, 3.0),
        ({"r": 2, "lora_alpha": 0.5}, 0.25),
        ({"r": 2, "lora_alpha": 6, "use_dora": True}, 3.0),
        ({"r": 2, "lora_alpha": 4, "use_rslora": True}, 4 / math.sqrt(2)),
        ({"r": 8, "lora_alpha": 8, "rank_pattern": {"fc1": 2}}, 4.0),
        ({"r": 2, "lora_alpha": 8, "alpha_pattern": {"fc1": 3}}, 1.5),
    ],
)
def test_an_adapter_written_by_hand_merges_as_peft_merges_it(
    config: dict[str, object], scaling: float, tmp_path: Path
) -> None:
    tensors = by_hand(tmp_path, **config)
    A, B, *magnitude = (tensor.double() for tensor in tensors.values())
    base = small()
    read = read_adapter(tmp_path, base)
    assert read.layers[LAYER].scaling == pytest.approx(scaling, rel=1e-15)
    summed = base.get_parameter(f"{LAYER}.weight").double() + scaling * B @ A
    if magnitude:
        summed *= (magnitude[0] / summed.norm(dim=1))[:, None]
    merged = merged_state(base, read.layers)[f"{LAYER}.weight"]
    # one rounding to f32 of numbers up to 30
    torch.testing.assert_close(merged.double(), summed, rtol=2**-24, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(small(), str(tmp_path)).merge_and_unload()
    # peft sums in f32: a few roundings of the terms, of which B·A has the largest; measured 2e-6
    torch.testing.assert_close(merged, theirs.get_parameter(f"{LAYER}.weight"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("init", ["zero", "pissa"])
def test_what_is_loaded_computes_as_what_was_saved(init: AdapterInit, tmp_path: Path) -> None:
    """With the spec's own numbers on both sides, which the tests above hold, the files change nothing."""
    asked = spec({"fc1": 2}, {"fc1": 6.0}, init=init)
    first, second = small(), small()
    attach(first, asked, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _, layer in adapter_layers(first):
            layer.lora_B += torch.randn(layer.lora_B.shape, generator=torch.Generator().manual_seed(1))
    save_adapter(first, asked, base_model="vit", base_digest="0", folder=tmp_path)
    attach(second, spec_on_file(asked), generator=torch.Generator())
    load_adapter(second, tmp_path)
    ((_, mine),), ((_, loaded),) = adapter_layers(first), adapter_layers(second)
    assert loaded.scaling == 3.0
    # f32: PiSSA's weight is split in two and summed again
    torch.testing.assert_close(loaded.merged_weight(), mine.merged_weight(), rtol=0, atol=2e-6)
    assert load_file(tmp_path / "adapter_model.safetensors").keys() >= {f"base_model.model.{LAYER}.lora_A.weight"}


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_a_model_that_is_filled_from_its_files_answers_as_the_one_that_was_saved(
    name: str, kind: AdapterName, tmp_path: Path
) -> None:
    """Targets of one layer with scalings of their own, magnitudes, and every head with its bias."""
    asked = AdapterSpec(kind, {"q": 2, "v": 3, "fc2": 2}, {"q": 8.0, "v": 3.0, "fc2": 5.0}, dropout=0.5)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(timm.create_model(name, img_size=32, depth=2, embed_dim=48, num_classes=3))
    first, second = models
    attach(first, asked, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in first.named_parameters():
            if parameter.requires_grad and "lora_B" not in key:
                parameter += 0.3 * torch.rand(parameter.shape, generator=generator)
        for _, layer in adapter_layers(first):
            for part in layer.parts:
                block = layer.lora_B[part.rows, part.ranks]
                layer.lora_B[part.rows, part.ranks] = torch.randn(block.shape, generator=generator)
    save_adapter(first, asked, base_model=name, base_digest="0", folder=tmp_path)
    attach_saved(second, asked)
    load_adapter(second, tmp_path)
    x = torch.randn(4, 3, 32, 32, generator=generator)
    with torch.inference_mode():
        expected, found = first.eval()(x), second.eval()(x)
    # f32: the ratio of two scalings goes into B on disk
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


def test_each_module_that_was_saved_whole_must_be_there(tmp_path: Path) -> None:
    tensors = by_hand(tmp_path, r=2, lora_alpha=4, modules_to_save=["head", "norm"])
    base = small()
    names = ["head.bias", "head.weight", "norm.bias", "norm.weight"]
    whole = tensors | {f"base_model.model.{name}": base.state_dict()[name] for name in names}
    save_file(whole, tmp_path / "adapter_model.safetensors")
    assert sorted(read_adapter(tmp_path, base).saved) == names
    for name in names:
        key = f"base_model.model.{name}"
        save_file({one: tensor for one, tensor in whole.items() if one != key}, tmp_path / "adapter_model.safetensors")
        with pytest.raises(AdapterError, match="must fit its base") as caught:
            read_adapter(tmp_path, base)
        assert caught.value.found == f"1 keys missing ({key})"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused_by_their_key(value: float, tmp_path: Path) -> None:
    tensors = by_hand(tmp_path, r=2, lora_alpha=4)
    key = f"base_model.model.{LAYER}.lora_B.weight"
    tensors[key][7, 1] = value
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="the values of the adapter must be finite") as caught:
        read_adapter(tmp_path, small())
    assert caught.value.found == key


OTHER_KINDS: dict[str, object] = {
    "fan_in_fan_out": True,
    "lora_bias": True,
    "use_qalora": True,
    "use_bdlora": {"target_modules_bd_a": ["fc1"]},
    "target_parameters": ["mlp.weight"],
    "trainable_token_indices": [1],
    "layer_replication": [[0, 1]],
    "alora_invocation_tokens": [1],
    "arrow_config": {"top_k": 1},
    "monteclora_config": {"a": 1},
    "velora_config": {"a": 1},
    "kasa_config": {"a": 1},
}


@pytest.mark.parametrize("key", OTHER_KINDS)
def test_an_adapter_that_is_more_than_two_factors_is_refused_by_the_key(key: str, tmp_path: Path) -> None:
    by_hand(tmp_path, r=2, lora_alpha=4)
    config = read_config(tmp_path)
    assert (config.rank(LAYER), config.scaling(LAYER, rank=2)) == (2, 2.0)
    by_hand(tmp_path, r=2, lora_alpha=4, **{key: OTHER_KINDS[key]})
    with pytest.raises(AdapterError, match="of a kind that ftx can merge") as caught:
        read_config(tmp_path)
    assert caught.value.found == key


def test_of_one_rank_each_layer_keeps_its_own_alpha(tmp_path: Path) -> None:
    given = spec({"q": 2, "fc1": 2, "fc2": 2}, {"q": 4.0, "fc1": 4.0, "fc2": 7.0})
    module = small()
    attach(module, given, generator=torch.Generator())
    save_adapter(module, given, base_model="vit", base_digest="0", folder=tmp_path)
    found = {name.rpartition(".")[2]: one.scaling for name, one in read_adapter(tmp_path, small()).layers.items()}
    assert found == {"qkv": 2.0, "fc1": 2.0, "fc2": 3.5}
