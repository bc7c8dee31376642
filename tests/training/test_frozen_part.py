"""What is frozen is computed once for each view, and what is kept of it is what it would compute again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import Listener
from tests.training.plans import planned

from ftx.adapters.trainable_model import TrainableModel, prepare
from ftx.backbones.build import Backbone
from ftx.backbones.dropped_patches import DroppedPatches
from ftx.core.byte_store import ByteStore
from ftx.core.errors import ModelError
from ftx.core.progress import SILENT
from ftx.data.loader import TrainingImages
from ftx.data.preprocess import Preprocess, normalise
from ftx.recipe.schema import Recipe
from ftx.training import frozen_in_openvino
from ftx.training.frozen_in_openvino import is_as_close, is_faster
from ftx.training.frozen_part import FrozenPart, FrozenTrunk, faster_runtime, frozen_part
from ftx.training.inputs import FeatureInputs
from ftx.training.ranks import Ranks

COUNT = 10
ONE_HOT = np.eye(2, dtype=np.float32)[np.arange(COUNT) % 2]
# A row of features: of 32 x 32 pixels in patches of 16 and a class token, 64 wide, in bf16.
ROW_BYTES = 5 * 64 * 2
SETTINGS = {"name": "test_vit", "weights": "none", "image_size": 32, "peft": "lora", "blocks": 2, "augment": "light"}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("data")
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(COUNT)]


def backbone(**settings: object) -> Backbone:
    return prepare(Recipe.named(SETTINGS | settings), 2).backbone


class Counting(FrozenPart):
    """Notes how many views it computed, a batch each."""

    def compute(self, pixels_BHWC: np.ndarray) -> torch.Tensor:
        self.computed = [*getattr(self, "computed", []), len(pixels_BHWC)]
        return super().compute(pixels_BHWC)


def assert_same_features(first: torch.Tensor, second: torch.Tensor) -> None:
    """Equal but for the last bits of bf16, of values up to 4.

    Features that are missing may be of one image of a batch, which some Intel CPUs multiply by another kernel in f32.
    """
    torch.testing.assert_close(first.float(), second.float(), rtol=2**-7, atol=4 * 2**-8)


@pytest.fixture
def frozen() -> Iterator[Counting]:
    made = backbone()
    with ByteStore(None, 1e9) as store:
        part = Counting(FrozenTrunk(made, 4, bf16=False), store)
        part.computed = []  # one, to know the shape
        yield part


def seen(inputs: FeatureInputs, epoch: int, order: list[int] | None = None) -> torch.Tensor:
    """The features of an epoch, in the order asked for."""
    chosen = np.array(range(COUNT) if order is None else order)
    batches = list(inputs.batches(chosen, 4, epoch=epoch))
    targets = torch.cat([batch.targets_BC for batch in batches])
    assert torch.equal(targets, torch.from_numpy(ONE_HOT[chosen]))
    return torch.cat([batch.input for batch in batches])


def expected(frozen: FrozenPart, images: TrainingImages, epoch: int) -> torch.Tensor:
    """The same from the pixels of a training that keeps nothing."""
    with closing(images.views([images.seen(range(COUNT), epoch)])) as batches:
        (pixels,) = batches
    with torch.no_grad():
        return frozen._trunk.eval()(torch.from_numpy(normalise(pixels, images.pre)))


def images_of(paths: list[Path], pre: Preprocess, **arguments: object) -> TrainingImages:
    return TrainingImages(paths, ONE_HOT, pre, **arguments)


def test_an_epoch_sees_what_it_would_see_without_a_store(frozen: Counting, paths: list[Path]) -> None:
    """To half a unit in the last of bf16's eight bits, in which features are kept."""
    images = images_of(paths, frozen._pre, seed=3)
    inputs = FeatureInputs(frozen, images, views=3)
    epochs = {epoch: expected(frozen, images, epoch) for epoch in range(5)}
    for epoch in (0, 1, 2, 3):
        torch.testing.assert_close(seen(inputs, epoch), epochs[epoch], rtol=2**-8, atol=1e-5)
    assert not torch.allclose(epochs[4], epochs[1], atol=0.1)
    assert torch.equal(seen(inputs, 4), seen(inputs, 1))  # there are three views, and it is the first one's turn
    for other in (0, 2, 3):
        assert not torch.equal(seen(inputs, other), seen(inputs, 1))


