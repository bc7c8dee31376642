"""What a training says of itself is what it wrote of the epoch that it kept."""

from __future__ import annotations

from contextlib import chdir
from statistics import median

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import Listener

from ftx.data.image_store import ImageStore
from ftx.recipe.schema import Recipe
from ftx.runs.best_epoch import best_epoch
from ftx.runs.run import Run
from ftx.runs.train_jsonl import read_epochs
from ftx.runtimes import load_artifact
from ftx.tasks.thresholds import Thresholds
from ftx.training import train
from ftx.training.report import TrainReport
from ftx.training.state import EpochEnd

COUNTS = {"train": 24, "val": 9, "test": 5}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainReport, Run, list[EpochEnd]]:
    """A tagger of noise, on 24 images, that gets worse again; one more image cannot be read."""
    root = tmp_path_factory.mktemp("report")
    torch.set_num_threads(1)
    lines, number = ["path,labels,split"], 0
    for split, count in COUNTS.items():
        for _ in range(count):
            pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"{number}.png")
            lines.append(f"{number}.png,{('a;b', 'b', 'c', '')[number % 4]},{split}")
            number += 1
    (root / "broken.png").write_bytes(b"none")
    (root / "t.csv").write_text("\n".join([*lines, "broken.png,a,train"]))
    settings = {
        "name": "test_vit",
        "weights": "none",
        "image_size": 32,
        "peft": "lora",
        "rank": 2,
        "targets": "q",
        "blocks": "all",
    }
    settings |= {
        "epochs": 7,
        "lr": 2e-2,
        "batch_size": 8,
        "precision": "f32",
        "patience": 99,
        "frozen_runtime": "torch",
    }
    ends: list[EpochEnd] = []
    with chdir(root):
        recipe = Recipe.named({"path": str(root / "t.csv"), "task": "multilabel", **settings})
        report = train(recipe, out=root / "run", progress=Listener(), on_epoch=ends.append)
    return report, Run.open(root / "run"), ends


def test_the_report_is_that_of_the_epoch_that_was_kept(made: tuple[TrainReport, Run, list[EpochEnd]]) -> None:
    report, run, ends = made
    epochs = read_epochs(run.path)
    best = best_epoch(epochs, report.metric)
    assert 1 < best.epoch < 7  # so that neither the first nor the last is told for it
    assert (report.epochs, report.best_epoch) == (7, best.epoch)
    assert (report.loss, report.accuracy, report.metrics) == (best.val_loss, best.accuracy, best.metrics)
    assert best.loss != best.val_loss
    assert report.images_per_s == round(median(epoch.images_per_s for epoch in epochs), 1)
    assert sum(epoch.seconds for epoch in epochs) - 0.05 <= report.seconds  # it is rounded to a tenth
    assert (report.method, report.model, report.precision) == ("lora", "test_vit", "f32")
    assert (report.classes, report.images, report.interrupted) == (3, COUNTS, False)
    assert [line.partition(":")[0] for line in report.unreadable] == ["broken.png"]
    # q of six blocks: A 2·64, B 64·2; the head 64·3 + 3.
    assert report.trainable_parameters == 6 * (2 * 64 + 64 * 2) + 64 * 3 + 3
    assert report.run == str(run.path)
    assert [end.epoch for end in ends] == epochs
    assert [end.best.epoch for end in ends] == [best_epoch(epochs[:n], report.metric).epoch for n in range(1, 8)]
    assert {(end.epochs, end.metric, end.unit) for end in ends} == {(7, report.metric, "images")}


def test_the_run_has_the_thresholds_of_that_epoch(made: tuple[TrainReport, Run, list[EpochEnd]]) -> None:
    """By them, and by no others, the figures of the report come out again from the weights that were kept."""
    report, run, _ = made
    entries = run.entries("val")
    images = [ImageStore(run.data_root(None))[entry] for entry in entries]
    logits_NC = np.stack(list(load_artifact(run, "trained").logits_from_files(images)))
    targets_NC = run.task.targets([entry.labels for entry in entries])
    thresholds = run.manifest.thresholds
    assert len({thresholds.shared, *thresholds.labels.values()}) > 2
    tuned = run.task.tuned_thresholds(logits_NC, targets_NC)
    # Scores of f32, in batches of another size; thresholds lie half way between two.
    assert tuned.shared == pytest.approx(thresholds.shared, abs=1e-5)
    assert tuned.labels == pytest.approx(thresholds.labels, abs=1e-5)
    assert run.task.metrics(logits_NC, targets_NC) == pytest.approx(report.metrics, abs=1e-5)
    plain = run.task.with_thresholds(Thresholds())
    assert plain.metrics(logits_NC, targets_NC) != pytest.approx(report.metrics, abs=1e-3)
    assert run.task.correct(logits_NC, targets_NC).mean() == pytest.approx(report.accuracy)
    card = (run.path / "trained" / "README.md").read_text(encoding="utf-8")
    assert f"{report.best_epoch} of 7, chosen by `{report.metric}` and its mean over three epochs" in card
    assert f"thresholds = {[round(float(one), 6) for one in thresholds.of(run.manifest.labels.names)]!r}" in card
