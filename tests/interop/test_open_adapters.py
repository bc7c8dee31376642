"""Adapters that peft trained on timm and on transformers, merged here: the answers are peft's own."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTForImageClassification,
)
from transformers import logging as transformers_logging

from ftx.adapters.peft_network import read_adapter
from ftx.core.errors import AdapterError, FtxError, GateFailed, InputError, MergeError, ModelError
from ftx.interop.base_model import open_base
from ftx.interop.transformers_config import read_processor
from ftx.merging.combine_adapters import combine
from ftx.runs.dense import load_dense

CLASSES = 3
# One merge in float64, stored in f32, through two blocks: f32 rounding on logits of 2 to 4; measured 2.6e-6.
F32 = 8e-6

# timm normalises with epsilon 1e-6; ViTConfig's own 1e-12 has a test of its own.
VIT = {"layer_norm_eps": 1e-6, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}
MODEL_TYPES = {
    "lora": {"lora_alpha": 12},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True, "lora_alpha": 6},
    "patterns": {"rank_pattern": {"proj": 3, "query": 3, "q_proj": 3}, "alpha_pattern": {"0.*": 7}},
    "gaussian": {"init_lora_weights": "gaussian"},
}


def stir(model: nn.Module, seed: int = 0) -> None:
    """As training leaves it: B not zero, magnitudes and what is trained whole moved."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
            elif "magnitude" in name:
                parameter *= 1 + 0.2 * torch.rand(parameter.shape, generator=generator)


def adapt(base: nn.Module, folder: Path, targets: list[str] | str, seed: int = 0, **settings: object) -> nn.Module:
    """An adapter of peft, saved, and the model that answers with it."""
    config = peft.LoraConfig(r=4, target_modules=targets, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(base, config)
        stir(model, seed)
        model.save_pretrained(folder)
    return model.eval()


def images(side: int = 32) -> torch.Tensor:
    return torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(5))


def timm_vit(folder: Path) -> nn.Module:
    """A small ViT with a head of other classes, saved as timm saves models."""
    torch.manual_seed(0)
    args = {"img_size": 32, "depth": 2, "embed_dim": 48}
    module = timm.create_model("vit_tiny_patch16_224", num_classes=7, **args)
    folder.mkdir()
    save_file(module.state_dict(), folder / "model.safetensors")
    cfg = {"input_size": [3, 32, 32]}
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 7,
        "model_args": args,
        "pretrained_cfg": cfg,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return module


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_on_timm(kind: str, tmp_path: Path) -> None:
    base = timm_vit(tmp_path / "base")
    base.reset_classifier(CLASSES)
    # The list reaches the convolution patch_embed.proj too, as peft's users find out late.
    model = adapt(base, tmp_path / "adapter", ["qkv", "proj", "fc1"], modules_to_save=["head"], **MODEL_TYPES[kind])
    report = combine([tmp_path / "adapter"], tmp_path / "out", base=str(tmp_path / "base"), labels=["a", "b", "c"])
    assert report.max_relative_error < 1e-6
    assert "patch_embed.proj" in {proof.layer for proof in report.layers}
    with torch.inference_mode():
        expected = model(images())
        torch.testing.assert_close(load_dense(tmp_path / "out")(images()), expected, rtol=0, atol=F32)
        opened = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
        torch.testing.assert_close(opened(images()), expected, rtol=0, atol=F32)
    # peft's own merge, in f32: one rounding of each entry apart
    theirs = model.merge_and_unload().state_dict()
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        scale = float(theirs[name].abs().max())
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=2**-22 * max(scale, 1e-6))


