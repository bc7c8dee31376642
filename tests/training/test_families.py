"""Every family trains by the default preset, on kept features too; `make families` attaches by hand and keeps none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.backbones.architectures import FAMILIES
from tests.backbones.table import loud
from tests.conftest import write_data

from ftx.recipe.schema import Recipe
from ftx.training import train

# One of each way from the blocks to the head, and each in which kept features were found to fail; all others are slow.
QUICK = frozenset(
    {
        "vit_base_patch16_siglip_224",  # its blocks' answers are transposed views, which were refused
        "vit_tiny_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "vit_pe_core_tiny_patch16_384",
        "xcit_nano_12_p16_224",
        "pvt_v2_b0",
        "mobilevit_xxs",
        "eva02_tiny_patch14_224",
    }
)
# With random weights their blocks say nothing: scales that begin at zero, or batches' statistics.
FAINT = frozenset({"swinv2_tiny_window8_256", "swinv2_cr_tiny_224", "levit_128s", "levit_384_s8"})
# Of four patches a step of the preset sees one, and attention to one alone has no gradient where no class token is.
SIDES = {"vit_base_patch16_siglip_224": 64}


@pytest.mark.filterwarnings("ignore:torch.searchsorted:UserWarning")  # timm's own, as it builds beit
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")  # swin and maxvit
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_the_default_preset_trains_and_keeps_features(name: str, tmp_path: Path) -> None:
    family = replace(FAMILIES[name], side=SIDES.get(name, FAMILIES[name].side))
    weights = "none"
    if name in FAINT:
        weights = str(tmp_path / "weights.safetensors")
        save_file({key: value.contiguous() for key, value in loud(family).module.state_dict().items()}, weights)
    write_data(tmp_path / "data", count=6)
    flags = {
        "data.path": str(tmp_path / "data"),
        "model.name": family.name,
        "model.weights": weights,
        "data.image_size": family.side,
        "train.epochs": 2,
        "train.precision": "f32",
    }
    report = train(Recipe.build(flags=flags), out=tmp_path / "run")
    assert (report.images, report.interrupted) == ({"train": 20, "val": 4}, False)
    saved = load_file(tmp_path / "run" / "trained" / "adapter_model.safetensors")
    moved = [key for key, value in saved.items() if "lora_B" in key and value.any()]
    assert moved == [key for key in saved if "lora_B" in key] != []
