"""Tiny trainings through the real command line, made once and shared by all rows of the two tables."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import load_file, save_file
from tests.conftest import write_data
from tests.durations import shared

from ftx.cli import console
from ftx.cli.app import run

Tensors = dict[str, np.ndarray]
# The marks of rows that take over two seconds.
A_WHILE, LONG = "representative", "slow"


def marks(takes: str) -> list[pytest.MarkDecorator]:
    return [getattr(pytest.mark, takes)] if takes else []


Made = TypeVar("Made")

# One step on all images, so that the numbers of a first step are seen; augmentation, smoothing and decay come by rows.
BASE = """
model: {name: test_vit, weights: none, peft: lora}
data: {path: noise, image_size: 32}
adapter: {rank: 4, alpha: 6, blocks: all}
train: {epochs: 1, batch_size: 64, lr: 0.01, warmup_share: 0, weight_decay: 0, label_smoothing: 0, augment: none,
  precision: f32, cache_views: 0, head_init: random, patch_dropout: 0, patience: 9}
"""
# A rate that moves no weight of f32: what is measured is the model that training began with.
STILL = "train.lr=1e-30"
FULL = "model.peft=none"
LINEAR = ("model.peft=none", "model.freeze_backbone=true")


@dataclass(frozen=True)
class Said:
    """What a command line answered."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class Trained:
    """A run, as a reader of its files sees it."""

    path: Path
    said: Said

    @cached_property
    def tensors(self) -> Tensors:
        """What training made, by names of the model."""
        (file,) = (self.path / "trained").glob("*.safetensors")
        return {name.removeprefix("base_model.model."): tensor for name, tensor in load_file(file).items()}

    def part(self, name: str) -> Tensors:
        return {key: tensor for key, tensor in self.tensors.items() if name in key}

    @property
    def config(self) -> Any:
        return json.loads((self.path / "trained" / "adapter_config.json").read_text())

    @property
    def manifest(self) -> Any:
        return json.loads((self.path / "run.json").read_text())

    @property
    def recipe(self) -> Any:
        return yaml.safe_load((self.path / "recipe.yaml").read_text())

    @property
    def log(self) -> list[Any]:
        return [json.loads(line) for line in (self.path / "reports" / "train.jsonl").read_text().splitlines()]

    def column(self, name: str) -> list[float]:
        return [line[name] for line in self.log]

    def images(self, side: str) -> list[tuple[Path, list[str]]]:
        """Each image of a side with its labels."""
        lines = map(json.loads, (self.path / "data.jsonl").read_text().splitlines())
        root = Path(self.manifest["data_root"])
        return [(root / line["path"], line["labels"]) for line in lines if line["split"] == side]


class shared_part(cached_property[Made]):  # noqa: N801, a decorator
    """A part of the laboratory that many rows use; making it is not the time of the first of them."""

    def __get__(self, lab: object, owner: type | None = None) -> Made:  # pyright: ignore[reportIncompatibleMethodOverride]
        with shared():
            return super().__get__(lab, owner)


