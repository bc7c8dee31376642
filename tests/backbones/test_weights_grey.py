"""Weights made on grey images answer in RGB as they did on the grey of an image."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.conftest import write_data
from torch import Tensor

from ftx.backbones.build import build
from ftx.backbones.weights import LUMA
from ftx.core.errors import ModelError
from ftx.merging.merge_and_prove import merge
from ftx.recipe.schema import Recipe
from ftx.runs.run import Run
from ftx.training import train


def write_weights(name: str, channels: int, file: Path) -> torch.nn.Module:
    """A model for so many channels, seeded, and its file without the head."""
    torch.manual_seed(1)
    model = timm.create_model(name, in_chans=channels, num_classes=0).eval()
    save_file(model.state_dict(), file)
    return model


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("vit_tiny_patch16_224", 224),
        ("resnet18", 64),
        ("mobilenetv3_small_050", 64),
        ("crossvit_tiny_240", 240),  # two first convolutions
        ("tresnet_m", 64),  # folds 4 x 4 pixels into channels before the first convolution
    ],
)
def test_rgb_equals_grey_on_the_luma(name: str, side: int, tmp_path: Path) -> None:
    grey = write_weights(name, 1, tmp_path / "grey.safetensors")
    backbone = build(name, weights=str(tmp_path / "grey.safetensors"), num_classes=0, image_size=side, seed=0)
    pre = backbone.preprocess
    own = timm.create_model(name, num_classes=0).pretrained_cfg
    for level, values in ((pre.mean, own["mean"]), (pre.std, own["std"])):
        assert level == (pytest.approx(sum(values) / 3),) * 3
    images_N3HW = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(2))
    luma_N1HW = (images_N3HW * torch.tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)

    def normalised(images: Tensor) -> Tensor:
        return (images - pre.mean[0]) / pre.std[0]

    with torch.inference_mode():
        expected, found = grey(normalised(luma_N1HW)), backbone.module(normalised(images_N3HW))
    # f32: another order of sums; measured 1.2e-6 of the largest
    torch.testing.assert_close(found, expected, rtol=0, atol=4e-6 * max(1.0, float(expected.abs().max())))


def test_another_number_of_channels_is_named_with_its_tensor(tmp_path: Path) -> None:
    write_weights("vit_tiny_patch16_224", 4, tmp_path / "four.safetensors")
    with pytest.raises(ModelError) as caught:
        build("vit_tiny_patch16_224", weights=str(tmp_path / "four.safetensors"), num_classes=3, image_size=32, seed=0)
    assert "patch_embed.proj.weight" in str(caught.value)
    assert "4 channels" in str(caught.value)


def test_convolutions_that_standardise_their_weights_are_refused(tmp_path: Path) -> None:
    write_weights("resnetv2_50x1_bit", 1, tmp_path / "grey.safetensors")
    with pytest.raises(ModelError, match="standardises its weights") as caught:
        build("resnetv2_50x1_bit", weights=str(tmp_path / "grey.safetensors"), num_classes=3, image_size=64, seed=0)
    assert "stem.conv.weight" in str(caught.value)


def test_a_run_on_grey_weights_finds_its_base_again(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    write_weights("vit_tiny_patch16_224", 1, tmp_path / "grey.safetensors")
    settings = {"image_size": 32, "weights": str(tmp_path / "grey.safetensors"), "epochs": 1, "precision": "f32"}
    recipe = Recipe.named({"path": write_data(tmp_path / "data", 6), "name": "vit_tiny_patch16_224", **settings})
    with chdir(tmp_path):
        run = Run.open(train(recipe, out=tmp_path / "run").run)
        report = merge(run)
    assert report.max_logit_difference <= report.logit_bound
    assert run.manifest.preprocess.mean[0] == run.manifest.preprocess.mean[2]
