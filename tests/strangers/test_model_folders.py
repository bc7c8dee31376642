"""Folders of models and adapters from strangers: no code runs, no network is asked, no memory is taken for nothing."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from pydantic import ValidationError
from safetensors.torch import save_file
from tests.strangers.documents import as_json, damaged, refused_or_read, strange

from ftx.adapters.peft_config import CONFIG as ADAPTER_CONFIG
from ftx.adapters.peft_config import read_config
from ftx.backbones.timm_config import ARGUMENTS, TimmConfig
from ftx.core.errors import AdapterError, EnvironmentFault, ExportError, FtxError, ModelError
from ftx.interop.base_model import open_base
from ftx.runs.dense import load_dense, read_dense
from ftx.runtimes import load

TINY = {"img_size": [32, 32], "patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 2}
MEANING = {"task": "multiclass", "labels": {"names": ["a", "b"], "groups": [["a", "b"]], "singles": [], "parents": {}}}
DENSE: dict[str, Any] = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 2,
    "num_features": 24,
    "global_pool": "token",
    "label_names": ["a", "b"],
    "model_args": TINY,
    "pretrained_cfg": {
        "input_size": [3, 32, 32],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "num_classes": 2,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    },
    "ftx": MEANING,
}
VIT: dict[str, Any] = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "patch_size": 16,
    "image_size": 32,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "qkv_bias": True,
    "id2label": {"0": "a", "1": "b"},
}
ADAPTER: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "vit_tiny_patch16_224",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "bias": "none",
    "target_modules": r"blocks\.\d+\.(attn\.qkv|mlp\.fc1)",
    "exclude_modules": ["blocks.3.mlp.fc1"],
    "modules_to_save": ["head"],
    "layers_to_transform": [0, 1],
    "layers_pattern": ["blocks"],
    "use_dora": True,
    "use_rslora": False,
    "rank_pattern": {r"blocks\.0\.attn\.qkv": 12},
    "alpha_pattern": {r"blocks\.0\.attn\.qkv": 24.0},
    "init_lora_weights": True,
    "fan_in_fan_out": False,
    "task_type": None,
    "ftx": {"base_digest": "0" * 64},
}
NAMES = [f"blocks.{block}.{leaf}" for block in range(6) for leaf in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    module = timm.create_model("vit_tiny_patch16_224", num_classes=2, **TINY)
    save_file(module.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_bytes(as_json(DENSE))
    return folder


@pytest.fixture
def changed(dense: Path, tmp_path: Path) -> Any:
    """Writes a copy of the dense folder whose config has other keys."""
    folder = Path(shutil.copytree(dense, tmp_path / "dense"))

    def change(**keys: object) -> Path:
        (folder / "config.json").write_bytes(as_json({**DENSE, **keys}))
        return folder

    return change


def test_the_folder_opens(dense: Path) -> None:
    assert load(dense).logits(torch.zeros(1, 32, 32, 3, dtype=torch.uint8).numpy()).shape == (1, 2)
    assert open_base(str(dense)).labels == ("a", "b")


@strange
@given(damaged(DENSE))
def test_a_damaged_dense_config(dense: Path, document: object) -> None:
    folder = dense.parent / f"{dense.name}-damaged"
    if not folder.exists():
        shutil.copytree(dense, folder)
    (folder / "config.json").write_bytes(as_json(document))
    refused_or_read(lambda: read_dense(folder), ExportError)
    predictor = refused_or_read(lambda: load(folder), (ExportError, ModelError))
    if predictor is not None:
        pixels = torch.zeros(1, predictor.preprocess.height, predictor.preprocess.width, 3, dtype=torch.uint8)
        refused_or_read(lambda: predictor.logits(pixels.numpy()), (ExportError, ModelError))
    refused_or_read(lambda: open_base(str(folder)), ModelError)


@strange
@given(damaged(VIT))
def test_a_damaged_config_of_transformers(dense: Path, document: object) -> None:
    folder = dense.parent / f"{dense.name}-transformers"
    if not folder.exists():
        shutil.copytree(dense, folder)
    (folder / "config.json").write_bytes(as_json(document))
    refused_or_read(lambda: open_base(str(folder)), ModelError)


@strange
@given(damaged(ADAPTER))
def test_a_damaged_adapter_config(dense: Path, document: object) -> None:
    folder = dense.parent / f"{dense.name}-adapter"
    folder.mkdir(exist_ok=True)
    (folder / ADAPTER_CONFIG).write_bytes(as_json(document))
    config = refused_or_read(lambda: read_config(folder), AdapterError)
    if config is not None:
        refused_or_read(lambda: [config.targets_layer(name) for name in NAMES], AdapterError)
        refused_or_read(lambda: [config.scaling(name, config.rank(name)) for name in NAMES], AdapterError)


class Planted:
    """Unpickled, it makes a file: the proof that code of a stranger ran."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.marker), os.O_CREAT | os.O_WRONLY)


