"""The table of families: adapters are reached, merged, read by peft and exported; others go from images to an IR."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.backbones.architectures import FAMILIES
from tests.backbones.table import MEANING, measure
from tests.conftest import write_data

from ftx.adapters.adapter_spec import AdapterSpec
from ftx.adapters.attach import match
from ftx.backbones.build import build
from ftx.backbones.layer_roles import head_names
from ftx.evaluating import validate
from ftx.exporting import export
from ftx.merging.merge_and_prove import merge
from ftx.recipe.schema import Recipe
from ftx.runs.dense import DenseConfig, save_dense
from ftx.runs.run import Run
from ftx.training import train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:timm")  # of torch's, for how timm resamples

# One of each layout: q, k and v fused, fused and bypassed, apart, in windows, head by head, beside convolutions, and in
# attentions of three and of five dimensions. A pyramid goes to a validated IR below, attention over channels in
# tests/test_image_sizes.py; `make families` exports all.
EXPORTED = {
    "vit_small_patch14_reg4_dinov2",
    "beit_base_patch16_224",
    "eva02_base_patch14_224",
    "swin_tiny_patch4_window7_224",
    "levit_128s",
    "mobilevit_xxs",
    "samvit_base_patch16_224",
    "nest_tiny",
}


# Those that `make test` runs; a change of backbones/ or of timm takes `make test-slow`, which runs all.
OF_EACH_KIND = {
    "vit_small_patch14_dinov2",  # layer scale
    "deit_tiny_distilled_patch16_224",  # two heads
    "eva02_tiny_patch14_224",  # qkv is bypassed; rotated
    "cait_xxs24_224",  # class blocks with q, k and v of their own
    "pvt_v2_b0",  # kv in one, a pyramid
    "swinv2_cr_tiny_224",  # windows
    "xcit_nano_12_p16_224",  # attention over channels
    "convnext_tiny",  # no attention
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.representative if name in OF_EACH_KIND else pytest.mark.slow)
        for name in FAMILIES
    ],
)
def test_a_family_answers_the_same_through_all_its_forms(name: str, tmp_path: Path) -> None:
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} does not have it")
    row = measure(FAMILIES[name], tmp_path, export=name in EXPORTED)
    assert row.layers == FAMILIES[name].layers
    assert row.dead == 0
    assert row.said > 1e-3  # without the adapter it answers otherwise
    assert row.same_bytes
    # f32 rounding through the layers
    assert row.merged <= 1e-5
    assert row.peft_f32 <= 1e-5
    # f64: sums in another order
    assert row.peft_f64 <= 1e-12
    # one rounding of each entry to f32
    assert row.peft_merge <= 1
    # f32, operators in another order and of another library
    assert row.failure == ""
    assert all(error is None or error <= 1e-4 for error in (row.onnx, row.openvino))


def test_several_attentions_beside_each_other_are_one_block() -> None:
    family = FAMILIES["vit_small_patch16_18x2_224"]
    module = build(family.name, weights="none", num_classes=2, image_size=family.side, seed=0).module
    last = match(module, AdapterSpec("lora", {"v": 2, "fc1": 2}, {"v": 2.0, "fc1": 2.0}, blocks=1))
    assert [site.name for site, _ in last] == [
        *(f"blocks.2.attns.{number}.attn.qkv" for number in range(2)),
        *(f"blocks.2.ffns.{number}.mlp.fc1" for number in range(2)),
    ]


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swin_s3_tiny_224", "swinv2_tiny_window8_256"])
def test_timm_opens_windows_of_another_input_size(name: str, tmp_path: Path) -> None:
    backbone = build(name, weights="none", num_classes=5, image_size=128, seed=0)
    save_dense(backbone.module, DenseConfig(name, MEANING, backbone.preprocess), tmp_path)
    opened = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images_N3HW = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        # The same operations in the same order; with other windows logits of 0.3 differ by 0.1.
        assert torch.equal(opened(images_N3HW), backbone.module(images_N3HW))


@pytest.mark.parametrize("size", [48, "32x48"])
def test_a_vit_that_takes_any_size_is_given_one(size: int | str) -> None:
    backbone = build("test_vit", weights="none", num_classes=5, image_size=size, seed=0)
    shape = backbone.preprocess.height, backbone.preprocess.width
    theirs = timm.create_model("test_vit", num_classes=5, img_size=shape).eval()
    assert theirs.dynamic_img_size
    assert not backbone.module.dynamic_img_size
    theirs.load_state_dict(backbone.module.state_dict())
    images_N3HW = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    # timm resamples what is not square, here onto its own grid: f32 rounding
    torch.testing.assert_close(backbone.module(images_N3HW), theirs(images_N3HW), rtol=0, atol=1e-5)
    with pytest.raises(AssertionError, match="height"):
        backbone.module(images_N3HW[..., :16, :])


def test_a_file_of_weights_may_hold_what_belongs_to_a_head(tmp_path: Path) -> None:
    whole = timm.create_model("levit_128s", num_classes=3)  # its heads have batch statistics
    file = tmp_path / "levit.safetensors"
    save_file(whole.state_dict(), file)
    module = build("levit_128s", weights=str(file), num_classes=2, image_size=224, seed=0).module
    assert torch.equal(
        module.get_parameter("stem.conv1.linear.weight"), whole.get_parameter("stem.conv1.linear.weight")
    )


def test_a_second_head_that_timm_does_not_name_is_a_head() -> None:
    module = build("levit_384_s8", weights="none", num_classes=2, image_size=224, seed=0).module
    assert head_names(module) == ("head.linear", "head_dist.linear")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "peft"),
    # Two more go there in INT8 (tests/exporting/int8/test_convolutions.py), one of them on images that are not square
    # as well.
    [("convnext_atto", "none"), (FAMILIES["pvt_v2_b0"].name, "dora")],
)
def test_other_families_go_from_images_to_a_validated_ir(name: str, peft: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    settings = {"image_size": 64, "weights": "none", "epochs": 1, "precision": "f32", "peft": peft}
    probing = {"freeze_backbone": True} if peft == "none" else {}
    recipe = Recipe.named({"path": write_data(tmp_path / "data", 8), "name": name, **settings, **probing})
    with chdir(tmp_path):
        made = Run.open(train(recipe, out=tmp_path / "run").run)
        merge(made)
        export(made, formats=["onnx", "openvino"], precisions=["fp32"])
        report = validate(made)
    assert report.ok, report.problems
