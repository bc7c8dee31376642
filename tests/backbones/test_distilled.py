"""Distilled models: two heads whose answers are averaged, probed on cached features and taken to a validated IR."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import pytest
import torch
from tests.backbones.architectures import SHALLOW_DISTILLED
from tests.conftest import write_data

from ftx.adapters.attach import unfreeze_head
from ftx.backbones.build import build
from ftx.backbones.split_network import cut_at_head, only_head_trains
from ftx.evaluating import validate
from ftx.exporting import export
from ftx.merging.merge_and_prove import merge
from ftx.recipe.schema import Recipe
from ftx.runs.run import Run
from ftx.training import train


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("deit_tiny_distilled_patch16_224", 32),
        ("levit_128s", 224),
        ("pit_ti_distilled_224", 224),
        ("efficientformer_l1", 224),
        ("resnet18", 64),  # one head
    ],
)
def test_the_heads_on_what_they_read_are_the_model(name: str, side: int) -> None:
    module = build(name, weights="none", num_classes=3, image_size=side, seed=0).module
    module.requires_grad_(False)
    unfreeze_head(module)
    assert only_head_trains(module)
    with torch.inference_mode():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
        images_N3HW = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
        expected = module(images_N3HW)
        found = cut_at_head(module)(images_N3HW)
    assert expected.abs().max() > 0.01
    # f32: the sum of two products, in another order
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"peft": "lora"}, {"peft": "none", "freeze_backbone": True}], ids=["lora", "linear"]
)
def test_images_to_a_validated_ir(settings: dict[str, object], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    common = {"image_size": 32, "weights": "none", "epochs": 2, "precision": "f32"}
    named = {"path": write_data(tmp_path / "data", 8), "name": SHALLOW_DISTILLED.name}
    recipe = Recipe.named({**named, **common, **settings})
    with chdir(tmp_path):
        run = Run.open(train(recipe, out=tmp_path / "run").run)
        merge(run)
        export(run, formats=["onnx", "openvino"], precisions=["fp32"])
        report = validate(run)
    assert report.ok, report.problems
