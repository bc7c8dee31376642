"""What a training takes is what was said before: memory, the way of attention, space on the disk."""

from __future__ import annotations

import os
import threading
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from tests.training.plans import planned
from torch import Tensor

from ftx.adapters.trainable_model import TrainableModel, prepare
from ftx.backbones.build import Backbone
from ftx.backbones.dropped_patches import DroppedPatches
from ftx.backbones.split_network import attentions_with_backward, plain_attention_bytes, set_attention
from ftx.core.errors import EnvironmentFault, ImageError
from ftx.core.files import sha256_file
from ftx.data.augment import random_view
from ftx.data.dataset import Dataset, Entry
from ftx.data.decode import decode
from ftx.data.preprocess import Preprocess
from ftx.exporting import export
from ftx.merging.combine_adapters import combine
from ftx.merging.merge_and_prove import merge
from ftx.recipe.schema import Recipe
from ftx.runs.run import Run
from ftx.runs.trained import load_trained
from ftx.tasks.labels import Labels
from ftx.training import train
from ftx.training.device_placement import place, within_quota
from ftx.training.estimate import adapted_layers, memory_mb, rehearse
from ftx.training.opening import ResolvedTraining
from ftx.training.ranks import Ranks

TINY = {
    "name": "vit_tiny_patch16_224",
    "weights": "none",
    "precision": "f32",
    "augment": "light",
    "patch_dropout": 0,
    "head_init": "random",
}
# 5,717,416 of timm's model with its head of 1,000 classes of 193 numbers each.
PARAMETERS = 5_717_416 - 1000 * 193 + 3 * 193
# 12 layers of 3 heads, each with its scores of 197 tokens to 197, and their softmax, in f32.
ATTENTION_BYTES = 12 * 3 * 2 * 4 * 197**2


def of(**settings: object) -> tuple[TrainableModel, Recipe]:
    recipe = Recipe.named(TINY | settings)
    return prepare(recipe, 3), recipe


def needed_mb(prepared: TrainableModel, recipe: Recipe, images: int, free_bytes: int = 1 << 60) -> int:
    return memory_mb(prepared, recipe, planned(prepared, recipe, images, free_bytes=free_bytes), images)


def resolved(dataset: Dataset, recipe: Recipe, prepared: TrainableModel | None = None) -> ResolvedTraining:
    prepared = prepared or prepare(recipe, 2)
    return ResolvedTraining(dataset, prepared, planned(prepared, recipe, len(dataset.split("train"))))


def kept_bytes(prepared: TrainableModel, images: int) -> int:
    """What torch keeps of one pass for its backward, each tensor once, and none that the model holds anyway."""
    module = prepared.backbone.module.train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        answered = module(torch.randn(images, 3, 224, 224))
        del answered
    return sum(kept.values())


@pytest.mark.parametrize("settings", [{"peft": "none"}, {"peft": "lora", "blocks": "all"}], ids=["full", "lora"])
def test_the_memory_of_an_image_is_what_torch_keeps_of_it(settings: dict[str, object]) -> None:
    prepared, recipe = of(**settings)
    place(prepared, plain_attention=True)
    few, many = (needed_mb(prepared, recipe.replace(train={"batch_size": size}), 1000) for size in (8, 40))
    measured_mb = (kept_bytes(prepared, 2) - kept_bytes(prepared, 1)) / 1e6
    # A rough estimate counts activations as so many of the token's width, and says no less than it takes.
    assert measured_mb < (many - few) / 32 < 1.25 * measured_mb
    # In four parts a batch takes what a quarter of it takes.
    parts = recipe.replace(train={"batch_size": 32, "accumulation_steps": 4})
    assert needed_mb(prepared, parts, 1000) == few
    # A batch is never more than all images.
    assert needed_mb(prepared, recipe.replace(train={"batch_size": 40}), 8) == few


def test_full_fine_tuning_takes_four_numbers_a_parameter_and_probing_one() -> None:
    """AdamW in f32: the weight, its gradient, and two moments; of a frozen weight the weight alone."""
    full, recipe = of(peft="none", image_size=224)
    assert full.trainable == PARAMETERS
    recipe = recipe.replace(train={"batch_size": 1})
    image_mb = needed_mb(full, recipe.replace(train={"batch_size": 2}), 2) - needed_mb(full, recipe, 2)
    probed, probing = of(freeze_backbone=True, image_size=224, head_init="auto")
    assert probed.trainable == 3 * 193
    difference = needed_mb(full, recipe, 2) - image_mb - needed_mb(probed, probing, 2)
    assert difference == pytest.approx(12 * PARAMETERS / 1e6, abs=2)
    # With what torch, timm and Python take.
    assert needed_mb(probed, probing, 0) == pytest.approx(480 + 4 * PARAMETERS / 1e6, abs=1)
    # Of probing's images one feature of 192 numbers each is solved for, three times in f64.
    solved_mb = needed_mb(probed, probing, 1_000_000) - needed_mb(probed, probing, 0)
    assert solved_mb == pytest.approx(8 * (3 * 192 + 8 * 2), abs=1)


