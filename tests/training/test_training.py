"""Training through the real pipeline on a tiny model: four methods, merge, peft, timm and transformers as oracles."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.conftest import Listener

from ftx.adapters.attach import attach, prove_reach
from ftx.adapters.trainable_model import adapter_spec, prepare
from ftx.backbones.build import build
from ftx.backbones.split_network import cut_after, frozen_blocks
from ftx.core.errors import AdapterError, EnvironmentFault, FtxError, MergeError, ModelError, RunError
from ftx.core.files import sha256_file
from ftx.data.preprocess import normalise
from ftx.merging.merge_and_prove import merge
from ftx.recipe.schema import Recipe
from ftx.runs.dense import load_dense
from ftx.runs.run import Run
from ftx.runs.trained import load_trained
from ftx.training import dry_run, train
from ftx.training.state import EpochEnd

METHODS = {
    "lora": {"model.peft": "lora", "adapter.blocks": "all"},
    "dora": {"model.peft": "dora", "adapter.blocks": "all", "adapter.targets": ["q", "v", "fc1"]},
    "linear": {"model.peft": "none", "model.freeze_backbone": True},
    "full": {"model.peft": "none"},
    "last": {"model.peft": "lora", "adapter.blocks": 2},
    "each": {
        "model.peft": "dora",
        "adapter.blocks": "all",
        "adapter.targets": ["q", "v", "fc1"],
        "adapter.rank": {"q": 2, "v": 4, "fc1": 3},
        "adapter.alpha": {"q": 8.0, "v": 4.0, "fc1": 5.0},
    },
    "pissa": {"model.peft": "lora", "adapter.init": "pissa", "adapter.blocks": "first:2", "train.lora_plus": 4.0},
    "roots": {
        "model.peft": "dora",
        "adapter.blocks": "all",
        "adapter.rslora": True,
        "adapter.init": "pissa",
        "adapter.rank": {"q": 2, "fc1": 3},
    }
    | {"adapter.targets": "q,fc1"},
    "named": {"model.peft": "lora", "adapter.layers": r"blocks\.\d+\.mlp\.fc2"},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of stripes that differ by their direction."""
    root = tmp_path_factory.mktemp("images") / "stripes"
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:32, 0:32]
    for name, phase in (("across", y), ("down", x), ("slant <b> é", x + y)):
        (root / name).mkdir(parents=True)
        for number in range(12):
            grey = 127 + 90 * np.sin(phase / 2 + rng.uniform(0, 6)) + rng.normal(0, 12, (32, 32))
            pixels = np.clip(grey, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).convert("RGB").save(root / name / f"{number}.png")
    return root


def recipe(images: Path, method: str, **more: object) -> Recipe:
    flags: dict[str, object] = {
        "data.path": str(images),
        "data.image_size": 32,
        "model.name": "vit_tiny_patch16_224",
        "model.weights": "none",
        "train.epochs": 2,
        "train.batch_size": 8,
        "train.precision": "f32",
        "train.augment": "light",
        "train.patch_dropout": 0.0,
        **({} if method == "linear" else {"train.head_init": "random"}),
        **METHODS[method],
        **more,
    }
    return Recipe.build(flags=flags)


