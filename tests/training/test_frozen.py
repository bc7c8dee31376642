"""What is frozen stays as it was: no dropout, no statistics of batches. What is drawn is the seed's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from tests.training.plans import planned
from torch import nn

from ftx.adapters.trainable_model import prepare
from ftx.backbones.build import Backbone
from ftx.core.byte_store import ByteStore
from ftx.core.progress import SILENT
from ftx.data.loader import TrainingImages
from ftx.data.open_dataset import survey
from ftx.data.pixel_store import PixelStore
from ftx.data.preprocess import Preprocess, load_pixels, normalise
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import TrainRecipe
from ftx.tasks.base import Task
from ftx.tasks.labels import Labels
from ftx.tasks.multiclass import Multiclass
from ftx.training.assembly import build_training
from ftx.training.class_balance import Balance
from ftx.training.frozen_part import FrozenPart, FrozenTrunk
from ftx.training.inputs import FeatureInputs, ImageInputs
from ftx.training.loop import fit
from ftx.training.opening import ResolvedTraining
from ftx.training.step import Training, forward_backward, train_mode

TASK: Task = Multiclass(Labels.multiclass(("one", "two")))
PRE = Preprocess(32, 32, 32, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ONE_HOT = np.eye(2, dtype=np.float32)[np.arange(6) % 2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("data")
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        folder = root / TASK.labels.names[number % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return sorted(root.rglob("*.png"))


def probed(name: str, **arguments: object) -> nn.Module:
    """A model of which the head alone trains."""
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=2, **arguments).requires_grad_(False)
    module.get_classifier().requires_grad_(True)
    return module


def statistics(module: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for name, buffer in module.named_buffers() if "running" in name]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("test_resnet", {}),  # statistics of batches
        ("test_vit", {"img_size": 32, "drop_path_rate": 0.5, "proj_drop_rate": 0.5, "drop_rate": 0.5}),
    ],
)
def test_features_are_those_of_the_model_as_it_answers(
    name: str, arguments: dict[str, object], paths: list[Path]
) -> None:
    module = probed(name, **arguments)
    images = torch.from_numpy(normalise(np.stack([load_pixels(path, PRE) for path in paths]), PRE))
    expected = module.eval()(images)
    before = statistics(module)
    with ByteStore(None, 1e9) as store:
        frozen = FrozenPart(FrozenTrunk(Backbone(module.train(), name, "", PRE), kept_blocks=0, bf16=False), store)
        inputs = FeatureInputs(frozen, TrainingImages(paths, ONE_HOT, PRE, augment="none"), views=1)
        ((features, *_),) = inputs.batches(np.arange(6), 6, epoch=1)
    # f32: the same numbers in batches of another size
    torch.testing.assert_close(inputs.network(features), expected, rtol=0, atol=1e-5)
    assert all(torch.equal(*pair) for pair in zip(before, statistics(module), strict=True))


def step(module: nn.Module, paths: list[Path]) -> torch.Tensor:
    """A training step's pass on all images, and what the model answered in it."""
    inputs = ImageInputs(module, TrainingImages(paths, ONE_HOT, PRE, augment="none"), CPU)
    (batch,) = inputs.batches(np.arange(6), 6, epoch=1)
    training = Training(module, TASK, inputs, inputs, TrainRecipe(), Balance(6), lr=0.0, bf16=False, seed=0)
    train_mode(module)
    forward_backward(module, training, batch)
    with torch.no_grad():
        return module(batch.input)


