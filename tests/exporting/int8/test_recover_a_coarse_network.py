"""Training through a network that rounds, in plain PyTorch in the place of NNCF, which compiles for a while first."""

from __future__ import annotations

import copy
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import Listener
from torch import Tensor, nn

from ftx.adapters.trainable_model import prepare
from ftx.data.random_draws import order_generator
from ftx.exporting.int8 import recover as recovering
from ftx.exporting.int8.recover import recover
from ftx.merging.merge_and_prove import merge
from ftx.runs.artifacts import DENSE, TRAINED
from ftx.runs.dense import load_dense
from ftx.runs.run import Run

STEPS = 8
SMOOTHED, MOVED = "blocks.5.mlp.fc1", "blocks.5.attn.proj"


class Losses(Listener):
    """Keeps the loss of each step as it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def advance(self, steps: int = 1, **fields: str) -> None:
        super().advance(steps, **fields)
        if "loss" in fields:
            self.losses.append(float(fields["loss"]))


def coarse(dense: nn.Module) -> nn.Module:
    """What NNCF makes: inputs rounded, in their own units by SmoothQuant, and a bias that was moved."""
    student: Any = copy.deepcopy(dense)
    smoothed, moved = student.get_submodule(SMOOTHED), student.get_submodule(MOVED)
    factors = torch.linspace(0.5, 2.0, smoothed.in_features)
    with torch.no_grad():
        smoothed.weight *= factors
        moved.bias += 0.25

    def rounded(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (features,) = (inputs[0] / factors,)
        return (features + (torch.round(2 * features) / 2 - features).detach(),)

    smoothed.register_forward_pre_hook(rounded)
    return student


def images_of(run: Run) -> Any:
    return recovering._Images(run, prepare(run.recipe(), len(run.manifest.labels), saved=True), None, Listener())


def error(student: nn.Module, teacher: nn.Module, images_N3HW: Tensor) -> float:
    with torch.inference_mode():
        return float((student(images_N3HW) - teacher(images_N3HW)).abs().mean())


def test_what_is_learned_is_learned_for_the_network_that_rounds(
    whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: set[int] = set()

    def quantized(dense: nn.Module, calibration: list[Tensor]) -> nn.Module:
        student = coarse(dense)
        student.register_forward_pre_hook(lambda _, given: sizes.add(len(given[0])))
        return student

    monkeypatch.setattr(recovering, "_quantized", quantized)
    before, listener = Run.open(whole_run), Losses()
    report = recover(before, tmp_path / "after", steps=STEPS, progress=listener)
    after = Run.open(tmp_path / "after")
    assert "through 8 bits from the weights of another run" in (after.path / TRAINED.name / "README.md").read_text()
    merge(after)
    images = images_of(before)
    teacher, learned = (load_dense(run.require(DENSE)).eval() for run in (before, after))
    with closing(images.judging.batches(range(len(images.judging)), len(images.judging), epoch=0)) as batches:
        (judging,) = [batch.input for batch in batches]
    # The new run's own weights, rounded as before, are what was judged: nothing else was learned beside them. Other
    # batches, and after training the merge in another order, change the last digits of float32.
    assert report.error_before == pytest.approx(error(coarse(teacher), teacher, judging), rel=1e-4)
    assert report.error_after == pytest.approx(error(coarse(learned), teacher, judging), rel=1e-3)
    assert report.error_after < 0.9 * report.error_before  # a learning rate of zero gives 1
    # The first of the first epoch's 16 images, by the run's seed, and what their logits differed by.
    order = order_generator(before.recipe().seed, 1).permutation(len(images.training))
    with closing(images.training.batches(order[:16], 16, epoch=1)) as batches:
        (first,) = [batch.input for batch in batches]
    with torch.inference_mode():
        loss = (coarse(teacher)(first) - teacher(first)).square().mean()
    assert listener.losses[0] == pytest.approx(float(loss), abs=1e-4)  # four digits are shown
    assert (len(listener.losses), max(sizes)) == (STEPS, 16)
