"""A checkpoint that was altered is never gone on from: neither with its old hash, nor with one that was made anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import Listener
from tests.training.test_resume import asked, begun, here, written
from torch import Tensor

from ftx.core.errors import RecipeError, RunError
from ftx.core.files import sha256_file
from ftx.training import resume, train
from ftx.training.checkpoints import _digest

__all__ = ["here"]

STEP = 6  # of four an epoch: in the second


@pytest.fixture(scope="module")
def cut(here: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that was cut off, with checkpoints of steps 5 and 6, and beside it the same one without a stop."""
    root = tmp_path_factory.mktemp("cut")
    with pytest.MonkeyPatch.context() as patch:
        begun(here, patch, asked("lora"), root / "run", STEP)
    with chdir(here):
        train(asked("lora"), root / "whole")
    return root


def in_position(**changes: int) -> Callable[[Any, dict[str, Tensor]], None]:
    def edit(document: Any, tensors: dict[str, Tensor]) -> None:
        document["record"]["position"].update(changes)

    return edit


def in_record(**changes: object) -> Callable[[Any, dict[str, Tensor]], None]:
    return lambda document, tensors: document["record"].update(changes)


def without_metrics(document: Any, tensors: dict[str, Tensor]) -> None:
    document["record"]["epochs"][0]["metrics"] = {}


def in_circumstances(**changes: object) -> Callable[[Any, dict[str, Tensor]], None]:
    return lambda document, tensors: document["origin"]["circumstances"].update(changes)


def another_rate(document: Any, tensors: dict[str, Tensor]) -> None:
    document["origin"]["recipe"]["train"]["lr"] = 0.5


def of(kind: str, change: Callable[[Tensor], Tensor | None]) -> Callable[[Any, dict[str, Tensor]], None]:
    """Change the largest tensor of a kind, or take it away."""

    def edit(document: Any, tensors: dict[str, Tensor]) -> None:
        name = max((name for name in tensors if name.startswith(kind)), key=lambda name: tensors[name].numel())
        changed = change(tensors.pop(name))
        if changed is not None:
            tensors[name] = changed.contiguous()

    return edit


def named_otherwise(document: Any, tensors: dict[str, Tensor]) -> None:
    tensors["optimizer.exp_avg.nothing"] = torch.zeros(1)


def of_another_kind(document: Any, tensors: dict[str, Tensor]) -> None:
    tensors["strange.thing"] = torch.zeros(1)


EDITS: dict[str, Callable[[Any, dict[str, Tensor]], None]] = {
    "step 7": in_position(step=7),
    "step 0": in_position(step=0),
    "epoch 1": in_position(epoch=1),
    "epoch 3": in_position(epoch=3),
    "epoch 1000000000": in_position(epoch=1_000_000_000),
    "batches 1": in_position(batches=1),
    "batches and images 0": in_position(batches=0, images=0),
    "images 3": in_position(images=3),
    "best 77": in_record(best=77),
    "no best": in_record(best=None),
    "no epochs": in_record(epochs=[]),
    "no metrics": without_metrics,
    "loss": in_record(loss=0.25),
    "rate": another_rate,
    "weights gone": of("weights.", lambda tensor: None),
    "weights cut": of("weights.", lambda tensor: tensor[:1]),
    "weights in half": of("weights.", torch.Tensor.half),
    "moment gone": of("optimizer.exp_avg_sq.", lambda tensor: None),
    "moment cut": of("optimizer.exp_avg.", lambda tensor: tensor[:1]),
    "count of another shape": of("optimizer.step.", lambda tensor: tensor.repeat(4)),
    "best gone": of("best.", lambda tensor: None),
    "a moment of nothing": named_otherwise,
    "a tensor of nothing": of_another_kind,
    "no number": of("weights.", lambda tensor: tensor * float("nan")),
    "a moment without end": of("optimizer.exp_avg_sq.", lambda tensor: tensor + float("inf")),
    "no thread": in_circumstances(threads=0),
    "threads below none": in_circumstances(threads=-1),
    "threads beyond all": in_circumstances(threads=1_000_000_000),
    "no process": in_circumstances(processes=0),
}
# Figures that nothing else tells of: whoever makes the hash anew can write them.
UNSEEN = {"loss"}
OTHER_RECIPE = "the recipe must be the one that the training began with"


def edited(cut: Path, folder: Path, edit: Callable[[Any, dict[str, Tensor]], None], *, anew: bool) -> Path:
    run = Path(shutil.copytree(cut / "run", folder / "run"))
    record, file = (run / "checkpoints" / f"{STEP}.{ending}" for ending in ("json", "safetensors"))
    document, tensors = json.loads(record.read_text()), load_file(file)
    edit(document, tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    if anew:
        document["tensors_sha256"] = sha256_file(file)
        document["sha256"] = _digest(document)
    record.write_text(json.dumps(document))
    return run


@pytest.mark.parametrize("name", EDITS)
def test_with_its_hash_it_falls_back_to_the_one_before(name: str, cut: Path, here: Path, tmp_path: Path) -> None:
    run, listener = edited(cut, tmp_path, EDITS[name], anew=False), Listener()
    with chdir(here):
        resume(run, progress=listener)
    assert f"a checkpoint is damaged ({STEP}.json: " in " ".join(listener.said)
    assert written(run) == written(cut / "whole")


@pytest.mark.parametrize("name", [name for name in EDITS if name not in UNSEEN])
def test_with_a_hash_made_anew_it_is_one_clear_error_or_the_one_before(
    name: str, cut: Path, here: Path, tmp_path: Path
) -> None:
    run, listener = edited(cut, tmp_path, EDITS[name], anew=True), Listener()
    with chdir(here):
        try:
            resume(run, progress=listener)
        except (RunError, RecipeError) as error:
            assert error.what in ("the checkpoint must be of this training", OTHER_RECIPE)  # noqa: PT017
            assert not [one for one in listener.said if "--resume" in one]  # which would end as this did
            assert not (run / "trained").exists()
        else:
            assert f"a checkpoint is damaged ({STEP}.json: " in " ".join(listener.said)
            assert written(run) == written(cut / "whole")


def test_one_that_an_earlier_ftx_wrote_is_gone_on_from_and_said(cut: Path, here: Path, tmp_path: Path) -> None:
    run, listener = Path(shutil.copytree(cut / "run", tmp_path / "run")), Listener()
    for record in (run / "checkpoints").glob("*.json"):
        document = json.loads(record.read_text())
        del document["sha256"]
        record.write_text(json.dumps(document | {"schema_version": 2}))
    with chdir(here):
        resume(run, progress=listener)
    assert f"{STEP}.json was written by an earlier ftx" in " ".join(listener.said)
    assert written(run) == written(cut / "whole")


def test_a_hash_counts_whatever_version_the_record_says(cut: Path, here: Path, tmp_path: Path) -> None:
    def edit(document: Any, tensors: dict[str, Tensor]) -> None:
        document.update(schema_version=2)
        document["record"].update(loss=0.25)

    run, listener = edited(cut, tmp_path, edit, anew=False), Listener()
    with chdir(here):
        resume(run, progress=listener)
    assert f"a checkpoint is damaged ({STEP}.json: " in " ".join(listener.said)
    assert written(run) == written(cut / "whole")
