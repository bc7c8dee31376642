"""As many epochs as fit into a time, by a rehearsal."""

from __future__ import annotations

import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import Listener
from tests.zygote import Zygote

from ftx.core.errors import InputError
from ftx.recipe.schema import Recipe
from ftx.training import dry_run, train
from ftx.training.estimate import Times, within
from ftx.training.opening import ResolvedTraining, open_training
from ftx.training.ranks import Ranks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for label in ("one", "other"):
        for number in range(10):
            pixels = np.random.default_rng([len(label), number]).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            (root / label).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / label / f"{label}-{number}.png")
    return root


def asked(data: Path, **more: object) -> Recipe:
    tiny = {
        "augment": "light",
        "patch_dropout": 0.0,
        "weights": "none",
        "image_size": 32,
        "epochs": 10,
        "batch_size": 4,
        "precision": "f32",
    }
    plain = {"peft": "lora", "blocks": "all", "augment": "light", "patch_dropout": 0.0}
    return Recipe.named({"path": str(data), "name": "test_vit", **plain, **tiny, **more})


@pytest.mark.parametrize(
    ("budget_s", "epochs"),
    # 0.95 of the budget, less the 20 s before, in epochs of 5 s
    [(1000, 10), (75, 10), (73, 9), (48, 5), (27, 1)],
)
def test_what_fits_is_what_two_steps_foretell(
    data: Path, budget_s: float, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def known(_found: ResolvedTraining) -> Times:
        return Times(before_s=20.0, epoch_s=5.0)

    monkeypatch.setattr("ftx.training.estimate.rehearse", known)
    found, listener = open_training(asked(data, blocks=2), False, Listener()), Listener()
    fitting = within(found, budget_s, time.perf_counter(), listener).recipe.train
    assert (fitting.epochs, fitting.cache_views) == (epochs, min(4, epochs))
    assert len(listener.said) == (epochs < 10)


@pytest.mark.parametrize(("budget_s", "epochs"), [(1000, 10), (93, 10), (90, 9), (47, 3), (33, 2), (18, 1)])
def test_fewer_epochs_need_fewer_views(
    data: Path, budget_s: float, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.95 of it: 2 s of validation images, 9 s for each of four views, 5 s an epoch: 14 s each of the first four."""
    monkeypatch.setattr("ftx.training.estimate.rehearse", lambda _found: Times(38.0, 5.0, view_s=9.0, views=4))
    found = open_training(asked(data, blocks=2), False, Listener())
    assert within(found, budget_s, time.perf_counter(), Listener()).recipe.train.epochs == epochs


def test_a_dry_run_says_what_its_budget_counted(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftx.training.estimate.rehearse", lambda _found: Times(240.0, 30.0, view_s=60.0, views=4))
    report = dry_run(asked(data, blocks=2), budget_s=200)
    assert (report.epochs, report.seconds_before, report.seconds) == (2, 120.0, 180.0)
    whole = dry_run(asked(data, blocks=2))
    assert (whole.epochs, whole.seconds_before, whole.seconds) == (10, 240.0, 540.0)


def test_a_dry_run_removes_nothing_that_others_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def kept() -> set[Path]:
        return set((tmp_path / "cache" / "ftx" / "features").glob("*/content"))

    with chdir(tmp_path):
        train(asked(data, blocks=2, epochs=1), out=tmp_path / "run")
        before = kept()
        other = asked(data, blocks=3, epochs=1, cache_gb=1e-6)
        assert dry_run(other).seconds is not None
        with pytest.raises(InputError, match="--budget must be long enough"):
            train(other, out=tmp_path / "other", budget_s=0.001)
        assert before <= kept()
        train(other, out=tmp_path / "other")
    assert before
    assert not before & kept()


def test_where_no_epoch_fits_nothing_is_written(data: Path, tmp_path: Path) -> None:
    with chdir(tmp_path), pytest.raises(InputError, match="--budget must be long enough") as caught:
        train(asked(data), out=tmp_path / "run", budget_s=0.001)
    assert "--preset fast" in str(caught.value)
    keys = {"name": "test_vit", "weights": "none", "image_size": 32, "head_init": "random", "batch_size": 4}
    probe = Recipe.named({"path": str(data), "peft": "none", "freeze_backbone": True, **keys})
    with chdir(tmp_path), pytest.raises(InputError, match="--budget must be long enough") as caught:
        train(probe, out=tmp_path / "run", budget_s=0.001)
    assert caught.value.fix == "use a longer --budget or a smaller --image-size"
    assert not list(tmp_path.iterdir())


def test_a_dry_run_asks_the_budget_even_where_memory_is_short(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftx.training.estimate.available_bytes", lambda: 0)
    assert dry_run(asked(data)).seconds is None
    with pytest.raises(InputError, match="--budget must be long enough"):
        dry_run(asked(data), budget_s=0.001)


def test_the_rehearsal_leaves_the_model_as_it_was(data: Path) -> None:
    """Its weights, and of a network that normalises batches the statistics."""
    found = open_training(asked(data, name="test_resnet", peft="none", blocks=None), False, Listener())
    module = found.prepared.backbone.module
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    within(found, 1e6, time.perf_counter(), Listener())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.slow
def test_on_the_command_line(data: Path, tmp_path: Path, fresh_ftx: Zygote) -> None:
    words = ("train", "--data", data, "--model", "test_vit", "--weights", "none", "--image-size", "32")
    said = fresh_ftx(*words, "--epochs", "100000", "--budget", "20s", "--out", tmp_path / "run")
    assert said.returncode == 0, said.stderr
    recipe = Recipe.load(tmp_path / "run" / "recipe.yaml")
    assert 0 < recipe.train.epochs < 100_000
    assert (recipe.adapter.blocks, recipe.train.patch_dropout) == ("all", 0.5)
    for bad in (("--budget", "soon"), ("--budget", "1s", "--resume", tmp_path / "run"), ("--preset", "fastt")):
        said = fresh_ftx(*words, *bad)
        assert said.returncode == 2, bad
        assert bad[0] in said.stderr


class First(Ranks):
    """The first of several processes, which says what all do."""

    def of_first(self, value: Any) -> Any:
        return value


@pytest.mark.parametrize(("local_world", "epochs"), [(2, 5), (4, 7)])
def test_several_processes_share_what_one_has_rehearsed(
    local_world: int, epochs: int, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four, on machines of two or four: 40 s before are shared by those of one, epochs of 20 s by all."""
    batches: list[int] = []

    def known(found: ResolvedTraining) -> Times:
        batches.append(found.recipe.train.batch_size)
        return Times(before_s=40.0, epoch_s=20.0)

    monkeypatch.setattr("ftx.training.estimate.rehearse", known)
    found = open_training(asked(data, blocks=2, batch_size=10), False, Listener())
    ranks = First(0, 4, 0, local_world)
    recipe = within(found, 48, time.perf_counter(), Listener(), ranks).recipe
    # 0.95 of 48 s, less 20 or 10 s, in epochs of 5 s.
    assert recipe.train.epochs == epochs
    assert (batches, recipe.train.batch_size) == ([3], 10)
