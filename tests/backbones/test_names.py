"""A name of a model that is almost right is answered with the one that was meant."""

from __future__ import annotations

import pytest

from ftx.backbones.architecture_table import read_architectures
from ftx.backbones.build import resolve
from ftx.core.errors import InputError, ModelError


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dinov2-base", "vit_base_patch14_dinov2"),
        ("facebook/dinov2-large", "vit_large_patch14_dinov2"),
        ("DINOv2-base", "vit_base_patch14_dinov2"),
        ("vit-base-dinov3", "vit_base_patch16_dinov3"),
        ("siglip_base", "vit_base_patch16_siglip_224"),
        ("deit-small", "deit_small_patch16_224"),
        ("vit_bas_patch16_224", "vit_base_patch16_224"),
    ],
)
def test_the_model_that_was_meant_is_named(name: str, meant: str) -> None:
    with pytest.raises(ModelError, match="does not exist") as caught:
        resolve(name)
    assert caught.value.fix == f"run again with --model {meant}"
    with pytest.raises(InputError, match="no model matches") as other:
        read_architectures().matching(name)
    assert other.value.fix == f"did you mean {meant}?"


def test_of_no_like_name_none_is_made_up() -> None:
    with pytest.raises(ModelError) as caught:
        resolve("nothing")
    assert caught.value.found is not None
    assert caught.value.found.endswith("none with a similar name")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("vit_tiny_patch16_224.augreg_in21k", "vit_tiny_patch16_224"),
        ("VIT_tiny_patch16_224.AUGREG_in21k", "vit_tiny_patch16_224"),
        ("vit_tiny_patch16_224.augreg_in12k", None),
        ("vit_tiny_patch16_224.", None),
        ("resnet18.lvd142m", None),
        ("dinov2-small.lvd142m", None),
    ],
)
def test_a_tag_must_be_one_of_the_models_own(name: str, found: str | None) -> None:
    table = read_architectures()
    if found is None:
        with pytest.raises(InputError, match="no model matches"):
            table.matching(name)
    else:
        assert [one.name for one in table.matching(name)] == [found]
