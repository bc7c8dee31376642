"""An adapter folder read without a network: what a device reads of one that ftx wrote, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from timm.layers.linear import Linear
from timm.layers.std_conv import StdConv2d
from torch import Tensor, nn

import ftx
from ftx.adapters.adapter_spec import AdapterSpec, TargetPart
from ftx.adapters.attach import adapter_layers, attach
from ftx.adapters.low_rank_layer import LowRankLayer
from ftx.adapters.peft_config import read_config
from ftx.adapters.peft_file import PREFIX, WEIGHTS, read_peft_file
from ftx.adapters.peft_network import read_adapter, save_adapter, timm_naming
from ftx.core.errors import AdapterError

WRITTEN = Path(__file__).parents[1] / "written" / "v1"
SPECS = {
    "lora": AdapterSpec("lora", {"fc1": 2, "fc2": 3}, {"fc1": 4.0, "fc2": 3.0}),
    # q and v in one layer, whose rank and scaling are others than those of proj
    "dora": AdapterSpec("dora", {"q": 2, "v": 3, "proj": 2}, {"q": 4.0, "v": 9.0, "proj": 1.0}),
    "pissa": AdapterSpec("lora", {"q": 2, "fc1": 2}, {"q": 4.0, "fc1": 5.0}, init="pissa", rslora=True),
}
LAYER = "blocks.1.mlp.fc1"
A, B, MAGNITUDE = (f"{PREFIX}{LAYER}.{name}" for name in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector"))
HEAD = f"{PREFIX}head.weight"


def small() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_classes=3).eval()


def saved(spec: AdapterSpec, folder: Path) -> Path:
    """A trained-looking adapter: B and the magnitudes moved."""
    module, generator = small(), torch.Generator().manual_seed(1)
    attach(module, spec, generator=generator)
    with torch.no_grad():
        for _, layer in adapter_layers(module):
            for part in layer.parts:
                block = layer.lora_B[part.rows, part.ranks]
                layer.lora_B[part.rows, part.ranks] = block + torch.randn(block.shape, generator=generator)
            if layer.lora_magnitude_vector is not None:
                layer.lora_magnitude_vector *= 1.1
    folder.mkdir(exist_ok=True)
    save_adapter(module, spec, base_model="vit", base_digest="0", folder=folder)
    return folder


@pytest.mark.parametrize("name", SPECS)
def test_without_a_network_the_adapter_is_the_same(name: str, tmp_path: Path) -> None:
    file = read_peft_file(saved(SPECS[name], tmp_path))
    found, expected = file.layers(), read_adapter(tmp_path, small())
    assert found.keys() == expected.layers.keys()
    for layer, one in found.items():
        other = expected.layers[layer]
        assert one.scaling == other.scaling
        for mine, theirs in zip(
            (one.lora_A_RI, one.lora_B_OR, one.magnitude_O),
            (other.lora_A_RI, other.lora_B_OR, other.magnitude_O),
            strict=True,
        ):
            np.testing.assert_array_equal(mine, theirs)
    assert {key.removeprefix(PREFIX) for key in file.others} == expected.saved.keys() == {"head.weight", "head.bias"}


READER = """
import sys
from pathlib import Path
from ftx.adapters.peft_file import read_peft_file
print(*(len(read_peft_file(Path(folder)).layers()) for folder in sys.argv[1:]))
print(*{name.partition(".")[0] for name in sys.modules})
"""


def test_a_device_reads_what_ftx_wrote_without_the_training_extra(tmp_path: Path) -> None:
    folders = [saved(spec, tmp_path / name) for name, spec in SPECS.items()]
    folders += sorted(WRITTEN.glob("*-dora/trained")) + sorted(WRITTEN.glob("*-lora/trained"))
    assert len(folders) == len(SPECS) + 6
    environment = os.environ | {"PYTHONPATH": str(Path(ftx.__file__).parents[1])}
    command = [sys.executable, "-c", READER, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    counts, imported = done.stdout.splitlines()
    targets = [read_config(folder).listed_layers for folder in folders]
    assert [int(count) for count in counts.split()] == [len(names) for names in targets]
    assert all(targets)
    assert not set(imported.split()) & {"torch", "timm", "torchvision", "regex", "huggingface_hub"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_another_width_are_read_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    path = saved(SPECS["lora"], tmp_path) / WEIGHTS
    narrow = {key: tensor.to(dtype) for key, tensor in load_file(path).items()}
    extremes = [0.0, -0.0, 2.0**-14, -(2.0**-133 if dtype == torch.bfloat16 else 2.0**-24), 65280.0]
    narrow[A][0, : len(extremes)] = torch.tensor(extremes).to(dtype)  # subnormal ones among them
    save_file(narrow, path)
    file = read_peft_file(tmp_path)
    adapter = file.layers()[LAYER]
    np.testing.assert_array_equal(adapter.lora_A_RI, narrow[A].double().numpy())
    np.testing.assert_array_equal(np.signbit(adapter.lora_A_RI), np.signbit(narrow[A].double().numpy()))
    np.testing.assert_array_equal(adapter.lora_B_OR, narrow[B].double().numpy())
    head = read_adapter(tmp_path, small()).saved["head.weight"]
    torch.testing.assert_close(head.double(), narrow[HEAD].double(), rtol=0, atol=0)


Tensors = dict[str, Tensor]
REFUSED: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "a factor": (lambda t: t.pop(A), f"1 keys missing ({A})"),
    "a layer": (lambda t: [t.pop(key) for key in (A, B, MAGNITUDE)], f"3 keys missing ({A})"),
    "another layer": (lambda t: t.update({A.replace(".1.", ".7."): t[A].clone()}), "1 keys spare"),
    "no adapter's": (lambda t: t.update({f"{PREFIX}norm.weight": torch.ones(48)}), "1 keys spare"),
    "a rank": (lambda t: t.update({A: t[A][:1].clone()}), f"1 keys of a wrong shape ({A})"),
    "the other rank": (lambda t: t.update({B: t[B][:, :1].clone()}), f"1 keys of a wrong shape ({B})"),
    "a magnitude": (lambda t: t.update({MAGNITUDE: t[MAGNITUDE][1:].clone()}), f"wrong shape ({MAGNITUDE})"),
    "one dimension": (lambda t: t.update({A: t[A][:, 0].clone()}), f"wrong shape ({A})"),
    "one number": (lambda t: t.update({B: torch.tensor(1.0)}), f"wrong shape ({B})"),
    "one number of 16 bits": (lambda t: t.update({B: torch.tensor(1.0).bfloat16()}), f"wrong shape ({B})"),
    "no entry": (lambda t: t.update({A: torch.empty(0, 48)}), f"wrong shape ({A})"),
    "no number": (lambda t: t[B].fill_(torch.nan), B),
    "beyond f32": (lambda t: t.update({B: t[B].double() + 1e39}), B),
    "whole numbers": (lambda t: t.update({A: t[A].int()}), f"{A}: int32"),
    "eight bits": (lambda t: t.update({A: t[A].to(torch.float8_e4m3fn)}), f"{A}: F8_E4M3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_hold_is_refused_by_its_key(case: str, tmp_path: Path) -> None:
    path = saved(AdapterSpec("dora", {"fc1": 2}, {"fc1": 4.0}), tmp_path) / WEIGHTS
    tensors = load_file(path)
    change, said = REFUSED[case]
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(AdapterError) as caught:
        read_peft_file(tmp_path).layers()
    assert said in str(caught.value.found)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}", b"\xff" * 64])
def test_what_is_no_whole_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = saved(SPECS["lora"], tmp_path) / WEIGHTS
    path.write_bytes(content)
    with pytest.raises(AdapterError, match="the tensors of the adapter cannot be read"):
        read_peft_file(tmp_path)


def test_a_value_that_is_no_number_is_found_among_good_ones_in_whatever_type(tmp_path: Path) -> None:
    path = saved(SPECS["lora"], tmp_path) / WEIGHTS
    whole = load_file(path)
    for key in (A, HEAD):  # a factor, and the head
        for dtype in (torch.float16, torch.bfloat16, torch.float64):
            tensors = {name: tensor.to(dtype) for name, tensor in whole.items()}
            tensors[key][1, 2] = -torch.inf
            save_file(tensors, path)
            with pytest.raises(AdapterError, match="must be finite") as caught:
                read_peft_file(tmp_path)
            assert caught.value.found == key


@pytest.mark.parametrize(
    ("chosen", "pattern"),
    [
        (0, "blocks"),
        (1, "blocks"),
        (0, ["layers", "blocks"]),
        ([0], ["blocks"]),
        ([1], "blocks"),
        ([0, 1], "blocks"),
        ([], None),
        (None, None),
    ],
)
@pytest.mark.parametrize("targets", [["fc1"], ["blocks.0.mlp.fc1", "fc2"]], ids=["an ending", "a whole name"])
def test_blocks_are_those_that_peft_chooses(
    chosen: object, pattern: object, targets: list[str], tmp_path: Path
) -> None:
    """A layer that is named whole is adapted whatever its block."""
    config = peft.LoraConfig(r=2, target_modules=targets, layers_to_transform=chosen, layers_pattern=pattern)
    model = peft.get_peft_model(small(), config)
    theirs = {name for name, module in model.base_model.model.named_modules() if isinstance(module, LoraLayer)}
    document = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": targets}
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({**document, "layers_to_transform": chosen, "layers_pattern": pattern})
    )
    read = read_config(tmp_path)
    assert {name for name, _ in small().named_modules() if read.targets_layer(name)} == theirs
    assert theirs


NAMES = st.text(st.sampled_from("ab."), min_size=1, max_size=6)


@given(pattern=st.dictionaries(NAMES, st.integers(2, 9), max_size=3), name=NAMES, escaped=st.booleans())
def test_a_pattern_is_for_the_first_key_that_a_name_ends_with(
    pattern: dict[str, int], name: str, escaped: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Peft's rule (get_pattern_key), whether the key is a name, as ftx writes them, or an expression."""
    keys = {re.escape(key) if escaped else key: rank for key, rank in pattern.items()}
    folder = tmp_path_factory.mktemp("pattern")
    document = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "rank_pattern": keys}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    ranks = [rank for key, rank in keys.items() if re.match(rf"(.*\.)?({key})$", name)]
    assert read_config(folder).rank(name) == (ranks or [1])[0]


def test_layers_that_compute_with_their_weight_as_it_is_have_a_name() -> None:
    """Linear layers and convolutions of torch and of timm, and those that have an adapter already."""
    part = (TargetPart("layer", slice(0, 3), slice(0, 1)),)
    adapted = LowRankLayer(nn.Linear(2, 3), part, dora=False, scaling=1.0, dropout=0.0, generator=torch.Generator())
    module = nn.ModuleDict(
        {
            "linear": nn.Linear(2, 3),
            "linear of timm": Linear(2, 3),
            "one dimension": nn.Conv1d(2, 3, 1),
            "two dimensions": nn.Conv2d(2, 3, 1),
            "adapted": adapted,
            "standardised": StdConv2d(2, 3, 1),
            "norm": nn.LayerNorm(2),
        }
    )
    naming = timm_naming(module)
    assert list(naming.layers) == [name for name in module if name not in ("standardised", "norm")]
    assert {place.layer for place in naming.layers.values()} == naming.layers.keys()
    assert naming.modules.keys() >= set(module)
