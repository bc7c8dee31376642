"""Accuracy against seconds, ours and theirs: ``python -m tests.benchmarks.peers DATA OUT [--only NAME ...]``.

DATA has train/ and test/. Each contestant trains on the same images with the same fifth of them to choose by, and is
asked about all test images after each epoch; asking is not in its time, all else is: start, reading, computing,
choosing. Ours also reads and hashes the test images; the others are told which images there are. A training ends with
the epoch that its validation images chose.

All of them keep the memory of their tensors, as ``ftx train`` does, and AdamW's fused kernel.

ftx        ``ftx.train`` with an empty cache, once for each number of epochs, as its schedule hangs on that number.
trainer    The field's trainer, rebuilt as a loop with its published settings (OpenVINO Training Extensions, recipe
           classification/multi_class_cls/dino_v2.yaml and its data: f32, LoRA or DoRA of rank 8 on q and v, AdamW at
           1e-3 with decay 0.05, halved after three epochs without a better validation accuracy, stopped after five,
           batches of 64, RandomResizedCrop and flip, two workers, nothing kept), peft's layers, timm's model, where q,
           k and v are one layer, so that k is adapted with them. Linear probing the same with all but the head frozen,
           20 epochs to their end.
peft       The peft library in a plain loop: all six layers, rank 8, batches of 16, AdamW at 1e-3 with a cosine,
           bf16 where the CPU computes in it, and there attention as plain products, which is the faster.
full       All weights as timm's recipes fine-tune: AdamW, 2e-5, cosine, label smoothing 0.1, the same crops and flips.

A second start goes on where the first stopped. Writes OUT/peers.jsonl, peers.json and peers.svg.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median

import numpy as np
import peft
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.benchmarks.accuracy import right
from tests.benchmarks.kept_results import listing_digest, refuse_others
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import ftx
from ftx.backbones.build import Backbone, build
from ftx.backbones.split_network import attentions_with_backward, set_attention
from ftx.core.memory import keep_freed_memory
from ftx.core.statistics import wilson_interval
from ftx.data.loader import load_pixels_many
from ftx.data.open_dataset import survey
from ftx.data.preprocess import Preprocess, normalise
from ftx.runs.machine import this_machine
from ftx.runs.run import Run
from ftx.training.device_placement import computes_bf16

MODEL = "dinov2-small"
LAYERS = {"q, v": r"blocks\.\d+\.attn\.qkv", "all": r"blocks\.\d+\.(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)"}
OURS = (1, 2, 3, 4, 5, 7, 10, 16)
MINUTES = 60
# Who is in the picture, and the name there.
TITLES = {
    "ftx dora, auto": "ftx, default",
    "peft lora": "peft, LoRA",
    "trainer lora": "baseline trainer, LoRA",
    "full": "full fine-tuning",
}


@dataclass(frozen=True)
class Point:
    """After so many seconds and epochs, how many test images of how many a contestant names rightly.

    ``kept`` is that of the epoch that validation images have chosen until then.
    """

    contestant: str
    seed: int
    epoch: int
    seconds: float
    right: int
    kept: int
    test: int
    ended: bool


@dataclass(frozen=True)
class Images:
    """Files with the numbers of their classes; the same split for all."""

    train: list[tuple[Path, int]]
    val: list[tuple[Path, int]]
    test: list[tuple[Path, int]]
    classes: int

    @classmethod
    def of(cls, data: Path) -> Images:
        dataset = survey(data, val_fraction=0.2).dataset
        names = dataset.labels.names

        def files(split: str) -> list[tuple[Path, int]]:
            entries = [one for one in dataset.entries if one.split == split]
            return [(dataset.root / one.path, names.index(one.labels[0])) for one in entries]

        return cls(files("train"), files("val"), files("test"), len(names))


class Varied(Dataset[tuple[Tensor, int]]):
    """Random crops and flips, decoded anew each time, as torchvision's users write it."""

    def __init__(self, files: Sequence[tuple[Path, int]], pre: Preprocess) -> None:
        self.files = files
        self.transform = v2.Compose(
            [
                v2.ToImage(),
                v2.RandomResizedCrop((pre.height, pre.width), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(pre.mean, pre.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        return self.transform(Image.open(path).convert("RGB")), label


def hits(module: nn.Module, pre: Preprocess, files: Sequence[tuple[Path, int]], *, bf16: bool) -> int:
    """How many images a model names rightly, each read anew, in threads."""
    module.eval()
    count = 0
    for start in range(0, len(files), 64):
        chunk = files[start : start + 64]
        images = torch.from_numpy(normalise(load_pixels_many([path for path, _ in chunk], pre), pre))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = module(images).argmax(1).numpy()
        count += int((found == np.array([label for _, label in chunk])).sum())
    return count


@dataclass
class Loop:
    """One of their trainings: a model, a rate of learning, and what an epoch costs."""

    name: str
    backbone: Callable[[int], Backbone]
    adapt: Callable[[nn.Module], nn.Module]
    epochs: int
    batch: int
    lr: float
    decay: float
    smoothing: float
    plateau: bool
    bf16: bool
    patience: int = 5

    def run(self, images: Images, seed: int) -> Iterator[Point]:
        torch.manual_seed(seed)
        spent, began = 0.0, time.perf_counter()
        base = self.backbone(images.classes)
        pre, module = base.preprocess, self.adapt(base.module)
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=self.decay, fused=True)
        loader = DataLoader(Varied(images.train, pre), self.batch, shuffle=True, num_workers=2)
        schedule: LRScheduler = (
            ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=3)
            if self.plateau
            else CosineAnnealingLR(optimizer, self.epochs * len(loader))
        )
        best, best_epoch, kept = -1, 0, 0
        for epoch in range(1, self.epochs + 1):
            module.train()
            for batch, labels in loader:
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                    logits = module(batch)
                cross_entropy(logits.float(), labels, label_smoothing=self.smoothing).backward()
                optimizer.step()
                if not self.plateau:
                    schedule.step()
            valid = hits(module, pre, images.val, bf16=self.bf16)
            if self.plateau:
                schedule.step(valid)
            spent += time.perf_counter() - began
            named = hits(module, pre, images.test, bf16=self.bf16)
            best, best_epoch, kept = (valid, epoch, named) if valid > best else (best, best_epoch, kept)
            stopped = self.plateau and epoch - best_epoch >= self.patience
            ended = epoch == self.epochs or stopped or spent > 60 * MINUTES
            yield Point(self.name, seed, epoch, spent, named, kept, len(images.test), ended)
            if ended:
                return
            began = time.perf_counter()


def adapted(kind: str, layers: str, *, plain: bool) -> Callable[[nn.Module], nn.Module]:
    """peft's layers around a model, its attention as plain products or fused."""

    def adapt(module: nn.Module) -> nn.Module:
        if plain:
            set_attention(attentions_with_backward(module), plain=True)
        config = peft.LoraConfig(
            r=8, lora_alpha=16, target_modules=LAYERS[layers], use_dora=kind == "dora", modules_to_save=["head"]
        )
        return peft.get_peft_model(module, config)

    return adapt


def whole(module: nn.Module) -> nn.Module:
    set_attention(attentions_with_backward(module), plain=True)
    return module.requires_grad_(True)


def only_head_trains(module: nn.Module) -> nn.Module:
    module.requires_grad_(False)
    module.get_submodule("head").requires_grad_(True)
    return module


def theirs(size: int) -> list[Loop]:
    def backbone(classes: int) -> Backbone:
        return build(MODEL, weights="auto", num_classes=classes, image_size=size, seed=0)

    bf16 = computes_bf16()
    return [
        *(
            Loop(f"trainer {kind}", backbone, adapted(kind, "q, v", plain=False), 90, 64, 1e-3, 0.05, 0.0, True, False)
            for kind in ("lora", "dora")
        ),
        Loop("trainer linear", backbone, only_head_trains, 20, 64, 1e-3, 0.05, 0.0, True, False, patience=20),
        *(
            Loop(f"peft {kind}", backbone, adapted(kind, "all", plain=bf16), 10, 16, 1e-3, 0.05, 0.1, False, bf16)
            for kind in ("lora", "dora")
        ),
        Loop("full", backbone, whole, 10, 16, 2e-5, 0.05, 0.1, False, bf16),
    ]


@contextmanager
def empty_cache() -> Iterator[None]:
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = before


def ours(name: str, keys: Sequence[str], data: Path, size: int, seed: int, epochs: int) -> Point:
    """One training of ftx, from an empty cache to its run folder."""
    folder = Path(tempfile.mkdtemp())
    common = [f"data.path={data}", f"data.image_size={size}", f"seed={seed}"]
    stepped = [] if "model.freeze_backbone=true" in keys else [f"train.epochs={epochs}", f"train.patience={epochs}"]
    with empty_cache():
        began = time.perf_counter()
        ftx.train(ftx.Recipe().with_overrides([*common, *stepped, *keys]), out=folder / "run")
        seconds = time.perf_counter() - began
    found: NDArray[np.bool_] = right(Run.open(folder / "run"))
    shutil.rmtree(folder)
    named = int(found.sum())
    return Point(name, seed, epochs, seconds, named, named, len(found), ended=True)


_LAST = ("adapter.blocks=4", "train.augment=none", "train.patch_dropout=0")
OUR_KEYS: dict[str, tuple[str, ...]] = {
    "ftx linear": ("model.peft=none", "model.freeze_backbone=true"),
    "ftx lora, last 4 blocks": ("model.peft=lora", *_LAST),
    "ftx dora, last 4 blocks": ("model.peft=dora", *_LAST),
    "ftx lora, auto": ("model.peft=lora",),
    "ftx dora, auto": ("model.peft=dora",),
}


def points(
    data: Path,
    size: int,
    seeds: Sequence[int],
    names: Sequence[str],
    numbers: Sequence[int],
    done: set[tuple[str, int, int]],
) -> Iterator[Point]:
    """All that is not done yet, ours before theirs; ours with each of these numbers of epochs."""
    for seed, (name, keys) in itertools.product(seeds, OUR_KEYS.items()):
        for epochs in (1,) if "linear" in name else numbers:
            if name in names and (name, seed, epochs) not in done:
                yield ours(name, keys, data, size, seed, epochs)
    images = Images.of(data)
    for seed, loop in itertools.product(seeds, theirs(size)):
        if loop.name in names and (loop.name, seed, 0) not in done:
            yield from loop.run(images, seed)


def summary(found: Sequence[Point]) -> list[dict[str, object]]:
    """How each contestant ended, of ours that of the most epochs, and when it had the epoch that it kept."""
    rows: list[dict[str, object]] = []
    ends = {(one.contestant, one.seed): one for one in sorted(found, key=lambda one: one.epoch) if one.ended}
    for (name, seed), end in ends.items():
        low, high = wilson_interval(end.kept, end.test)
        each = [one for one in found if (one.contestant, one.seed) == (name, seed) and one.kept == end.kept]
        rows.append(
            {
                "contestant": name,
                "seed": seed,
                "epochs": end.epoch,
                "seconds": round(end.seconds, 1),
                "kept_seconds": round(end.seconds if name.startswith("ftx") else each[0].seconds, 1),
                "accuracy": round(end.kept / end.test, 4),
                "interval": [round(low, 4), round(high, 4)],
            }
        )
    return rows


def draw(found: Sequence[Point], to: Path) -> None:
    """Of the seeds the mean accuracy after each epoch, or number of epochs, and the median of the seconds."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for name, title in TITLES.items():
        by_epoch: dict[int, list[Point]] = {}
        for one in found:
            if one.contestant == name:
                by_epoch.setdefault(one.epoch, []).append(one)
        each = sorted(
            (median(one.seconds for one in ones), 100 * mean(one.right / one.test for one in ones))
            for ones in by_epoch.values()
        )
        if not each:
            continue
        style = "o-" if name.startswith("ftx") else "x--"
        (line,) = axes.plot([x for x, _ in each], [y for _, y in each], style, markersize=4)
        # Lines lie apart where they begin, and close together where they end.
        axes.annotate(
            title, each[0], (-8, 0), textcoords="offset points", ha="right", va="center", color=line.get_color()
        )
    axes.set_xscale("log")
    axes.set_xlim(min((one.seconds for one in found if one.contestant in TITLES), default=1) / 3)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds of training, including the start")
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.3)
    figure.savefig(to)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, nargs="+", default=OURS, help="numbers of epochs of ftx")
    known = [*OUR_KEYS, *(loop.name for loop in theirs(56))]
    parser.add_argument("--only", nargs="+", default=known, choices=known, metavar="NAME")
    given = parser.parse_args()
    keep_freed_memory()
    refuse_others(given.out, {"data": listing_digest(given.data), "size": given.size})
    log: Path = given.out / "peers.jsonl"
    found = [Point(**json.loads(line)) for line in log.read_text().splitlines()] if log.is_file() else []
    done = {(one.contestant, one.seed, one.epoch) for one in found}
    ended = {(one.contestant, one.seed) for one in found if one.ended and not one.contestant.startswith("ftx")}
    # A loop of theirs that was cut off begins anew.
    found = [one for one in found if one.contestant.startswith("ftx") or (one.contestant, one.seed) in ended]
    log.write_text("".join(json.dumps(asdict(one)) + "\n" for one in found))
    done |= {(*one, 0) for one in ended}
    for point in points(given.data, given.size, given.seeds, given.only, given.epochs, done):
        found.append(point)
        with log.open("a") as stream:
            stream.write(json.dumps(asdict(point)) + "\n")
        accuracy = f"{100 * point.right / point.test:.1f} %"
        print(f"{point.contestant}: epoch {point.epoch}, {point.seconds:.0f} s, {accuracy}", flush=True)
    rows = summary(found)
    machine = this_machine().model_dump(mode="json")
    said = {"machine": machine, "size": given.size, "rows": rows, "points": [asdict(one) for one in found]}
    (given.out / "peers.json").write_text(json.dumps(said, indent=1) + "\n")
    draw(found, given.out / "peers.svg")


if __name__ == "__main__":
    main()