class BeforeFirstEpoch(Listener):
    """A listener that does something once a training begins."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__()
        self.action = action

    def track(self, description: str, total: int | None) -> AbstractContextManager[Listener]:
        if description == "Training":
            self.action()
        return super().track(description, total)


@pytest.fixture(scope="module")
def runs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return {method: Run.open(train(recipe(images, method), out=root / method).run) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_merge_of_each_method(runs: dict[str, Run], method: str) -> None:
    run = runs[method]
    report = merge(run)
    assert report.ok
    assert report.max_relative_error < 1e-7  # f32 rounding of the stored weight alone: 4e-8 measured
    pre = run.manifest.preprocess
    pixels = np.random.default_rng(1).integers(0, 256, (4, pre.height, pre.width, 3), dtype=np.uint8)
    x = torch.from_numpy(normalise(pixels, pre))
    expected = load_trained(run)(x)
    # f32 rounding of one network: 1.3e-6 measured
    torch.testing.assert_close(load_dense(run.path / "dense")(x), expected, rtol=0, atol=5e-6)
    opened = timm.create_model(f"local-dir:{run.path / 'dense'}", pretrained=True).eval()
    torch.testing.assert_close(opened(x), expected, rtol=0, atol=5e-6)
    assert set(opened.state_dict()) == set(load_file(run.path / "dense" / "model.safetensors"))


def test_transformers_opens_dense_with_the_right_labels(runs: dict[str, Run]) -> None:
    from transformers import AutoModelForImageClassification

    run = runs["dora"]
    merge(run)
    opened = AutoModelForImageClassification.from_pretrained(run.path / "dense").eval()
    assert [opened.config.id2label[index] for index in range(3)] == ["across", "down", "slant <b> é"]
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(opened(x).logits, load_dense(run.path / "dense")(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "dora", "last", "each", "pissa", "named", "roots"])
def test_peft_opens_trained_and_answers_as_we_do(runs: dict[str, Run], method: str) -> None:
    import peft

    run = runs[method]
    base = build("vit_tiny_patch16_224", weights="none", num_classes=3, image_size=32, seed=0).module
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    untrained = base(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not know the key "ftx"
        opened = peft.PeftModel.from_pretrained(base, str(run.path / "trained")).eval()
    expected = load_trained(run)(x)
    assert (expected - untrained).abs().max() > 0.1  # 0.24 to 0.74: what is compared is not the base
    # f32: peft sums the adapter's product, we its weight; 1.1e-6 measured
    torch.testing.assert_close(opened(x), expected, rtol=0, atol=5e-6)


def test_training_again_from_the_recipe_gives_the_same_bytes(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["dora"]
    again = train(Recipe.load(run.path / "recipe.yaml"), out=tmp_path / "again")
    first, second = (Path(str(where)) / "trained" / "adapter_model.safetensors" for where in (run.path, again.run))
    assert sha256_file(first) == sha256_file(second)
    assert (run.path / "recipe.yaml").read_bytes() == (tmp_path / "again" / "recipe.yaml").read_bytes()


def test_frozen_blocks_are_cut_off_exactly(images: Path) -> None:
    prepared = prepare(recipe(images, "last"), 3)
    module = prepared.backbone.module
    assert frozen_blocks(module) == 10
    x = torch.randn(2, 3, 32, 32)
    # f32: the last block attends for the class token alone, in another order of sums
    torch.testing.assert_close(cut_after(module, 10)(x), module(x), rtol=0, atol=1e-6)
    assert frozen_blocks(prepare(recipe(images, "linear"), 3).backbone.module) == 12
    assert frozen_blocks(prepare(recipe(images, "full"), 3).backbone.module) == 0


def test_a_fresh_dora_model_is_the_base_exactly(images: Path) -> None:
    base = build("vit_tiny_patch16_224", weights="none", num_classes=3, image_size=32, seed=0).module
    x = torch.randn(2, 3, 32, 32)
    expected = base(x)
    spec = adapter_spec(recipe(images, "dora"))
    assert spec is not None
    attach(base, spec, generator=torch.Generator().manual_seed(0))
    assert torch.equal(base(x), expected)


def test_a_rank_wider_than_its_layer_is_refused(images: Path) -> None:
    with pytest.raises(AdapterError, match=r"--rank must be at most 192") as caught:
        prepare(recipe(images, "lora", **{"adapter.rank": 193}), 3)
    assert "--rank of at most 192" in str(caught.value)


def test_a_bypassed_layer_is_named(images: Path) -> None:
    module = prepare(recipe(images, "lora"), 3).backbone.module
    attention = module.get_submodule("blocks.3.attn")
    bypassed = attention.qkv.weight.detach().clone()
    # As beit, swinv2 and eva call it: the weight is used, the layer is not.
    attention.qkv.forward = lambda x: torch.nn.functional.linear(x, bypassed)
    module(torch.randn(2, 3, 32, 32)).sum().backward()
    with pytest.raises(AdapterError, match="must reach") as caught:
        prove_reach(module)
    assert "blocks.3.attn.qkv" in str(caught.value)
    assert "never calls the layer" in str(caught.value)
    assert "blocks.4" not in str(caught.value)


def _alter(folder: Path, change: str) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    key = next(name for name in tensors if name.endswith("blocks.0.attn.qkv.lora_A.weight"))
    if change == "missing":
        del tensors[key]
    elif change == "spare":
        tensors["base_model.model.other.weight"] = torch.zeros(2)
    elif change == "shape":
        tensors[key] = tensors[key][:-1].contiguous()
    elif change == "nan":
        tensors[key][0, 0] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("change", ["missing", "spare", "shape", "nan", "truncated"])
def test_an_adapter_that_does_not_hold_is_refused(runs: dict[str, Run], tmp_path: Path, change: str) -> None:
    run = Path(shutil.copytree(runs["dora"].path, tmp_path / "run"))
    shutil.rmtree(run / "dense", ignore_errors=True)
    _alter(run / "trained", change)
    with pytest.raises(RunError, match="changed since ftx wrote it"):
        merge(Run.open(run))
    _vouch_trained(run)
    with pytest.raises(FtxError) as caught:
        merge(Run.open(run))
    assert isinstance(caught.value, AdapterError)
    assert caught.value.exit_code == 2
    assert not (run / "dense").exists()


def _vouch_trained(run: Path) -> None:
    document = json.loads((run / "run.json").read_text())
    document["files"] = {
        name: sha256_file(run / name) for name in document["files"] if not name.startswith(("dense", "reports"))
    }
    document["lineage"] = {}
    (run / "run.json").write_text(json.dumps(document))


def test_another_base_is_refused(runs: dict[str, Run], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs["lora"].path, tmp_path / "run"))
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text.replace("seed: 0", "seed: 1"))  # other random weights
    with pytest.raises(RunError, match="changed since ftx wrote it"):
        merge(Run.open(run))
    _vouch_trained(run)
    with pytest.raises(MergeError, match="the base must be the one"):
        merge(Run.open(run))


def test_interrupted_training_keeps_the_best_epoch(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def press(end: EpochEnd) -> None:
        raise KeyboardInterrupt

    report = train(recipe(images, "lora", **{"train.epochs": 5}), on_epoch=press)
    assert report.interrupted
    assert report.epochs == 1
    card = (Run.open().path / "trained" / "README.md").read_text(encoding="utf-8")
    assert "| epoch kept | 1 of 1, chosen by `accuracy`; training was interrupted, the recipe has 5 |" in card
    assert merge(Run.open()).ok


def test_what_stops_a_training_leaves_nothing(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FtxError, match="finite"):
        train(recipe(images, "full", **{"train.lr": 1e30}), out=tmp_path / "runs" / "x")
    assert not list(tmp_path.rglob("*.json"))
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match="must not exist yet"):
        train(recipe(images, "lora"), out=tmp_path / "taken")
    with pytest.raises(RunError, match="newest run"):
        train(recipe(images, "lora"), out=Path("runs/latest"))


def test_two_trainings_of_one_name_are_two_runs(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def overtake() -> None:
        train(recipe(images, "linear"), out=Path("runs/x"))

    report = train(
        recipe(images, "lora", **{"train.epochs": 1}), out=Path("runs/x"), progress=BeforeFirstEpoch(overtake)
    )
    assert report.run == "runs/x-2"
    assert Run.open("runs/x").manifest.method == "linear"
    assert Run.open("runs/x-2").manifest.method == "lora"


def test_a_run_whose_name_is_taken_at_its_end_says_where_it_lies(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that is solved in one go has no checkpoint, so that its run gets its name when it is whole."""
    monkeypatch.chdir(tmp_path)
    winner = iter([recipe(images, "linear", seed=1)])

    def overtake(end: EpochEnd) -> None:
        for one in winner:
            train(one, out=Path("runs/x"))

    report = train(recipe(images, "linear"), out=Path("runs/x"), on_epoch=overtake)
    assert report.run == "runs/x-2"
    assert (Run.open("runs/x").recipe().seed, Run.open("runs/x-2").recipe().seed) == (1, 0)
    assert Path("runs/latest").resolve() == Path("runs/x-2").resolve()


