"""Fewer tokens on few images: ``python -m tests.benchmarks.photographs FOLDER [OUT KEY=VALUE ...]``.

FOLDER holds a subfolder of images a class. With all tokens and with ``model.keep_tokens`` a model learns from four
fifths and is asked about the last, five times, so that every image is asked about by models that have not seen it; and
all of it again with other folds and seeds. An image counts as lost by the share of the repeats that lost it.

FOLDER alone: a linear probe on the frozen features of DINOv2-small. With OUT: what the recipe's keys say is trained,
and stays in OUT, where a second start goes on.

    python -m tests.benchmarks.photographs photographs
    python -m tests.benchmarks.photographs photographs build/photographs adapter.blocks=9 train.epochs=6
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tests.benchmarks.accuracy import right
from torch import Tensor
from torch.nn.functional import cross_entropy

import ftx
from ftx.backbones.build import build
from ftx.core.statistics import PairedCounts
from ftx.data.preprocess import load_pixels, normalise
from ftx.runs.run import Run

FEWER = {3: 0.7, 6: 0.7, 9: 0.7}
FOLDS = 5
REPEATS = 8
# One in so many of the images that train chooses the epoch.
VALIDATION = 8
# The probe's weight decay: of 1e-3 to 0.3 the one that does best with all tokens on these folds.
DECAY = 1e-2
CONFIDENCE = 0.95
Ints = NDArray[np.int64]
# Of one fold: the images that are asked about, the repeat and the fold, to which of them are right.
Ask = Callable[[Ints, int, int], NDArray[np.bool_]]


def compare(labels: list[str], whole: Ask, fewer: Ask) -> None:
    """Print a line a repeat, and one for all so far."""
    gains: list[NDArray[np.float64]] = []
    for repeat in range(REPEATS):
        hits = np.zeros((2, len(labels)))
        for fold, asked in enumerate(folds(labels, repeat)):
            hits[0, asked], hits[1, asked] = whole(asked, repeat, fold), fewer(asked, repeat, fold)
        gains.append(hits[1] - hits[0])
        lost, gained = int((gains[-1] < 0).sum()), int((gains[-1] > 0).sum())
        print(f"{hits[0].mean():.2%} with all tokens, {hits[1].mean():.2%} with fewer: {lost} lost, {gained} gained")
        mean = np.mean(gains, axis=0)
        counted = PairedCounts(float(-mean[mean < 0].sum()), float(mean[mean > 0].sum()), len(labels))
        most = counted.drop_at_most(CONFIDENCE)
        print(f"  of {len(gains)} repeats: {counted.drop:.2%} lost, at most {most:.2%}", flush=True)


def folds(labels: list[str], seed: int) -> list[Ints]:
    """The numbers of the images in each fold, of every class as many."""
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(np.array(labels)[order], kind="stable")]
    return [by_class[fold::FOLDS] for fold in range(FOLDS)]


def probe(images: list[Path], labels: list[str], shares: Mapping[int, float]) -> Ask:
    """A linear probe on standardised features. Shape: [images, D]."""
    classes = sorted(set(labels))
    made = build("dinov2-small", weights="auto", num_classes=1, image_size=224, seed=0, token_fractions=shares)
    module, pre = made.module.eval(), made.preprocess
    found: list[Tensor] = []
    with torch.inference_mode():
        for path in images:
            x_13HW = torch.from_numpy(normalise(load_pixels(path, pre)[None], pre))
            found.append(module.forward_head(module.forward_features(x_13HW), pre_logits=True)[0])
    features_ND = torch.stack(found).clone()
    truth_N = torch.tensor([classes.index(label) for label in labels])

    def ask(asked: Ints, repeat: int, fold: int) -> NDArray[np.bool_]:
        training = np.setdiff1d(np.arange(len(images)), asked)
        x_ND = features_ND - features_ND[training].mean(0)
        x_ND = torch.cat([x_ND / (features_ND[training].std(0) + 1e-6), torch.ones(len(images), 1)], dim=1)
        weight_CD = torch.zeros(len(classes), x_ND.shape[1], requires_grad=True)
        steps = torch.optim.LBFGS([weight_CD], max_iter=60, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            steps.zero_grad()
            value = cross_entropy(x_ND[training] @ weight_CD.T, truth_N[training])
            value = value + DECAY * weight_CD[:, :-1].pow(2).sum()
            value.backward()
            return value

        steps.step(loss)
        return ((x_ND[asked] @ weight_CD.T).argmax(1) == truth_N[asked]).numpy()

    return ask


def trained(folder: Path, images: list[Path], labels: list[str], out: Path, settings: list[str]) -> Ask:
    """A run a fold, or what an earlier start trained."""
    paths = [f"{folder.name}/{path.relative_to(folder)}" for path in images]

    def ask(asked: Ints, repeat: int, fold: int) -> NDArray[np.bool_]:
        run = out / f"{repeat}-{fold}"
        if not run.exists():
            table = write_table(folder, paths, labels, asked, f"{repeat}-{fold}")
            ftx.train(ftx.Recipe().with_overrides([f"data.path={table}", f"seed={repeat}", *settings]), out=run)
        opened = Run.open(run)
        by_path = dict(zip([entry.path for entry in opened.report_entries()], right(opened), strict=True))
        return np.array([by_path[paths[number]] for number in asked])

    return ask


def write_table(folder: Path, paths: list[str], labels: list[str], asked: Ints, name: str) -> Path:
    """A table beside the folder, as its paths count from there."""
    table = folder.parent / f"{folder.name}-{name}.csv"
    training = np.setdiff1d(np.arange(len(paths)), asked)
    choosing, held_out = set(training[::VALIDATION].tolist()), set(asked.tolist())
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "labels", "split"))
        for number, (path, label) in enumerate(zip(paths, labels, strict=True)):
            split = "test" if number in held_out else "val" if number in choosing else "train"
            writer.writerow((path, label, split))
    return table


def main(folder: Path, out: Path | None, settings: list[str]) -> None:
    """Compare the two."""
    images = sorted(path for path in folder.rglob("*") if path.is_file())
    labels = [path.relative_to(folder).parts[0] for path in images]
    if out is None:
        compare(labels, probe(images, labels, {}), probe(images, labels, FEWER))
        return
    whole, fewer = (
        trained(folder, images, labels, out / name, [f"model.keep_tokens={kept}", *settings])
        for name, kept in (("all", "all"), ("fewer", str(FEWER)))
    )
    compare(labels, whole, fewer)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None, sys.argv[3:])
