"""``recipe.yaml`` says what was done: trained from it again, a run is the same bytes."""

from __future__ import annotations

import json
import re
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import Listener

from ftx.adapters.trainable_model import prepare
from ftx.backbones.build import tagged
from ftx.backbones.split_network import frozen_blocks
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import AdapterRecipe
from ftx.recipe.strict_yaml import parse_yaml
from ftx.runs.run import Run
from ftx.training import recipe_from, train

METHODS: dict[str, dict[str, object]] = {
    "lora": {
        "peft": "lora",
        "blocks": 2,
        "augment": "light",
        "rank": 2,
        "lora_plus": 4.0,
    },  # four blocks in front are frozen
    "dora": {"peft": "dora", "blocks": "all", "targets": "q,fc1", "rank": {"q": 2, "fc1": 3}, "dropout": 0.2},
    "named": {"peft": "lora", "layers": r"blocks\.[45]\.mlp\.fc\d"},
    "linear": {"peft": "none", "freeze_backbone": True},
    "full": {"peft": "none"},
}
LABELS = {
    "multiclass": ("one", "two"),
    "multilabel": ("one;two", "two", "", "one"),
    "hierarchical": ("one/of one", "two", "one/of two", "two"),
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sixteen images of noise, and a table of each task that names them."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number in range(16):
        pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
    for task, labels in LABELS.items():
        lines = [f"{number}.png,{labels[number % len(labels)]}\n" for number in range(16)]
        (root / f"{task}.csv").write_text("path,labels\n" + "".join(lines))
    return {task: root / f"{task}.csv" for task in LABELS}


def asked(tables: dict[str, Path], method: str, task: str, **more: object) -> Recipe:
    tiny = {"name": "test_vit", "weights": "none", "image_size": 32, "epochs": 2, "batch_size": 64}
    recipe = Recipe.named({"path": str(tables[task]), "task": task, **tiny, **METHODS[method], **more})
    # As a file may say, in which nothing but the method was changed.
    return recipe.model_copy(update={"adapter": AdapterRecipe(rank=4)}) if method == "full" else recipe


def made(recipe: Recipe, out: Path) -> dict[str, bytes]:
    """Every file that training wrote but for its log, which holds times, and what hashes that."""
    torch.set_num_threads(1)
    with chdir(out.parent):
        train(recipe, out=out)
    paths = [path for path in out.rglob("*") if path.is_file() and path.parent.name != "reports"]
    files = {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}
    manifest = json.loads(files.pop("run.json"))
    del manifest["files"]["reports/train.jsonl"]
    return files | {"run.json": json.dumps(manifest).encode()}


def weights_of(files: dict[str, bytes]) -> bytes:
    (found,) = (content for name, content in files.items() if name.endswith(".safetensors"))
    return found


@pytest.mark.parametrize("task", LABELS)
@pytest.mark.parametrize("method", METHODS)
def test_training_from_the_resolved_recipe_gives_the_same_bytes(
    method: str, task: str, tables: dict[str, Path], tmp_path: Path
) -> None:
    first = made(asked(tables, method, task), tmp_path / "first")
    resolved = Recipe.load(tmp_path / "first" / "recipe.yaml")
    again = made(resolved, tmp_path / "again")
    assert first.keys() >= {"data.jsonl", "recipe.yaml", "run.json", "trained/README.md"}
    assert first == again

    frozen = {"lora": 4, "dora": 0, "named": 4, "linear": 6, "full": 0}[method]
    assert frozen_blocks(prepare(asked(tables, method, task), 2).backbone.module) == frozen
    document = parse_yaml(first["recipe.yaml"].decode())
    assert isinstance(document, dict)
    assert document["train"]["augment"] == ("none" if method in ("linear", "named") else "light")
    assert document["train"]["cache_views"] == {"lora": 2, "dora": 0, "named": 1, "linear": 1, "full": 0}[method]
    probes = method == "linear" or (task == "multiclass" and method == "dora")  # which is in all blocks
    assert document["train"]["head_init"] == ("probe" if probes else "random")
    assert f"augment: {document['train']['augment']}" in first["trained/README.md"].decode()
    assert document["train"]["batch_size"] == len(Run(tmp_path / "first").entries("train")) < 16
    assert document["train"]["lr"] == {"linear": 5e-3, "full": 2e-5}.get(method, 1e-3)
    assert document["train"]["precision"] in ("f32", "bf16")
    assert document["data"]["image_size"] == 32
    assert document["data"]["classes"] == {"multiclass": 2, "multilabel": 2, "hierarchical": 4}[task]
    assert ("adapter" in document) == (method in ("lora", "dora", "named"))


@pytest.mark.parametrize("method", METHODS)
def test_another_seed_gives_other_bytes(method: str, tables: dict[str, Path], tmp_path: Path) -> None:
    first, other = (made(asked(tables, method, "multiclass", seed=seed), tmp_path / str(seed)) for seed in (0, 1))
    assert weights_of(first) != weights_of(other)


def test_what_is_asked_of_steps_and_not_used_is_said(tables: dict[str, Path], tmp_path: Path) -> None:
    for settings, notes in (
        ({}, []),
        ({"augment": "none"}, []),
        ({"augment": "light"}, ["train.augment"]),
        ({"augment": "none", "epochs": 1, "patience": 2}, ["train.epochs, train.patience"]),
        ({"epochs": 1, "lr": 1e-3}, ["train.epochs, train.lr"]),
        ({"epochs": 1, "head_init": "random"}, []),
        ({"epochs": 1, "head_init": "random", "patch_dropout": "auto"}, []),
        ({"epochs": 1, "head_init": "random", "patch_dropout": 0.5}, ["train.patch_dropout"]),
    ):
        listener = Listener()
        recipe = Recipe.named(
            {"path": str(tables["multiclass"]), "name": "test_vit", "weights": "none", "image_size": 32}
            | METHODS["linear"]
            | settings
        )
        with chdir(tmp_path):
            train(recipe, out=tmp_path / f"run-{len(list(tmp_path.iterdir()))}", progress=listener)
        told = [re.split(r":| is not used", text)[0] for text in listener.said if "not used" in text]
        assert told == notes


def test_what_a_run_said_of_steps_is_not_told_again(tables: dict[str, Path], tmp_path: Path) -> None:
    with chdir(tmp_path):
        train(asked(tables, "linear", "multiclass"), out=tmp_path / "first")
        for overrides, notes in ((), []), (["train.epochs=7"], ["train.epochs"]):
            listener = Listener()
            recipe = recipe_from(tmp_path / "first", overrides)
            train(recipe, out=tmp_path / f"next-{len(notes)}", progress=listener)
            assert [text.split(":")[0] for text in listener.said if "not used" in text] == notes


def test_targets_that_a_mixer_has_not_are_not_in_its_recipe(tables: dict[str, Path], tmp_path: Path) -> None:
    recipe = asked(tables, "lora", "multiclass", name="mixer_s32_224", image_size=224, epochs=1, blocks=1)
    assert recipe.adapter.targets == ("q", "k", "v", "proj", "fc1", "fc2")
    with chdir(tmp_path):
        train(recipe, out=tmp_path / "run")
    resolved = Recipe.load(tmp_path / "run" / "recipe.yaml")
    assert resolved.adapter.targets == ("fc1", "fc2")


def test_weights_of_timm_are_named_with_their_tag() -> None:
    assert tagged("vit_tiny_patch16_224") == "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert tagged("vit_tiny_patch16_224.augreg_in21k") == "vit_tiny_patch16_224.augreg_in21k"
    assert tagged("dinov2-small") == "dinov2-small"
    assert tagged("vit_tiny_patch32_224") == "vit_tiny_patch32_224"  # timm publishes none


def test_a_recipe_without_an_adapter_says_nothing_of_one() -> None:
    recipe = Recipe.loads("model: {peft: none}\nadapter: {rank: 4}\ntrain: {lora_plus: 16}")
    assert "adapter" in recipe.dumps()  # what a file says is kept
    silent = recipe.without_adapter()
    assert "adapter" not in silent.dumps()
    assert silent.train.lora_plus == 1
    assert Recipe.loads(silent.dumps()) == silent
    assert "adapter" in Recipe().dumps()
