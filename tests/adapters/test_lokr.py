"""LoKr held against peft: the layer and its gradients, the file in both directions, and every merge."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ftx.adapters.adapter_layer import AdapterLayer
from ftx.adapters.adapter_spec import AdapterSpec, TargetPart
from ftx.adapters.attach import adapter_layers, attach, attach_saved, prove_reach
from ftx.adapters.lokr import Block, KroneckerWeights, Lokr, factors_of
from ftx.adapters.low_rank import LowRank
from ftx.adapters.merge_weight import merged_weight, unmerged_forward
from ftx.adapters.peft_file import PREFIX, WEIGHTS, read_peft_file
from ftx.adapters.peft_network import load_adapter, read_adapter, save_adapter
from ftx.core.errors import AdapterError, RecipeError
from ftx.merging.merge_and_prove import check_layers, merged_state, prove_layers
from ftx.merging.unmerged_model import unmerged_adapters
from ftx.recipe.schema import Recipe

# Layers of 24 inputs and 36 outputs: sides split as 4 x 6 and 6 x 6.
INPUTS, OUTPUTS, SCALING = 24, 36, 0.75
PART = (TargetPart("fc1", slice(0, OUTPUTS), slice(0, 2)),)
SPEC = AdapterSpec("lokr", {"q": 2, "k": 2, "v": 2, "fc1": 3}, {"q": 5.0, "k": 5.0, "v": 5.0, "fc1": 2.0})


def layer_of(rank: int) -> AdapterLayer:
    torch.manual_seed(0)
    base = nn.Linear(INPUTS, OUTPUTS, dtype=torch.float64)
    layer = AdapterLayer(base, PART, method=Lokr(), rank=rank, scaling=SCALING, generator=torch.Generator())
    with torch.no_grad():
        for factor in layer.factors.values():
            factor.normal_()
    return layer


def small() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_classes=3).eval()


def trained(spec: AdapterSpec = SPEC) -> nn.Module:
    """A network whose factors all have moved, its head too."""
    module, generator = small(), torch.Generator().manual_seed(1)
    attach(module, spec, generator=generator)
    with torch.no_grad():
        for _, layer in adapter_layers(module):
            for factor in layer.factors.values():
                factor += 0.2 * torch.randn(factor.shape, generator=generator)
        module.get_parameter("head.weight").normal_(generator=generator)
    return module


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("rank", [2, 3], ids=["w2 as a product", "w2 as it is"])
def test_peft_computes_and_learns_the_same(rank: int) -> None:
    layer = layer_of(rank)
    base = nn.Sequential(nn.Linear(INPUTS, OUTPUTS, dtype=torch.float64))
    base[0].load_state_dict({"weight": layer.weight, "bias": layer.bias})
    config = peft.LoKrConfig(r=rank, alpha=SCALING * rank, target_modules=["0"])  # type: ignore[arg-type]
    oracle = peft.get_peft_model(base, config, autocast_adapter_dtype=False).double()
    theirs = oracle.base_model.model[0]
    assert len(layer.factors) == (3 if rank == 2 else 2)
    with torch.no_grad():
        for name, factor in layer.factors.items():
            getattr(theirs, name)["default"].copy_(factor)
    x = torch.randn(7, INPUTS, dtype=torch.float64)
    mine, expected = layer(x), oracle(x)
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)  # float64, sums in another order
    mine.square().sum().backward()
    expected.square().sum().backward()
    for name, factor in layer.factors.items():
        torch.testing.assert_close(factor.grad, getattr(theirs, name)["default"].grad, rtol=1e-10, atol=1e-10)
        assert factor.grad is not None
        assert factor.grad.norm() > 0
    assert layer.weight.grad is None
    assert layer.trainable_parameters == sum(factor.numel() for factor in layer.factors.values())


@pytest.mark.parametrize("rank", [2, 3])
def test_numpy_merges_what_torch_computes_with_and_separate_products_agree(rank: int) -> None:
    layer = layer_of(rank)
    factors = {name: factor.detach().numpy() for name, factor in layer.factors.items()}
    weights, weight_OI = Lokr().weights(factors, SCALING, rank), layer.weight.numpy()
    merged_OI = merged_weight(weight_OI, weights)
    np.testing.assert_allclose(merged_OI, layer.merged_weight().detach().numpy(), rtol=0, atol=1e-14)
    w1, w2 = layer.factors["lokr_w1"], factors.get("lokr_w2")
    if w2 is None:
        w2 = factors["lokr_w2_a"] @ factors["lokr_w2_b"]
    np.testing.assert_allclose(merged_OI - weight_OI, SCALING * np.kron(w1.detach().numpy(), w2), rtol=0, atol=1e-14)
    x_NI = np.random.default_rng(0).standard_normal((5, INPUTS))
    np.testing.assert_allclose(unmerged_forward(x_NI, weight_OI, weights), x_NI @ merged_OI.T, rtol=0, atol=1e-12)
    reads_IR, writes_OR = weights.directions()
    np.testing.assert_allclose(reads_IR.T @ reads_IR, np.eye(reads_IR.shape[1]), atol=1e-12)
    delta_OI = weights.delta(slice(None))
    np.testing.assert_allclose(writes_OR @ (writes_OR.T @ delta_OI @ reads_IR) @ reads_IR.T, delta_OI, atol=1e-12)
    assert (weights.rank, weights.parameters) == (rank, layer.trainable_parameters)


def test_directions_are_only_those_that_the_change_has() -> None:
    """Of factors with rank 1 and 2 the product has rank 2, and rounding adds none."""
    rng = np.random.default_rng(0)
    w1, w2 = rng.standard_normal((6, 1)) @ rng.standard_normal((1, 4)), rng.standard_normal((6, 2))
    factors = {"lokr_w1": w1, "lokr_w2": w2 @ rng.standard_normal((2, 6))}
    weights = Lokr().weights(factors, SCALING, 3)
    reads_IR, writes_OR = weights.directions()
    assert (reads_IR.shape, writes_OR.shape) == ((24, 2), (36, 2))


def test_in_bf16_the_weight_is_rounded_once() -> None:
    layer = layer_of(2).float()
    x = torch.randn(4, INPUTS)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    expected = nn.functional.linear(x.bfloat16(), layer.merged_weight().bfloat16(), layer.bias.bfloat16())
    assert torch.equal(found, expected)


def test_low_rank_is_the_same_formula() -> None:
    """The general layer with LoRA's delta computes with the weight that numpy merges."""
    torch.manual_seed(0)
    base, method = nn.Linear(INPUTS, OUTPUTS, dtype=torch.float64), LowRank(dora=False)
    plain = AdapterLayer(base, PART, method=method, rank=2, scaling=SCALING, generator=torch.Generator())
    with torch.no_grad():
        plain.factors["lora_B"].normal_()
    factors = {name: factor.detach().numpy() for name, factor in plain.factors.items()}
    found = merged_weight(plain.weight.numpy(), method.weights(factors, SCALING, 2))
    np.testing.assert_allclose(found, plain.merged_weight().detach().numpy(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("number", [1, 7, 36, 48, 384, 1152, 1536])
def test_a_side_is_split_as_peft_splits_it(number: int) -> None:
    base = nn.Sequential(nn.Linear(number, number, bias=False))
    model = peft.get_peft_model(base, peft.LoKrConfig(r=10**6, alpha=1, target_modules=["0"]))
    theirs = model.base_model.model[0]
    sides = theirs.lokr_w1["default"].shape[0], theirs.lokr_w2["default"].shape[0]
    assert factors_of(number) == sides


def test_a_fresh_adapter_changes_nothing_and_training_reaches_it() -> None:
    module = small()
    with torch.no_grad():
        before = module(IMAGES)
    attach(module, SPEC, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(module(IMAGES), before, rtol=0, atol=0)
    module(IMAGES).square().sum().backward()
    prove_reach(module)
    for _, layer in adapter_layers(module):
        layer.get_parameter("lokr_w1").grad = None
    with pytest.raises(AdapterError, match="training must reach"):
        prove_reach(module)


def test_peft_opens_what_ftx_wrote(tmp_path: Path) -> None:
    module = trained()
    save_adapter(module, SPEC, base_model="vit", base_digest="0", folder=tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["alpha"]) == ("LOKR", 2, 5)
    assert len(config["rank_pattern"]) == len(config["alpha_pattern"]) == 2  # of fc1 in each block
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unexpected keyword arguments")  # the key of ftx, by which it finds the base
        opened = peft.PeftModel.from_pretrained(small(), str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(opened(IMAGES), module.eval()(IMAGES), rtol=0, atol=1e-5)
    again = small()
    attach_saved(again, SPEC)
    load_adapter(again, tmp_path)
    with torch.no_grad():
        assert torch.equal(again(IMAGES), module(IMAGES))


THEIRS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "both as products": {"decompose_both": True},
    "another split": {"decompose_factor": 4},
    "a rank above all sides": {"r": 100_000, "alpha": 150_000},
    "other ranks": {"rank_pattern": {"blocks.0.mlp.fc1": 3}, "alpha_pattern": {"fc1": 7}},
}


@pytest.mark.parametrize("name", THEIRS)
def test_what_peft_wrote_merges_as_peft_merges_it(name: str, tmp_path: Path) -> None:
    ranks: dict[str, Any] = {"r": 2, "alpha": 3} | THEIRS[name]
    config = peft.LoKrConfig(target_modules=["qkv", "fc1"], modules_to_save=["head"], init_weights=False, **ranks)
    model = peft.get_peft_model(small(), config).eval()
    model.save_pretrained(str(tmp_path))
    base = small()
    read = read_adapter(tmp_path, base)
    merged = merged_state(base, read.layers)
    check_layers(prove_layers(base, merged, read.layers))
    theirs = model.merge_and_unload()
    for key, weight in merged.items():
        assert (weight - base.state_dict()[key]).norm() > 0
        torch.testing.assert_close(weight, theirs.state_dict()[key], rtol=0, atol=1e-6)  # f32, summed in another order
    with (
        torch.inference_mode(),
        unmerged_adapters(base, {layer: [(1.0, one)] for layer, one in read.layers.items()}) as unmerged,
    ):
        torch.testing.assert_close(unmerged(IMAGES), theirs(IMAGES), rtol=0, atol=1e-4)
    assert read_peft_file(tmp_path).layers().keys() == read.layers.keys()


def test_products_of_the_rows_of_one_layer_stand_side_by_side() -> None:
    """As transformers' query and value do in timm's qkv."""
    rng = np.random.default_rng(0)
    parts = [(rng.standard_normal((2, 4)), rng.standard_normal((6, 6)), scaling) for scaling in (0.5, 2.0)]
    single = [KroneckerWeights((Block(slice(None), (w1,), (w2,), s),), (12, 24), 6, 44) for w1, w2, s in parts]
    weight_OI, placed = rng.standard_normal((36, 24)), [(slice(24, 36), single[0]), (slice(0, 12), single[1])]
    whole = Lokr().in_one(weight_OI, placed)
    expected_OI = weight_OI.copy()
    expected_OI[24:] += 0.5 * np.kron(*parts[0][:2])
    expected_OI[:12] += 2.0 * np.kron(*parts[1][:2])
    np.testing.assert_allclose(merged_weight(weight_OI, whole), expected_OI, rtol=0, atol=1e-12)
    x_NI = rng.standard_normal((3, 24))
    np.testing.assert_allclose(unmerged_forward(x_NI, weight_OI, whole), x_NI @ expected_OI.T, rtol=0, atol=1e-12)
    assert whole.parameters == 88


def lokr_file(folder: Path, target: str, tensors: dict[str, Tensor], **config: object) -> Path:
    """An adapter as anybody may write one."""
    folder.mkdir()
    whole = {"peft_type": "LOKR", "r": 1, "alpha": 1, "target_modules": [target], "modules_to_save": ["head"]}
    (folder / "adapter_config.json").write_text(json.dumps(whole | config))
    head = {f"{PREFIX}head.weight": torch.zeros(3, 48), f"{PREFIX}head.bias": torch.zeros(3)}
    save_file({f"{PREFIX}{name}": one for name, one in tensors.items()} | head, folder / WEIGHTS)
    return folder


def test_a_product_that_no_memory_holds_is_not_multiplied(tmp_path: Path) -> None:
    """40 kB name a matrix of 80 GB."""
    name = "blocks.0.mlp.fc1"
    factors = {f"{name}.lokr_w1_a": torch.ones(100_000, 1), f"{name}.lokr_w1_b": torch.ones(1, 100_000)}
    folder = lokr_file(tmp_path / "adapter", name, factors | {f"{name}.lokr_w2": torch.ones(1, 1)})
    (one,) = read_peft_file(folder).layers().values()
    assert one.shape == (100_000, 100_000)
    np.testing.assert_array_equal(one.delta(slice(99_999, 100_001))[0, :3], [1, 1, 1])
    with pytest.raises(AdapterError, match="must fit its base"):
        read_adapter(folder, small())


def test_a_rank_that_no_product_has_is_rejected(tmp_path: Path) -> None:
    name, rank = "blocks.0.mlp.fc1", 65_537
    factors = {f"{name}.lokr_w1_a": torch.ones(1, rank), f"{name}.lokr_w1_b": torch.ones(rank, 1)}
    factors[f"{name}.lokr_w2"] = torch.ones(1, 1)
    with pytest.raises(AdapterError, match="must fit its config"):
        read_peft_file(lokr_file(tmp_path / "lokr", name, factors, r=rank)).layers()
    for number, ranks in enumerate(({"r": rank}, {"rank_pattern": {name: rank}})):
        with pytest.raises(AdapterError, match="the rank r must be at most 65536"):
            read_peft_file(lokr_file(tmp_path / f"lora{number}", name, {}, peft_type="LORA", lora_alpha=1, **ranks))


@pytest.mark.parametrize("shape", [(4, 4), (0, 0)])
def test_a_convolution_is_no_linear_layer(shape: tuple[int, int], tmp_path: Path) -> None:
    name = "patch_embed.proj"
    factors = {f"{name}.lokr_w1": torch.ones(shape), f"{name}.lokr_w2": torch.ones(shape)}
    folder = lokr_file(tmp_path / "adapter", name, factors)
    with pytest.raises(AdapterError, match="linear layers only") as caught:
        read_adapter(folder, small())
    assert name in str(caught.value.found)


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0)])
def test_a_layer_without_weights_is_refused(shape: tuple[int, int], tmp_path: Path) -> None:
    name = "blocks.0.mlp.fc1"
    factors = {f"{name}.lokr_w1": torch.ones(shape), f"{name}.lokr_w2": torch.ones(4, 4)}
    with pytest.raises(AdapterError):
        read_peft_file(lokr_file(tmp_path / "adapter", name, factors)).layers()


