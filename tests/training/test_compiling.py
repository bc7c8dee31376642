"""Blocks are compiled where the training is long enough to win back what that takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import Listener
from tests.training.plans import planned
from tests.training.test_resume import begun, written
from torch import Tensor

from ftx.adapters.trainable_model import TrainableModel, prepare
from ftx.backbones.dropped_patches import ALL_PATCHES, DroppedPatches
from ftx.core.errors import ModelError
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import Compile
from ftx.training import resume, train
from ftx.training.compiling import Gain, StepShape, _Block, compiling_pays, may_compile, try_to_compile
from ftx.training.opening import open_training

TINY = {"name": "test_vit", "weights": "none", "image_size": 32, "peft": "dora", "blocks": "all", "batch_size": 5}
LONG = 10**8


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.set_num_threads(1)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
    lines = [f"{number}.png,{('one', 'two')[number % 2]}\n" for number in range(20)]
    (root / "multiclass.csv").write_text("path,labels\n" + "".join(lines))
    return root


def asked(**more: object) -> Recipe:
    return Recipe.named({"path": "multiclass.csv", **TINY, "epochs": 3, "precision": "f32", **more})


def prepared(**more: object) -> tuple[TrainableModel, Recipe]:
    recipe = Recipe.named({**TINY, **more})
    return prepare(recipe, 2), recipe


def steps(
    recipe: Recipe, dropped: DroppedPatches = ALL_PATCHES, *, plain: bool = True, bf16: bool = False
) -> StepShape:
    return StepShape(recipe.train.at_once(recipe.train.batch_size), dropped, plain, bf16)


def choice(prepared: TrainableModel, recipe: Recipe, images: int, listener: Listener, *, bf16: bool = False) -> Compile:
    return compiling_pays(prepared.backbone.module, images, steps(recipe, bf16=bf16), listener)


def kept(cache: Path) -> list[Path]:
    return list((cache / "ftx" / "compiled").glob("*/*.json"))


def test_a_short_training_does_not_ask(tmp_path: Path) -> None:
    module, recipe = prepared()
    listener = Listener()
    assert choice(module, recipe, 10_000, listener) == "none"
    assert listener.said == []
    assert not (tmp_path / "cache" / "ftx" / "compiled").exists()


@pytest.mark.slow
def test_what_is_found_decides_and_is_kept(tmp_path: Path) -> None:
    module, recipe = prepared()
    listener = Listener()
    found = choice(module, recipe, LONG, listener)
    (file,) = kept(tmp_path / "cache")
    gain = Gain(**json.loads(file.read_text()))
    # Of so many steps nothing but the share decides.
    assert found == ("blocks" if gain.compiled_s < gain.plain_s else "none")
    assert gain.takes_s > gain.plain_s > 0
    assert len(listener.said) == 1
    assert listener.said[0].startswith("blocks are compiled" if found == "blocks" else "blocks are not compiled")
    for gain, expected in ((Gain(1, 0.9, 5), "blocks"), (Gain(1, 1.01, 5), "none"), (Gain(1, 0.9, 1e9), "none")):
        file.write_text(json.dumps(vars(gain)))
        assert choice(module, recipe, LONG, Listener()) == expected
    file.write_text("{")
    found = choice(module, recipe, LONG, Listener())
    gain = Gain(**json.loads(file.read_text()))
    assert found == ("blocks" if gain.compiled_s < gain.plain_s else "none")


def test_where_nothing_can_be_compiled_that_is_said() -> None:
    for given in ({"name": "resnet18", "image_size": 64}, {"freeze_backbone": True}, {"peft": "dora", "blocks": 1}):
        settings: dict[str, object] = {"peft": "none", "blocks": None, **given}
        module, recipe = prepared(compile="blocks", **settings)
        with pytest.raises(ModelError, match="compile=blocks finds no blocks") as caught:
            planned(module, recipe)
        assert caught.value.found
        module, recipe = prepared(**settings)
        assert may_compile(module.backbone.module, "auto", "cpu") == "none"


def test_only_a_cpu_is_timed_and_only_if_the_recipe_leaves_it_open() -> None:
    module = prepared()[0].backbone.module
    assert may_compile(module, "auto", "cpu") == "auto"
    assert may_compile(module, "auto", "cuda") == "none"
    assert may_compile(module, "none", "cpu") == "none"
    assert may_compile(module, "blocks", "cuda") == "blocks"


@pytest.mark.slow
def test_without_a_compiler_it_is_plain_or_refused(here: Path, tmp_path: Path) -> None:
    """In a process of its own: torch looks for the compiler once."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(asked(compile="blocks").dumps())
    environment = os.environ | {"CXX": "no-such-compiler"}
    out = tmp_path / "run"
    words = [sys.executable, "-m", "ftx", "train", "--config", str(recipe), "--out", str(out)]
    refused = subprocess.run(words, env=environment, cwd=here, capture_output=True, text=True, check=False)
    assert refused.returncode == 3, refused.stderr
    assert "torch cannot compile them on this machine" in refused.stderr
    assert "train.compile=none" in refused.stderr
    assert not out.exists()
    program = (
        "from tests.training.test_compiling import *\n"
        "module, recipe = prepared()\nlistener = Listener()\n"
        "print(choice(module, recipe, LONG, listener), *listener.said)"
    )
    plain = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert plain.startswith("none blocks are not compiled: ")
    assert "no-such-compiler" in plain


