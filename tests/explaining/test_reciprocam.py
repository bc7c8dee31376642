"""Maps of each label: all masks at once, against a pass for each mask."""

from __future__ import annotations

import pytest
import timm
import torch
from tests.backbones.dropped_by_hand import chosen, class_attention
from tests.explaining.masked_by_hand import scaled, scores_by_hand
from tests.explaining.small_networks import FIRST_TOKENS, drawn_anew, images, images_for, pre_of, small
from torch import nn

from ftx.backbones.kept_tokens import keep_tokens
from ftx.backbones.split_network import set_attention
from ftx.core.errors import ModelError
from ftx.explaining.reciprocam import against_others, exclusive_groups, explained, in_unit_range
from ftx.tasks.labels import Labels

# f64: another order of sums, scaled by what a label's scores differ in, which is some hundredths.
ROUNDING = 1e-9
# Two labels exclude each other, the third holds or does not by itself.
RIVALS = [[2, 0]]


def judged(logits_NCM: torch.Tensor) -> torch.Tensor:
    """The logarithm of a label's odds against its rival, and the logit of the one without."""
    first, second, third = logits_NCM.unbind(dim=1)
    return scaled(torch.stack([first - third, second, third - first], dim=1))


@pytest.mark.parametrize("plain", [False, True], ids=["fused", "plain"])
@pytest.mark.parametrize("kind", FIRST_TOKENS)
def test_one_pass_gives_what_a_pass_for_each_mask_does(kind: str, plain: bool) -> None:
    name, changed = FIRST_TOKENS[kind]
    vit = small(name, **changed)
    set_attention(vit.modules(), plain=plain)
    x = images_for(vit)
    tokens = vit.forward_intermediates(x, indices=[2], return_prefix_tokens=True, output_fmt="NLC")[1][0]
    expected = judged(scores_by_hand(vit, torch.cat([tokens[1], tokens[0]], dim=1)))
    logits, maps, features = explained(vit, RIVALS, pre_of(x))(x)
    torch.testing.assert_close(logits, vit(x), rtol=0, atol=1e-12)
    assert maps.shape == (3, 3, *vit.patch_embed.grid_size)
    torch.testing.assert_close(maps.flatten(2), expected, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(features, vit.forward_head(vit.forward_features(x), pre_logits=True), rtol=0, atol=1e-12)
    # Each label has a map of its own, and each image.
    assert (maps[:, 0] - maps[:, 1]).abs().max() > 0.1
    assert (maps[0] - maps[1]).abs().max() > 0.1


def up_to_the_last(vit: nn.Module, image: torch.Tensor, shares: dict[int, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens of an image that go into the last block, and the numbers of their patches. Shape: [1, T, D], [1, P].

    ``shares`` has what goes on into a block of the patches before it.
    """
    in_front = vit.num_prefix_tokens
    tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(image[None]))))
    there = torch.arange(-in_front, tokens.shape[1] - in_front)
    for number, block in enumerate(list(vit.blocks)[:-1], start=1):
        scores, tokens = class_attention(block, tokens), block(tokens)
        if number in shares:
            kept = chosen(scores, in_front, shares[number])
            tokens, there = tokens[:, kept], there[kept]
    return tokens, there[None, in_front:]


@pytest.mark.parametrize("shares", [{2: 0.6}, {1: 0.7, 3: 0.5}], ids=["once", "twice"])
def test_patches_that_were_dropped_are_left_out_of_the_masks(shares: dict[int, float]) -> None:
    vit = small("vit_small_patch14_reg4_dinov2", img_size=56, embed_dim=192, num_heads=3)
    x = images_for(vit)
    expected = [judged(scores_by_hand(vit, *up_to_the_last(vit, image, shares))) for image in x]
    keep_tokens(vit, shares)
    logits, maps, _ = explained(vit, RIVALS, pre_of(x))(x)
    assert maps.shape == (3, 3, 4, 4)
    torch.testing.assert_close(maps.flatten(2), torch.cat(expected), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(logits, vit(x), rtol=0, atol=1e-12)


def test_patches_that_were_dropped_are_left_out_of_the_mean() -> None:
    """Where the head reads the mean of those that are left, of an image that is wider than high."""
    vit = small("vit_tiny_patch16_224", img_size=(48, 80), global_pool="avg")
    x = images_for(vit)
    scores: list[torch.Tensor] = []
    for image in x:
        tokens, there = up_to_the_last(vit, image, {1: 0.7, 3: 0.5})
        last = vit.norm(vit.blocks[-1](tokens))[0, vit.num_prefix_tokens :]
        means = torch.zeros(15, last.shape[1], dtype=last.dtype)
        means[there[0]] = last / len(last)
        scores.append(vit.head(vit.fc_norm(means)).T)
    keep_tokens(vit, {1: 0.7, 3: 0.5})
    logits, maps, _ = explained(vit, RIVALS, pre_of(x))(x)
    assert maps.shape == (3, 3, 3, 5)
    torch.testing.assert_close(maps.flatten(2), judged(torch.stack(scores)), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(logits, vit(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "height", "width", "grid"),
    [
        ("vit_medium_patch16_gap_240", 48, 80, (3, 5)),
        ("vit_medium_patch16_gap_240", 80, 48, (5, 3)),
        ("swinv2_cr_tiny_ns_224", 64, 128, (2, 4)),
        ("resnet18", 64, 96, (2, 3)),
    ],
)
def test_a_grid_has_as_many_rows_as_the_image(name: str, height: int, width: int, grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    changed = {} if name == "resnet18" else {"img_size": (height, width)}
    changed |= {"depth": 2} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=3, **changed).eval().requires_grad_(False)
    x = torch.zeros(1, 3, height, width)
    _, maps, _ = explained(model, [], pre_of(x))(x)
    assert maps.shape[2:] == grid


MEANS = {
    "swin_tiny_patch4_window7_224": (2, 2),
    "swinv2_cr_tiny_ns_224": (2, 2),
    "maxvit_rmlp_pico_rw_256": (2, 2),
    "pvt_v2_b0": (2, 2),
    "mvitv2_tiny": (2, 2),
    "vit_medium_patch16_gap_240": (4, 4),
    "vit_small_patch16_dinov3": (4, 4),
    "resnet18": (2, 2),
}


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_over_patches_is_masked_before_it(name: str) -> None:
    torch.manual_seed(0)
    sizeless = name in ("pvt_v2_b0", "resnet18")
    model = timm.create_model(name, num_classes=3, **({} if sizeless else {"img_size": 64}))
    model = drawn_anew(model)
    x = images(64, 64, 2)
    features = model.forward_features(x)
    logits, maps, read = explained(model, RIVALS, pre_of(x))(x)
    assert maps.shape[2:] == MEANS[name]
    height, width = maps.shape[2:]
    scores: list[torch.Tensor] = []
    for mask in torch.eye(height * width).double():
        if features.ndim == 3:
            in_front = features.shape[1] - len(mask)
            mask_of_all = torch.cat([torch.ones(in_front), mask])[None, :, None].double()
        else:
            grid = mask.view(1, height, width, 1)
            mask_of_all = grid if features.shape[1] == height else grid.permute(0, 3, 1, 2)
        scores.append(model.forward_head(features * mask_of_all))
    torch.testing.assert_close(maps.flatten(2), judged(torch.stack(scores, dim=-1)), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(logits, model(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(read, model.forward_head(features, pre_logits=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("vit_base_patch16_siglip_224", "pools by attention"),
        ("cait_xxs24_224", "something else than the mean"),
        ("crossvit_9_240", "not one map of the image"),
        ("coat_lite_tiny", "50 last tokens are not a grid"),
    ],
)
def test_another_head_is_refused(name: str, found: str) -> None:
    model = timm.create_model(name, num_classes=3).eval()
    side = model.pretrained_cfg["input_size"][-1]
    with pytest.raises(ModelError, match=found):
        explained(model, RIVALS, pre_of(torch.empty(1, 3, side, side)))


def test_labels_that_exclude_each_other_are_weighed_against_each_other() -> None:
    tree = Labels(("dress", "cat", "dog", "wet", "bag"), groups=(("dog", "cat"), ("bag",)), singles=("dress", "wet"))
    assert exclusive_groups(tree) == [[2, 1]]  # one alone has no rival
    logits = torch.tensor([[1.0, 2.0, 4.0, 8.0, 3.0]])
    expected = torch.tensor([[1.0, 2.0 - 4.0, 4.0 - 2.0, 8.0, 3.0]])
    torch.testing.assert_close(against_others(logits, exclusive_groups(tree)), expected, rtol=0, atol=1e-6)  # f32
    assert against_others(logits, []).equal(logits)
    for row in ([1.0, 2.0, 4.0, 8.0, 3.0], [3.0, 3.0, 3.0, 3.0, 3.0], [7.0, 7.0, -40.0, 0.0, 1.0]):
        rivals = [torch.tensor(row[:label] + row[label + 1 :]).logsumexp(dim=0).item() for label in range(5)]
        odds = torch.tensor([[own - other for own, other in zip(row, rivals, strict=True)]])
        torch.testing.assert_close(against_others(torch.tensor([row]), [range(5)]), odds, rtol=1e-6, atol=1e-6)
    # Of a label that is all but certain the odds still tell by how much.
    sure = torch.tensor([[60.0, 0.0, 1.0], [80.0, 0.0, 1.0]])
    assert against_others(sure, [range(3)])[:, 0].diff().item() == pytest.approx(20, abs=1e-4)


def test_a_label_that_all_patches_speak_for_alike_has_an_empty_map() -> None:
    scores = torch.tensor([[[2.0, 2.0, 2.0], [1.0, 3.0, 2.0]]])
    assert in_unit_range(scores).tolist() == [[[0, 0, 0], [0, 1, 0.5]]]