def per_image_mb(prepared: TrainableModel, recipe: Recipe, free_bytes: int) -> float:
    """What one image more in a batch takes, by a hundred of them."""
    one, many = (needed_mb(prepared, recipe.replace(train={"batch_size": size}), 1000, free_bytes) for size in (1, 101))
    return (many - one) / 100


def test_plain_products_take_their_matrices_more_than_the_kernel_and_bf16_takes_half() -> None:
    prepared, recipe = of(peft="lora", blocks="all", image_size=224)
    taken: dict[bool, float] = {}
    for free_bytes, way in ((0, False), (1 << 60, True)):
        taken[way] = per_image_mb(prepared, recipe, free_bytes)
        half = per_image_mb(prepared, recipe.replace(train={"precision": "bf16"}), free_bytes)
        assert half == pytest.approx(taken[way] / 2, abs=0.02)
    assert taken[True] - taken[False] == pytest.approx(ATTENTION_BYTES / 1e6, abs=0.02)


@pytest.mark.parametrize(
    "settings", [{"peft": "none"}, {"peft": "lora", "blocks": "all"}, {"peft": "lora", "blocks": 2}], ids=str
)
def test_more_images_take_no_more_memory(settings: dict[str, object]) -> None:
    """What frozen blocks make of them is on disk."""
    prepared, recipe = of(**settings, image_size=224, batch_size=1)
    assert needed_mb(prepared, recipe, 1001) == needed_mb(prepared, recipe, 1)


