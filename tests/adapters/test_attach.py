"""What a spec chooses in a model, and the two ways in which an adapter differs from the usual one."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from ftx.adapters.adapter_layer import layer_scaling
from ftx.adapters.adapter_spec import AdapterSpec, TargetPart
from ftx.adapters.attach import adapter_layers, attach, match, prove_reach
from ftx.adapters.low_rank import LowRankWeights
from ftx.adapters.low_rank_layer import LowRankLayer
from ftx.adapters.merge_weight import merged_weight
from ftx.adapters.pissa import PissaLayer
from ftx.adapters.trainable_model import prepare
from ftx.backbones.build import build
from ftx.core.errors import AdapterError
from ftx.recipe.adapter_targets import TARGETS, Blocks, Role
from ftx.recipe.method_defaults import AdapterName
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import AdapterInit
from ftx.training.optimizer import optimizer

# q and v of a fused layer of 3 x 6 rows, with ranks of their own
FUSED = (TargetPart("q", slice(0, 6), slice(0, 2)), TargetPart("v", slice(12, 18), slice(2, 5)))


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return build("vit_tiny_patch16_224", weights="none", num_classes=3, image_size=32, seed=0).module


def spec(blocks: Blocks = "all", layers: str | None = None) -> AdapterSpec:
    role = "layer" if layers else "q"
    return AdapterSpec("lora", {role: 2}, {role: 4.0}, blocks=blocks, layers=layers)


@pytest.mark.parametrize(
    ("blocks", "chosen"),
    [("all", range(12)), (2, (10, 11)), ("first:3", (0, 1, 2)), ((0, 5, 11), (0, 5, 11))],
)
def test_blocks(vit: nn.Module, blocks: Blocks, chosen: tuple[int, ...]) -> None:
    assert [site.name for site, _ in match(vit, spec(blocks))] == [f"blocks.{number}.attn.qkv" for number in chosen]


@pytest.mark.parametrize(
    ("blocks", "found"),
    [
        (13, "13 of 12"),
        ("first:13", "13 of 12"),
        ((0, 12), "block 12, the last is 11"),
        ((14, 12, 0), "block 14, the last is 11"),
    ],
)
def test_blocks_that_are_not_there(vit: nn.Module, blocks: Blocks, found: str) -> None:
    with pytest.raises(AdapterError, match="must be within the") as caught:
        match(vit, spec(blocks))
    assert caught.value.found == found


def test_layers_by_their_names() -> None:
    mixer = build("mixer_s32_224", weights="none", num_classes=3, image_size=224, seed=0).module
    names = [site.name for site, _ in match(mixer, spec(layers=r"blocks\.\d\.mlp_channels\.fc\d"))]
    assert names == [f"blocks.{block}.mlp_channels.{leaf}" for block in range(8) for leaf in ("fc1", "fc2")]


def test_all_targets_are_all_that_there_are() -> None:
    mixer = build("mixer_s32_224", weights="none", num_classes=3, image_size=224, seed=0).module
    everything = AdapterSpec("lora", dict.fromkeys(TARGETS, 2), dict.fromkeys(TARGETS, 4.0))
    assert {part.target for _, parts in match(mixer, everything) for part in parts} == {"fc1", "fc2"}
    with pytest.raises(AdapterError, match=r"adapter\.targets q must be in a layer of this model") as caught:
        match(mixer, spec())
    assert caught.value.fix == "run again with --targets fc1,fc2"


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        (r"blocks\.0\..*", "adapter.layers, blocks.0.norm1: it is a LayerNorm, which is no linear layer"),
        ("head", "adapter.layers, head: it is the classifier, which is trained whole"),
        ("patch_embed.proj", "adapter.layers, patch_embed.proj: it is a Conv2d, which is no linear layer"),
        ("blocks.0.attn.qvk", "adapter.layers, blocks.0.attn.qvk: nearest: blocks.0.attn.qkv"),
    ],
)
def test_a_layer_that_cannot_be_adapted_is_named(vit: nn.Module, expression: str, said: str) -> None:
    with pytest.raises(AdapterError) as caught:
        match(vit, spec(layers=expression))
    assert f"{caught.value.where}: {caught.value.found}" == said


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_targets_of_one_layer_with_scalings_of_their_own(kind: AdapterName) -> None:
    """W' is that of two adapters, each with its alpha / rank, and the gradient that of autograd through it."""
    torch.manual_seed(0)
    base = nn.Linear(10, 18, dtype=torch.float64)
    each = [3.0, 0.5]
    scaling = layer_scaling(FUSED, each)
    generator = torch.Generator().manual_seed(0)
    layer = LowRankLayer(base, FUSED, dora=kind == "dora", scaling=scaling, dropout=0.0, generator=generator)
    blocks: list[torch.Tensor] = []
    with torch.no_grad():
        for part in FUSED:
            layer.lora_B[part.rows, part.ranks].normal_()
            blocks.append(layer.lora_B[part.rows, part.ranks].clone())
    B_q, B_v = (block.requires_grad_() for block in blocks)
    A = layer.lora_A.detach().clone().requires_grad_()
    change = torch.cat([each[0] * B_q @ A[:2], torch.zeros(6, 10), each[1] * B_v @ A[2:]])
    summed = base.weight.detach() + change
    gain = 1 if kind == "lora" else (base.weight.norm(dim=1) / summed.norm(dim=1)).detach()[:, None]
    x = torch.randn(7, 10, dtype=torch.float64)
    expected = nn.functional.linear(x, summed * gain, base.bias)
    found = layer(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)  # float64, sums in another order
    found.square().sum().backward()
    expected.square().sum().backward()
    for mine, theirs in (
        (layer.lora_A.grad, A.grad),
        (layer.lora_B.grad[:6, :2], B_q.grad),
        (layer.lora_B.grad[12:, 2:], B_v.grad),
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_pissa_starts_as_the_weight_and_ends_as_a_plain_adapter(kind: AdapterName) -> None:
    torch.manual_seed(0)
    base = nn.Linear(10, 18, dtype=torch.float64)
    untouched = base.weight.detach().clone()
    generator = torch.Generator().manual_seed(0)
    layer = PissaLayer(base, FUSED, dora=kind == "dora", scaling=1.5, dropout=0.0, generator=generator)
    torch.testing.assert_close(layer.merged_weight(), untouched, rtol=0, atol=1e-13)
    for part in FUSED:
        rank = part.ranks.stop - part.ranks.start
        first = torch.linalg.svdvals(untouched[part.rows])
        rest = torch.linalg.svdvals(layer.weight[part.rows])
        # arXiv:2404.02948, eq. 4: the frozen rest has lost the first r singular values and kept the others
        torch.testing.assert_close(rest[: len(first) - rank], first[rank:], rtol=1e-12, atol=1e-12)
    with torch.no_grad():  # as training moves it
        layer.lora_A += 0.1 * torch.randn_like(layer.lora_A)
        for part in FUSED:
            layer.lora_B[part.rows, part.ranks] += 0.1 * torch.randn_like(layer.lora_B[part.rows, part.ranks])
    A, B, scaling = layer.plain_factors()
    assert (A.shape, scaling) == ((10, 10), 1.5)
    magnitude = layer.lora_magnitude_vector.detach().numpy() if kind == "dora" else None
    plain = LowRankWeights(A.detach().numpy(), B.detach().numpy(), 1.5, magnitude)
    merged = torch.from_numpy(merged_weight(untouched.numpy(), plain))
    torch.testing.assert_close(layer.merged_weight(), merged, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_pissa_takes_each_target_off_by_its_own_scaling(kind: AdapterName) -> None:
    torch.manual_seed(0)
    base = nn.Linear(10, 18, dtype=torch.float64)
    untouched, scaling = base.weight.detach().clone(), layer_scaling(FUSED, [3.0, 0.5])
    generator = torch.Generator().manual_seed(0)
    layer = PissaLayer(base, FUSED, dora=kind == "dora", scaling=scaling, dropout=0.0, generator=generator)
    torch.testing.assert_close(layer.merged_weight(), untouched, rtol=0, atol=1e-13)
    for part, s in zip(FUSED, (3.0, 0.5), strict=True):
        rank = part.ranks.stop - part.ranks.start
        U, sigma, V = torch.linalg.svd(untouched[part.rows], full_matrices=False)
        principal = (U[:, :rank] * sigma[:rank]) @ V[:rank]
        found = s * layer.lora_B[part.rows, part.ranks] @ layer.lora_A[part.ranks]
        torch.testing.assert_close(found.detach(), principal, rtol=0, atol=1e-13)
    with torch.no_grad():
        layer.lora_A += 0.1 * torch.randn_like(layer.lora_A)
    A, B, scalings = layer.plain_factors()
    assert isinstance(scalings, torch.Tensor)
    # Each target's trained ranks are followed by those that it started from.
    assert scalings.tolist() == [3.0] * 4 + [0.5] * 6
    merged = untouched + (B * scalings) @ A
    if kind == "dora":
        merged *= (untouched.norm(dim=1) / merged.norm(dim=1))[:, None]
    torch.testing.assert_close(layer.merged_weight(), merged.detach(), rtol=0, atol=1e-13)


def adapted(targets: tuple[Role, ...], **settings: Any) -> nn.Module:
    """Two blocks with an adapter in every target's layer."""
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_classes=3)
    chosen = AdapterSpec("lora", dict.fromkeys(targets, 2), dict.fromkeys(targets, 4.0), **settings)
    attach(module, chosen, generator=torch.Generator().manual_seed(0))
    return module


def not_reached(module: nn.Module, loss: torch.Tensor) -> AdapterError:
    loss.backward()
    with pytest.raises(AdapterError, match="training must reach all adapters") as caught:
        prove_reach(module)
    return caught.value


def test_every_layer_that_is_not_called_is_named() -> None:
    module = adapted(("q", "v", "proj", "fc1", "fc2"))
    tokens = torch.randn(2, 5, 48)
    error = not_reached(module, module.blocks[0](tokens).square().sum())
    assert error.where == ", ".join(f"blocks.1.{leaf}" for leaf in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"))
    assert "never calls the layer" in str(error.found)
    module = adapted(("q", "v", "proj", "fc1", "fc2"))
    error = not_reached(module, sum(parameter.sum() for parameter in module.head.parameters()))
    assert error.where.endswith("blocks.1.attn.qkv and 3 more")  # of eight
    module = adapted(("q", "v", "proj", "fc1", "fc2"))
    module(torch.randn(2, 3, 32, 32)).square().sum().backward()
    prove_reach(module)


def test_a_target_that_the_answer_does_not_depend_on_is_named() -> None:
    """Attention over a single token is that token, whatever its query says: q has no gradient, and v has one."""
    module = adapted(("q", "v"))
    for block in module.blocks:
        block.attn.fused_attn = False  # which leaves roundings where the sums give zero
    error = not_reached(module, module.blocks(torch.randn(2, 1, 48)).square().sum())
    assert error.where == "blocks.0.attn.qkv (q), blocks.1.attn.qkv (q)"
    assert "no gradient after the first step" in str(error.found)


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("rslora", [False, True])
def test_each_layer_is_given_what_the_spec_says_of_its_targets(kind: AdapterName, rslora: bool) -> None:
    module = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, embed_dim=48, num_classes=3)
    before = {name: one.detach().clone() for name, one in module.named_parameters()}
    ranks, alphas = {"q": 4, "v": 9, "fc1": 16}, {"q": 2.0, "v": 27.0, "fc1": 4.0}
    asked = AdapterSpec(kind, ranks, alphas, blocks=(0, 2), dropout=0.25, rslora=rslora)
    names = attach(module, asked, generator=torch.Generator().manual_seed(0))
    assert names == [f"blocks.{block}.{leaf}" for block in (0, 2) for leaf in ("attn.qkv", "mlp.fc1")]
    assert [name for name, _ in adapter_layers(module)] == names
    for name, layer in adapter_layers(module):
        assert layer.dropout == 0.25
        found = [(part.target, part.rows, part.ranks) for part in layer.parts]
        if name.endswith("qkv"):
            assert found == [("q", slice(0, 48), slice(0, 4)), ("v", slice(96, 144), slice(4, 13))]
            q, v = (1.0, 9.0) if rslora else (0.5, 3.0)
            assert layer.scaling.tolist() == [q] * 4 + [v] * 9
        else:
            assert found == [("fc1", slice(0, 192), slice(0, 16))]
            assert layer.scaling == (1.0 if rslora else 0.25)
        weight = before[f"{name}.weight"]
        assert torch.equal(layer.weight, weight)
        if kind == "dora":
            torch.testing.assert_close(layer.lora_magnitude_vector.detach(), weight.norm(dim=1), rtol=1e-6, atol=0)
        else:
            assert layer.lora_magnitude_vector is None
    trained = {name for name, one in module.named_parameters() if one.requires_grad}
    factors = ("lora_A", "lora_B") + (("lora_magnitude_vector",) if kind == "dora" else ())
    assert trained == {f"{name}.{factor}" for name in names for factor in factors} | {"head.weight", "head.bias"}


def test_pissa_starts_in_the_targets_of_a_fused_layer_too() -> None:
    torch.manual_seed(0)
    plain = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_classes=3).eval()
    module = adapted(("q", "v", "fc1"), init="pissa").eval()
    x = torch.randn(2, 3, 32, 32)
    # f32: the weight is split in two and summed again
    torch.testing.assert_close(module(x), plain(x), rtol=0, atol=1e-5)
    for name, layer in adapter_layers(module):
        for part in layer.parts:
            assert layer.lora_B[part.rows, part.ranks].abs().sum() > 0, (name, part.target)
            assert not torch.equal(layer.weight[part.rows], plain.get_parameter(f"{name}.weight")[part.rows])


