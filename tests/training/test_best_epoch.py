"""The run holds the best epoch whole: its weights, and the statistics of batches that go with them."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ftx.data.image_store import ImageStore
from ftx.recipe.schema import Recipe
from ftx.runs.run import Run
from ftx.runtimes import load_artifact
from ftx.tasks.base import LossChoice
from ftx.training import train


def write_noise(root: Path) -> Path:
    """Classes that nothing tells apart: what is learned of them is no better after more epochs."""
    generator = np.random.default_rng(0)
    for name in ("one", "other"):
        (root / name).mkdir(parents=True)
        for number in range(24):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.mark.representative
def test_a_fully_trained_convolutional_network_is_that_of_its_best_epoch(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    settings = {"image_size": 32, "weights": "none", "epochs": 6, "lr": 1e-2, "precision": "f32", "peft": "none"}
    recipe = Recipe.named({"path": write_noise(tmp_path / "data"), "name": "resnet18", **settings})
    with chdir(tmp_path):
        for seed in range(5):  # which of them has an earlier best epoch differs with the processor's rounding
            report = train(recipe.model_copy(update={"seed": seed}), out=tmp_path / f"run-{seed}")
            if report.best_epoch < report.epochs:  # or the last epoch's statistics are the best one's
                break
        else:
            pytest.fail("the last epoch was the best with each seed")
    run = Run.open(report.run)
    entries = run.entries("val")
    store = ImageStore(run.data_root(None))
    images = [store[entry] for entry in entries]
    logits_NC = torch.from_numpy(np.stack(list(load_artifact(run, "trained").logits_from_files(images))))
    targets_NC = torch.from_numpy(run.task.targets([entry.labels for entry in entries]))
    loss = run.task.loss(logits_NC, targets_NC, LossChoice("asymmetric", 0.0)).item()
    assert loss == pytest.approx(report.loss, rel=1e-4)  # f32 in batches of another size