class Recurrent(torch.nn.Module):
    """64 numbers of a convolution, an LSTM, whose answer is no tensor but several, and 2 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mixer = torch.nn.Conv2d(3, 4, 2, stride=2), torch.nn.LSTM(4, 4, batch_first=True)
        self.head = torch.nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        mixed, _ = self.mixer(self.stem(images).flatten(2).mT)
        return self.head(mixed[:, -1])


def test_of_a_network_of_another_kind_the_tensors_that_its_layers_answer_are_counted() -> None:
    pre = Preprocess(8, 8, 8, "bicubic", (0.5,) * 3, (0.5,) * 3)
    module = Recurrent()
    _, recipe = of(peft="none", batch_size=1)
    prepared = TrainableModel(Backbone(module, "recurrent", "", pre), "full", None, ())
    million = recipe.model_copy(update={"train": recipe.train.model_copy(update={"batch_size": 1_000_001})})
    found = needed_mb(prepared, million, 1_000_001) - needed_mb(prepared, million, 1)
    assert found == 4 * (64 + 2)


def test_what_trains_is_counted_by_layer_and_by_model_alike() -> None:
    """Of q and v with rank 2, of 6 blocks 64 wide: A 2·2·64, B and magnitudes of 64 rows each; the head 64·3 + 3."""
    for peft, magnitudes in (("lora", 0), ("dora", 2 * 64)):
        recipe = Recipe.named(
            TINY | {"name": "test_vit", "image_size": 32, "peft": peft, "targets": "q,v", "rank": 2, "blocks": "all"}
        )
        prepared = prepare(recipe, 3)
        each = 2 * 2 * 64 + 2 * 2 * 64 + magnitudes
        layers = adapted_layers(prepared.backbone.module)
        assert [layer.parameters for layer in layers] == [each] * 6
        assert prepared.trainable == 6 * each + 64 * 3 + 3


def test_the_rehearsal_varies_images_as_training_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    varied: list[int] = []

    def counted(image: Image.Image, pre: Preprocess, rng: np.random.Generator) -> np.ndarray:
        varied.append(1)
        return random_view(image, pre, rng)

    monkeypatch.setattr("ftx.data.loader.random_view", counted)
    entries: list[Entry] = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (40, 32), (40 * number, 90, 200)).save(path)
        entries.append(Entry(path.name, sha256_file(path), ("ab"[number % 2],), "val" if number > 3 else "train"))
    dataset = Dataset(tmp_path, Labels.multiclass(("a", "b")), tuple(entries))
    found = {}
    for augment in ("light", "none"):
        for blocks in ("all", 2):
            keys = {"name": "test_vit", "image_size": 32, "peft": "lora", "augment": augment, "blocks": blocks}
            recipe = Recipe.named(TINY | keys)
            rehearse(resolved(dataset, recipe))
            found[augment, blocks] = bool(varied)
            varied.clear()
    assert found == {("light", "all"): True, ("light", 2): True, ("none", "all"): False, ("none", 2): False}


def test_of_few_images_the_rehearsal_reads_each_once(tmp_path: Path) -> None:
    """It raises as training does: any of them may be gone since they were counted."""
    labels = ("a", "b")
    for number in range(6):
        Image.new("RGB", (32, 32), (40 * number, 90, 200)).save(tmp_path / f"{number}.png")
    entries = tuple(
        Entry(path.name, sha256_file(path), (labels[number % 2],), "val" if number > 3 else "train")
        for number, path in enumerate(sorted(tmp_path.iterdir()))
    )
    dataset = Dataset(tmp_path, Labels.multiclass(labels), entries)
    # With nothing kept, so that each is read from its file.
    recipe = Recipe.named(
        TINY | {"name": "test_vit", "image_size": 32, "peft": "lora", "blocks": "all", "batch_size": 64, "cache_gb": 0}
    )
    prepared = prepare(recipe, 2)
    times = rehearse(resolved(dataset, recipe, prepared))
    assert times.before_s > 0
    assert times.epoch_s > 0
    for number in range(4):
        path = tmp_path / f"{number}.png"
        path.rename(tmp_path / "gone.png")
        with pytest.raises(ImageError) as caught:
            rehearse(resolved(dataset, recipe, prepared))
        assert f"{number}.png" in str(caught.value)
        (tmp_path / "gone.png").rename(path)


def plain(module: torch.nn.Module) -> set[bool]:
    """How its attentions are computed: all by products, all by the kernel, or not all alike."""
    return {not layer.fused_attn for layer in module.modules() if hasattr(layer, "fused_attn")}


def test_attention_counts_the_patches_that_a_step_sees() -> None:
    module = timm.create_model("vit_tiny_patch16_224")
    assert plain_attention_bytes(module, 16) == 16 * ATTENTION_BYTES
    of_half = 16 * ATTENTION_BYTES // 197**2 * (1 + 98) ** 2
    assert plain_attention_bytes(module, 16, DroppedPatches(0.5)) == of_half
    swin = timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1), embed_dim=12, num_heads=(1, 1))
    assert plain_attention_bytes(swin, 1) is None
    assert not attentions_with_backward(swin)


def test_both_ways_of_attention_give_the_same_numbers() -> None:
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", depth=2).eval()
    x = torch.randn(2, 3, 224, 224)
    answers = []
    for products in (False, True):
        set_attention(attentions_with_backward(module), plain=products)
        assert plain(module) == {products}
        with torch.inference_mode():
            answers.append(module(x))
    # f32: another order of sums
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("free", "facts", "products"),
    [
        (4 * 40 * ATTENTION_BYTES, {}, True),
        (4 * 40 * ATTENTION_BYTES - 1, {}, False),
        (4 * 20 * ATTENTION_BYTES, {"ranks": Ranks(world=2)}, True),  # each computes half of the batch
        (4 * 20 * ATTENTION_BYTES - 1, {"ranks": Ranks(world=2)}, False),
        (4 * 32 * ATTENTION_BYTES // 12, {"images": 2}, True),  # 32 images are evaluated at once, layer by layer
        (4 * 32 * ATTENTION_BYTES // 12 - 1, {"images": 2}, False),
        (1 << 60, {"device": "cuda"}, False),
    ],
)
def test_a_training_takes_a_quarter_of_the_memory_for_attention(
    free: int, facts: dict[str, Any], products: bool
) -> None:
    prepared, recipe = of(peft="lora", blocks="all", image_size=224, batch_size=40)
    plan = planned(prepared, recipe, free_bytes=free, **facts)
    assert plan.plain_attention == products
    assert any("over a quarter of the free memory" in note for note in plan.notes) == (
        not products and "device" not in facts
    )
    place(prepared, plain_attention=products)
    assert plain(prepared.backbone.module) == {products}


def test_what_is_not_training_keeps_timms_own_attention(whole_run: Path) -> None:
    timms = plain(timm.create_model("test_vit"))
    assert plain(load_trained(Run.open(whole_run))) == timms


@pytest.mark.parametrize("verb", ["train", "merge", "export", "combine"])
def test_no_verb_begins_on_a_disk_without_space(
    verb: str, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(whole_run)
    dense_mb = (whole_run / "dense" / "model.safetensors").stat().st_size / 1e6
    new_mb = (
        4 * sum(one.numel() for one in timm.create_model(TINY["name"], num_classes=4, img_size=32).parameters()) / 1e6
    )
    settings = TINY | {"path": str(whole_run.parent.parent / "data"), "image_size": 32, "peft": "none"}
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result((4096, 4096, 1000, 0, 0, 0, 0, 0, 0, 255)))
    begin = {
        "train": lambda: train(Recipe.named(settings), out=tmp_path / "new"),
        "merge": lambda: merge(run),
        "export": lambda: export(run, formats=["openvino"]),
        "combine": lambda: combine([whole_run], tmp_path / "new"),
    }
    with chdir(tmp_path), pytest.raises(EnvironmentFault, match="disk is too full") as caught:
        begin[verb]()
    free, needed = (float(text.split()[0]) for text in str(caught.value.found).split(", "))
    assert free == 0
    # Three checkpoints hold each weight, its two moments and its best value, and trained/ holds it once; whatever is
    # written has its weights in f32. Whole MB are said.
    np.testing.assert_allclose(needed, (3 * 4 + 1) * new_mb if verb == "train" else dense_mb, atol=0.5, rtol=0)
    assert not list(tmp_path.iterdir())


def test_torch_computes_in_no_more_threads_than_the_control_group_pays_for(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr("ftx.training.device_placement.cores", lambda: 2)
    try:
        for said, threads, found in ((None, 3, 2), (None, 1, 1), ("3", 3, 3)):
            if said is None:
                monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
            else:
                monkeypatch.setenv("OMP_NUM_THREADS", said)
            torch.set_num_threads(threads)
            within_quota()
            assert torch.get_num_threads() == found
    finally:
        torch.set_num_threads(before)


class Clock:
    """Time that passes only where something is done: 1 s to decode an image, 10 s to train on it, 3 s to answer."""

    def __init__(self, module: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._one_at_a_time = threading.Lock()

        def decoded(content: bytes) -> Image.Image:
            with self._one_at_a_time:
                self.now += 1
            return decode(content)

        def computed(layer: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            self.now += len(given[0]) * (10 if layer.training else 3)

        monkeypatch.setattr("ftx.data.image_store.decode", decoded)
        monkeypatch.setattr("ftx.training.estimate.time", SimpleNamespace(perf_counter=lambda: self.now))
        module.get_submodule("patch_embed").register_forward_pre_hook(computed)


@pytest.mark.parametrize(
    ("settings", "before_s", "epoch_s"),
    [
        # 20 + 6 images are decoded; of an epoch 20 images train, and 6 are measured.
        ({}, 26, 200 + 18),
        ({"batch_size": 7}, 26, 200 + 18),
        # Before that the head reads all of them.
        ({"head_init": "probe"}, 26 + 3 * 26, 200 + 18),
    ],
    ids=str,
)
def test_times_are_those_of_the_images_of_each_split(
    settings: dict[str, object],
    before_s: float,
    epoch_s: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    entries: list[Entry] = []
    for number in range(26):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (40, 32), (9 * number, 90, 200)).save(path)
        entries.append(Entry(path.name, sha256_file(path), ("ab"[number % 2],), "train" if number < 20 else "val"))
    dataset = Dataset(tmp_path, Labels.multiclass(("a", "b")), tuple(entries))
    keys = {"name": "test_vit", "image_size": 32, "peft": "lora", "blocks": "all"}
    keys |= {"augment": "none", "batch_size": 4, "path": tmp_path}
    recipe = Recipe.named(TINY | keys | settings)
    prepared = prepare(recipe, 2)
    Clock(prepared.backbone.module, monkeypatch)
    times = rehearse(resolved(dataset, recipe, prepared))
    assert (times.before_s, times.epoch_s) == pytest.approx((before_s, epoch_s), rel=1e-12)
    # Whatever the number of epochs, each image is decoded once.
    assert times.of(3) == pytest.approx(before_s + 3 * epoch_s)


def test_an_adapted_layer_takes_the_weight_that_it_computed_with() -> None:
    """Of fc1 in each of 12 blocks a weight of 768 x 192; A and B of rank 2 with their gradients and two moments."""
    few, many = (of(peft="lora", blocks="all", rank=2, targets=targets, image_size=32) for targets in ("q", "q,fc1"))
    plain, adapted = (needed_mb(prepared, recipe, 1000) for prepared, recipe in (few, many))
    factors = 12 * 2 * (192 + 768)
    assert many[0].trainable - few[0].trainable == factors
    # Both are rounded to a megabyte. The factors are weights as well.
    assert adapted - plain == pytest.approx((4 * 12 * 192 * 768 + (4 + 12) * factors) / 1e6, abs=1)
