"""``ftx models``: the table agrees with timm, and the verb answers from it without loading timm."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import ftx
from ftx.backbones.architecture_table import Architecture, read_architectures
from ftx.core.errors import InputError
from ftx.recipe.adapter_targets import TARGETS

TABLE = read_architectures()
BY_NAME = {one.architecture: one for one in TABLE.architectures}
OF_ANOTHER_TIMM = pytest.mark.skipif(version("timm") != TABLE.timm, reason=f"the table is of timm {TABLE.timm}")


def models(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(ftx.__file__).parents[1]), "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ftx", "models", *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    return "\n".join(line for line in done.stderr.splitlines() if not line.startswith("import time:"))


@pytest.mark.slow
@OF_ANOTHER_TIMM
def test_no_model_of_timm_is_left_out() -> None:
    import timm

    # The table of families registers some that are cut to a few blocks.
    assert list(BY_NAME) == [name for name in timm.list_models() if not name.endswith(("_shrunk", "_shallow"))]
    assert sum(len(one.pretrained) for one in BY_NAME.values()) == len(timm.list_pretrained())


@OF_ANOTHER_TIMM
@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224", "levit_128s", "resnet18"]
    + ["efficientformer_l1", "deit_tiny_distilled_patch16_224", "gcvit_xxtiny", "gemma4_vit_167m_enc"],
)
def test_a_line_is_what_the_model_is_when_it_is_built(name: str) -> None:
    script = runpy.run_path(str(Path(ftx.__file__).parents[2] / "models" / "make_architectures.py"))
    made = Architecture.model_validate(script["row"](name, script["pretrained_tags"]().get(name, {})))
    assert made == BY_NAME[name]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "pvt_v2_b0", "resnet18"])
def test_adapters_reach_as_many_layers_as_the_table_says(name: str) -> None:
    import torch

    from ftx.adapters.adapter_spec import AdapterSpec
    from ftx.adapters.attach import attach
    from ftx.backbones.build import build

    module = build(name, weights="none", num_classes=2, image_size="auto", seed=0).module
    line = BY_NAME[name]
    headless = sum(
        parameter.numel() for key, parameter in module.named_parameters() if not key.startswith(("head.", "fc."))
    )
    assert headless == line.parameters
    if line.adapted:
        spec = AdapterSpec("lora", dict.fromkeys(line.layers, 2), dict.fromkeys(line.layers, 2.0))
        assert len(attach(module, spec, generator=torch.Generator())) == line.adapted


def test_without_a_pattern_one_line_a_family() -> None:
    done = models()
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not imported & {"torch", "timm", "numpy", "openvino"}
    lines = done.stdout.splitlines()
    assert lines[0] == "bundled  dinov2-small"
    families = {one.family for one in TABLE.architectures}
    assert {line.split()[0] for line in lines[4:-1]} == families
    assert lines[-1].split()[:2] == ["all", str(len(TABLE.architectures))]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("swinv2_tiny", {"swinv2_tiny_window8_256", "swinv2_tiny_window16_256"}),
        ("vit_small*dinov2", {"vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"}),
        ("davit", {one.architecture for one in TABLE.architectures if one.family == "davit"}),
        ("vit_small_patch14_dinov2.lvd142m", {"vit_small_patch14_dinov2"}),
        ("dinov2-small", {"dinov2-small"}),
    ],
)
def test_a_pattern_is_a_part_of_a_name_a_glob_a_family_or_a_name(pattern: str, expected: set[str]) -> None:
    assert {model.name for model in TABLE.matching(pattern)} == expected


def test_what_matches_nothing_gets_the_nearest() -> None:
    with pytest.raises(InputError, match="no model matches 'resent18'") as raised:
        TABLE.matching("resent18")
    assert raised.value.fix == "did you mean resnet18?"
    assert models("qqq").returncode == 2


def test_a_name_says_all_that_is_known_and_the_next_command() -> None:
    done = models("gcvit_xxtiny")
    line = BY_NAME["gcvit_xxtiny"]
    assert f"{line.adapted} layers in {line.blocks} blocks: q " in done.stdout
    assert all(f"{tag}, " in done.stdout for tag in line.pretrained)
    assert "ftx train --data photos --model gcvit_xxtiny --method dora" in said(done)
    assert "--method linear" in said(models("resnet18"))
    assert "next:" not in said(models("gemma4_vit_167m_enc"))


def test_json_holds_every_model() -> None:
    answer = json.loads(models("--json").stdout)
    assert answer["timm"] == TABLE.timm
    assert [one["name"] for one in answer["models"]] == ["dinov2-small", *BY_NAME]
    assert answer["models"][0]["layers"] == dict.fromkeys(TARGETS, 12)