def test_dropout_draws_from_the_recipes_seed(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dropped = {"adapter.dropout": 0.3, "train.patch_dropout": 0.5, "train.epochs": 1}
    torch.manual_seed(1)
    first = train(recipe(images, "lora", **dropped), out=tmp_path / "first")
    torch.manual_seed(2)
    second = train(recipe(images, "lora", **dropped), out=tmp_path / "second")
    files = [Path(str(made.run)) / "trained" / "adapter_model.safetensors" for made in (first, second)]
    assert sha256_file(files[0]) == sha256_file(files[1])


def test_memory_does_not_decide_what_is_trained_on(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    roomy = train(recipe(images, "last", **{"train.epochs": 1}), out=tmp_path / "roomy")
    # Features that never fit: each epoch computes the frozen blocks again.
    tight = train(recipe(images, "last", **{"train.epochs": 1, "train.cache_gb": 0}), out=tmp_path / "tight")
    weights = [load_file(Path(str(made.run)) / "trained" / "adapter_model.safetensors") for made in (roomy, tight)]
    for name, tensor in weights[0].items():
        assert torch.equal(weights[1][name], tensor), name


def test_models_that_cannot_be_built(images: Path, tmp_path: Path) -> None:
    def attempt(**changes: object) -> None:
        prepare(recipe(images, "lora", **changes), 3)

    with pytest.raises(ModelError, match="does not exist") as caught:
        attempt(**{"model.name": "vit_tiny_patch16_22"})
    assert "vit_tiny_patch16_224" in str(caught.value)
    with pytest.raises(ModelError, match="the pretrained weights") as caught:
        attempt(**{"model.name": "vit_tiny_patch16_224.augreg_in21k_ft_in1"})
    assert "--model vit_tiny_patch16_224.augreg_in21k_ft_in1k" in str(caught.value)
    with pytest.raises(ModelError, match="must be a multiple of the patch size"):
        attempt(**{"data.image_size": 40})
    with pytest.raises(AdapterError, match="with linear layers in attention or MLP"):
        attempt(**{"model.name": "resnet18"})
    with pytest.raises(ModelError, match="must be the one size"):
        attempt(**{"model.name": "cait_xxs24_224"})
    with pytest.raises(AdapterError, match="must be within the"):
        attempt(**{"adapter.blocks": 13})
    with pytest.raises(ModelError, match="must be a file that exists"):
        attempt(**{"model.weights": str(tmp_path / "none.safetensors")})
    (tmp_path / "broken.safetensors").write_bytes(b"not at all")
    with pytest.raises(ModelError, match="must be a complete safetensors"):
        attempt(**{"model.weights": str(tmp_path / "broken.safetensors")})


def test_the_digest_knows_no_dtype_and_no_input_size(tmp_path: Path) -> None:
    first = build("vit_tiny_patch16_224", weights="none", num_classes=3, image_size=32, seed=0)
    whole = timm.create_model("vit_tiny_patch16_224", num_classes=7)
    save_file({name: tensor.half() for name, tensor in whole.state_dict().items()}, tmp_path / "half.safetensors")
    save_file(
        {name: tensor.half().float() for name, tensor in whole.state_dict().items()}, tmp_path / "float.safetensors"
    )
    digests = {
        build("vit_tiny_patch16_224", weights=str(tmp_path / name), num_classes=classes, image_size=size, seed=0).digest
        for name, classes, size in (("half.safetensors", 2, 32), ("float.safetensors", 5, 64))
    }
    assert len(digests) == 1
    assert first.digest not in digests


def test_dry_run_says_what_would_be_trained(images: Path) -> None:
    report = dry_run(recipe(images, "dora", **{"train.epochs": 100, "model.keep_tokens": {4: 0.5, 8: 0.5}}))
    assert report.tokens == {0: 5, 4: 3, 8: 2}  # four patches, two and one, and the class token
    assert len(report.layers) == 24
    assert report.layers[0].targets == ["q", "v"]
    assert report.trainable_parameters == sum(layer.parameters for layer in report.layers) + 192 * 3 + 3
    # Each is told in tenths of a second.
    assert report.seconds == pytest.approx(report.seconds_before + 100 * report.seconds_per_epoch, abs=5.1)
    assert report.seconds_per_epoch > 0
    assert report.counts["across"] == {"train": 10, "val": 2}  # a fifth of 12
    # Per block: q, v: A 8x192, B 192x8 each; fc1: A 8x192, B 768x8; magnitudes of q, v and fc1. The head: 192x3 + 3.
    assert report.trainable_parameters == 12 * (2 * 2 * 8 * 192 + 8 * 192 + 8 * 768 + 2 * 192 + 768) + 192 * 3 + 3


def test_no_network_is_one_clear_error(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentFault, match="could not be downloaded") as caught:
        prepare(recipe(images, "lora", **{"model.weights": "auto"}), 3)
    assert "--weights" in str(caught.value)
    assert caught.value.exit_code == 3
