"""The image path to a model, before there is one: timm's, or an error that says why not."""

from __future__ import annotations

import pytest
from timm.models import get_pretrained_cfg

from ftx.backbones.build import build, preprocess_before
from ftx.core.errors import ModelError


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mobilenetv3_small_100"])
def test_it_is_timms(name: str) -> None:
    found, config = preprocess_before(name, "auto"), get_pretrained_cfg(name)
    assert config is not None
    assert (3, found.height, found.width) == config.input_size
    assert (found.mean, found.std, found.interpolation) == (config.mean, config.std, config.interpolation)


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_tiny_patch16_224", "resnet18"])
@pytest.mark.parametrize("size", ["auto", 112, "112x224"])
def test_before_the_model_it_is_that_of_the_model(name: str, size: int | str) -> None:
    """Images are decoded and kept before the model is built."""
    found = preprocess_before(name, size)
    assert found == build(name, weights="none", num_classes=2, image_size=size, seed=0).preprocess
    assert (found.height, found.width) == ((224, 224) if size == "auto" else (112, 224 if size == "112x224" else 112))


def test_a_model_whose_images_timm_pads_is_refused() -> None:
    with pytest.raises(ModelError, match="must not need padded images") as caught:
        preprocess_before("volo_d4_448", "auto")
    assert "1.15" in str(caught.value.found)