def test_a_view_is_computed_once(frozen: Counting, paths: list[Path]) -> None:
    inputs = FeatureInputs(frozen, images_of(paths, frozen._pre), views=2)
    assert inputs.to_prepare() == 2 * COUNT
    for epoch in (1, 2, 3, 4):
        seen(inputs, epoch, np.random.default_rng(epoch).permutation(COUNT).tolist())
        assert inputs.to_prepare() == max(2 - epoch, 0) * COUNT
    assert sum(frozen.computed) == 2 * COUNT
    held_out = FeatureInputs(frozen, images_of(paths, frozen._pre, augment="none"), views=2)
    assert held_out.to_prepare() == COUNT
    for epoch in (0, 1, 2):
        seen(held_out, epoch)
    assert sum(frozen.computed) == 3 * COUNT
    seen(inputs, 0)  # the image as it is: it was validated on
    assert sum(frozen.computed) == 3 * COUNT


def test_an_image_that_comes_again_in_an_epoch_is_seen_in_its_next_view(frozen: Counting, paths: list[Path]) -> None:
    inputs = FeatureInputs(frozen, images_of(paths, frozen._pre), views=2)
    first, again, third, other = seen(inputs, 1, [3, 3, 3, 5])
    assert torch.equal(first, third)
    assert not torch.equal(first, again)
    assert torch.equal(seen(inputs, 2, [3])[0], again)
    assert torch.equal(seen(inputs, 1, [5])[0], other)
    assert sum(frozen.computed) == 3


def test_patches_are_left_out_of_what_is_kept_by_image_and_epoch(frozen: Counting, paths: list[Path]) -> None:
    images = images_of(paths, frozen._pre, augment="none", seed=3)
    whole = seen(FeatureInputs(frozen, images, views=1), 1)
    inputs = FeatureInputs(frozen, images, views=1, dropped=DroppedPatches(0.5))
    assert torch.equal(seen(inputs, 0), whole)
    first, second = seen(inputs, 1), seen(inputs, 2)
    assert first.shape[1:] == (3, whole.shape[2])  # the class token, and two patches of four
    for left in (first, second):
        assert torch.equal(left[:, 0], whole[:, 0])
        for row, every in zip(left.tolist(), whole.tolist(), strict=True):
            assert {*map(tuple, row)} < {*map(tuple, every)}
    assert not torch.equal(first, second)
    turned = seen(inputs, 1, [*reversed(range(COUNT))])
    assert torch.equal(turned.flip(0), first)
    again = seen(inputs, 1, [3] * 8)  # in an epoch it is not the same twice
    assert torch.equal(again[0], first[3])
    assert not all(torch.equal(row, again[0]) for row in again)
    two = [Ranks(rank, 2, rank, 2) for rank in range(2)]
    shares = [list(inputs.batches(np.arange(COUNT), 4, epoch=1, ranks=ranks)) for ranks in two]
    together = torch.cat([torch.cat([part.input for part in parts]) for parts in zip(*shares, strict=True)])
    assert torch.equal(together, first)
    assert sum(frozen.computed) == COUNT


def test_of_several_tokens_that_are_no_patches_all_stay(paths: list[Path]) -> None:
    made = backbone(name="deit_tiny_distilled_patch16_224", blocks=4)
    with ByteStore(None, 1e9) as store:
        part = FrozenPart(FrozenTrunk(made, 8, bf16=False), store)
        images = images_of(paths, part._pre, augment="none")
        whole = seen(FeatureInputs(part, images, views=1), 1)
        left = seen(FeatureInputs(part, images, views=1, dropped=DroppedPatches(0.5)), 1)
    assert (whole.shape[1], left.shape[1]) == (6, 4)
    assert torch.equal(left[:, :2], whole[:, :2])


@pytest.mark.parametrize("rows", [0, 7, 25])
def test_what_has_no_space_is_computed_again(paths: list[Path], rows: int) -> None:
    found: list[torch.Tensor] = []
    for limit in (1000 * ROW_BYTES, rows * ROW_BYTES):
        made = backbone()
        with ByteStore(None, limit) as store:
            part = Counting(FrozenTrunk(made, 4, bf16=False), store)
            inputs = FeatureInputs(part, images_of(paths, made.preprocess), views=2)
            orders = [np.random.default_rng(epoch).permutation(COUNT).tolist() for epoch in range(4)]
            epochs = [seen(inputs, epoch, [*orders[epoch], orders[epoch][0]][-COUNT:]) for epoch in (1, 2, 3)]
            found.append(torch.cat(epochs))
            assert store.size_bytes <= limit
    assert_same_features(*found)