class Lab:
    """A folder with data, runs, and a cache of both."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trained = cache(self._trained)
        for name, write in DATA.items():
            write(root / name)
        (root / "base.yaml").write_text(BASE)

    def call(self, *words: object) -> Said:
        with chdir(self.root):
            return call(*map(str, words))

    def linked(self) -> Path:
        """A data folder whose class folders are links to those of noise."""
        folder = self.root / "linked"
        folder.mkdir(exist_ok=True)
        for there in (self.root / "unsplit").iterdir():
            if not (link := folder / there.name).is_symlink():
                link.symlink_to(there)
        return folder

    def train(self, *overrides: str, data: str = "noise", words: tuple[str, ...] = ()) -> Trained:
        """The run of the base recipe with ``KEY=VALUE`` laid over it, and other words of the command line."""
        return self.trained(overrides, data, words)

    def _trained(self, overrides: tuple[str, ...], data: str, words: tuple[str, ...]) -> Trained:
        out = Path(tempfile.mkdtemp(dir=self.root)) / "run"
        sets = [f"--set={override}" for override in overrides]
        named = any(one.startswith("data.path=") for one in overrides) or "--data" in words
        path = [] if named else [f"--data={self.root / data}"]
        said = self.call("train", "--config", "base.yaml", *sets, *path, *words, "--out", out, "--json")
        assert said.status == 0, said.err
        return Trained(out, said)

    def scores(self, trained: Trained, side: str) -> tuple[np.ndarray, np.ndarray]:
        """What ``ftx predict`` answers for each image of a side, and the truth. Shape: [N, C], [N, C]."""
        images, names = trained.images(side), trained.manifest["labels"]["names"]
        paths = [path for path, _ in images]
        said = self.call("predict", *paths, "--artifact", trained.path / "trained", "--scores", "--json")
        assert said.status == 0, said.err
        scores = [[line["scores"][name] for name in names] for line in said.lines]
        truth = [[float(name in labels) for name in names] for _, labels in images]
        return np.array(scores), np.array(truth)

    @shared_part
    def base(self) -> Tensors:
        """The weights that every training here begins with."""
        return self.train(FULL, STILL).tensors

    @shared_part
    def foundation(self) -> Path:
        """A dense folder that adapters are trained on: its file gives the weights, and timm's name the model."""
        made = self.train(FULL, STILL)
        self.done("merge", made.path)
        return made.path / "dense"

    def adapted(self, seed: int) -> Trained:
        """A run with an adapter of the foundation."""
        return self.train(f"model.weights={self.foundation / 'model.safetensors'}", f"seed={seed}", "train.lr=0.05")

    @shared_part
    def exported(self) -> tuple[Path, dict[str, Said]]:
        """A run of a tiny network without attention, merged and exported once with each flag, its data moved first."""
        out = self.root / "exported"
        network = ("--model", "test_resnet", "--peft", "none", "--freeze-backbone", "--data", "hues", "--epochs", "3")
        self.done("train", "--config", "base.yaml", *network, "--set=data.val_fraction=0.5", f"--out={out}")
        self.done("merge", out)
        with self.moved("hues") as elsewhere:
            said = {"lost": self.call("export", out), "--data": self.done("export", out, "--data", elsewhere, "--json")}
        said["--format"] = self.done("export", out, "--format", "onnx", "--json")
        said["--precision"] = self.done("export", out, "--precision", "fp16", "--json")
        return out, said

    @shared_part
    def shipped(self) -> tuple[Path, Path]:
        """A run of LoRA, merged, and a folder with its base (``half`` in float16) and updates, ``one`` and ``two``."""
        run, out = self.train("train.lr=0.01").path, self.root / "shipped"
        out.mkdir()
        self.done("merge", run)
        self.done("export", run, "--base", out / "base")
        self.done("export", run, "--base", out / "half", "--precision", "fp16")
        self.done("export", run, "--as-update", out / "one", "--base", out / "base")
        self.done("export", run, "--as-update", out / "two", "--base", out / "base", "--after", out / "one")
        return run, out

    def pipeline(self, weights: str, *words: object) -> Said:
        """``ftx run`` of the tiny network with a head alone to train."""
        network = f"model: {{name: test_resnet, weights: {weights}, peft: none, freeze_backbone: true}}"
        lines = [network if line.startswith("model:") else line for line in BASE.splitlines()]
        (self.root / "pipeline.yaml").write_text("\n".join(lines))
        return self.call("run", "pipeline.yaml", "--data", "hues", "--precision", "fp16", *words, "--json")

    @shared_part
    def piped(self) -> tuple[Path, Said]:
        """One that every flag was given to."""
        out = self.root / "piped"
        return out, self.pipeline(
            "none", "--set", "train.epochs=2", "--set", "validate.max_drop=0.9", "--require-proof", "--out", out
        )

    @shared_part
    def unproved(self) -> Said:
        """One that asks for proof of two points, which its few images cannot give."""
        return self.pipeline("none", "--require-proof", "--out", self.root / "unproved")

    @shared_part
    def failing(self) -> Said:
        """One whose weights fp16 cannot hold: 100.03 and -99.97 lose their last digits, and with them their sum."""
        weights = self.train("model.name=test_resnet", FULL, STILL).tensors
        weights["layer4.0.bn2.bias"][:] = 100.03
        weights["layer4.0.downsample.2.bias"][:] = -99.97
        path = self.root / "cancelling.safetensors"
        save_file(weights, path)
        return self.pipeline(str(path), "--out", self.root / "failing")

    def done(self, *words: object) -> Said:
        """What a command line answered that must succeed."""
        said = self.call(*words)
        assert said.status == 0, said.err
        return said

    @contextmanager
    def moved(self, name: str) -> Iterator[Path]:
        """The data lies elsewhere meanwhile."""
        here, there = self.root / name, self.root / f"{name}-elsewhere"
        here.rename(there)
        try:
            yield there
        finally:
            there.rename(here)