@pytest.mark.slow
def test_a_compiled_training_is_the_plain_one_and_goes_on_to_the_same_bytes(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = asked(compile="blocks", checkpoint_minutes=0)
    with chdir(here):
        plain = train(asked(compile="none"), tmp_path / "plain")
        whole = train(recipe, tmp_path / "whole")
    assert whole.loss == pytest.approx(plain.loss, rel=1e-4)
    expected = written(tmp_path / "whole")
    assert written(tmp_path / "plain")["adapter_model.safetensors"] != expected["adapter_model.safetensors"]
    run = begun(here, monkeypatch, recipe, tmp_path / "cut", 5)
    with chdir(here):
        resume(run)
    assert written(run) == expected


def test_a_block_is_measured_on_the_tokens_that_steps_have() -> None:
    module, recipe = prepared()
    sizes = {
        share: _Block(module.backbone.module, steps(recipe, DroppedPatches(share))).tokens_NTD.shape[1]
        for share in (0.0, 0.5)
    }
    assert sizes[0.5] == 1 + (sizes[0.0] - 1) // 2


@pytest.mark.parametrize("plain", [True, False])
def test_a_block_is_measured_with_the_attention_of_the_training(plain: bool) -> None:
    module, recipe = prepared()
    block = _Block(module.backbone.module, steps(recipe, plain=plain)).block
    assert {layer.fused_attn for layer in block.modules() if hasattr(layer, "fused_attn")} == {not plain}


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of tokens that compiled blocks compute; torch's compiler leaves each as it is."""
    found: list[tuple[int, ...]] = []

    def compile(forward: Callable[[Tensor], Tensor], **_: object) -> Callable[[Tensor], Tensor]:
        def fast(tokens_NTD: Tensor) -> Tensor:
            found.append(tuple(tokens_NTD.shape))
            return forward(tokens_NTD)

        return fast

    monkeypatch.setattr(torch, "compile", compile)
    return found


@pytest.mark.representative  # torch's compiler is imported, which takes 2 s
def test_of_a_batch_in_parts_the_parts_are_computed_by_compiled_blocks(
    here: Path, tmp_path: Path, passes: list[tuple[int, ...]]
) -> None:
    """16 images in batches of 6, in two parts: 3 + 3, 3 + 3 and, of the last, 2 + 2, which are not compiled."""
    recipe = asked(compile="blocks", batch_size=6, accumulation_steps=2, epochs=2, peft="lora")
    with chdir(here):
        train(recipe, tmp_path / "run")
    trained = passes[1:]  # the first is the block that is tried
    assert {shape[0] for shape in trained} == {3}
    # Of six blocks the last is computed for the class token alone: five, for four parts in each of two epochs.
    assert len(trained) == 5 * 4 * 2
    assert passes[0] == trained[0]


@pytest.mark.representative
def test_the_block_that_is_tried_has_the_images_and_tokens_of_a_step(passes: list[tuple[int, ...]]) -> None:
    for settings, images, tokens in (
        ({"batch_size": 5}, 5, 5),
        ({"batch_size": 7, "accumulation_steps": 3}, 3, 5),
        ({"batch_size": 40}, 16, 5),
        ({"batch_size": 5, "patch_dropout": 0.5}, 5, 3),
    ):
        module, recipe = prepared(**{"compile": "blocks", "patch_dropout": 0, **settings})
        try_to_compile(module.backbone.module, planned(module, recipe).steps, Listener())
        assert passes.pop() == (images, tokens, 64)


@pytest.mark.representative
@pytest.mark.parametrize("asks", [False, True])
def test_a_training_of_so_many_epochs_asks_whether_compiling_pays(
    asks: bool, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch of 16 images takes milliseconds, a hundred million of them weeks: both by far from 45 s."""

    def cannot(forward: object, **_: object) -> Callable[[Tensor], Tensor]:
        raise_ = RuntimeError("no compiler here")

        def fails(_tokens_NTD: Tensor) -> Tensor:
            raise raise_

        return fails

    monkeypatch.setattr(torch, "compile", cannot)
    listener = Listener()
    with chdir(here):
        found = open_training(asked(epochs=10**8 if asks else 1, peft="lora"), False, listener).recipe
    assert found.train.compile == "none"
    assert ("blocks are not compiled: no compiler here" in listener.said) == asks


@pytest.mark.representative
def test_what_compiling_gains_is_found_for_each_step_and_machine(
    passes: list[tuple[int, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found for one is read again, and not for a step that takes another time."""
    monkeypatch.setattr("ftx.training.compiling._ROUNDS", 1)

    def find(*, bf16: bool = False, patch_dropout: float = 0.0, **settings: object) -> int:
        """How many were found by now."""
        module, recipe = prepared(**settings)
        passes.clear()
        shape = steps(recipe, DroppedPatches(patch_dropout), bf16=bf16)
        compiling_pays(module.backbone.module, LONG, shape, Listener())
        return len(kept(tmp_path / "cache"))

    assert find() == 1
    assert passes
    assert find() == 1
    assert not passes  # read, and not compiled again
    changes: list[dict[str, Any]] = [
        {"batch_size": 4},
        {"accumulation_steps": 2},
        {"patch_dropout": 0.5},
        {"bf16": True},
        {"rank": 3},
        {"dropout": 0.1},
        {"peft": "lora"},
        {"image_size": 48},
    ]
    for count, change in enumerate(changes, start=2):
        assert find(**change) == count
    monkeypatch.setattr("ftx.training.compiling.__version__", "0.0.1")
    assert find() == len(changes) + 2
    torch.set_num_threads(2)
    try:
        assert find() == len(changes) + 3
    finally:
        torch.set_num_threads(1)
