"""Adapters laid beside networks whose layers are no plain linear ones, or are not called as one would think."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import peft
import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.interop.test_open_adapters import F32, stir
from torch import nn

from ftx.adapters.low_rank import LowRankWeights
from ftx.backbones.kept_tokens import kept_fractions
from ftx.merging.combine_adapters import combine
from ftx.merging.unmerged_model import unmerged_adapters
from ftx.runs.dense import load_dense

# Some read the weight of qkv without calling it.
FAMILIES = {
    "beit_base_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 2},
    "eva02_tiny_patch14_224": {"img_size": 28, "depth": 2, "embed_dim": 24, "num_heads": 2},
    "swinv2_tiny_window8_256": {
        "img_size": 64,
        "depths": [1, 1],
        "embed_dim": 24,
        "num_heads": [2, 4],
        "window_size": 4,
    },
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 2},
}


def saved(name: str, folder: Path) -> nn.Module:
    """A small model of a family, its biases moved, as timm saves models."""
    torch.manual_seed(0)
    args = FAMILIES[name]
    module = timm.create_model(name, num_classes=3, **args).eval()
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if key.endswith("bias"):
                parameter += 0.1 * torch.randn(parameter.shape)
            if key in ("head.weight", "head.fc.weight") or "gamma" in key:  # timm draws logits of a thousandth
                parameter.normal_(std=0.5)
            elif "norm" in key and key.endswith("weight"):  # swinv2's begin at zero, which hides what is before them
                parameter.fill_(1)
    folder.mkdir()
    save_file(module.state_dict(), folder / "model.safetensors")
    side = args["img_size"]
    config = {"architecture": name, "num_classes": 3, "model_args": args}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {"input_size": [3, side, side]}}))
    return module


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_merged_model_answers_as_that_of_peft(name: str, dora: bool, tmp_path: Path) -> None:
    module = saved(name, tmp_path / "base")
    leaves = {
        leaf for layer, _ in module.named_modules() if (leaf := layer.rpartition(".")[2]) in ("qkv", "q_proj", "fc1")
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=2, target_modules=[*leaves, "proj"], use_dora=dora)
        model = peft.get_peft_model(module, config)
        stir(model)
        model.save_pretrained(tmp_path / "adapter")
        merged = model.merge_and_unload().eval()
    report = combine([tmp_path / "adapter"], tmp_path / "out", base=str(tmp_path / "base"), labels=["a", "b", "c"])
    assert report.max_logit_difference <= report.logit_bound
    side = FAMILIES[name]["img_size"]
    images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        expected, found = merged(images), load_dense(tmp_path / "out")(images)
        torch.testing.assert_close(found, expected, rtol=0, atol=F32)
        assert (
            expected - timm.create_model(name, num_classes=3, **FAMILIES[name]).eval()(images)
        ).abs().max() > 100 * F32


def test_patches_that_adapters_were_trained_without_are_dropped_and_named(tmp_path: Path) -> None:
    """As the note of ftx in their config says; where it says nothing, none are."""
    module = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=64, depth=3, embed_dim=24, num_heads=2)
    (base := tmp_path / "base").mkdir()
    save_file(module.state_dict(), base / "model.safetensors")
    args = {"img_size": 64, "depth": 3, "embed_dim": 24, "num_heads": 2}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "model_args": args}
    (base / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {"input_size": [3, 64, 64]}}))
    for name, shares in (("fewer", {"1": 0.5, "2": 0.25}), ("all", {})):
        (folder := tmp_path / name).mkdir()
        layer = "base_model.model.blocks.0.mlp.fc1"
        factors = {f"{layer}.lora_A.weight": torch.randn(2, 24), f"{layer}.lora_B.weight": torch.randn(96, 2)}
        save_file(factors, folder / "adapter_model.safetensors")
        document = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["blocks.0.mlp.fc1"]}
        (folder / "adapter_config.json").write_text(json.dumps({**document, "ftx": {"keep_tokens": shares}}))
        combine([folder], tmp_path / f"{name}-merged", base=str(base), labels=["a", "b", "c"])
        card = (tmp_path / f"{name}-merged" / "README.md").read_text()
        said = "50 % of the patches enter block 1, of those 25 % of the patches enter block 2"
        assert (said in card) is bool(shares)
        assert ("patches enter" in card) is bool(shares)
        found = json.loads((tmp_path / f"{name}-merged" / "config.json").read_text()).get("keep_tokens", {})
        assert found == shares
        assert kept_fractions(load_dense(tmp_path / f"{name}-merged")) == {
            int(block): one for block, one in shares.items()
        }


@pytest.mark.parametrize("settings", [{"padding": 1}, {"padding": 2, "stride": 2}, {"dilation": 2, "bias": False}])
def test_beside_a_convolution_an_adapter_is_one(settings: dict[str, int]) -> None:
    """It answers as one with the merged weight, whatever its stride, padding and dilation."""
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, **settings).double()  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    adapter = LowRankWeights(rng.standard_normal((2, 36)), rng.standard_normal((6, 2)), 0.5)
    x, module = torch.randn(2, 4, 9, 9, dtype=torch.float64), nn.Sequential(layer)
    with torch.no_grad(), unmerged_adapters(module, {"0": [(1.0, adapter)]}):
        found = module(x)
    with torch.no_grad():
        layer.weight += torch.from_numpy(0.5 * adapter.lora_B_OR @ adapter.lora_A_RI).view_as(layer.weight)
        torch.testing.assert_close(found, module(x), rtol=0, atol=1e-12)