# What a config says so that timm opens a pickle, and which file of weights lies beside it.
PICKLES: dict[str, dict[str, Any]] = {
    "checkpoint": {"model_args": {**TINY, "checkpoint_path": "PICKLE"}},  # what timm 1.0.20 did, without a word
    "folder": {"architecture": "local-dir:OTHER", "model_args": {"pretrained": True}},
    "cache": {"model_args": {**TINY, "pretrained": True, "cache_dir": "OTHER"}},
    "file": {"model_args": {**TINY, "pretrained": True, "pretrained_cfg_overlay": {"file": "PICKLE"}}},
    "beside": {},
}


@pytest.mark.representative
def test_no_pickle_is_opened(dense: Path, tmp_path: Path) -> None:
    """In a fresh process, through the program: each way by which a folder could have timm or torch open a pickle."""
    marker, pickled = tmp_path / "marker", tmp_path / "weights.pth"
    pickled.write_bytes(pickle.dumps(Planted(marker)))
    names = ("pytorch_model.bin", "adapter_model.bin", "model.bin", "pytorch_model.pth")
    other, adapter = tmp_path / "other", tmp_path / "adapter"
    for folder in (other, adapter):
        folder.mkdir()
        for name in names:
            shutil.copy(pickled, folder / name)
    (other / "config.json").write_bytes(as_json(DENSE))
    (adapter / ADAPTER_CONFIG).write_bytes(as_json({**ADAPTER, "ftx": None}))
    lines: list[list[str]] = []
    for way, keys in PICKLES.items():
        folder = Path(shutil.copytree(dense, tmp_path / way))
        config = json.dumps({**DENSE, **keys}).replace("PICKLE", str(pickled)).replace("OTHER", str(other))
        (folder / "config.json").write_text(config)
        if way == "beside":
            (folder / "model.safetensors").unlink()
        for name in names:
            shutil.copy(pickled, folder / name)
        lines.append(["predict", str(tmp_path), "--artifact", str(folder)])
        lines.append(["merge", "--adapter", str(adapter), "--base", str(folder), "--out", str(tmp_path / "out")])
    lines.append(["train", "--model", f"local-dir:{other}", "--data", str(tmp_path)])
    lines.append(["train", "--weights", str(pickled), "--data", str(tmp_path)])
    (tmp_path / "1.png").write_bytes(b"")
    program = f"import sys\nfrom ftx.cli.app import run\nsys.exit(any(run(words) != 2 for words in {lines!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: ") == len(lines)
    assert "Traceback" not in done.stderr
    assert not marker.exists()