def test_another_training_finds_what_one_kept(paths: list[Path]) -> None:
    def trained(
        made: Backbone, blocks: int = 4, *, bf16: bool = False, for_others: bool = True
    ) -> tuple[int, torch.Tensor]:
        part = FrozenTrunk(made, blocks, bf16)
        with frozen_part(part, 1e9, for_others=for_others, progress=SILENT) as frozen:
            inputs = FeatureInputs(frozen, images_of(paths, made.preprocess), views=1)
            return inputs.to_prepare(), seen(inputs, 1)

    assert trained(backbone(), for_others=False)[0] == COUNT
    unknown, features = trained(backbone())
    assert unknown == COUNT
    again, known = trained(backbone())
    assert again == 0
    assert torch.equal(known, features)
    assert trained(backbone(seed=1, weights="none"))[0] == COUNT  # other random weights
    with torch.no_grad():
        adapted, other = backbone(), backbone()
        for parameter in adapted.module.parameters():  # whatever trains, the head included
            if parameter.requires_grad:
                parameter.add_(1.0)
        other.module.blocks[0].mlp.fc1.bias[0] += 1
    assert trained(adapted)[0] == 0
    assert trained(other)[0] == COUNT
    assert trained(backbone(), 3)[0] == COUNT
    assert trained(backbone(), bf16=True)[0] == COUNT
    made = backbone()
    assert trained(replace(made, preprocess=replace(made.preprocess, mean=(0.1, 0.2, 0.3))))[0] == COUNT
    assert trained(backbone(keep_tokens={2: 0.5}))[0] == COUNT


