"""A training that was cut off goes on to the bytes that it would have made; and what must not have changed for that."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import chdir
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.conftest import Listener
from torch import Tensor, nn

from ftx.cli.app import run as ftx
from ftx.core.errors import (
    DataError,
    EnvironmentFault,
    FtxError,
    ImageError,
    Interrupted,
    RecipeError,
    RunError,
    Terminated,
)
from ftx.core.files import sole_writer
from ftx.merging.merge_and_prove import merge
from ftx.recipe.schema import Recipe
from ftx.runs.artifacts import DENSE, TRAINED
from ftx.runs.new_run import NewRun
from ftx.runs.run import Run
from ftx.runs.train_jsonl import read_epochs
from ftx.training import resume, session, train
from ftx.training import step as training_step
from ftx.training.checkpoints import Checkpoints, _digest, newest
from ftx.training.inputs import Batch
from ftx.training.loop import Diverged
from ftx.training.opening import ResolvedTraining, open_together
from ftx.training.signals import stoppable
from ftx.training.state import EpochEnd, TrainingState
from ftx.training.step import Training

METHODS: dict[str, dict[str, object]] = {
    "lora": {"peft": "lora", "blocks": "all", "rank": 2, "dropout": 0.2, "lora_plus": 4.0},
    "dora": {  # features are kept
        "peft": "dora",
        "targets": "q,fc1",
        "rank": {"q": 2, "fc1": 3},
        "blocks": 2,
        "patch_dropout": 0.5,
    },
    "pissa": {"peft": "lora", "blocks": "all", "rank": 2, "init": "pissa", "patch_dropout": 0.3},
    "linear": {"peft": "none", "freeze_backbone": True, "balance": "sampling"},
    "full": {"peft": "none", "name": "test_efficientnet", "image_size": 64},  # statistics of batches
}
LABELS = {
    "multiclass": ("one", "two"),
    "multilabel": ("one;two", "two", "", "one"),
    "hierarchical": ("one/of one", "two", "one/of two", "two"),
}


class Cut(Exception):
    """The power is gone."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images of noise, and a table of each task that names them."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number in range(20):
        Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(root / f"{number}.png")
    for task, labels in LABELS.items():
        lines = [f"{number}.png,{labels[number % len(labels)]}\n" for number in range(20)]
        (root / f"{task}.csv").write_text("path,labels\n" + "".join(lines))
    torch.set_num_threads(1)
    return root


def asked(method: str = "linear", task: str = "multiclass", **more: object) -> Recipe:
    tiny = {"name": "test_vit", "weights": "none", "image_size": 32, "epochs": 3, "batch_size": 5, "precision": "f32"}
    tiny |= {"augment": "light", "patch_dropout": 0.0}
    return Recipe.named(
        {"path": f"{task}.csv", "task": task, "checkpoint_minutes": 0, **tiny, **METHODS[method], **more}
    )


def written(run: Path) -> dict[str, bytes]:
    """What a run says and holds of its training, but for times."""
    found = {path.name: path.read_bytes() for path in (run / "trained").iterdir()}
    manifest = json.loads((run / "run.json").read_text())
    assert not (run / "checkpoints").exists()
    del manifest["files"]["reports/train.jsonl"]
    return found | {"run.json": json.dumps(manifest).encode(), "recipe.yaml": (run / "recipe.yaml").read_bytes()}


def cut_at(monkeypatch: pytest.MonkeyPatch, step: int, do: Callable[[], None]) -> None:
    """Do something instead of the pass of this step, counted from 0 in this process."""
    passes = iter(range(1_000_000))

    def counted(network: nn.Module, training: Training, batch: Batch) -> Tensor:
        if next(passes) == step:
            do()
        return forward_backward(network, training, batch)

    forward_backward = training_step.forward_backward
    monkeypatch.setattr(training_step, "forward_backward", counted)


def lose_power() -> None:
    raise Cut


def begun(here: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe, run: Path, step: int = 4) -> Path:
    """A training that was cut off at a step: three and a bit an epoch."""
    with monkeypatch.context() as patch, chdir(here):
        cut_at(patch, step, lose_power)
        with pytest.raises(Cut):
            train(recipe, run)
    return run


def rewrite(record: Path, document: dict[str, object]) -> None:
    """A record of a checkpoint with other words, and the hash of these."""
    record.write_text(json.dumps(document | {"sha256": _digest(document)}))


