"""Which base an adapter says that it was trained on, held against the one that is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.conftest import Listener

from ftx.core.errors import MergeError
from ftx.interop.open_adapters import open_adapters

# timm publishes weights of one tag, and other architectures have other ones.
BARE, TAGGED = "test_vit", "test_vit.r160_in1k"
CREATE = timm.create_model


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """What timm would fetch is drawn."""
    monkeypatch.setattr(timm, "create_model", lambda *given, pretrained=False, **named: CREATE(*given, **named))


def adapter(folder: Path, base: str | None) -> Path:
    """Of peft, in one layer."""
    folder.mkdir()
    outputs, inputs = CREATE(BARE).blocks[0].mlp.fc1.weight.shape
    layer = "base_model.model.blocks.0.mlp.fc1"
    tensors = {f"{layer}.lora_A.weight": torch.ones(2, inputs), f"{layer}.lora_B.weight": torch.ones(outputs, 2)}
    save_file(tensors, folder / "adapter_model.safetensors")
    document = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["blocks.0.mlp.fc1"]}
    (folder / "adapter_config.json").write_text(json.dumps({**document, "base_model_name_or_path": base}))
    return folder


def named(way: str, root: Path) -> dict[str, Any]:
    """The words by which the base is named in one of three ways."""
    if way == "a file":
        save_file(CREATE(BARE, num_classes=0).state_dict(), root / "weights.safetensors")
        return {"base": BARE, "weights": str(root / "weights.safetensors")}
    if way == "a folder":
        (root / "base").mkdir()
        save_file(CREATE(BARE, num_classes=0).state_dict(), root / "base" / "model.safetensors")
        (root / "base" / "config.json").write_text(json.dumps({"architecture": BARE, "num_classes": 0}))
        return {"base": str(root / "base")}
    return {"base": way}


@pytest.mark.parametrize("way", [BARE, TAGGED, "a file", "a folder"])
@pytest.mark.parametrize(
    ("said", "tag"),
    [(f"timm/{BARE}", True), (f"timm/{TAGGED}", True), (TAGGED, True), ("timm/test_vit.other", False)],
)
def test_an_adapter_of_other_published_weights_is_refused(way: str, said: str, tag: bool, tmp_path: Path) -> None:
    """A name without a tag is that of timm's default; where a file or folder gives the weights, no tag says which."""
    folder, listener = adapter(tmp_path / "adapter", said), Listener()
    words = named(way, tmp_path)
    if tag or way.startswith("a "):
        base_model, (opened,) = open_adapters([folder], **words, head=False, progress=listener)
        assert base_model.architecture == (BARE if way.startswith("a ") else way)
        assert list(opened.fitted.layers) == ["blocks.0.mlp.fc1"]
        (note,) = listener.said
        assert f"names its base only '{said}', so whether {words['base']} has the weights" in note
    else:
        with pytest.raises(MergeError, match="the one that the adapter was trained on") as caught:
            open_adapters([folder], **words, head=False, progress=listener)
        assert (
            caught.value.found == "the base model is test_vit.r160_in1k, but the adapter was trained on test_vit.other"
        )
        assert (caught.value.where, caught.value.fix) == (str(folder), "run again with --base test_vit.other")


@pytest.mark.parametrize("way", [BARE, "a file", "a folder"])
def test_an_adapter_of_another_architecture_is_refused_whatever_the_weights(way: str, tmp_path: Path) -> None:
    folder, words = adapter(tmp_path / "adapter", "timm/test_vit2.r160_in1k"), named(way, tmp_path)
    with pytest.raises(MergeError, match="the one that the adapter was trained on"):
        open_adapters([folder], **words, head=False)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ftx": {"base_digest": "0" * 64}}))  # as ftx writes it
    with pytest.raises(MergeError, match="the one that the adapter was trained on") as caught:
        open_adapters([folder], **words, head=False)
    assert "--base timm/test_vit2.r160_in1k " in str(caught.value.fix)


@pytest.mark.parametrize("said", [None, "", "someone/else-s-vit"])
def test_of_an_adapter_that_names_no_base_of_timm_that_is_noted(said: str | None, tmp_path: Path) -> None:
    listener = Listener()
    folder = adapter(tmp_path / "adapter", said)
    open_adapters([folder], base=BARE, head=False, progress=listener)
    (note,) = listener.said
    found = "does not name its base" if not said else "names its base only"
    assert note.startswith(f"{folder}: {found}")