def test_frozen_batch_norms_take_no_statistics_of_a_batch(paths: list[Path]) -> None:
    module = probed("test_resnet")
    before = statistics(module)
    answered = step(module, paths)
    assert all(torch.equal(*pair) for pair in zip(before, statistics(module), strict=True))
    images = torch.from_numpy(normalise(np.stack([load_pixels(path, PRE) for path in paths]), PRE))
    torch.testing.assert_close(answered, module.eval()(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "kept_blocks", "augment", "views"),
    [
        # their first block's input is the embedding, which depends on the view of the image
        ({"blocks": "all"}, None, "light", 0),
        ({"blocks": (1, 2)}, 1, "light", 4),
        ({"blocks": 2}, 4, "light", 4),
        ({"blocks": 2, "epochs": 3}, 4, "light", 3),
        ({"blocks": 2, "augment": "none"}, 4, "none", 1),
        ({"blocks": 2, "cache_views": 0}, None, "light", 0),
        ({"blocks": 2, "augment": "auto"}, 4, "none", 1),
        ({"blocks": 2, "augment": "auto", "cache_views": 0}, None, "light", 0),
        ({"blocks": "all", "augment": "auto"}, None, "light", 0),
        ({"peft": "none", "augment": "auto"}, None, "light", 0),
        ({"name": "test_efficientnet", "image_size": 64, "peft": "none", "augment": "auto"}, None, "light", 0),
        ({"blocks": 2, "cache_views": 2}, 4, "light", 2),
        ({"peft": "none"}, None, "light", 0),
        ({"peft": "none", "freeze_backbone": True}, 0, "none", 1),
        ({"peft": "none", "freeze_backbone": True, "head_init": "random"}, 0, "light", 4),
    ],
    ids=str,
)
def test_what_is_computed_once(settings: dict[str, object], kept_blocks: int | None, augment: str, views: int) -> None:
    tiny = {"name": "test_vit", "weights": "none", "image_size": 32, "peft": "lora", "augment": "light"}
    recipe = Recipe.named(tiny | settings)
    found = planned(prepare(recipe, 2), recipe)
    assert (found.kept_blocks, found.augment, found.views) == (kept_blocks, augment, views)


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({"blocks": 2}, 0.6),
        ({"blocks": 2, "patch_dropout": 0}, 0.0),
        ({"blocks": 2, "patch_dropout": "auto", "augment": "light"}, 0.6),
        ({"blocks": 2, "patch_dropout": "auto", "cache_views": 0}, 0.0),
        ({"blocks": 2, "patch_dropout": 0.7, "cache_views": 0}, 0.7),
        ({"blocks": "all", "patch_dropout": "auto"}, 0.5),
        ({"blocks": "all", "patch_dropout": 0.3}, 0.3),
        ({"peft": "none", "patch_dropout": "auto"}, 0.0),
        ({"peft": "none", "freeze_backbone": True, "patch_dropout": "auto"}, 0.0),
        ({"peft": "none", "freeze_backbone": True, "head_init": "random", "patch_dropout": 0.5}, 0.0),
        ({"name": "test_efficientnet", "image_size": 64, "peft": "none", "patch_dropout": "auto"}, 0.0),
    ],
    ids=str,
)
def test_which_share_of_the_patches_is_left_out(settings: dict[str, object], share: float) -> None:
    tiny = {"name": "test_vit", "weights": "none", "image_size": 32, "peft": "lora"}
    recipe = Recipe.named(tiny | settings)
    assert planned(prepare(recipe, 2), recipe).dropped.fraction == share


def test_a_head_is_solved_where_it_is_all_that_trains_and_can_be() -> None:
    tiny = {"weights": "none", "image_size": 32}
    probing = {"peft": "none", "freeze_backbone": True}
    for settings, head_init, solves_all in (
        ({"name": "test_vit", **probing}, "probe", True),
        ({"name": "test_vit", "head_init": "random", **probing}, "random", False),
        ({"name": "test_vit", "balance": "loss", **probing}, "random", False),
        ({"name": "test_vit", "head_init": "probe"}, "probe", False),
        ({"name": "test_vit"}, "probe", False),
        ({"name": "test_vit", "blocks": 2}, "random", False),
    ):
        recipe = Recipe.named(tiny | settings)
        prepared = prepare(recipe, 2)
        found = planned(prepared, recipe)
        assert (found.head_init, found.solves_all) == (head_init, solves_all), settings
        prepared.backbone.module.set_submodule("head", nn.Linear(64, 2, bias=False))
        assert not planned(prepared, recipe).solves_all


def test_batch_norms_that_train_do(paths: list[Path]) -> None:
    module = probed("test_resnet").requires_grad_(True)
    before = statistics(module)
    step(module, paths)
    assert before
    assert not any(torch.equal(*pair) for pair in zip(before, statistics(module), strict=True))


def test_the_order_and_the_views_of_the_images_are_the_seeds(paths: list[Path]) -> None:
    """From one model, so that nothing else can differ."""

    def trained(seed: int) -> torch.Tensor:
        settings = {"name": "test_vit", "weights": "none", "image_size": 32, "peft": "none", "precision": "f32"}
        recipe = Recipe.named(settings | {"path": str(root), "epochs": 1, "batch_size": 2, "lr": 1e-3})
        prepared = prepare(recipe, 2)
        seeded = recipe.model_copy(update={"seed": seed})
        found = ResolvedTraining(dataset, prepared, planned(prepared, seeded))
        training = build_training(found, PixelStore(prepared.backbone.preprocess, ByteStore(None, 1e9)), None)
        fit(training, training.begin(), progress=SILENT, on_epoch=lambda _end: None)
        return torch.cat([parameter.detach().flatten() for parameter in prepared.backbone.module.parameters()])

    torch.set_num_threads(1)
    root = paths[0].parents[1]
    dataset = survey(root, val_fraction=0.3).dataset
    first, again, other = trained(0), trained(0), trained(1)
    assert torch.equal(first, again)
    # A step moves an entry by up to 1e-3, and rounding by 1e-7.
    assert float((first - other).abs().max()) > 1e-4
