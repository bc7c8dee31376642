"""A training and its dry run from the library: what they answer, and what does not stop them."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.conftest import Listener
from tests.training.plans import planned

from ftx.adapters.trainable_model import TrainableModel, prepare
from ftx.backbones.kept_tokens import tokens_behind
from ftx.backbones.layer_roles import depth, plain_vit
from ftx.core.errors import EnvironmentFault, MergeError, RecipeError
from ftx.data import image_store
from ftx.data.decode import decode
from ftx.recipe.schema import Recipe
from ftx.runs.run import Run
from ftx.runs.trained import head_state, read_plain, save_trained
from ftx.training import device_placement, dry_run, estimate, opening, train
from ftx.training.estimate import within
from ftx.training.opening import open_training

TINY = {"name": "test_vit", "weights": "none", "image_size": 32, "precision": "f32", "epochs": 1, "batch_size": 64}
LINEAR = TINY | {"peft": "none", "freeze_backbone": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images of two classes to train on, and four to choose by."""
    root = tmp_path_factory.mktemp("data")
    for side, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(("dark", "light")):
            (root / side / name).mkdir(parents=True)
            for number in range(count):
                generator = np.random.default_rng([len(side), label, number])
                pixels = generator.integers(0, 120, (40, 40, 3), dtype=np.uint8) + np.uint8(120 * label)
                Image.fromarray(pixels).save(root / side / name / f"{number}.png")
    return root


