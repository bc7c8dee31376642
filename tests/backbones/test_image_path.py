"""The image path to a model, before there is one: timm's, or an error that says why not."""

from __future__ import annotations

import pytest
from timm.models import get_pretrained_cfg

from ftx.backbones.build import preprocess_before
from ftx.core.errors import ModelError


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mobilenetv3_small_100"])
def test_it_is_timms(name: str) -> None:
    found, config = preprocess_before(name, "auto"), get_pretrained_cfg(name)
    assert config is not None
    assert (3, found.height, found.width) == config.input_size
    assert (found.mean, found.std, found.interpolation) == (config.mean, config.std, config.interpolation)


def test_a_model_whose_images_timm_pads_is_refused() -> None:
    with pytest.raises(ModelError, match="padded to its input") as caught:
        preprocess_before("volo_d4_448", "auto")
    assert "1.15" in str(caught.value.found)
