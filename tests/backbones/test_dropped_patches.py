"""Patches left out in training: as timm's own model leaves them out, and of features that are kept by each image."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import timm
import torch
from tests.backbones.test_kept_tokens import VARIANTS, images, small
from tests.training.plans import planned
from timm.layers.patch_dropout import patch_dropout_forward
from torch import Tensor, nn

from ftx.adapters.trainable_model import prepare
from ftx.backbones.dropped_patches import DroppedPatches, OnChosenPatches
from ftx.backbones.layer_roles import plain_vit
from ftx.backbones.split_network import full_model
from ftx.core.errors import ModelError
from ftx.recipe.schema import Recipe


def tokens_into(module: nn.Module, network: nn.Module, *given: Tensor) -> list[int]:
    """How many tokens the norm of each block takes, as a network computes: the last one too, of the class token."""
    vit, counts = plain_vit(module), list[int]()
    assert vit is not None
    norms = [block.get_submodule("norm1") for block in vit.blocks.children()]
    hooks = [norm.register_forward_pre_hook(lambda _norm, given: counts.append(given[0].shape[1])) for norm in norms]
    network(*given)
    for hook in hooks:
        hook.remove()
    return counts


def timms_choice(tokens: int, always: int, images: int, fraction: float) -> Tensor:
    """The tokens that timm's layer passes on, by torch's generator: first those that are no patches."""
    _, patches_NK = patch_dropout_forward(
        torch.zeros(images, tokens, 1), fraction, always, ordered=False, training=True
    )
    assert patches_NK is not None
    return torch.cat([torch.arange(always).expand(images, -1), patches_NK + always], dim=1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_timm_itself_leaves_out_is_left_out_and_only_where_a_choice_is_given(variant: str) -> None:
    architecture, changed = VARIANTS[variant]
    settings = {"img_size": 64, "num_classes": 3, "depth": 4, **changed}
    timms = timm.create_model(architecture, patch_drop_rate=0.4, **settings).double().train()
    ours = small(variant)
    whole = deepcopy(ours)
    x = images(ours, 3)
    names = list(ours.state_dict())
    timms.load_state_dict(ours.state_dict())
    timms.patch_drop.num_prefix_tokens = timms.num_prefix_tokens  # timm's counts one of a distilled model's two
    torch.manual_seed(0)
    expected = timms(x)
    # Both are built first: the second shares the choice of the first.
    for network in [OnChosenPatches(inner, ours).train() for inner in (ours, full_model(ours))]:
        assert list(ours.state_dict()) == names
        torch.manual_seed(0)
        chosen_NK = timms_choice(network.tokens, network.always, len(x), 0.4)
        found = network(x, chosen_NK)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)  # f64: the order of the sums differs
        assert (found - whole(x)).abs().max() > 1e-3
        # Left out once, and not behind the cut again; then no longer.
        assert set(tokens_into(ours, network, x, chosen_NK)) == {
            DroppedPatches(0.4).left(network.tokens, network.always)
        }
        torch.testing.assert_close(network(x), whole(x), rtol=0, atol=1e-12)
        assert torch.equal(ours(x), whole(x))


def drawn(tokens: int, always: int, share: float, *seeds: int) -> Tensor:
    return DroppedPatches(share).draw(tokens, always, [np.random.default_rng(seed) for seed in seeds])


def test_each_image_has_its_own_draw_whatever_stands_beside_it() -> None:
    chosen_NK = drawn(12, 2, 0.4, 0, 1, 2)
    assert chosen_NK.shape == (3, 8)
    for seed, chosen in enumerate(chosen_NK.tolist()):
        assert chosen[:2] == [0, 1]
        assert chosen == sorted(set(chosen))
        assert chosen[-1] < 12
        assert drawn(12, 2, 0.4, seed).tolist() == [chosen]
    assert chosen_NK[0].tolist() != chosen_NK[1].tolist()


def test_every_patch_stays_as_often_as_any_other() -> None:
    counts = torch.bincount(drawn(9, 1, 0.5, *range(2000)).flatten(), minlength=9)
    assert counts[0] == 2000
    assert (counts[1:] - 1000).abs().max() < 5 * (2000 * 0.25) ** 0.5  # five standard deviations


def test_a_patch_stays_and_without_a_share_all() -> None:
    assert [DroppedPatches(share).left(17, 1) for share in (0.0, 0.5, 0.3, 0.99)] == [17, 9, 12, 2]
    assert drawn(17, 1, 0.99, 0).shape == (1, 2)


def test_other_families_refuse() -> None:
    recipe = Recipe.named({"name": "test_efficientnet", "weights": "none", "peft": "none", "patch_dropout": 0.5})
    prepared = prepare(recipe, 2)
    with pytest.raises(ModelError, match="patch_dropout must be 0") as caught:
        planned(prepared, recipe)
    assert caught.value.found == "0.5 with EfficientNet"
