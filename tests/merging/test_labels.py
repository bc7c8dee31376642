"""What the classes of a merged model are called, and which modules its adapters must all bring."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.conftest import Listener

from ftx.core.errors import AdapterError, InputError
from ftx.merging.combine_adapters import CombineReport, combine

ARGS = {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2}


def base(folder: Path, *names: str) -> Path:
    """A model of three classes, which may have names."""
    folder.mkdir()
    module = timm.create_model("vit_tiny_patch16_224", num_classes=3, **ARGS)
    save_file(module.state_dict(), folder / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "model_args": ARGS}
    said = {"label_names": names} if names else {}
    (folder / "config.json").write_text(json.dumps({**config, **said, "pretrained_cfg": {"input_size": [3, 32, 32]}}))
    return folder


def adapter(folder: Path, classes: int | None = None, **modules: torch.Tensor) -> Path:
    """In one layer, with a head of its own or without, and with other modules that were saved whole."""
    folder.mkdir()
    layer = "base_model.model.blocks.0.mlp.fc1"
    tensors = {f"{layer}.lora_A.weight": torch.randn(2, 24), f"{layer}.lora_B.weight": torch.randn(96, 2)}
    saved = dict(modules)
    if classes is not None:
        saved |= {"head.weight": torch.randn(classes, 24), "head.bias": torch.randn(classes)}
    tensors |= {f"base_model.model.{name}": one for name, one in saved.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    whole = sorted({name.rpartition(".")[0] for name in saved})
    document = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["fc1"], "modules_to_save": whole}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return folder


def called(report: CombineReport) -> list[str]:
    names: list[str] = json.loads((Path(report.path) / "config.json").read_text())["label_names"]
    assert len(names) == report.labels
    return names


NUMBERED, OF_THE_BASE = "the {} classes are named class_0", "keep the names of the base"


@pytest.mark.parametrize(
    ("own", "classes", "given", "names", "note"),
    [
        ((), None, (), ["class_0", "class_1", "class_2"], NUMBERED.format(3)),
        ((), None, ("a", "b", "c"), ["a", "b", "c"], None),
        (("u", "v", "w"), None, (), ["u", "v", "w"], None),  # the base's own head
        (("u", "v", "w"), 3, (), ["u", "v", "w"], OF_THE_BASE),  # a head that may mean something else
        (("u", "v", "w"), 3, ("a", "b", "c"), ["a", "b", "c"], None),
        (("u", "v", "w"), 2, (), ["class_0", "class_1"], NUMBERED.format(2)),
        (("u", "v", "w"), 2, ("b", "a"), ["b", "a"], None),
        ((), 4, ("d", "c", "b", "a"), ["d", "c", "b", "a"], None),
    ],
)
def test_classes_are_called_as_someone_says_who_knows(
    own: tuple[str, ...],
    classes: int | None,
    given: tuple[str, ...],
    names: list[str],
    note: str | None,
    tmp_path: Path,
) -> None:
    listener = Listener()
    report = combine(
        [adapter(tmp_path / "adapter", classes)],
        tmp_path / "out",
        base=str(base(tmp_path / "base", *own)),
        labels=given,
        progress=listener,
    )
    assert called(report) == names
    about = [text for text in listener.said if "--labels a,b,c" in text]
    assert len(about) == (note is not None)
    assert all(note in text for text in about)  # pyright: ignore[reportOperatorIssue]
    bare = combine([tmp_path / "adapter"], tmp_path / "bare", base=str(tmp_path / "base"), head=False, labels=given)
    assert bare.labels == 0


@pytest.mark.parametrize(
    ("given", "found"),
    [(["a", "b"], "2 names, 2 of them different"), (["a", "b", "a"], "3 names, 2 of them different")],
)
def test_names_must_be_as_many_as_classes_and_different(given: list[str], found: str, tmp_path: Path) -> None:
    words = {"base": str(base(tmp_path / "base")), "labels": given}
    with pytest.raises(InputError, match="--labels must be 3 different names") as caught:
        combine([adapter(tmp_path / "adapter")], tmp_path / "out", **words)
    assert caught.value.found == found
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("first", [True, False])
def test_a_module_that_one_adapter_brings_must_come_with_all(first: bool, tmp_path: Path) -> None:
    """Its share of the mean would be of nothing."""
    norm = {"norm.weight": torch.ones(24), "norm.bias": torch.zeros(24)}
    paths = [adapter(tmp_path / "whole", 3, **norm), adapter(tmp_path / "less", 3)]
    with pytest.raises(AdapterError, match="all adapters must have the same modules_to_save") as caught:
        combine(paths if first else paths[::-1], tmp_path / "out", base=str(base(tmp_path / "base")))
    assert caught.value.found == "only some have norm.bias, norm.weight"