def test_only_what_is_kept_for_others_takes_the_place_of_what_others_kept(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a rehearsal, not a recipe that keeps nothing, not a second training at the same time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with frozen_part(FrozenTrunk(backbone(), 4, bf16=False), 1e9, progress=SILENT) as frozen:
        seen(FeatureInputs(frozen, images_of(paths, frozen._pre), views=1), 1)
        other = frozen._folder
    assert other is not None

    def make_room(rows: int, limit_bytes: float, *, for_others: bool = True) -> None:
        asked = FrozenTrunk(backbone(), 3, bf16=False)
        with frozen_part(asked, limit_bytes, for_others=for_others, progress=SILENT) as frozen:
            frozen.free_space(rows, SILENT)

    make_room(10**9, 0)
    make_room(10**9, ROW_BYTES, for_others=False)
    with frozen_part(FrozenTrunk(backbone(), 3, bf16=False), 1e9, progress=SILENT):
        make_room(10**9, ROW_BYTES)
    assert (other / "content").stat().st_size == COUNT * ROW_BYTES
    make_room(1, 1e9)
    assert other.exists()
    make_room(1, COUNT * ROW_BYTES)
    assert not other.exists()


def test_where_others_make_room_the_disk_has_it(tmp_path: Path) -> None:
    free_bytes = [0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ftx.core.byte_store.shutil.disk_usage", lambda _path: SimpleNamespace(free=free_bytes[0]))
        own = tmp_path / "features" / "own"
        own.mkdir(parents=True)
        with ByteStore(own, 1e9) as store:
            part = FrozenPart(FrozenTrunk(backbone(), 4, bf16=False), store, own)
            assert not part.keep(bytes(32), part.empty(1)[0])
            free_bytes[0] = 4 * ROW_BYTES
            part.free_space(1, SILENT)
            assert part.keep(bytes(32), part.empty(1)[0])


def test_what_is_damaged_is_computed_again(paths: list[Path], tmp_path: Path) -> None:
    made, epochs = backbone(), []
    for damage in (False, True):
        with ByteStore(tmp_path, 1e9) as store:
            part = Counting(FrozenTrunk(made, 4, bf16=False), store)
            part.computed = []
            epochs.append(seen(FeatureInputs(part, images_of(paths, made.preprocess), views=1), 1))
            assert sum(part.computed) == (1 if damage else COUNT)
        content = bytearray((tmp_path / "content").read_bytes())
        content[3 * ROW_BYTES + 5] ^= 1
        (tmp_path / "content").write_bytes(content)
    assert_same_features(*epochs)


def test_a_head_that_is_fitted_first_needs_a_view_more(frozen: Counting, paths: list[Path]) -> None:
    """Images as they are, beside those that the epochs see."""
    images = images_of(paths, frozen._pre)
    assert FeatureInputs(frozen, images, views=2, unaugmented=True).to_prepare() == 3 * COUNT
    assert FeatureInputs(frozen, images, views=2).to_prepare() == 2 * COUNT
    model = TrainableModel(backbone(), "full", None, ())
    for more, kept_views in (
        ({"head_init": "probe"}, 4),
        ({"head_init": "probe", "augment": "none"}, 1),
        ({"head_init": "probe", "from_run": "runs/1"}, 3),
        ({"head_init": "probe", "cache_views": 0}, 0),
        ({}, 3),
    ):
        assert planned(model, Recipe.named({**SETTINGS, "epochs": 3, **more})).kept_views == kept_views


def test_reading_what_is_kept_is_waited_for_and_computing_is_not(
    frozen: Counting, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(made: Callable[..., Any], *given: object) -> Any:
        time.sleep(0.02)
        return made(*given)

    inputs = FeatureInputs(frozen, images_of(paths, frozen._pre, augment="none"), views=1)
    monkeypatch.setattr(frozen, "compute", partial(slowly, frozen.compute))
    began = time.perf_counter()
    seen(inputs, 1)
    took_s = time.perf_counter() - began
    assert took_s > 3 * 0.02
    assert inputs.waited_s < took_s - 3 * 0.02
    waited_before_s = inputs.waited_s
    monkeypatch.setattr(frozen, "read_into", partial(slowly, frozen.read_into))
    seen(inputs, 2)
    assert inputs.waited_s - waited_before_s > COUNT * 0.02


def test_what_is_about_to_train_goes_on_training(frozen: Counting, paths: list[Path]) -> None:
    module = frozen._trunk.vit.train()
    seen(FeatureInputs(frozen, images_of(paths, frozen._pre), views=1), 1)
    assert all(layer.training for layer in module.modules())


def test_what_other_trainings_kept_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[Path]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for blocks, limit, left in ((4, 1e9, 1), (3, 1e9, 2), (2, COUNT * ROW_BYTES, 1)):
        made = backbone(blocks=6 - blocks)
        with frozen_part(FrozenTrunk(made, blocks, bf16=False), limit, progress=SILENT) as frozen:
            frozen.free_space(COUNT, SILENT)
            seen(FeatureInputs(frozen, images_of(paths, made.preprocess), views=1), 1)
        assert len(list(tmp_path.rglob("content"))) == left
    assert sum(file.stat().st_size for file in tmp_path.rglob("content")) == COUNT * ROW_BYTES


def test_it_is_said_what_does_not_fit(tmp_path: Path) -> None:
    listener = Listener()
    with frozen_part(FrozenTrunk(backbone(), 4, bf16=False), 10 * ROW_BYTES, progress=listener) as frozen:
        frozen.free_space(10, listener)
        assert not listener.said
        frozen.free_space(11, listener)
        frozen.store.fault = "No space left on device"
    first, second = listener.said
    assert "of 11 views" in first
    assert "train.cache_gb" in first
    assert "No space left on device" in second


@pytest.mark.representative
@pytest.mark.parametrize(
    ("settings", "kept_blocks"), [({}, 4), ({"keep_tokens": {2: 0.5}}, 4), ({}, 0)], ids=["blocks", "tokens", "head"]
)
def test_openvino_computes_what_torch_does(
    settings: dict[str, object], kept_blocks: int, paths: list[Path], tmp_path: Path
) -> None:
    features: list[torch.Tensor] = []
    for runtime in ("torch", "openvino", "openvino"):  # converted, and read again
        made = backbone(**settings)
        with ByteStore(None, 1e9) as store:
            part = FrozenPart(FrozenTrunk(made, kept_blocks, bf16=False, runtime=runtime), store, tmp_path)
            features.append(seen(FeatureInputs(part, images_of(paths, made.preprocess), views=1), 1))
    # f32: another order of sums, of which one in a thousand is rounded to bf16's next number
    assert (features[0] - features[1]).abs().max() < (2**-7 if kept_blocks else 1e-5) * features[0].abs().max()
    assert float((features[0] != features[1]).float().mean()) < 0.01 or not kept_blocks
    assert torch.equal(features[1], features[2])


def test_as_good_is_what_is_no_further_from_f32_than_it_is_rounded() -> None:
    made = backbone()
    trunk, pre = FrozenTrunk(made, 4, bf16=False).split.trunk.eval(), made.preprocess

    def noisy(images: torch.Tensor, error: float) -> torch.Tensor:
        """Off by a share of the answer, as the root of the mean square."""
        with torch.no_grad():
            exact = trunk(images)
        return exact + error * exact.square().mean().sqrt() * torch.sign(torch.randn_like(exact))

    for error, good in ((0.0, True), (2**-10, True), (2**-8, False)):
        assert is_as_close(partial(noisy, error=error), trunk, pre, bf16=False) is good

    def as_torch(images: torch.Tensor, times: float) -> torch.Tensor:
        """So many times as far off as torch is in bf16, whose products are rounded at each layer."""
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            rounded = trunk(images).float()
        with torch.no_grad():
            exact = trunk(images)
        return exact + times * (rounded - exact)

    for times, good in ((1.0, True), (1.9, True), (2.1, False)):
        assert is_as_close(partial(as_torch, times=times), trunk, pre, bf16=True) is good
        assert not is_as_close(partial(as_torch, times=times), trunk, pre, bf16=False)


@pytest.mark.slow
def test_openvino_is_chosen_for_many_views_where_it_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def slow(images: torch.Tensor) -> torch.Tensor:
        time.sleep(1)
        return images

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    frozen = FrozenTrunk(backbone(), 4, bf16=False)
    trunk, pre = frozen.split.trunk, frozen.backbone.preprocess
    assert not is_faster(slow, trunk, pre, bf16=False)
    assert is_faster(lambda images: images, trunk, pre, bf16=False)
    assert _chosen(monkeypatch, frozen, faster=False) == "torch"
    assert not list(tmp_path.rglob("model.xml"))
    assert _chosen(monkeypatch, frozen, faster=True) == "torch"  # as it was found before
    (found,) = tmp_path.rglob("faster_runtime-*")
    found.unlink()
    for faster in (True, False):
        assert _chosen(monkeypatch, frozen, faster=faster) == "openvino"
    assert len(list(tmp_path.rglob("model.xml"))) == 1


def _chosen(monkeypatch: pytest.MonkeyPatch, frozen: FrozenTrunk, *, faster: bool) -> str:
    with monkeypatch.context() as patch:
        patch.setattr(frozen_in_openvino, "is_faster", lambda *_given, **_named: faster)
        return faster_runtime(frozen, SILENT)


def test_what_openvino_cannot_convert_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_given: object, **_named: object) -> None:
        raise RuntimeError("no such operation\naten::odd")

    monkeypatch.setattr(frozen_in_openvino.ov, "convert_model", cannot)
    frozen, listener = FrozenTrunk(backbone(), 4, bf16=False, runtime="openvino"), Listener()
    assert faster_runtime(frozen, listener) == "torch"
    assert listener.said == [
        "torch computes the frozen trunk: OpenVINO cannot compute the frozen part of this model: aten::odd"
    ]
    with pytest.raises(ModelError, match="cannot compute") as caught, ByteStore(None, 0) as store:
        FrozenPart(frozen, store)
    assert "train.frozen_runtime=torch" in str(caught.value)


def test_trainings_of_two_seeds_share_images_as_they_are_and_no_view(frozen: Counting, paths: list[Path]) -> None:
    """What one has kept of a random view is of its own seed, image and epoch."""
    first, other = (images_of(paths, frozen._pre, seed=seed) for seed in (3, 4))
    inputs = FeatureInputs(frozen, first, views=2)
    views = [seen(inputs, epoch) for epoch in (0, 1, 2)]
    later = FeatureInputs(frozen, other, views=2)
    assert later.to_prepare() == 2 * COUNT
    assert torch.equal(seen(later, 0), views[0])
    assert sum(frozen.computed) == 3 * COUNT
    for epoch in (1, 2):
        found = seen(later, epoch)
        torch.testing.assert_close(found, expected(frozen, other, epoch), rtol=2**-8, atol=1e-5)  # bf16, as above
        assert not any(torch.equal(*rows) for view in views for rows in zip(found, view, strict=True))
    assert sum(frozen.computed) == 5 * COUNT
    assert torch.equal(seen(FeatureInputs(frozen, first, views=2), 2), views[2])  # and the first finds its own again


def test_room_is_made_for_all_views_of_both_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[Path]
) -> None:
    """Three views of ten images and one of four: 34 rows beside the ten that another training kept."""
    for limit_rows, left in ((44, True), (43, False)):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(limit_rows)))
        with frozen_part(FrozenTrunk(backbone(blocks=3), 3, bf16=False), 1e9, progress=SILENT) as frozen:
            seen(FeatureInputs(frozen, images_of(paths, frozen._pre, augment="none"), views=1), 1)
            other = frozen._folder
        assert other is not None
        # Of the folder the index counts as well, 52 bytes a row.
        limit_bytes = limit_rows * ROW_BYTES + COUNT * 52
        model, listener = TrainableModel(backbone(), "full", None, ()), Listener()
        plan = planned(model, Recipe.named({**SETTINGS, "epochs": 3, "augment": "light", "cache_views": 3}))
        with frozen_part(FrozenTrunk(backbone(), 4, bf16=False), limit_bytes, progress=listener) as frozen:
            frozen.free_space(plan.views_of(10, 4), listener)
        assert other.exists() == left
        assert not listener.said


