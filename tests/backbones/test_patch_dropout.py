"""Patches left out in training: those that timm's own model leaves out, behind blocks that are kept as before them."""

from __future__ import annotations

from copy import deepcopy

import pytest
import timm
import torch
from tests.backbones.test_kept_tokens import VARIANTS, images, small
from timm.layers.patch_dropout import PatchDropout
from torch import Tensor, nn

from ftx.backbones.kept_tokens import keep_tokens
from ftx.backbones.layer_roles import plain_vit
from ftx.backbones.patch_dropout import drop_patches, trained_tokens_behind
from ftx.backbones.split_network import cut_after, uncut
from ftx.core.errors import ModelError


def tokens_into(module: nn.Module, network: nn.Module, x: Tensor) -> list[int]:
    """How many tokens the norm of each block takes, as a network answers: the last one too, of the class token."""
    vit, counts = plain_vit(module), list[int]()
    assert vit is not None
    norms = [block.get_submodule("norm1") for block in vit.blocks.children()]
    hooks = [norm.register_forward_pre_hook(lambda _norm, given: counts.append(given[0].shape[1])) for norm in norms]
    network(x)
    for hook in hooks:
        hook.remove()
    return counts


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_timm_itself_leaves_out_is_left_out_and_nothing_in_evaluation(variant: str) -> None:
    architecture, changed = VARIANTS[variant]
    settings = {"img_size": 64, "num_classes": 3, "depth": 4, **changed}
    timms = timm.create_model(architecture, patch_drop_rate=0.4, **settings).double()
    ours = small(variant)
    whole = deepcopy(ours)
    x = images(ours, 3)
    names = list(ours.state_dict())
    drop_patches(ours, 0.4)
    assert list(ours.state_dict()) == names
    timms.load_state_dict(ours.state_dict())
    timms.patch_drop.num_prefix_tokens = timms.num_prefix_tokens  # timm's counts one of a distilled model's two
    assert torch.equal(ours(x), whole(x))
    for network in (ours, uncut(ours)):
        found = []
        for one in (network, timms):
            one.train()
            torch.manual_seed(0)
            found.append(one(x))
        torch.testing.assert_close(*found, rtol=0, atol=1e-12)  # f64: the order of the sums differs
        assert (found[0] - whole(x)).abs().max() > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_behind_kept_blocks_the_others_see_fewer_patches(variant: str) -> None:
    model = small(variant)
    whole = deepcopy(model)
    x = images(model, 3)
    vit = plain_vit(model)
    assert vit is not None
    always = vit.num_prefix_tokens
    drop_patches(model, 0.5)
    network, expected = cut_after(model, 2), cut_after(whole, 2)
    features = network.prefix(x)
    assert torch.equal(features, expected.prefix(x))
    assert torch.equal(network.suffix(features), expected.suffix(features))
    model.train()
    torch.manual_seed(0)
    answered = network.suffix(features)
    torch.manual_seed(0)
    left = PatchDropout(0.5, num_prefix_tokens=always)(features)
    assert left.shape[1] == always + 8 == trained_tokens_behind(vit, 2)
    assert torch.equal(left[:, :always], features[:, :always])
    torch.testing.assert_close(answered, whole.train().forward_head(expected_behind(whole, left)), rtol=0, atol=1e-12)
    assert tokens_into(model, network.suffix, features) == [always + 8] * 2
    assert tokens_into(model, uncut(model), x) == [always + 8] * 4  # left out once, not once more behind the cut


def expected_behind(model: nn.Module, tokens_NTD: Tensor) -> Tensor:
    """What timm's own last two blocks and norm make of tokens."""
    vit = plain_vit(model)
    assert vit is not None
    for block in list(vit.blocks.children())[2:]:
        tokens_NTD = block(tokens_NTD)
    return vit.norm(tokens_NTD)


def test_each_step_draws_others_by_its_seed() -> None:
    model = small("vit")
    x = images(model, 3)
    drop_patches(model, 0.5)
    model.train()
    answers = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        answers.append(model(x))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


def test_a_patch_stays_and_tokens_are_counted() -> None:
    for share, dropped, tokens in (({}, None, 17), ({}, 0.5, 9), ({}, 0.3, 12), ({}, 0.99, 2), ({1: 0.5}, 0.5, 5)):
        model = small("vit")
        keep_tokens(model, share)
        if dropped is not None:
            drop_patches(model, dropped)
        vit = plain_vit(model)
        assert vit is not None
        assert trained_tokens_behind(vit, 4) == tokens
        assert tokens_into(model, model.train(), images(model, 2))[-1] == tokens


def test_other_families_refuse() -> None:
    with pytest.raises(ModelError, match="plain Vision Transformer alone") as caught:
        drop_patches(timm.create_model("test_efficientnet"), 0.5)
    assert (caught.value.where, caught.value.found) == ("train.patch_dropout", "EfficientNet")
