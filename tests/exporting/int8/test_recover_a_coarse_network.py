"""Training through a network that rounds, in plain PyTorch in the place of NNCF, which compiles for a while first."""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import Listener
from tests.gates.faults import edit_json, keep, vouch
from torch import Tensor, nn

from ftx.adapters.trainable_model import prepare
from ftx.core.errors import DataError
from ftx.data.preprocess import load_pixels, normalise
from ftx.data.random_draws import order_generator
from ftx.exporting.chosen_images import calibration_images
from ftx.exporting.export import _recovered, artifacts_of
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
    assert (
        "with int8 rounding, from the weights of another run" in (after.path / TRAINED.name / "README.md").read_text()
    )
    merge(after)
    images = images_of(before)
    teacher, learned = (load_dense(run.require(DENSE)).eval() for run in (before, after))
    with closing(images.judging.batches(range(len(images.judging)), len(images.judging), epoch=0)) as batches:
        (judging,) = [batch.input for batch in batches]
    # The new run's own weights, rounded as before, are what was judged: nothing else was learned beside them. Other
    # batches, and after training the merge in another order, change the last digits of float32.
    assert report.error_before == pytest.approx(error(coarse(teacher), teacher, judging), rel=1e-4)
    assert report.error_after == pytest.approx(error(coarse(learned), teacher, judging), rel=1e-3)
    assert report.error_after < 0.97 * report.error_before  # a learning rate of zero gives 1
    # The first of the first epoch's 16 images, by the run's seed, and what their logits differed by.
    order = order_generator(before.recipe().seed, 1).permutation(len(images.training))
    with closing(images.training.batches(order[:16], 16, epoch=1)) as batches:
        (first,) = [batch.input for batch in batches]
    with torch.inference_mode():
        loss = (coarse(teacher)(first) - teacher(first)).square().mean()
    assert listener.losses[0] == pytest.approx(float(loss), abs=1e-4)  # four digits are shown
    assert (len(listener.losses), max(sizes)) == (STEPS, 16)


def relabelled(run: Path, target: Path) -> Path:
    """A copy in which a quarter of the validation images, the red ones, count as blue."""
    shutil.copytree(run, target, symlinks=True, ignore=shutil.ignore_patterns("onnx", "openvino"))
    keep(target)
    lines = [json.loads(line) for line in (target / "data.jsonl").read_text().splitlines()]
    for line in lines:
        if line["split"] == "val" and line["labels"] == ["red"]:
            line["labels"] = ["blue"]
    (target / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    vouch(target)
    return target


def test_images_that_moved_are_found_by_every_step_and_each_does_its_own_work(
    whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new run's figures are of its validation images, and its merge is proved on held-out ones."""
    run, data = relabelled(whole_run, tmp_path / "run"), whole_run.parents[1] / "data"
    edit_json(run / "run.json", lambda raw: raw.update(data_root=str(tmp_path / "gone")))
    monkeypatch.setattr(recovering, "_quantized", lambda dense, calibration: coarse(dense))
    monkeypatch.setitem(recover.__kwdefaults__, "steps", STEPS)
    monkeypatch.chdir(tmp_path)
    wanted = artifacts_of(["openvino"], ["int8"])
    with pytest.raises(DataError, match="not where they were"):
        _recovered(run, wanted, None, Listener())
    report = _recovered(run, wanted, data, Listener())
    merged = json.loads((Path(report.run or "") / "reports" / "merge.json").read_text())
    assert (merged["images_from"], merged["images"]) == ("held-out images", 32)
    assert (report.source, report.steps, report.metric) == (str(run), STEPS, "accuracy")
    assert report.metrics["accuracy"] == pytest.approx(0.75, abs=0.05)
    assert Run.open(run).manifest.recovered is None


def test_each_image_of_a_recovery_has_one_use(whole_run: Path) -> None:
    """96 to train on, of which a fifth judges and takes no step; 24 to choose by give the figures."""
    run = Run.open(whole_run)
    images = images_of(run)
    calibrating, judging = calibration_images(run.entries("train"))
    assert (len(calibrating), len(judging)) == (32, 19)
    assert [len(one) for one in (images.training, images.judging, images.validation)] == [77, 19, 24]
    assert [tuple(image.shape) for image in images.calibration()] == [(1, 3, 32, 32)] * 32
    with closing(images.validation.batches(range(24), 24, epoch=0)) as batches:
        (found,) = [batch.input for batch in batches]
    pre = run.manifest.preprocess
    pixels = np.stack([load_pixels(run.data_root() / entry.path, pre) for entry in run.entries("val")])
    torch.testing.assert_close(found, torch.from_numpy(normalise(pixels, pre)), rtol=0, atol=0)
