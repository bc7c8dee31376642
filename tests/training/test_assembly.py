"""From a resolved recipe to inputs: whose seed, which views, how much room; 12 images to train on, 8 to choose by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import Listener
from tests.training.plans import with_recipe
from torch import Tensor

from ftx.core.progress import SILENT
from ftx.data.loader import load_pixels_many
from ftx.data.preprocess import normalise
from ftx.recipe.schema import Recipe
from ftx.training.assembly import build_training, frozen_of, pixels_of
from ftx.training.inputs import Inputs
from ftx.training.opening import ResolvedTraining, open_training
from ftx.training.step import Training, in_parts, measure

COUNTS = {"train": 12, "val": 8, "test": 4}
TINY = {
    "name": "test_vit",
    "weights": "none",
    "image_size": 32,
    "precision": "f32",
    "epochs": 4,
    "frozen_runtime": "torch",
}
WHOLE = {"peft": "none", "augment": "light"}
KEPT = {"peft": "lora", "rank": 2, "blocks": 2, "augment": "light", "cache_views": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for side, count in COUNTS.items():
        for label, name in enumerate(("dark", "light")):
            (root / side / name).mkdir(parents=True)
            for number in range(count // 2):
                rng = np.random.default_rng([len(side), label, number])
                Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(root / side / name / f"{number}.png")
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ftx"


def resolved(data: Path, **settings: object) -> ResolvedTraining:
    return open_training(Recipe.named({**TINY, "path": data, **settings}), False, SILENT)


@contextmanager
def assembled(found: ResolvedTraining) -> Iterator[Training]:
    with pixels_of(found, SILENT) as pixels, frozen_of(found, SILENT) as frozen:
        yield build_training(found, pixels, frozen)


def seen(inputs: Inputs, epoch: int) -> Tensor:
    """All images of an epoch, one after the other."""
    return torch.cat([batch.input for batch in inputs.batches(np.arange(len(inputs)), 32, epoch=epoch)])


@pytest.mark.parametrize("settings", [WHOLE, KEPT], ids=["images", "features"])
def test_views_are_of_the_seed_and_images_to_choose_by_are_as_they_are(settings: dict[str, object], data: Path) -> None:
    views: dict[int, list[Tensor]] = {}
    found = resolved(data, **settings)
    for seed in (0, 1):  # of one model, as another seed would draw other weights
        seeded = found.recipe.model_copy(update={"seed": seed})
        with assembled(with_recipe(found, seeded)) as training:
            assert (training.seed, len(training.inputs), len(training.held_out)) == (seed, 12, 8)
            views[seed] = [seen(training.inputs, epoch) for epoch in (1, 2)]
            held_out = [seen(training.held_out, epoch) for epoch in (0, 1, 2)]
            as_they_are = seen(training.inputs, 0)
        assert all(torch.equal(each, held_out[0]) for each in held_out)
    for epoch in (0, 1):
        assert all(not torch.equal(*rows) for rows in zip(views[0][epoch], views[1][epoch], strict=True))
        assert all(not torch.equal(*rows) for rows in zip(views[0][epoch], as_they_are, strict=True))
    assert all(not torch.equal(*rows) for rows in zip(*views[0], strict=True))
    if settings is WHOLE:
        pre = found.prepared.backbone.preprocess
        for split, pixels in (("train", as_they_are), ("val", held_out[0])):
            paths = [data / entry.path for entry in found.dataset.split(split)]
            np.testing.assert_array_equal(pixels.numpy(), normalise(load_pixels_many(paths, pre), pre))


@pytest.mark.parametrize(
    ("settings", "train"),
    [
        ({**KEPT, "head_init": "random"}, 3 * 12),
        ({**KEPT, "head_init": "probe"}, 4 * 12),  # the head is fitted to images as they are
        ({**KEPT, "head_init": "probe", "augment": "none"}, 12),
        ({"peft": "none", "freeze_backbone": True}, 12),
    ],
    ids=str,
)
def test_room_is_asked_for_what_is_computed(settings: dict[str, object], train: int, data: Path) -> None:
    """Of images to train on each view, and of those to choose by one."""
    found = resolved(data, **settings)
    with assembled(found) as training:
        assert (training.inputs.to_prepare(), training.held_out.to_prepare()) == (train, 8)
    tight = with_recipe(found, found.recipe.replace(train={"cache_gb": 1e-7}))
    listener = Listener()
    with frozen_of(tight, listener) as frozen:
        assert frozen is not None
        frozen.free_space(tight.views, listener)
    (said,) = listener.said
    assert f"the features of {train + 8:,} views take" in said


def test_pixels_of_other_data_go_as_far_as_all_images_of_this_one_need(data: Path, cache: Path) -> None:
    """24 images in two forms: 32 x 32 as they are, and for views 1.5² · 4/3 times what is resized to."""
    found = resolved(data, **WHOLE)
    height, width = found.prepared.backbone.preprocess.box
    needed = sum(COUNTS.values()) * 3 * (32 * 32 + 1.5**2 * 4 / 3 * height * width)
    for spare, stays in ((10, True), (-10, False)):
        other = cache / "pixels" / "other"
        other.mkdir(parents=True, exist_ok=True)
        (other / "content").write_bytes(bytes(50_000))
        limited = found.recipe.replace(train={"cache_gb": (needed + 50_000 + spare) / 1e9})
        with pixels_of(with_recipe(found, limited), SILENT):
            pass
        assert other.exists() == stays


@pytest.mark.parametrize("balance", ["none", "sampling", "loss"])
def test_balance_is_by_the_labels_of_images_to_train_on(balance: str, data: Path, tmp_path: Path) -> None:
    """3 of 12 to train on are light, and 6 of 8 to choose by."""
    lines = ["path,labels,split"]
    for side, light in (("train", 3), ("val", 6)):
        paths = sorted((data / side).rglob("*.png"))
        lines += [
            f"{path.relative_to(data)},{'light' if row < light else 'dark'},{side}" for row, path in enumerate(paths)
        ]
    table = data / f"{balance}.csv"
    table.write_text("\n".join(lines))
    with assembled(resolved(table, peft="none", balance=balance)) as training:
        shares, weights = training.balance.probability_N, training.balance.weights_2C
        light_N = training.inputs.images.targets_NC[:, 1] > 0
    assert training.balance.images == 12
    assert (shares is None, weights is None) == (balance != "sampling", balance != "loss")
    if shares is not None:
        np.testing.assert_allclose(shares, np.where(light_N, 1 / 6, 1 / 18), rtol=1e-12)
    if weights is not None:  # 12 / (2 · 9) and 12 / (2 · 3)
        np.testing.assert_allclose(weights[0], [2 / 3, 2], rtol=1e-6)


@pytest.mark.parametrize(("worth", "asks"), [(44, True), (45, False)])
def test_openvino_is_tried_where_there_are_enough_views(
    worth: int, asks: bool, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three views of 12 images, and 8 as they are."""

    def cannot(*_given: object, **_named: object) -> None:
        raise RuntimeError("aten::odd")

    monkeypatch.setattr(torch.export, "export", cannot)
    monkeypatch.setattr("ftx.training.frozen_part._WORTH_CONVERTING", worth)
    listener = Listener()
    asked = Recipe.named({**TINY, **KEPT, "path": data, "head_init": "random", "frozen_runtime": "auto"})
    assert open_training(asked, False, listener).recipe.train.frozen_runtime == "torch"
    assert any(said.startswith("torch computes the frozen trunk") for said in listener.said) == asks


@pytest.mark.parametrize(
    ("settings", "tokens"),
    # 32 px are 2 x 2 patches, with a class token: half of the patches are left out of a step, and none of evaluation.
    [({**WHOLE, "patch_dropout": 0.5}, (3, 5)), ({**WHOLE, "patch_dropout": 0.0}, (5, 5))],
    ids=["half", "all"],
)
def test_blocks_that_are_not_kept_leave_patches_out_of_a_step(
    settings: dict[str, object], tokens: tuple[int, int], data: Path
) -> None:
    seen: list[int] = []
    with assembled(resolved(data, **settings)) as training:
        module = training.module
        block = module.get_submodule("blocks.0")
        hook = block.register_forward_pre_hook(lambda _block, given: seen.append(given[0].shape[1]))
        (batch,) = training.inputs.batches(np.arange(2), 2, epoch=1)
        in_parts(training.inputs.network, training, batch)
        measure(module, training.task, training.held_out, loss="bce", bf16=False)
        hook.remove()
    assert tuple(seen) == tokens