def test_a_scaling_that_peft_does_not_have_is_refused(tmp_path: Path) -> None:
    name = "blocks.0.mlp.fc1"
    factors = {f"{name}.lokr_w1": torch.ones(12, 6), f"{name}.lokr_w2": torch.ones(16, 8)}
    with pytest.raises(AdapterError, match="use_rslora"):
        read_peft_file(lokr_file(tmp_path / "adapter", name, factors, use_rslora=True))


W1, W2_A = (f"{PREFIX}blocks.1.mlp.fc1.{name}" for name in ("lokr_w1", "lokr_w2_a"))


@pytest.mark.parametrize("change", ["missing", "shape", "spare", "of a convolution", "of lora"])
def test_a_damaged_file_is_refused(change: str, tmp_path: Path) -> None:
    save_adapter(trained(), SPEC, base_model="vit", base_digest="0", folder=tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    if change == "missing":
        del tensors[W2_A]
    elif change == "shape":
        tensors[W2_A] = tensors[W2_A][:, 1:].clone()
    else:
        key = {
            "spare": f"{W1}_a",
            "of a convolution": W1.replace("w1", "t2"),
            "of lora": W1.replace("lokr_w1", "lora_A"),
        }
        tensors[key[change]] = torch.ones(2, 2)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(AdapterError, match="must fit its base"):
        read_adapter(tmp_path, small())
    with pytest.raises(AdapterError, match="must fit its config"):
        read_peft_file(tmp_path).layers()


def test_a_layer_is_adapted_as_a_whole() -> None:
    for spec in (
        AdapterSpec("lokr", {"q": 2, "v": 2}, {"q": 2.0, "v": 2.0}),
        AdapterSpec("lokr", {"q": 2, "k": 2, "v": 3}, {"q": 2.0, "k": 2.0, "v": 2.0}),
        AdapterSpec("lokr", {"q": 2, "k": 2, "v": 2}, {"q": 2.0, "k": 2.0, "v": 1.0}),
    ):
        with pytest.raises(AdapterError, match="all or none of a layer with LoKr"):
            attach(small(), spec, generator=torch.Generator())


@pytest.mark.parametrize(
    "setting", ["adapter.rslora=true", "adapter.dropout=0.1", "adapter.init=pissa", "train.lora_plus=4"]
)
def test_settings_of_lora_contradict_it(setting: str) -> None:
    key = setting.partition("=")[0]
    with pytest.raises(RecipeError, match=f"{key}: contradicts method lokr \\(model.peft lokr\\)"):
        Recipe.build(overrides=["model.peft=lokr", setting])
    Recipe.build(overrides=["model.peft=dora", setting])