@pytest.mark.parametrize("release", ["today", "before version 5"])
@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_on_a_vit_of_transformers(kind: str, release: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = ViTForImageClassification(ViTConfig(**VIT, intermediate_size=64, num_labels=CLASSES)).eval()
    base.config.id2label = {0: "ok", 1: "scratched", 2: "dented"}
    base.save_pretrained(tmp_path / "base")
    settings = {"modules_to_save": ["classifier"], **MODEL_TYPES[kind]}
    model = adapt(base, tmp_path / "adapter", ["q_proj", "v_proj", "fc1"], **settings)
    if release != "today":
        as_it_was(tmp_path / "adapter")
    # A base of older releases has a pooler, which no classifier reads.
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights |= {"vit.pooler.dense.weight": torch.ones(4, 4), "vit.pooler.dense.bias": torch.ones(4)}
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    combine([tmp_path / "adapter"], tmp_path / "out", base=str(tmp_path / "base"))
    with torch.inference_mode():
        expected = model(images()).logits
        torch.testing.assert_close(load_dense(tmp_path / "out")(images()), expected, rtol=0, atol=F32)
    document = json.loads((tmp_path / "out" / "config.json").read_text())
    assert document["label_names"] == ["ok", "scratched", "dented"]


def test_whatever_transformers_adapts_of_a_vit_is_merged(tmp_path: Path) -> None:
    """The classifier and the patches' projection too, each by an adapter, and a norm that was trained whole."""
    torch.manual_seed(0)
    base = ViTForImageClassification(ViTConfig(**VIT, intermediate_size=64, num_labels=CLASSES)).eval()
    base.save_pretrained(tmp_path / "base")
    targets = ["classifier", "projection", "k_proj", "o_proj", "fc2"]
    model = adapt(base, tmp_path / "adapter", targets, use_dora=True, modules_to_save=["layernorm"])
    report = combine([tmp_path / "adapter"], tmp_path / "out", base=str(tmp_path / "base"))
    blocks = [f"blocks.{number}.{leaf}" for number in (0, 1) for leaf in ("attn.qkv", "attn.proj", "mlp.fc2")]
    assert {proof.layer for proof in report.layers} == {"patch_embed.proj", "head", *blocks}
    with torch.inference_mode():
        expected = model(images()).logits
        torch.testing.assert_close(load_dense(tmp_path / "out")(images()), expected, rtol=0, atol=F32)


def test_another_epsilon_is_carried_as_far_as_it_can_be(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = {**VIT, "layer_norm_eps": 1e-12, "intermediate_size": 64, "num_labels": CLASSES}
    # Tokens of a variance of 1e-5: there the epsilon is felt, and is told.
    base = ViTForImageClassification(ViTConfig(**config, initializer_range=0.003)).eval()
    base.save_pretrained(tmp_path / "base")
    adapt(base, tmp_path / "adapter", ["q_proj"])
    opened = open_base(str(tmp_path / "base")).module
    assert {layer.eps for layer in opened.modules() if isinstance(layer, nn.LayerNorm)} == {1e-12}
    with pytest.raises(GateFailed, match="does not compute the same logits") as caught:
        combine([tmp_path / "adapter"], tmp_path / "out", base=str(tmp_path / "base"))
    assert "epsilon 1e-12, timm's model with 1e-06" in str(caught.value)
    # Tokens of a trained model's size.
    large = ViTForImageClassification(ViTConfig(**config, initializer_range=1.0)).eval()
    large.save_pretrained(tmp_path / "large")
    model = adapt(large, tmp_path / "other", ["q_proj"])
    combine([tmp_path / "other"], tmp_path / "out", base=str(tmp_path / "large"))
    with torch.inference_mode():
        expected = model(images()).logits
        found = load_dense(tmp_path / "out")(images())
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def as_it_was(folder: Path) -> None:
    """The adapter under the names that layers had in transformers up to version 4, as hubs are full of."""
    older = {
        "layers.": "encoder.layer.",
        "attention.q_proj": "attention.attention.query",
        "attention.v_proj": "attention.attention.value",
        "mlp.fc1": "intermediate.dense",
    }
    tensors = load_file(folder / "adapter_model.safetensors")
    renamed = {}
    for key, tensor in tensors.items():
        for newer, old in older.items():
            key = key.replace(newer, old)
        renamed[key] = tensor
    save_file(renamed, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    alter(folder, lambda config: config.update(target_modules=["query", "value", "intermediate.dense"]))


@pytest.mark.parametrize("swiglu", [False, True])
def test_on_a_dinov2_of_transformers(swiglu: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(**{**VIT, "image_size": 28}, mlp_ratio=4, patch_size=14, use_swiglu_ffn=swiglu)
    base = Dinov2Model(config).eval()
    stir_scales(base)
    base.save_pretrained(tmp_path / "base")
    targets = ["q_proj", "o_proj", "up_proj", "down_proj"] if swiglu else ["q_proj", "o_proj", "fc1", "fc2"]
    model = adapt(base, tmp_path / "adapter", targets, use_dora=True)
    report = combine([tmp_path / "adapter"], tmp_path / "out", base=str(tmp_path / "base"), head=False)
    assert report.labels == 0
    with torch.inference_mode():
        expected = model(images(28)).last_hidden_state
        found = load_dense(tmp_path / "out").forward_features(images(28))
        torch.testing.assert_close(found, expected, rtol=0, atol=F32)


def stir_scales(model: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lambda" in name:
                parameter.uniform_(0.5, 1.5)


def test_a_classifier_of_dinov2_is_refused_by_name(tmp_path: Path) -> None:
    config = Dinov2Config(**{**VIT, "image_size": 28}, mlp_ratio=4, patch_size=14, num_labels=CLASSES)
    base = Dinov2ForImageClassification(config)
    base.save_pretrained(tmp_path / "base")
    adapt(base, tmp_path / "adapter", ["q_proj"], modules_to_save=["classifier"])
    with pytest.raises(AdapterError, match="classifier") as caught:
        combine([tmp_path / "adapter"], tmp_path / "out", base=str(tmp_path / "base"))
    assert "mean of the patches" in str(caught.value)
    combine([tmp_path / "adapter"], tmp_path / "out", base=str(tmp_path / "base"), head=False)
    assert load_dense(tmp_path / "out").num_classes == 0


def alter(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def retouch(folder: Path, change: Callable[[dict[str, torch.Tensor], str], object]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors, next(key for key in tensors if key.endswith("lora_A.weight")))
    save_file(tensors, path, metadata={"format": "pt"})


OTHER = "timm/vit_base_patch16_224"
TRAINED = "the one that the adapter was trained on"
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "another type": (lambda a: alter(a, lambda c: c.update(peft_type="IA3")), "must be one of DoRA, LoRA, LoKr"),
    "trained biases": (lambda a: alter(a, lambda c: c.update(bias="lora_only")), "bias must be none"),
    "a changed base": (lambda a: alter(a, lambda c: c.update(init_lora_weights="pissa")), "an unchanged base"),
    "another kind": (lambda a: alter(a, lambda c: c.update(lora_bias=True)), "that ftx can merge"),
    "another name": (
        lambda a: alter(a, lambda c: c.update(base_model_name_or_path="timm/vit_base_patch16_224")),
        TRAINED,
    ),
    "an expression": (lambda a: alter(a, lambda c: c.update(target_modules="(")), "expression"),
    "no layer": (lambda a: alter(a, lambda c: c.update(target_modules=["query"])), "must be layers of the base"),
    "a rank": (lambda a: alter(a, lambda c: c.update(r=5)), "must fit"),
    "an alpha": (lambda a: alter(a, lambda c: c.update(lora_alpha="8")), "lora_alpha: '8'"),
    "half a rank": (lambda a: alter(a, lambda c: c.update(r=0.5)), "r: 0.5"),
    "a word for true": (lambda a: alter(a, lambda c: c.update(use_rslora="false")), "use_rslora: 'false'"),
    "blocks": (lambda a: alter(a, lambda c: c.update(layers_to_transform=["a"])), "layers_to_transform"),
    "too large": (lambda a: alter(a, lambda c: c.update(lora_alpha=1e40)), "must fit into fp32"),
    "no mapping": (lambda a: (a / "adapter_config.json").write_text("[" * 100_000), "cannot be read"),
    "no config": (lambda a: (a / "adapter_config.json").unlink(), "must be an adapter"),
    "no tensors": (lambda a: (a / "adapter_model.safetensors").unlink(), "must contain adapter_model.safetensors"),
    "missing": (lambda a: retouch(a, lambda t, key: t.pop(key)), "1 keys missing"),
    "spare": (lambda a: retouch(a, lambda t, k: t.update({k.replace(".0.", ".9."): t[k].clone()})), "1 keys spare"),
    "a shape": (lambda a: retouch(a, lambda t, key: t.update({key: t[key][:, :-1].contiguous()})), "wrong shape"),
    "not finite": (lambda a: retouch(a, lambda t, key: t[key].fill_(torch.nan)), "must be finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_hold_is_refused(case: str, tmp_path: Path) -> None:
    base = timm_vit(tmp_path / "base")
    adapt(base, tmp_path / "adapter", ["qkv", "fc1"], modules_to_save=["head"])
    change, said = REFUSED[case]
    change(tmp_path / "adapter")
    with pytest.raises(FtxError, match=r".") as caught:
        combine([tmp_path / "adapter"], tmp_path / "out", base=str(tmp_path / "base"))
    assert isinstance(caught.value, AdapterError | MergeError)
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_base_that_is_none(tmp_path: Path) -> None:
    timm_vit(tmp_path / "base")
    adapt(timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=48), tmp_path / "adapter", ["qkv"])
    with pytest.raises(InputError, match="--base must be given"):
        combine([tmp_path / "adapter"], tmp_path / "out")
    with pytest.raises(ModelError, match="does not exist"):
        combine([tmp_path / "adapter"], tmp_path / "out", base="vit_tniy")
    (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": "swin"}))
    with pytest.raises(ModelError, match="model_type must be one of"):
        combine([tmp_path / "adapter"], tmp_path / "out", base=str(tmp_path / "base"))


def test_layers_to_transform(tmp_path: Path) -> None:
    base = timm_vit(tmp_path / "base")
    adapt(base, tmp_path / "adapter", ["qkv"], layers_to_transform=[1], layers_pattern="blocks")
    fresh = timm_vit(tmp_path / "fresh")
    assert list(read_adapter(tmp_path / "adapter", fresh).layers) == ["blocks.1.attn.qkv"]


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["qkv", "fc1"], "exclude_modules": ["blocks.0.mlp.fc1"]},
        {"target_modules": ["fc2"], "modules_to_save": ["head", "norm", "blocks.1.mlp.fc1"]},
        {"target_modules": ["head", "qkv"]},
        {"target_modules": ["head", "fc1", "qkv"], "modules_to_save": ["head", "blocks.1.mlp.fc1"]},
        {"target_modules": r"(?i)blocks\.\d\.ATTN\.qkv", "use_rslora": True},
    ],
    ids=["excluded", "saved", "the head itself", "named and saved", "expression"],
)
def test_what_peft_can_choose(settings: dict[str, object], tmp_path: Path) -> None:
    base = timm_vit(tmp_path / "base")
    model = adapt(base, tmp_path / "adapter", settings.pop("target_modules"), **settings)  # pyright: ignore[reportArgumentType]
    combine([tmp_path / "adapter"], tmp_path / "out", base=str(tmp_path / "base"))
    with torch.inference_mode():
        torch.testing.assert_close(load_dense(tmp_path / "out")(images()), model(images()), rtol=0, atol=F32)


def test_registers_and_no_bias(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = {**VIT, "image_size": 28, "mlp_ratio": 4, "patch_size": 14, "num_register_tokens": 4, "qkv_bias": False}
    base = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**config)).eval()
    stir_scales(base)
    base.save_pretrained(tmp_path / "base")
    model = adapt(base, tmp_path / "adapter", ["q_proj", "v_proj", "fc2"])
    combine([tmp_path / "adapter"], tmp_path / "out", base=str(tmp_path / "base"), head=False)
    with torch.inference_mode():
        found = load_dense(tmp_path / "out").forward_features(images(28))
        torch.testing.assert_close(found, model(images(28)).last_hidden_state, rtol=0, atol=F32)


@pytest.mark.parametrize("size", ["56", "28x70"])
def test_positions_at_another_size_are_those_of_transformers(size: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = Dinov2Model(Dinov2Config(**{**VIT, "image_size": 70}, mlp_ratio=4, patch_size=14)).eval()
    stir_scales(base)
    base.save_pretrained(tmp_path / "base")
    model = adapt(base, tmp_path / "adapter", ["q_proj"])
    combine([tmp_path / "adapter"], tmp_path / "out", base=str(tmp_path / "base"), image_size=size, head=False)
    height, _, width = size.partition("x")
    pictures = torch.randn(2, 3, int(height), int(width or height), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = load_dense(tmp_path / "out").forward_features(pictures)
        # The same interpolation; with antialias, as timm resamples, they differ by 0.1 and more.
        torch.testing.assert_close(found, model(pictures).last_hidden_state, rtol=0, atol=F32)


def test_labels_come_by_their_ids(tmp_path: Path) -> None:
    base = ViTForImageClassification(ViTConfig(**VIT, intermediate_size=64, num_labels=12))
    base.config.id2label = {index: f"n{index}" for index in range(12)}
    base.save_pretrained(tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))  # "10" before "2"
    adapt(base, tmp_path / "adapter", ["q_proj"])
    combine([tmp_path / "adapter"], tmp_path / "out", base=str(tmp_path / "base"))
    document = json.loads((tmp_path / "out" / "config.json").read_text())
    assert document["label_names"] == [f"n{index}" for index in range(12)]


def test_a_convolution_that_standardises_its_weight_is_refused(tmp_path: Path) -> None:
    base = timm.create_model("resnetv2_50x1_bit", num_classes=3)
    adapt(base, tmp_path / "adapter", ["stages.0.blocks.0.conv2"])
    with pytest.raises(AdapterError, match="in a layer that ftx can merge") as caught:
        read_adapter(tmp_path / "adapter", timm.create_model("resnetv2_50x1_bit", num_classes=3))
    assert "stages.0.blocks.0.conv2 is a StdConv2d" in str(caught.value)


def test_classes_may_stand_among_the_arguments(tmp_path: Path) -> None:
    """As timm's save_for_hf writes them where it is asked to."""
    base = timm_vit(tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "model_args": {**config["model_args"], "num_classes": 7}}))
    adapt(base, tmp_path / "adapter", ["qkv"])
    combine([tmp_path / "adapter"], tmp_path / "out", base=str(tmp_path / "base"))
    assert load_dense(tmp_path / "out").num_classes == 7


BROKEN: dict[str, tuple[dict[str, object], str]] = {
    "a size": ({"pretrained_cfg": {"input_size": [3, 32]}}, "pretrained_cfg.input_size"),
    "a deviation": ({"pretrained_cfg": {"std": [0, 0, 0]}}, "pretrained_cfg.std"),
    "a crop": ({"pretrained_cfg": {"crop_pct": 2}}, "pretrained_cfg.crop_pct"),
    "a pickle": ({"model_args": {"checkpoint_path": "x.pth"}}, "checkpoint_path"),
    "a network": ({"model_args": {"pretrained": True}}, "pretrained"),
    "an argument": ({"model_args": {"patch_size": 0}}, "cannot build"),
    "a name": ({"architecture": "vit_tniy"}, "no such architecture"),
    "classes": ({"num_classes": "many"}, "num_classes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_base_that_does_not_hold_is_named(case: str, tmp_path: Path) -> None:
    base = timm_vit(tmp_path / "base")
    adapt(base, tmp_path / "adapter", ["qkv"])
    changes, said = BROKEN[case]
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelError, match=r".") as caught:
        combine([tmp_path / "adapter"], tmp_path / "out", base=str(tmp_path / "base"))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_attention_heads": 5}, "5 heads must divide"),
        ({"num_hidden_layers": 1}, "2 blocks, the config has 1"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps"),
        ({"id2label": ["a"]}, "id2label"),
    ],
)
def test_a_base_of_transformers_that_does_not_hold_is_named(
    changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    base = ViTForImageClassification(ViTConfig(**VIT, intermediate_size=64, num_labels=CLASSES))
    base.save_pretrained(tmp_path / "base")
    adapt(base, tmp_path / "adapter", ["q_proj"])
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelError, match=r".") as caught:
        combine([tmp_path / "adapter"], tmp_path / "out", base=str(tmp_path / "base"))
    assert said in str(caught.value)


def test_the_image_processor_is_carried_over_or_refused(tmp_path: Path) -> None:
    processor = {
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.4],
        "resample": 3,
        "size": {"shortest_edge": 256},
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
    }
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(processor))
    found = read_processor(tmp_path, "dinov2", (224, 224))
    assert (found.resize, found.interpolation, found.mean) == (256, "bicubic", (0.4, 0.5, 0.6))
    path.write_text(json.dumps({**processor, "do_normalize": False}))
    with pytest.raises(ModelError, match="image processor"):
        read_processor(tmp_path, "dinov2", (224, 224))