@pytest.mark.parametrize(("rank", "fits"), [(48, True), (49, False), (192, False)])
@pytest.mark.parametrize("target", ["fc1", "fc2", "v", "proj"])
def test_a_rank_is_at_most_the_smaller_side_of_each_layer(target: Role, rank: int, fits: bool) -> None:
    """48 of layers 48 wide on one side, whichever: of a fused layer by the rows of the target."""
    module = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=48, num_classes=3)
    asked = AdapterSpec("lora", {"q": 2, target: rank}, {"q": 2.0, target: 2.0})
    if fits:
        assert attach(module, asked, generator=torch.Generator())
        return
    before = list(module.state_dict())
    with pytest.raises(AdapterError, match=r"--rank must be at most 48") as caught:
        attach(module, asked, generator=torch.Generator())
    leaf = {"fc1": "mlp.fc1", "fc2": "mlp.fc2", "v": "attn.qkv", "proj": "attn.proj"}[target]
    assert caught.value.where == f"adapter.rank, blocks.0.{leaf}"
    assert caught.value.found == f"{rank}, the layer's smaller side is 48"
    assert list(module.state_dict()) == before


# Families that use the weight of qkv without calling it, and add a bias to the answer in place where they do.
APART: dict[str, dict[str, object]] = {
    "beit_base_patch16_224": {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2, "init_values": None},
    "eva02_base_patch14_448": {"img_size": 28, "depth": 1, "embed_dim": 24, "num_heads": 2},
    "swinv2_tiny_window8_256": {
        "img_size": 64,
        "depths": (1, 1),
        "embed_dim": 24,
        "num_heads": (2, 2),
        "window_size": 4,
    },
}