@pytest.mark.parametrize(
    ("constant", "value"),
    [
        ("CROP_AREA", (0.5, 1.0)),
        ("CROP_RATIO", (0.5, 2.0)),
        ("KEPT_TO_RESIZE", 2.0),
        ("PIL.__version__", "0.0.1"),
        ("__version__", "0.0.1"),
        ("version", lambda name: "0.0.1" if name == "torch" else version(name)),
        ("version", lambda name: "0.0.1" if name == "timm" else version(name)),
        ("version", lambda name: "0.0.1" if name == "openvino" else version(name)),
    ],
)
def test_features_are_of_one_version_and_one_way_to_cut_views(
    constant: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = backbone()
    before = FrozenTrunk(made, 4, bf16=False).folder
    assert before == FrozenTrunk(backbone(), 4, bf16=False).folder
    monkeypatch.setattr(f"ftx.training.frozen_part.{constant}", value)
    assert FrozenTrunk(made, 4, bf16=False).folder != before


def test_features_are_of_what_computes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch or OpenVINO, on a GPU or not, of each image path, architecture and number of blocks."""
    made = backbone()
    pre = made.preprocess
    other = [
        replace(made, preprocess=replace(pre, **change))
        for change in (
            {"interpolation": "bilinear" if pre.interpolation == "bicubic" else "bicubic"},
            {"resize": 40},
            {"std": (0.1, 0.2, 0.3)},
        )
    ]
    frozen = [FrozenTrunk(one, 4, bf16=False) for one in (made, *other, replace(made, architecture="another"))]
    frozen += [FrozenTrunk(made, 4, bf16=False, runtime="openvino"), FrozenTrunk(made, 4, bf16=True)]
    frozen += [FrozenTrunk(made, 3, bf16=False), FrozenTrunk(made, 0, bf16=False)]
    folders = [one.folder for one in frozen]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    folders.append(FrozenTrunk(made, 4, bf16=False).folder)
    assert len(set(folders)) == len(folders) == 10


def test_what_is_faster_is_found_for_each_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found is told by its file, and asked for again where that says nothing."""

    def cannot(*_given: object, **_named: object) -> None:
        asked.append(torch.get_num_threads())
        raise RuntimeError("aten::odd")

    asked: list[int] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.export, "export", cannot)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 1, 2):
            torch.set_num_threads(threads)
            assert faster_runtime(FrozenTrunk(backbone(), 4, bf16=False), SILENT) == "torch"
    finally:
        torch.set_num_threads(before)
    assert asked == [1, 2]
    assert faster_runtime(FrozenTrunk(backbone(), 3, bf16=False), SILENT) == "torch"  # another part
    assert len(asked) == 3