def test_the_pickle_would_have_made_its_mark(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Planted(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "key",
    "checkpoint_path pretrained pretrained_cfg pretrained_cfg_overlay cache_dir scriptable exportable no_jit "
    "features_only out_indices feature_cls kwargs_filter device dtype cfg model_cfg block_fn hybrid_backbone "
    "stem_backbone".split(),
)
def test_timm_gets_arguments_of_a_model_alone(key: str, changed: Any) -> None:
    folder = changed(model_args={**TINY, key: "x"})
    assert key not in ARGUMENTS
    for opened in (lambda: load_dense(folder), lambda: load(folder), lambda: open_base(str(folder))):
        with pytest.raises((ExportError, ModelError), match=key):
            opened()


@pytest.mark.parametrize(
    "architecture",
    [
        "hf-hub:timm/vit_tiny_patch16_224",
        "hf_hub:x/y",
        "local-dir:.",
        "https://example.org/x",
        "../vit",
        "vit_tiny_patch16_224.x:y",
        "",
        "x" * 5000,
        "vit tiny",
    ],
)
def test_names_outside_of_timm_reach_nobody(architecture: str, changed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    monkeypatch.setattr(socket.socket, "connect", asked)
    monkeypatch.setattr(timm, "create_model", asked)
    folder = changed(architecture=architecture)
    for opened in (lambda: load(folder), lambda: open_base(str(folder))):
        with pytest.raises((ExportError, ModelError), match="architecture"):
            opened()


@pytest.mark.parametrize(
    "args",
    [
        {"embed_dim": 60_000, "num_heads": 1, "depth": 1000},
        {"embed_dim": 10**9},
        {"depth": 10**6},
        {"img_size": [10**6, 10**6]},
        {"reg_tokens": 65_000, "embed_dim": 65_000},
        {"mlp_ratio": 60_000.0},
        {"embed_dim": [[[[[[1]]]]]]},
        {"norm_layer": "os.system('x')"},
        {"depth": -1},
        {"patch_size": 0},
        {"num_heads": 7},
        {"depth": list(range(2000))},
    ],
)
def test_a_model_beyond_its_weights_is_not_built(args: dict[str, object], changed: Any) -> None:
    folder, started = changed(model_args={**TINY, **args}), time.perf_counter()
    for opened in (lambda: load_dense(folder), lambda: open_base(str(folder))):
        with pytest.raises((ExportError, ModelError)):
            opened()
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("value", [[224, 10**9], [2, "os.system('x')"], [[7, 7], [7, 10**9]], [1, {"a": 1}]], ids=str)
def test_each_entry_of_a_list_lies_within_the_bounds(value: list[object]) -> None:
    with pytest.raises(ValidationError, match="window_size"):
        TimmConfig.model_validate({**DENSE, "model_args": {**TINY, "window_size": value}})


def test_what_ftx_and_timm_write_is_allowed() -> None:
    """Every plain setting that a folder of timm or of ``ftx merge`` may hold passes."""
    args = {
        "img_size": [224, 160], "window_size": [[7, 7], [14, 14]], "embed_dim": 384, "depth": 12, "num_heads": 6,
        "patch_size": 14, "mlp_ratio": 4.000000001, "qkv_bias": True, "init_values": 1.0, "reg_tokens": 4,
        "no_embed_class": True, "dynamic_img_size": True, "global_pool": "avg", "act_layer": "gelu_tanh",
        "norm_layer": "layernorm", "class_token": False, "drop_path_rate": 0.1, "fc_norm": None, "pos_embed": "",
    }  # fmt: skip
    assert TimmConfig.model_validate({**DENSE, "model_args": args}).model_args == args


def test_a_dense_folder_of_other_labels_is_refused(changed: Any) -> None:
    labels = {"names": ["a", "b", "c"], "groups": [["a", "b", "c"]]}
    with pytest.raises(ExportError, match="one output per label"):
        load(changed(ftx={**MEANING, "labels": labels}))


def test_a_dense_folder_of_another_size_is_refused(changed: Any) -> None:
    folder = changed(pretrained_cfg={**DENSE["pretrained_cfg"], "input_size": [3, 32, 16]})
    with pytest.raises(ExportError, match="of the image size in its config"):
        load(folder)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_tiny_patch16_224.augreg_in21k"])
def test_a_model_beyond_the_memory_is_said_before_it_is_built(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftx.backbones import build

    words = {"weights": "none", "num_classes": 2, "image_size": "auto", "seed": 0}
    parameters = 5_524_416  # without a head, each of four bytes
    monkeypatch.setattr(build, "available_bytes", lambda: 4 * parameters - 1)
    with pytest.raises(EnvironmentFault, match=f"not enough memory for .*{name}") as caught:
        build.build(name, **words)
    assert caught.value.found == "0.0 GB of parameters, 0.0 GB free"
    monkeypatch.setattr(build, "available_bytes", lambda: 4 * parameters)
    build.build(name, **words)


def test_after_a_model_beyond_its_weights_others_are_built(changed: Any) -> None:
    """What counts the parameters of the one does not go on counting."""
    with pytest.raises(ModelError, match="must be of this model"):
        open_base(str(changed(model_args={**TINY, "embed_dim": 6000})))
    assert open_base(str(changed())).labels == ("a", "b")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "BF16", "I64", "U16", "BOOL", "C64", "F4", "X", ""])
def test_tensors_of_any_dtype_are_read_or_refused(dtype: str, dense: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(dense, tmp_path / "dense"))
    blob = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    for tensor in header.values():
        if isinstance(tensor, dict) and "dtype" in tensor:
            tensor["dtype"] = dtype
    changed = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(changed).to_bytes(8, "little") + changed + blob[8 + length :])
    refused_or_read(lambda: load(folder), FtxError)
    refused_or_read(lambda: open_base(str(folder)), FtxError)