@pytest.mark.parametrize("name", APART)
def test_training_reaches_layers_that_are_not_called_as_one_would_think(name: str) -> None:
    """By differences: the gradient of each magnitude of q, k and v, which needs the answer before the bias is added."""
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=3, **APART[name]).double().eval()
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            parameter.normal_(std=0.3) if parameter.ndim > 1 or key.endswith("bias") else parameter.fill_(1)
    targets: tuple[Role, ...] = ("q", "k", "v")
    asked = AdapterSpec("dora", dict.fromkeys(targets, 2), dict.fromkeys(targets, 2.0))
    attach(module, asked, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, *module.patch_embed.img_size, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return (module(x) * torch.arange(1.0, 4.0, dtype=torch.float64)).sum()

    loss().backward()
    prove_reach(module)
    for layer_name, layer in adapter_layers(module):
        magnitude = layer.lora_magnitude_vector
        largest = magnitude.grad.abs().max()
        for row in range(0, len(magnitude), 7):
            sides = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    magnitude[row] += step
                    sides.append(float(loss()))
                    magnitude[row] -= step
            # float64: a step of 1e-6 leaves ten digits of the difference
            found = (sides[0] - sides[1]) / 2e-6
            assert abs(found - float(magnitude.grad[row])) < 1e-5 * max(float(largest), 1), (layer_name, row)


@pytest.mark.parametrize("heard", [0, 1])
def test_each_target_of_a_layer_must_have_a_gradient(heard: int) -> None:
    """The answer is made of the rows of one of two targets alone: the other is named, be it the first or the second."""
    generator = torch.Generator().manual_seed(0)
    layer = LowRankLayer(nn.Linear(10, 18), FUSED, dora=False, scaling=1.5, dropout=0.0, generator=generator)
    error = not_reached(nn.Sequential(layer), layer(torch.randn(4, 10))[:, FUSED[heard].rows].square().sum())
    assert error.where == f"0 ({('v', 'q')[heard]})"


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s"])
def test_every_head_of_a_distilled_model_trains_beside_an_adapter(name: str) -> None:
    module = build(name, weights="none", num_classes=3, image_size=224, seed=0).module
    attach(module, spec(), generator=torch.Generator().manual_seed(0))
    trained = {
        key.partition(".")[0] for key, one in module.named_parameters() if one.requires_grad and "lora" not in key
    }
    assert trained == {"head", "head_dist"}


def test_adapters_begin_by_the_seed_of_the_recipe() -> None:
    """A of each layer is another draw for another seed, and within a model; B and the scaling are not drawn."""
    settings = {"name": "test_vit", "weights": "none", "peft": "lora", "image_size": 32, "targets": "proj", "blocks": 2}
    drawn = []
    for seed in (1, 2, 1):
        module = prepare(Recipe.named({**settings, "seed": seed}), 2).backbone.module
        drawn.append(torch.stack([layer.lora_A.detach() for _, layer in adapter_layers(module)]))
    assert torch.equal(drawn[0], drawn[2])
    assert not (drawn[0] == drawn[1]).any()
    assert not (drawn[0][0] == drawn[0][1]).any()


@pytest.mark.parametrize(("init", "decays"), [("zero", True), ("pissa", False)])
def test_weight_decay_spares_both_factors_of_pissa_and_no_others(init: AdapterInit, decays: bool) -> None:
    module = adapted(("q", "fc1"), init=init)
    adamw = optimizer(module, 1e-3, 0.05)
    decay = {id(parameter): group["weight_decay"] for group in adamw.param_groups for parameter in group["params"]}
    found = {(decay[id(layer.lora_A)], decay[id(layer.lora_B)]) for _, layer in adapter_layers(module)}
    assert found == {(0.05, 0.05) if decays else (0.0, 0.0)}
    assert decay[id(module.get_parameter("head.weight"))] == 0.05


def test_a_model_that_starts_with_pissa_has_the_keys_of_any_other() -> None:
    """What training starts from is no part of the state: a checkpoint of either fits the other."""
    assert adapted(("q", "fc1"), init="pissa").state_dict().keys() == adapted(("q", "fc1")).state_dict().keys()


def test_lora_plus_lets_b_learn_faster(vit: nn.Module) -> None:
    module = build("vit_tiny_patch16_224", weights="none", num_classes=3, image_size=32, seed=0).module
    attach(module, spec(), generator=torch.Generator().manual_seed(0))
    adamw = optimizer(module, 1e-3, 0.05, lora_plus=16)
    rates = {id(parameter): group["lr"] for group in adamw.param_groups for parameter in group["params"]}
    assert len(rates) == sum(parameter.requires_grad for parameter in module.parameters())
    for _, layer in adapter_layers(module):
        assert (rates[id(layer.lora_A)], rates[id(layer.lora_B)]) == (1e-3, 16e-3)
    assert rates[id(module.get_parameter("head.weight"))] == 1e-3
