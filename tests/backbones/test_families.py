"""Every family of the table: adapters are reached, and the merged model answers as the adapted one."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import pytest
import torch
from tests.conftest import write_data
from torch import nn

from ftx.adapters.attach import adapter_layers, attach, prove_reach
from ftx.adapters.kernel import LayerAdapter
from ftx.adapters.spec import AdapterSpec, Kind
from ftx.backbones.build import build
from ftx.backbones.families import sites
from ftx.exporting import export
from ftx.merging import merge, merged_state
from ftx.recipe import Recipe
from ftx.run import Run
from ftx.targets import TARGETS, Target
from ftx.training import train
from ftx.training.trained import fill
from ftx.validation import validate

# Architecture -> the side of its images, the smallest that it takes, and how many layers are adapted.
FAMILIES = {
    "vit_tiny_patch16_224": (32, 48),
    "deit_tiny_distilled_patch16_224": (32, 48),
    "deit3_small_patch16_224": (32, 48),
    "vit_small_patch14_reg4_dinov2": (28, 48),
    "vit_base_patch16_siglip_224": (32, 48),
    "vit_small_patch16_dinov3": (32, 48),
    "vit_small_plus_patch16_dinov3": (32, 60),
    "eva02_tiny_patch14_224": (28, 48),
    "eva02_base_patch14_224": (28, 84),
    "beit_base_patch16_224": (224, 48),
    "swin_tiny_patch4_window7_224": (224, 48),
    "swinv2_tiny_window8_256": (256, 48),
    "swinv2_cr_tiny_224": (224, 48),
    "maxvit_rmlp_pico_rw_256": (256, 88),
    "cait_xxs24_224": (224, 108),
    "xcit_nano_12_p16_224": (224, 60),
    "pvt_v2_b0": (64, 40),
    "twins_svt_small": (224, 81),
    "mobilevit_xxs": (64, 36),
    "efficientformer_l1": (224, 4),
    "tiny_vit_5m_224": (224, 40),
    "gcvit_xxtiny": (224, 48),
    "davit_tiny": (64, 48),
    "crossvit_tiny_240": (240, 84),
    "convit_tiny": (224, 58),
}
CLASSES = 5


def loud(name: str, side: int) -> nn.Module:
    """The model with random weights, but for scales that begin near zero: they would hide what a block says."""
    module = build(name, weights="none", num_classes=CLASSES, image_size=side, seed=0).module
    with torch.no_grad():
        for parameter_name, parameter in module.named_parameters():
            if parameter.ndim <= 3 and parameter.abs().max() < 1e-3 and not parameter_name.endswith("bias"):
                parameter.fill_(0.3)
    return module


def adapted(name: str, side: int, kind: Kind, targets: tuple[Target, ...] = TARGETS) -> tuple[nn.Module, list[str]]:
    """The model with random weights and an adapter whose B, and DoRA's magnitudes, have been moved."""
    module = loud(name, side)
    known = {target for site in sites(module) for target in site.rows}
    chosen = [target for target in targets if target in known]
    spec = AdapterSpec(kind=kind, rank=dict.fromkeys(chosen, 2), alpha=dict.fromkeys(chosen, 4.0))
    generator = torch.Generator().manual_seed(1)
    names = attach(module, spec, generator=generator)
    with torch.no_grad():
        for _, layer in adapter_layers(module):
            for part in layer.parts:
                block = layer.lora_B[part.rows, part.ranks]
                layer.lora_B[part.rows, part.ranks] = 0.05 * torch.randn(block.shape, generator=generator)
            magnitude = getattr(layer, "lora_magnitude_vector", None)
            if magnitude is not None:
                magnitude *= 1.1
    return module, names


def as_file(layer: nn.Module) -> LayerAdapter:
    magnitude = getattr(layer, "lora_magnitude_vector", None)
    return LayerAdapter(
        layer.lora_A.detach().double().numpy(),  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        layer.lora_B.detach().double().numpy(),  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        layer.scaling,  # pyright: ignore[reportArgumentType]
        None if magnitude is None else magnitude.detach().double().numpy(),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_adapters_are_reached_and_merge_into_the_same_answers(name: str) -> None:
    side, count = FAMILIES[name]
    torch.set_num_threads(1)
    module, names = adapted(name, side, "dora")
    assert len(names) == count
    images_N3HW = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))
    # A random network may answer all images alike: the sum of squares has a gradient in every layer all the same.
    module(images_N3HW).square().sum().backward()
    prove_reach(module)
    base = loud(name, side)
    with torch.inference_mode():
        expected = module(images_N3HW)
        before = base(images_N3HW)
        merged = merged_state(base, {layer_name: as_file(layer) for layer_name, layer in adapter_layers(module)})
        fill(base, merged)
        found = base(images_N3HW)
    assert (found - before).abs().max() > 1e-3  # the adapter says something
    # f32 rounding through the layers
    assert (found - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "peft"),
    [("resnet18", "none"), ("mobilenetv3_small_050", "none"), ("convnext_atto", "none"), ("pvt_v2_b0", "dora")],
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