def test_an_image_is_decoded_once_for_all_trainings(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    decoded = list[int]()
    monkeypatch.setattr(image_store, "decode", lambda content: decoded.append(1) or decode(content))
    counts = []
    for augment in ("light", "none"):
        for method in (TINY | {"peft": "none"}, LINEAR):
            train(Recipe.named(method | {"path": data, "augment": augment}), out=tmp_path / f"{len(counts)}")
            counts.append(len(decoded))
    assert counts == [12] * 4
    train(Recipe.named(LINEAR | {"path": data, "image_size": 48}), out=tmp_path / "larger")
    assert len(decoded) == 24


def test_images_that_auto_augments_are_decoded_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In full fine-tuning, and in an adapter in all blocks, nothing is frozen."""
    monkeypatch.chdir(tmp_path)
    for name, keys in (("full", {"peft": "none"}), ("lora", {"peft": "lora", "blocks": "all", "rank": 1})):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache-{name}"))
        decoded = list[int]()
        with monkeypatch.context() as patch:
            patch.setattr(image_store, "decode", lambda content, found=decoded: found.append(1) or decode(content))
            train(Recipe.named(TINY | keys | {"path": data}), out=tmp_path / name)
        assert len(decoded) == 12
        assert Recipe.load(tmp_path / name / "recipe.yaml").train.augment == "light"


def test_the_number_of_labels_that_a_recipe_is_for_binds_only_where_that_is_asked(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.named(LINEAR | {"path": data, "classes": 5})
    note = "data.classes is 5 in the recipe, but the data has 2 labels: training uses 2"
    listener = Listener()
    report = train(recipe, out=tmp_path / "run", progress=listener)
    assert report.classes == 2
    assert note in listener.said
    assert Recipe.load(tmp_path / "run" / "recipe.yaml").data.classes == 2
    listener = Listener()
    assert len(dry_run(recipe, progress=listener).counts) == 2
    assert note in listener.said
    for strictly in (train, dry_run):
        with pytest.raises(RecipeError, match="classes must be 2") as caught:
            strictly(recipe, strict=True)
        assert "--set data.classes=2" in str(caught.value)


@pytest.mark.parametrize("fault", ["a file", "not to be written"])
def test_a_training_ends_well_where_nothing_can_name_it_the_latest(
    fault: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if fault == "a file":
        (tmp_path / "runs").write_text("mine")
    else:

        def refuse(_path: Path, *_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")  # as a folder of another user's; root may write anywhere

        monkeypatch.setattr(Path, "symlink_to", refuse)
        monkeypatch.setattr("ftx.runs.runs_folder.write_atomic", refuse)
    listener = Listener()
    report = train(Recipe.named(LINEAR | {"path": data}), out=tmp_path / "run", progress=listener)
    assert report.run == str(tmp_path / "run")
    assert Run.open(tmp_path / "run").manifest.method == "linear"
    (said,) = [text for text in listener.said if "runs/latest cannot name this run" in text]
    assert ("cannot be written" in said) == (fault == "not to be written")


def test_a_training_begins_where_the_disk_holds_its_checkpoints(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head's 64·2 + 2 parameters: in three checkpoints four f32 of each, and one more in trained/."""
    monkeypatch.chdir(tmp_path)
    needed, recipe = (64 * 2 + 2) * (3 * 4 + 1) * 4, Recipe.named(LINEAR | {"path": data})
    for free, refused in ((needed - 1, True), (needed, False)):
        status = os.statvfs_result((1, 1, free, free, free, 0, 0, 0, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda _path, status=status: status)
        if refused:
            with pytest.raises(EnvironmentFault, match="disk is too full"):
                train(recipe, out=tmp_path / "run")
            assert not (tmp_path / "run").exists()
        else:
            train(recipe, out=tmp_path / "run")


def test_a_dry_run_rehearses_what_just_fits_and_not_what_does_not(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.named(
        TINY | {"path": data, "peft": "dora", "blocks": "all", "rank": 2, "targets": "q"} | {"epochs": 3}
    )
    needed_mb = dry_run(recipe).memory_mb
    for free_mb, tried in ((needed_mb, True), (needed_mb - 1, False)):
        monkeypatch.setattr(estimate, "available_bytes", lambda free_mb=free_mb: free_mb * 1_000_000)
        report = dry_run(recipe)
        assert (report.memory_mb, report.free_mb) == (needed_mb, free_mb)
        for seconds in (report.seconds_before, report.seconds_per_epoch, report.seconds):
            assert (seconds is not None) == tried
        if report.seconds_before is not None and report.seconds_per_epoch is not None:
            # All are rounded to a tenth: 0.05 of the sum, 0.05 of what comes before, three times 0.05 of the epochs.
            assert report.seconds == pytest.approx(
                report.seconds_before + 3 * report.seconds_per_epoch, abs=0.25 + 1e-9
            )
    # q of 6 blocks: A 2·64, B 64·2 and 64 magnitudes; the head 64·2 + 2.
    assert report.trainable_parameters == 6 * (2 * 64 + 64 * 2 + 64) + 130
    assert report.epochs == 3
    assert report.image_size == 32
    assert report.counts == {"dark": {"train": 4, "val": 2}, "light": {"train": 4, "val": 2}}


def test_attention_is_chosen_by_the_patches_that_a_step_sees(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.named(TINY | {"path": data, "peft": "none", "epochs": 1})
    vit = plain_vit(prepare(recipe, 2).backbone.module)
    assert vit is not None
    tokens, heads = tokens_behind(vit, 0), vit.blocks[0].get_submodule("attn").num_heads
    of_all = 2 * 4 * 8 * heads * depth(vit) * tokens**2
    monkeypatch.setattr(opening, "available_bytes", lambda: 4 * (of_all - 1))
    for dropped, fused in ((0.0, 1), (0.5, 0)):
        listener, asked = Listener(), recipe.replace(train={"patch_dropout": dropped})
        report = dry_run(asked, progress=listener)
        assert (report.augment, report.patch_dropout) == ("light", dropped)
        assert sum("fused kernel" in said for said in listener.said) == fused
        train(asked, tmp_path / str(dropped), progress=listener)
        assert sum("fused kernel" in said for said in listener.said) == 2 * fused
    # A budget is estimated by steps that compute as those of the training.
    found = open_training(recipe.replace(train={"patch_dropout": 0.5}), False, Listener())
    within(found, 1e6, time.perf_counter(), Listener())
    assert not any(one.fused_attn for one in found.prepared.backbone.module.modules() if hasattr(one, "fused_attn"))


def test_a_dry_run_says_how_images_are_seen(data: Path) -> None:
    recipe = Recipe.named(TINY | {"path": data, "peft": "lora", "blocks": 2, "augment": "light", "patch_dropout": 0})
    for augment, dropped, said in (("auto", "auto", ("none", 0.6)), ("light", 0.25, ("light", 0.25))):
        report = dry_run(recipe.replace(train={"augment": augment, "patch_dropout": dropped}))
        assert (report.augment, report.patch_dropout) == said


def test_curves_without_their_package_are_refused_before_anything_is_timed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as where it is not installed
    with pytest.raises(EnvironmentFault, match="needs the tensorboard package") as caught:
        dry_run(Recipe.named(LINEAR | {"path": data, "tensorboard": True}))
    assert caught.value.exit_code == 3
    assert "[tensorboard]" in str(caught.value)


@pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() != "x86_64", reason="Linux names a processor's flags here"
)
def test_auto_is_bf16_where_the_processor_has_such_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one that each x86-64 has in the place of those of bf16, and one that none has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for flag, expected in (("sse2", True), ("abacus", False)):
        monkeypatch.setattr(device_placement, "_BF16_FLAGS", {flag})
        assert device_placement.computes_bf16() == expected
        recipe = Recipe.named({"name": "test_vit", "weights": "none", "image_size": 32})
        for named in ("auto", "f32", "bf16"):
            plan = planned(prepare(recipe, 2), recipe.replace(train={"precision": named}), computes_bf16=expected)
            assert plan.recipe.train.precision == ({True: "bf16", False: "f32"}[expected] if named == "auto" else named)


def test_auto_is_bf16_on_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has: has)
        assert device_placement.computes_bf16() == has


def plain(method: str) -> TrainableModel:
    return prepare(Recipe.named(LINEAR | {"freeze_backbone": method == "linear"}), 2)


@pytest.mark.parametrize(("method", "file"), [("linear", "head.safetensors"), ("full", "model.safetensors")])
def test_what_was_saved_without_an_adapter_is_read_back(method: str, file: str, tmp_path: Path) -> None:
    prepared = plain(method)
    module = prepared.backbone.module
    save_trained(prepared, tmp_path / "trained")
    assert [path.name for path in (tmp_path / "trained").iterdir()] == [file]
    found = read_plain(tmp_path / "trained", prepared.method, module)
    expected = module.state_dict() if method == "full" else head_state(module)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("fault", ["gone", "cut short", "spare", "another shape", "not finite"])
def test_a_head_that_cannot_be_that_of_the_model_is_refused(fault: str, tmp_path: Path) -> None:
    prepared = plain("linear")
    folder = tmp_path / "trained"
    save_trained(prepared, folder)
    path = folder / "head.safetensors"
    tensors = load_file(path)
    if fault == "gone":
        path.unlink()
    elif fault == "cut short":
        path.write_bytes(path.read_bytes()[:-8])
    else:
        broken = {
            "spare": {"other.weight": torch.zeros(2)},
            "another shape": {"head.bias": torch.zeros(3)},
            "not finite": {"head.bias": torch.tensor([0.0, torch.inf])},
        }
        save_file(tensors | broken[fault], path)
    with pytest.raises(MergeError) as caught:
        read_plain(folder, prepared.method, prepared.backbone.module)
    assert str(path) in str(caught.value)
    told = {"gone": "cannot be read", "cut short": "cannot be read", "not finite": "must be finite"}
    assert told.get(fault, "must fit the model") in str(caught.value)
