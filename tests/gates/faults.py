"""Faults put into the files of a run, and the hashes fixed so that only a proof can find them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from ftx.core.files import sha256_file
from ftx.runs.artifacts import ARTIFACTS
from ftx.runs.run import Run

Tensors = dict[str, np.ndarray]
EXPORTS = ("onnx", "openvino/fp32", "openvino/fp16", "openvino/int8")
DTYPES = {"f32": np.float32, "f16": np.float16, "i8": np.int8, "i64": np.int64}


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def edit_tensors(path: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def keep(run: Path, *artifacts: str) -> None:
    """Let run.json know of these exports alone, where the others would only take time."""
    dropped = tuple(f"{name}/" for name in EXPORTS if name not in artifacts)

    def change(document: Any) -> None:
        document["files"] = {name: digest for name, digest in document["files"].items() if not name.startswith(dropped)}
        document["lineage"] = {name: line for name, line in document["lineage"].items() if f"{name}/" not in dropped}

    edit_json(run / "run.json", change)


def edit_report(run: Path, name: str, change: Callable[[Any], object]) -> None:
    """Alter a report of a run, and the hash that run.json has of it."""
    edit_json(run / name, change)
    vouch_for(run, name)


def vouch_for(run: Path, name: str) -> None:
    """Rewrite the hash that run.json has of one file."""
    edit_json(run / "run.json", lambda raw: raw["files"].update({name: sha256_file(run / name)}))


def vouch(run: Path, *, lineage: bool = True) -> None:
    """Rewrite cards and run.json so that every hash holds, and what each artifact says that it was made from."""

    def rehash(files: dict[str, str], folder: Path) -> None:
        files.update({name: sha256_file(folder / name) for name in files})

    for card in run.rglob("card.json"):
        edit_json(card, lambda raw, folder=card.parent: rehash(raw["files"], folder))
    edit_json(run / "run.json", lambda raw: rehash(raw["files"], run))
    if not lineage:
        return
    digest = Run.open(run).manifest.digest  # the program's own: what is at stake here are proofs, not hashes
    edit_json(
        run / "run.json",
        lambda raw: [line.update(digest=digest(ARTIFACTS[line["made_from"]])) for line in raw["lineage"].values()],
    )


@dataclass(frozen=True)
class Constant:
    """A constant of an IR: a view into the bytes of model.bin."""

    name: str
    values: np.ndarray

    @property
    def learned(self) -> bool:
        """Whether it may be a weight; shapes and axes are whole numbers of 64 bits."""
        return self.values.dtype != np.int64


def edit_constants(folder: Path, change: Callable[[list[Constant]], int]) -> None:
    """Alter constants of ``model.bin`` in place; the change says how many it altered."""
    blob = bytearray((folder / "model.bin").read_bytes())
    assert change(list(_constants(folder / "model.xml", blob))) > 0, "nothing was altered"
    (folder / "model.bin").write_bytes(blob)


def _constants(xml: Path, blob: bytearray) -> Iterator[Constant]:
    for layer in ET.parse(xml).getroot().iter("layer"):
        data = layer.find("data")
        if layer.get("type") != "Const" or data is None or data.get("element_type") not in DTYPES:
            continue
        dtype = np.dtype(DTYPES[str(data.get("element_type"))])
        shape = [int(size) for size in str(data.get("shape")).split(",") if size.strip()]
        offset, size = int(str(data.get("offset"))), int(str(data.get("size")))
        values = np.frombuffer(blob, dtype, count=size // dtype.itemsize, offset=offset).reshape(shape)
        yield Constant(str(layer.get("name")), values)


def as_lora(run: Path) -> None:
    """Turn a run of DoRA into one of LoRA, as if its magnitudes had never been."""
    edit_tensors(
        run / "trained" / "adapter_model.safetensors",
        lambda tensors: [tensors.pop(key) for key in list(tensors) if key.endswith("magnitude_vector")],
    )
    edit_json(run / "trained" / "adapter_config.json", lambda config: config.update(use_dora=False))
    edit_json(run / "run.json", lambda raw: raw.update(method="lora"))
    recipe = run / "recipe.yaml"
    assert "peft: dora" in recipe.read_text()
    recipe.write_text(recipe.read_text().replace("peft: dora", "peft: lora"))