# Each method and each task at each moment; in the slow tests each method with each task.
PAIRED = {("lora", "hierarchical"), ("dora", "multilabel"), ("pissa", "multiclass"), ("linear", "multilabel")}
PAIRED |= {("full", "hierarchical")}


@pytest.mark.parametrize(
    ("method", "task"),
    [
        pytest.param(*pair, marks=pytest.mark.representative if pair in PAIRED else pytest.mark.slow)
        for pair in product(METHODS, LABELS)
    ],
)
def test_cut_off_anywhere_it_ends_with_the_same_bytes(
    method: str, task: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = asked(method, task)
    with chdir(here):
        train(recipe, tmp_path / "whole")
    expected = written(tmp_path / "whole")
    # In the middle of an epoch; at the first step of one; and cut again where it went on.
    for name, cuts in (("middle", [5]), ("first", [4]), ("twice", [2, 3])):
        run = tmp_path / name
        begun(here, monkeypatch, recipe, run, cuts[0])
        for cut in cuts[1:]:
            with monkeypatch.context() as patch, chdir(here):
                cut_at(patch, cut, lose_power)
                with pytest.raises(Cut):
                    resume(run)
        with chdir(here):
            report = resume(run)
        assert report.run == str(run)
        assert written(run) == expected, name
    lines = [json.loads(line) for line in (tmp_path / "twice" / "reports" / "train.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]


def test_features_that_a_checkpoint_rests_on_are_on_disk_before_it(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost ones would be computed again in other batches, which is another rounding."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found: list[tuple[int, int]] = []
    on_disk = {"content": 0, "index": 0}

    def noting(handle: int) -> None:
        file = Path(f"/proc/self/fd/{handle}").readlink()
        if file.name in on_disk and "features" in file.parts:
            on_disk[file.name] = os.fstat(handle).st_size

    def counted(self: TrainingState) -> dict[str, Tensor]:
        found.append((self.position.images, min(on_disk["index"] // 52, on_disk["content"] // (5 * 64 * 2))))
        return tensors(self)

    tensors = TrainingState.tensors
    monkeypatch.setattr(TrainingState, "tensors", counted)
    monkeypatch.setattr("ftx.core.byte_store.os.fsync", noting)
    with chdir(here):
        train(asked("dora", augment="none", frozen_runtime="torch", epochs=1), tmp_path / "run")
    assert [images for images, _ in found[:3]] == [5, 10, 15]
    assert all(records >= images for images, records in found[:3])


def test_an_unfinished_run_says_how_to_go_on(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun(here, monkeypatch, asked(), tmp_path / "run")
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "3.json", "3.safetensors", "4.json", "4.safetensors"
    ]  # fmt: skip
    with pytest.raises(RunError, match="must be a finished run") as caught:
        Run.open(run)
    assert f"ftx train --resume {run}" in str(caught.value)
    with chdir(here):
        ends: list[EpochEnd] = []
        resume(run, on_epoch=ends.append)
        assert [end.epoch.epoch for end in ends] == [2, 3]
        with pytest.raises(RunError, match="--resume must name a run") as caught:
            resume(run)
    assert caught.value.found == "its training has finished"


def test_the_verb_tells_of_each_epoch_that_was_left(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begun(here, monkeypatch, asked(), tmp_path / "run")
    with chdir(here):
        assert ftx(["train", "--resume", str(run)]) == 0
    told = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    assert told == ["epoch 2", "epoch 3"]


def test_an_interruption_ends_with_the_best_epoch_and_can_go_on(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run, listener = asked("lora"), tmp_path / "run", Listener()
    with chdir(here):
        train(recipe, tmp_path / "whole")
        with monkeypatch.context() as patch:
            cut_at(patch, 5, lambda: os.kill(os.getpid(), 2))
            report = train(recipe, run, progress=listener)
        assert (report.interrupted, report.best_epoch, report.epochs) == (True, 1, 1)
        assert f"to resume it: ftx train --resume {run}" in listener.said
        # The step that was computed when the signal came is done, and in the checkpoint.
        assert (run / "checkpoints" / "6.json").is_file()
        assert merge(Run.open(run)).ok
        manifest = (run / "run.json").read_bytes()
        (run / "run.json").write_bytes(manifest[:-9])
        with monkeypatch.context() as patch:
            cut_at(patch, 0, lose_power)  # it is said before the first step, not after the last
            with pytest.raises(RunError, match="cannot be read"):
                resume(run)
        (run / "run.json").write_bytes(manifest)
        assert not resume(run).interrupted
        # What was merged from the earlier weights is theirs no more.
        with pytest.raises(RunError, match="dense/ is stale"):
            Run.open(run).require(DENSE)
        shutil.rmtree(run / "dense")
        assert merge(Run.open(run)).ok
    for file in (run / "trained").iterdir():
        assert file.read_bytes() == (tmp_path / "whole" / "trained" / file.name).read_bytes(), file.name


@pytest.mark.parametrize(("number", "error", "step"), [(2, Interrupted, 1), (15, Terminated, 1), (15, Terminated, 5)])
def test_a_signal_saves_the_state_and_says_how_to_go_on(
    number: int, error: type[FtxError], step: int, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C before there is an epoch to keep, and SIGTERM whenever it comes."""
    run = tmp_path / "run"
    with chdir(here):
        with monkeypatch.context() as patch:
            cut_at(patch, step, lambda: os.kill(os.getpid(), number))
            with pytest.raises(error) as caught:
                train(asked(checkpoint_minutes=5), run)
        assert caught.value.fix == f"ftx train --resume {run}"
        assert caught.value.exit_code == 128 + number
        assert (run / "checkpoints" / f"{step + 1}.json").is_file()
        train(asked(checkpoint_minutes=5), tmp_path / "whole")
        resume(run)
    assert written(run) == written(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["tensors cut", "a bit", "record cut", "no tensors", "another schema", "a key"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    damage: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, listener = begun(here, monkeypatch, asked(), tmp_path / "run"), Listener()
    record, tensors = (run / "checkpoints" / f"4.{ending}" for ending in ("json", "safetensors"))
    if damage == "tensors cut":
        tensors.write_bytes(tensors.read_bytes()[:-1])
    elif damage == "a bit":
        content = bytearray(tensors.read_bytes())
        content[-3] ^= 1
        tensors.write_bytes(content)
    elif damage == "record cut":
        record.write_text(record.read_text()[:-30])
    elif damage == "no tensors":
        tensors.unlink()
    elif damage == "a key":
        record.write_text(json.dumps(json.loads(record.read_text()) | {"spare": 1}))
    else:
        record.write_text(record.read_text().replace('"schema_version": 3', '"schema_version": 4'))
    with chdir(here):
        train(asked(), tmp_path / "whole")
        resume(run, progress=listener)
    (said,) = [text for text in listener.said if "damaged" in text]
    assert "4.json" in said
    assert "3.json" in said
    assert written(run) == written(tmp_path / "whole")


def test_without_a_whole_checkpoint_there_is_nothing_to_go_on_with(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(here, monkeypatch, asked(), tmp_path / "run")
    for path in (run / "checkpoints").glob("*.safetensors"):
        path.write_bytes(b"")
    with chdir(here), pytest.raises(RunError, match="this run has no complete checkpoint") as caught:
        resume(run)
    assert caught.value.fix == f"train again: ftx train --config {run}/recipe.yaml --data DIR"
    with chdir(tmp_path), pytest.raises(RunError, match="the run does not exist") as caught:
        resume(Path("nowhere"))
    assert caught.value.found == "no unfinished runs below runs/"
    shutil.copytree(run, tmp_path / "runs" / "photos")
    with chdir(tmp_path), pytest.raises(RunError, match="the run does not exist") as caught:
        resume(Path("nowhere"))
    assert caught.value.found == "unfinished runs here: photos"
    with pytest.raises(RunError, match="--resume must name a run") as caught:
        resume(here)
    assert "no checkpoint in checkpoints/" in str(caught.value.found)


@pytest.mark.parametrize("lost", [False, True])
def test_an_address_is_typed_again(lost: bool, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither recipe.yaml of the run nor the one in its checkpoint names one."""
    run = begun(here, monkeypatch, asked(), tmp_path / "run")
    there = "https://127.0.0.1:9/{0..3}.tar"
    (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace("multiclass.csv", there))
    for record in (run / "checkpoints").glob("*.json"):
        document = json.loads(record.read_text())
        document["origin"]["recipe"]["data"]["path"] = there
        rewrite(record, document)
    if lost:
        (run / "recipe.yaml").unlink()
    monkeypatch.setattr("ftx.data.shards.fetched._file_system", lambda address: pytest.fail(f"{address} was asked for"))
    with chdir(here), pytest.raises(DataError, match="must not contain a URL") as caught:
        resume(run)
    assert f"ftx train --resume {run} --data '{there}'" in str(caught.value.fix)
    with chdir(here):  # they were moved to this machine
        resume(run, flags={"data.path": "multiclass.csv"})
        train(asked(), tmp_path / "whole")
    (weights,) = (run / "trained").glob("*.safetensors")
    assert weights.read_bytes() == (tmp_path / "whole" / "trained" / weights.name).read_bytes()


def test_a_recipe_that_was_lost_is_taken_from_the_checkpoint(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, listener = begun(here, monkeypatch, asked(), tmp_path / "run"), Listener()
    (run / "recipe.yaml").unlink()
    with chdir(here):
        resume(run, progress=listener)
        train(asked(), tmp_path / "whole")
    assert "resuming after step 4, in epoch 2 of 3" in listener.said
    assert written(run) == written(tmp_path / "whole")


def test_two_do_not_train_one_run(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun(here, monkeypatch, asked(), tmp_path / "run")
    with pytest.raises(RunError, match="must be a finished run") as caught:
        Run.open(run)
    assert caught.value.fix == f"resume it: ftx train --resume {run}"
    with sole_writer(run, None):
        with chdir(here), pytest.raises(RunError, match="another ftx is using this folder"):
            resume(run)
        with pytest.raises(RunError, match="must be a finished run") as caught:
            Run.open(run)
        assert caught.value.fix == "wait for the other ftx that is training it"
    with chdir(here):
        assert resume(run).epochs == 3


def test_a_signal_before_the_first_step_leaves_what_there_was(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(here, monkeypatch, asked(), tmp_path / "run")

    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with chdir(here):
        with monkeypatch.context() as patch:
            patch.setattr(session, "open_together", stop)
            with pytest.raises(Terminated) as caught:
                resume(run)
        assert caught.value.fix == f"ftx train --resume {run}"
        assert resume(run).epochs == 3


def test_what_was_found_damaged_is_no_checkpoint_later(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(here, monkeypatch, asked(), tmp_path / "run")
    damaged = run / "checkpoints" / "4.safetensors"
    damaged.write_bytes(b"")
    with chdir(here):
        with monkeypatch.context() as patch:  # at the very step whose checkpoint is damaged
            cut_at(patch, 0, lambda: os.kill(os.getpid(), 15))
            with pytest.raises(Terminated):
                resume(run)
        assert newest(run, Listener()).checkpoint.record.position.step == 4
        damaged.write_bytes(b"")
        with monkeypatch.context() as patch:  # and at a later one
            cut_at(patch, 2, lose_power)
            with pytest.raises(Cut):
                resume(run)
    assert {path.stem for path in (run / "checkpoints").iterdir()} == {"4", "5"}
    assert [newest(run, listener := Listener()).checkpoint.record.position.step, listener.said] == [5, []]


def test_another_recipe_is_refused_and_named(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun(here, monkeypatch, asked(), tmp_path / "run")
    with chdir(here):
        with pytest.raises(RecipeError, match="the recipe must be the one") as caught:
            resume(run, flags={"train.lr": "1e-4", "seed": "0"})
        assert caught.value.found == "train.lr: 0.0001, was 0.005"
        with pytest.raises(RecipeError, match="the recipe must be the one") as caught:
            resume(run, overrides=["train.precision=bf16"])
        assert "train.precision: bf16, was f32" in str(caught.value.found)
        text = (run / "recipe.yaml").read_text()
        (run / "recipe.yaml").write_text(text.replace("epochs: 3", "epochs: 4"))
        with pytest.raises(RecipeError) as caught:
            resume(run)
        assert (caught.value.where, caught.value.found) == (str(run / "recipe.yaml"), "train.epochs: 4, was 3")
        (run / "recipe.yaml").write_text(text)
        resume(run, flags={"train.lr": "auto"}, overrides=["data.image_size=32"])
    run = begun(here, monkeypatch, asked(lr=2e-3), tmp_path / "rate")
    with chdir(here):
        with pytest.raises(RecipeError, match="must give the same settings") as caught:
            resume(run, flags={"train.lr": "auto"})
        assert caught.value.found == "train.lr: 0.005, was 0.002"
        resume(run, flags={"train.lr": "0.002"})
    run = begun(here, monkeypatch, asked("dora"), tmp_path / "ranks")
    with chdir(here), pytest.raises(RecipeError) as caught:
        resume(run, overrides=["adapter.rank=4"])
    assert caught.value.found == "adapter.rank: 4, was {'q': 2, 'fc1': 3}"


def test_a_recipe_that_is_resolved_otherwise_is_refused(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another ftx might decide otherwise; here a batch of more images than there are is in both documents."""
    run = begun(here, monkeypatch, asked(), tmp_path / "run")
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text.replace("batch_size: 5", "batch_size: 50"))
    for path in (run / "checkpoints").glob("*.json"):
        document = json.loads(path.read_text())
        document["origin"]["recipe"]["train"]["batch_size"] = 50
        rewrite(path, document)
    with chdir(here), pytest.raises(RecipeError, match="must give the same settings on this machine") as caught:
        resume(run)
    assert caught.value.found == "train.batch_size: 16, was 50"


def test_other_data_or_another_base_is_refused_and_named(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(here, tmp_path / "copy")
    run = begun(copy, monkeypatch, asked(), tmp_path / "run")
    with chdir(copy):
        kept = Path("7.png").read_bytes()
        Image.new("RGB", (40, 48)).save("7.png")
        with pytest.raises(RunError, match="images must be those that the training began with") as caught:
            resume(run)
        assert caught.value.found == "7.png has changed"
        Path("7.png").write_bytes(kept)
        table = Path("multiclass.csv").read_text()
        Image.new("RGB", (40, 48), "red").save("20.png")
        without = "".join(line for line in table.splitlines(keepends=True) if not line.startswith("7.png"))
        for changed, found in ((without, "7.png is gone"), (f"{table}20.png,one\n", "20.png is new")):
            Path("multiclass.csv").write_text(changed)
            with pytest.raises(RunError, match="images must be those that the training began with") as caught:
                resume(run)
            assert caught.value.found == found
        Path("multiclass.csv").write_text(table)
        records = sorted((run / "checkpoints").glob("*.json"))
        for record in records:
            document = json.loads(record.read_text())
            document["origin"]["base_digest"] = "0" * 64
            rewrite(record, document)
        with pytest.raises(RunError, match="base must be the one that the training began with"):
            resume(run)


def test_images_that_were_moved_are_named_anew(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(here, tmp_path / "before")
    run = begun(copy, monkeypatch, asked(), tmp_path / "run")
    moved = copy.rename(tmp_path / "after") / "multiclass.csv"
    with chdir(tmp_path), pytest.raises(DataError, match="images of this training are not where they were") as caught:
        resume(run)
    assert "--data DIR" in str(caught.value.fix)
    with monkeypatch.context() as patch, chdir(tmp_path):
        cut_at(patch, 2, lose_power)
        with pytest.raises(Cut):
            resume(run, flags={"data.path": str(moved)})
    with chdir(tmp_path):
        resume(run)  # it is known from now on
    with chdir(here):
        train(asked(), tmp_path / "whole")
    assert written(run)["head.safetensors"] == written(tmp_path / "whole")["head.safetensors"]
    assert Run.open(run).data_root() == moved.parent


def test_a_full_disk_ends_a_training_that_can_go_on(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, listener = tmp_path / "run", Listener()
    write = Checkpoints.write

    def full(self: Checkpoints, state: object) -> None:
        if (self.folder / "3.json").exists():
            raise EnvironmentFault("the disk is full")
        write(self, state)  # type: ignore[arg-type]

    with chdir(here):
        train(asked(), tmp_path / "whole")
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "write", full)
            with pytest.raises(EnvironmentFault):
                train(asked(), run, progress=listener)
        assert f"to resume it: ftx train --resume {run}" in listener.said
        resume(run)
    assert written(run) == written(tmp_path / "whole")


def test_a_run_that_is_seen_can_be_gone_on_with(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any moment before, it leaves nothing under its name, which can then be given again."""
    run, place, seen = tmp_path / "run", NewRun.place, []

    def placed(self: NewRun) -> None:
        seen.append(list(tmp_path.glob("run")))
        place(self)
        newest(run, Listener())

    monkeypatch.setattr(NewRun, "place", placed)
    with chdir(here):
        train(asked(), run)
    assert seen == [[]]


def test_a_disk_that_is_full_at_the_end_says_how_to_go_on(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run, listener = tmp_path / "run", Listener()
    with chdir(here):
        with monkeypatch.context() as patch:
            patch.setattr(session, "save_trained", full)
            with pytest.raises(EnvironmentFault, match="disk is full"):
                train(asked(), run, progress=listener)
        assert listener.said[-1] == f"to resume it: ftx train --resume {run}"
        assert resume(run).epochs == 3


def test_an_image_that_is_out_of_reach_for_a_while_costs_no_training(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = asked("full").replace(train={"cache_gb": 0})  # images are decoded for each epoch anew
    run, copy = tmp_path / "run", shutil.copytree(here, tmp_path / "copy")
    with monkeypatch.context() as patch, chdir(copy):
        cut_at(patch, 5, lambda: [path.rename(path.with_suffix(".away")) for path in copy.glob("*.png")] and None)
        with pytest.raises(ImageError, match="image does not exist"):
            train(recipe, run)
    for path in copy.glob("*.away"):
        path.rename(path.with_suffix(".png"))
    with chdir(copy):
        resume(run)
        train(recipe, tmp_path / "whole")
    assert written(run) == written(tmp_path / "whole")


def test_what_an_epoch_left_unwritten_is_written_later(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where power is lost right after the last checkpoint."""
    run, write = tmp_path / "run", Checkpoints.write

    def last(self: Checkpoints, state: TrainingState) -> None:
        write(self, state)
        if state.position.epoch == 4:
            raise Cut

    with chdir(here):
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "write", last)
            with pytest.raises(Cut):
                train(asked(tensorboard=True), run)
        resume(run)
    lines = (run / "reports" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    curves = EventAccumulator(str(run / "reports" / "tensorboard")).Reload()
    assert [event.step for event in curves.Scalars("loss/val")] == [1, 2, 3]
    epochs = read_epochs(run)
    for curve, values in {
        "val/smoothed": [epoch.smoothed for epoch in epochs],
        "val/accuracy": [epoch.metrics["accuracy"] for epoch in epochs],
        "val/macro_f1": [epoch.metrics["macro_f1"] for epoch in epochs],
        "loss/val": [epoch.val_loss for epoch in epochs],
        "loss/train": [epoch.loss for epoch in epochs],
        "lr": [epoch.lr for epoch in epochs],
    }.items():
        assert [event.value for event in curves.Scalars(curve)] == pytest.approx(values)  # which it keeps in f32
    assert epochs[0].loss != pytest.approx(epochs[0].val_loss)


def test_what_would_fail_again_leaves_nothing(here: Path, tmp_path: Path) -> None:
    listener = Listener()
    with chdir(here), pytest.raises(FtxError, match="must stay finite"):
        train(asked("full", lr=1e30), tmp_path / "run", progress=listener)
    assert not (tmp_path / "run").exists()
    assert "--resume" not in " ".join(listener.said)


def test_ctrl_c_while_the_loss_is_no_number(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before there is an epoch to keep it is an error; after that the best one is kept."""
    recipe, run = asked("full", lr=1e30, checkpoint_minutes=5), tmp_path / "run"
    with chdir(here):
        with monkeypatch.context() as patch:
            cut_at(patch, 2, lambda: os.kill(os.getpid(), 2))
            with pytest.raises(Diverged):
                train(recipe, run)
        assert not run.exists()

        passes, forward_backward = iter(range(100)), training_step.forward_backward

        def counted(network: nn.Module, training: Training, batch: Batch) -> Tensor:
            if next(passes) == 5:
                os.kill(os.getpid(), 2)
                batch = batch._replace(input=batch.input * torch.nan)
            return forward_backward(network, training, batch)

        monkeypatch.setattr(training_step, "forward_backward", counted)
        report = train(asked("full", checkpoint_minutes=5), run)
    assert (report.interrupted, report.best_epoch) == (True, 1)
    assert Run.open(run).require(TRAINED)
    assert newest(run, Listener()).checkpoint.record.position.epoch == 2


def test_ctrl_c_in_the_last_step_comes_too_late(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()
    with chdir(here), monkeypatch.context() as patch:
        cut_at(patch, 11, lambda: os.kill(os.getpid(), 2))
        report = train(asked(), tmp_path / "run", progress=listener)
    assert (report.interrupted, report.epochs) == (False, 3)
    assert "--resume" not in " ".join(listener.said)


def test_a_signal_that_the_process_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable() as stop, stop.between_steps():
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested == "terminate"
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_was_kept_and_is_gone_is_computed_to_the_same_bytes(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
    run = begun(here, monkeypatch, asked("dora"), tmp_path / "run")
    (content,) = (tmp_path / "first" / "ftx" / "features").rglob("content")
    index = content.with_name("index")
    index.write_bytes(index.read_bytes()[: 52 * 3 + 17])  # all but three views, and a part of one
    with chdir(here):
        resume(run)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
        train(asked("dora"), tmp_path / "whole")
    assert written(run) == written(tmp_path / "whole")


def test_it_computes_as_where_it_began(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other memory free other things would be kept, and with other cores other sums be made."""
    run = begun(here, monkeypatch, asked("dora"), tmp_path / "run")
    (record,) = (json.loads((run / "checkpoints" / "4.json").read_text()) for _ in range(1))
    assert record["origin"]["circumstances"] == {
        "device": "cpu", "threads": 1, "plain_attention": True, "processes": 1
    }  # fmt: skip
    with chdir(here):
        train(asked("dora"), tmp_path / "whole")
        monkeypatch.setattr("ftx.training.opening.available_bytes", lambda: 0)
        used: list[tuple[int, bool]] = []

        def opened(*given: Any) -> ResolvedTraining:
            threads = torch.get_num_threads()
            found = open_together(*given)
            used.append((threads, found.plan.plain_attention))
            return found

        monkeypatch.setattr(session, "open_together", opened)
        torch.set_num_threads(2)
        try:
            resume(run)
            assert (used, torch.get_num_threads()) == ([(1, True)], 2)  # PiSSA's factors are summed there
        finally:
            torch.set_num_threads(1)
    assert written(run) == written(tmp_path / "whole")


@pytest.mark.parametrize("other", ["ftx", "torch"])
def test_other_versions_are_told(other: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, listener = begun(here, monkeypatch, asked(), tmp_path / "run"), Listener()
    for record in (run / "checkpoints").glob("*.json"):
        rewrite(record, json.loads(record.read_text()) | {other: "0.0.1"})
    with chdir(here):
        resume(run, progress=listener)
    assert any(f"{other} 0.0.1" in said and "may differ" in said for said in listener.said)


def test_epochs_of_an_earlier_ftx_are_kept_by_their_means(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It noted none: of what was measured then the means are those that there would be, and the same epoch is kept."""
    with chdir(here):
        train(asked(), tmp_path / "whole")
    run = begun(here, monkeypatch, asked(), tmp_path / "run", 9)
    for path in (run / "checkpoints").glob("*.json"):
        document = json.loads(path.read_text())
        for epoch in document["record"]["epochs"]:
            assert epoch.pop("smoothed") is not None
        rewrite(path, document)
    with chdir(here):
        resume(run)
    assert written(run) == written(tmp_path / "whole")
    smoothed = [[epoch.smoothed for epoch in read_epochs(one)] for one in (run, tmp_path / "whole")]
    assert smoothed[0] == smoothed[1]
    assert None not in smoothed[0]


def test_times_of_an_epoch_that_was_cut_are_those_of_both_processes(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100,000 s of the second epoch were over, 60,000 of them waiting for images, and 500,000 s of the training."""
    run = begun(here, monkeypatch, asked(), tmp_path / "run", 6)
    (path, *_) = sorted((run / "checkpoints").glob("*.json"), key=lambda path: -int(path.stem))
    document = json.loads(path.read_text())
    position = document["record"]["position"]
    assert (position["step"], position["epoch"], position["images"]) == (6, 2, 10)
    position |= {"seconds": 1e5, "waited_s": 6e4, "seconds_before": 5e5}
    rewrite(path, document)
    with chdir(here):
        report = resume(run)
    # The rest takes less than a second, and no hours on any machine.
    assert 5e5 <= report.seconds < 5.1e5  # it is rounded to a tenth
    first, second, third = read_epochs(run)
    assert 1e5 < second.seconds < 1.1e5
    assert 6e4 / 1.1e5 < second.waiting_share < 7e4 / 1e5
    assert second.images_per_s == pytest.approx(16 / second.seconds)  # of 20 images, of which 4 are to choose by
    for other in (first, third):
        assert other.seconds < 1e4
        assert other.waiting_share <= 1