def call(*words: str) -> Said:
    """One command line in this process, with streams of its own, and the process as it was afterwards."""
    streams = sys.stdout, sys.stderr
    kept = [os.dup(number) for number in (1, 2)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        for stream in streams:
            stream.flush()
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
        try:
            with warnings.catch_warnings():
                status = run(words)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            for number, original in zip((1, 2), kept, strict=True):
                os.dup2(original, number)
                os.close(original)
            sys.stdout, sys.stderr = streams
            if console._results is not None:
                console._results.close()
                console._results = None
        texts: list[str] = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read())
    return Said(status, *texts)


def save(path: Path, pixels: np.ndarray, note: str = "") -> None:
    """A PNG; a note makes another file of the same pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    info.add_text("note", note)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, pnginfo=info)


def noise(*seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 40, 3))


def flat(red: int, green: int, blue: int) -> np.ndarray:
    return np.full((40, 40, 3), (red, green, blue))


def _noise(root: Path) -> None:
    """Eight images to train on, four held out."""
    for side, count in (("train", 4), ("val", 2)):
        for label in range(2):
            for index in range(count):
                save(root / side / "ab"[label] / f"{index}.png", noise(len(side), label, index))


def _flat(root: Path) -> None:
    """Twenty equal images of one class and two of the other, held out two and two."""
    for side, common, rare in (("train", 20, 2), ("val", 2, 2)):
        for name, count, colour in (("common", common, (200, 60, 30)), ("rare", rare, (20, 40, 210))):
            for index in range(count):
                save(root / side / name / f"{index}.png", flat(*colour), f"{side} {index}")


def _unsplit(root: Path) -> None:
    for label in range(2):
        for index in range(10):
            save(root / "xy"[label] / f"{index}.png", noise(label, index))


def _marks(root: Path) -> None:
    """Several labels an image, or none, in a table with sides."""
    lines = ["path,labels,split"]
    for index in range(24):
        held = [name for bit, name in enumerate("pqr") if index >> bit & 1]
        tint = [150 if name in held else 60 for name in "pqr"]
        save(root / f"{index}.png", noise(index) * 0.2 + np.array(tint))
        lines.append(f"{index}.png,{';'.join(held)},{'val' if index % 3 == 0 else 'train'}")
    (root / "table.csv").write_text("\n".join(lines))


def _one(root: Path) -> None:
    """One label, one picture: a loss is one number of the model."""
    lines = ["path,labels,split"]
    for index in range(4):
        save(root / f"{index}.png", flat(190, 30, 90), str(index))
        lines.append(f"{index}.png,it,{'train' if index < 2 else 'val'}")
    (root / "table.csv").write_text("\n".join(lines))


def _hues(root: Path) -> None:
    write_data(root, 6)


DATA: dict[str, Callable[[Path], None]] = {
    "noise": _noise,
    "flat": _flat,
    "unsplit": _unsplit,
    "marks": _marks,
    "one": _one,
    "hues": _hues,
}
