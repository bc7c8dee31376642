"""A training that begins where another ended: the same answers at first, rows of the head by their labels' names."""

from __future__ import annotations

import json
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.conftest import Listener
from tests.effects.lab import call
from tests.zygote import Zygote

from ftx.adapters.trainable_model import prepare
from ftx.core.errors import MergeError, RecipeError, RunError
from ftx.recipe.schema import Recipe
from ftx.runs.artifacts import TRAINED
from ftx.runs.run import Run
from ftx.runs.trained import load_trained
from ftx.tasks.labels import Labels
from ftx.training import TrainReport, recipe_from, resume, train
from ftx.training.init_from import init_run, load_run_into
from ftx.training.opening import open_training

METHODS: dict[str, dict[str, object]] = {
    "lora": {"peft": "lora", "blocks": 2, "rank": {"attn": 2, "mlp": 3}},
    "dora": {"peft": "dora", "blocks": "all", "targets": "q,fc1", "rank": 2},
    "pissa": {"peft": "lora", "blocks": "all", "targets": "q,fc1", "rank": 2, "init": "pissa"},
    "rslora pissa": {"peft": "lora", "blocks": "all", "rank": 2, "init": "pissa", "rslora": True},
    "layers": {"peft": "lora", "layers": r".*\.fc1", "rank": 2, "init": "pissa"},
    "linear": {"peft": "none", "freeze_backbone": True, "head_init": "random"},
    "full": {"peft": "none", "lr": 1e-3},
}
X = torch.from_numpy(np.random.default_rng(9).normal(size=(4, 3, 32, 32)).astype(np.float32))


def picture(path: Path, tint: int, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([tint, number]).integers(0, 200, (36, 40, 3), dtype=np.uint8)
    pixels[..., tint] |= 0x40
    Image.fromarray(pixels).save(path)


def write(root: Path, **counts: int) -> Path:
    """So many images a label; those of a smaller set are in a larger one, byte for byte."""
    for tint, (label, count) in enumerate(sorted(counts.items())):
        for number in range(count):
            picture(root / label / f"{number}.png", tint, number)
    return root


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("few"), apple=8, pear=8)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More images, a label in front of the others, and one behind."""
    root = write(tmp_path_factory.mktemp("many"), apple=14, pear=10)
    for number in range(6):
        picture(root / "aronia" / f"{number}.png", 2, number)
        picture(root / "zucchini" / f"{number}.png", 2, 100 + number)
    return root


def asked(data: Path, method: str, **more: object) -> Recipe:
    tiny = {"name": "test_vit", "weights": "none", "image_size": 32, "epochs": 2, "batch_size": 4, "precision": "f32"}
    tiny |= {"augment": "light", "patch_dropout": 0.0}
    return Recipe.named({"path": str(data), "lr": 0.01, **tiny, **METHODS[method], **more})


def trained(recipe: Recipe, out: Path) -> tuple[Run, TrainReport]:
    with chdir(out.parent):
        report = train(recipe, out=out)
    return Run.open(out), report


@pytest.fixture(scope="module", params=METHODS)
def run(request: pytest.FixtureRequest, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    made, _ = trained(asked(few, request.param), tmp_path_factory.mktemp("runs") / "run")
    return made


def test_it_begins_with_the_answers_that_the_run_ended_with(run: Run) -> None:
    recipe = recipe_from(run.path)
    found = open_training(recipe, False, Listener())
    with torch.no_grad():
        # f32: an adapter of PiSSA's sums the same products in another order
        torch.testing.assert_close(found.prepared.backbone.module.eval()(X), load_trained(run)(X), rtol=0, atol=2e-5)
    assert found.init_from is not None
    assert (found.init_from.labels_kept, found.init_from.labels_new) == (2, ())
    assert found.init_from.trained == run.manifest.digest(TRAINED)
    assert found.prepared.trainable > 0


def test_rows_of_the_head_go_by_their_labels_names(run: Run) -> None:
    names = ("zucchini", "pear", "aronia", "apple")
    prepared = prepare(recipe_from(run.path), 4)
    fresh = prepare(recipe_from(run.path), 4).backbone.module.get_submodule("head").weight.clone()
    listener = Listener()
    begun = load_run_into(run, prepared, Labels.multiclass(names), listener)
    assert not listener.said
    other = load_run_into(run, prepared, Labels.multiclass(("pear", "a", "b", "c")), listener)
    assert (other.labels_kept, other.labels_new) == (1, ("a", "b", "c"))
    (gone,) = listener.said
    assert gone.endswith("rows of the head are dropped: apple")
    prepared = prepare(recipe_from(run.path), 4)
    load_run_into(run, prepared, Labels.multiclass(names), listener)
    assert (begun.labels_kept, begun.labels_new) == (2, ("zucchini", "aronia"))
    old = list(run.manifest.labels.names)
    with torch.no_grad():
        logits, before = prepared.backbone.module.eval()(X), load_trained(run)(X)
    for name in ("pear", "apple"):
        torch.testing.assert_close(logits[:, names.index(name)], before[:, old.index(name)], rtol=0, atol=2e-5)
    head = prepared.backbone.module.get_submodule("head").weight
    assert torch.equal(head[[0, 2]], fresh[[0, 2]])
    assert not torch.equal(head[[1, 3]], fresh[[1, 3]])


@pytest.mark.representative
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_more_images_and_labels_later(method: str, few: Path, many: Path, tmp_path: Path) -> None:
    first, _ = trained(asked(few, method), tmp_path / "first")
    before = {entry.sha256: entry.split for entry in first.entries()}
    recipe = recipe_from(first.path, ["train.epochs=3"], {"data.path": str(many)})
    assert (recipe.train.epochs, recipe.train.lr, recipe.data.path) == (3, 0.01, many)
    second, report = trained(recipe, tmp_path / "second")
    assert report.classes == 4
    begun = second.manifest.begun_from
    assert begun is not None
    assert begun.labels_new == ("aronia", "zucchini")
    assert "initial weights" in (second.path / "trained" / "README.md").read_text()
    assert first.manifest.begun_from is None
    assert "begun_from" not in (first.path / "run.json").read_text()
    # What was learnt from is not chosen by.
    after = {entry.sha256: entry.split for entry in second.entries()}
    assert before.keys() < after.keys()
    assert all(after[sha256] == "train" for sha256, split in before.items() if split == "train")
    # From its own recipe it is made again, to the byte.
    again, _ = trained(Recipe.load(second.path / "recipe.yaml"), tmp_path / "again")
    weights = [load_file(one.path / "trained" / "adapter_model.safetensors") for one in (second, again)]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())


def test_views_of_images_that_were_there_before_are_not_computed_again(
    few: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sizes: list[int] = []
    runs: list[Run] = []
    alike = ("train.precision=f32", "train.frozen_runtime=torch")  # else each training asks this machine anew
    for recipe in (
        lambda: asked(few, "lora", cache_views=2, frozen_runtime="torch"),
        lambda: recipe_from(runs[0].path, alike, {"data.path": str(many)}),
        lambda: recipe_from(runs[1].path, (*alike, "train.lr=0.001")),
    ):
        made, _ = trained(recipe(), tmp_path / f"run-{len(runs)}")
        runs.append(made)
        (content,) = (tmp_path / "cache" / "ftx" / "features").rglob("content")
        sizes.append(content.stat().st_size // (5 * 64 * 2))
    splits = [(len(one.entries("train")), len(one.entries("val"))) for one in runs]
    assert sizes[0] == 2 * splits[0][0] + splits[0][1]
    assert sizes[1] == 2 * splits[1][0] + splits[1][1]  # of the old ones nothing twice
    assert sizes[2] == sizes[1]


def test_what_a_recipe_leaves_open_is_as_the_run_has_it(few: Path, tmp_path: Path) -> None:
    """As ``--set model.from_run=RUN`` without ``--config``: the preset below it leaves the blocks open."""
    first, _ = trained(asked(few, "lora", blocks=2), tmp_path / "first")  # auto is three
    recipe = asked(few, "lora", from_run=str(first.path), blocks="auto", image_size="auto")
    found = open_training(recipe, False, Listener())
    assert (found.recipe.adapter.blocks, found.recipe.data.image_size) == (2, 32)
    with torch.no_grad():
        torch.testing.assert_close(found.prepared.backbone.module.eval()(X), load_trained(first)(X), rtol=0, atol=2e-5)


def test_the_rows_of_a_head_that_were_kept_are_not_solved_anew(few: Path, many: Path, tmp_path: Path) -> None:
    first, _ = trained(asked(few, "lora", head_init="probe", augment="none"), tmp_path / "first")
    recipe = recipe_from(first.path, ["train.epochs=1", "train.lr=1e-12"], {"data.path": str(many)})
    listener = Listener()
    with chdir(tmp_path):
        train(recipe, out=tmp_path / "second", progress=listener)
    assert not any("head_init" in line for line in listener.said)  # it was the run's, and nobody wrote it again
    names = Run.open(tmp_path / "second").manifest.labels.names
    before, after = (
        load_trained(Run.open(tmp_path / name)).get_submodule("head").weight for name in ("first", "second")
    )
    for old, name in enumerate(first.manifest.labels.names):
        torch.testing.assert_close(after[names.index(name)], before[old], rtol=0, atol=1e-6)


def test_a_run_of_images_as_they_were_says_nothing_of_views(few: Path, tmp_path: Path) -> None:
    first, _ = trained(asked(few, "lora", augment="none", blocks=2, frozen_runtime="torch"), tmp_path / "first")
    assert first.recipe().train.cache_views == 1
    assert recipe_from(first.path, ["train.augment=light"]).train.cache_views == 4
    listener = Listener()
    open_training(first.recipe().with_overrides(["train.augment=light"]), False, listener)
    assert any("every epoch uses the same augmented view" in line for line in listener.said)


def test_what_few_images_and_epochs_held_down_is_asked_for_anew(few: Path, many: Path, tmp_path: Path) -> None:
    settings = {"blocks": 2, "frozen_runtime": "torch"}
    first, _ = trained(asked(few, "lora", batch_size=64, epochs=1, cache_views=3, **settings), tmp_path / "first")
    held = first.recipe().train
    assert (held.batch_size, held.cache_views, held.patience) == (len(first.entries("train")), 1, "none")
    begun = recipe_from(first.path, (), {"data.path": str(many)}).train
    assert (begun.batch_size, begun.cache_views, begun.patience) == (16, 4, "none")
    other, _ = trained(asked(few, "lora", epochs=3, cache_views=2, patience=3, **settings), tmp_path / "other")
    kept = recipe_from(other.path).train
    assert (kept.batch_size, kept.cache_views, kept.patience) == (4, 2, 3)  # as they were asked for


def test_the_probe_of_a_run_is_not_fitted_again(few: Path, tmp_path: Path) -> None:
    first, _ = trained(asked(few, "lora", head_init="probe"), tmp_path / "first")
    assert first.recipe().train.head_init == "probe"
    assert recipe_from(first.path).train.head_init == "auto"
    listener = Listener()
    open_training(recipe_from(first.path, ["train.head_init=probe"]), False, listener)
    assert any("the head starts from the run's" in line for line in listener.said)
    linear, _ = trained(asked(few, "linear", head_init="probe"), tmp_path / "linear")
    assert recipe_from(linear.path).train.head_init == "probe"


def test_what_was_learnt_from_is_not_chosen_by(few: Path, many: Path, tmp_path: Path) -> None:
    """Of two fifths of all images, by their hashes alone, some would have been."""
    first, _ = trained(asked(few, "linear"), tmp_path / "first")
    learnt = {entry.sha256 for entry in first.entries("train")}

    def chosen_by(recipe: Recipe) -> set[str]:
        dataset = open_training(recipe.with_overrides(["data.val_fraction=0.4"]), False, Listener()).dataset
        return {entry.sha256 for entry in dataset.split("val")}

    assert chosen_by(asked(many, "linear")) & learnt
    assert not chosen_by(recipe_from(first.path, (), {"data.path": str(many)})) & learnt


def test_an_adapter_for_something_else_is_refused(run: Run, few: Path) -> None:
    for override, key in (
        ("data.image_size=64", "data.image_size"),
        ("model.keep_tokens={2: 0.5}", "model.keep_tokens"),
        ("task=multilabel", "task"),
    ):
        with pytest.raises(RecipeError, match="the same model, adapter and task") as caught:
            init_run(recipe_from(run.path, [override]))
        assert f"{key}: " in str(caught.value.found)
    if run.manifest.method in ("lora", "dora"):
        with pytest.raises(RecipeError) as caught:
            init_run(recipe_from(run.path, ["adapter.rank=5"]))
        assert "adapter.rank: 5, the run has" in str(caught.value.found)
    else:  # keys of an adapter have no effect; the default of blocks was once another one
        kept = recipe_from(run.path, [])
        adapter = kept.adapter.model_copy(update={"blocks": "all"})
        assert init_run(kept.model_copy(update={"adapter": adapter})) == Run(run.path)
    assert init_run(recipe_from(run.path, ["train.lr=0.5", "seed=0"])) == Run(run.path)
    assert init_run(asked(few, "lora")) is None
    with pytest.raises(RunError, match="the run does not contain this folder"):
        recipe_from(run.path / "none")


def test_another_base_is_refused(few: Path, tmp_path: Path) -> None:
    first, _ = trained(asked(few, "lora"), tmp_path / "first")
    with pytest.raises(MergeError, match="the base must be the one"):
        open_training(recipe_from(first.path, ["seed=1"]), False, Listener())  # other random weights


def test_images_of_a_split_of_its_own_that_were_learnt_are_told(few: Path, tmp_path: Path) -> None:
    first, _ = trained(asked(few, "linear"), tmp_path / "first")
    root = tmp_path / "own"
    for split in ("train", "test"):
        write(root / split, apple=8, pear=8)
    listener = Listener()
    open_training(recipe_from(first.path, (), {"data.path": str(root)}), False, listener)
    (told,) = [text for text in listener.said if "were trained on by the run" in text]
    assert told.startswith(f"{len(first.entries('train'))} of 16 images of test")


def test_it_goes_on_after_a_stop_as_any_other(few: Path, many: Path, tmp_path: Path) -> None:
    first, _ = trained(asked(few, "lora"), tmp_path / "first")
    recipe = recipe_from(first.path, (), {"data.path": str(many)})
    whole, _ = trained(recipe, tmp_path / "whole")

    def interrupt(_end: object) -> None:
        raise KeyboardInterrupt

    with chdir(tmp_path):
        train(recipe.replace(train={"checkpoint_minutes": 0}), tmp_path / "cut", on_epoch=interrupt)
        resume(tmp_path / "cut")
    weights = [load_file(one / "trained" / "adapter_model.safetensors") for one in (whole.path, tmp_path / "cut")]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())


@pytest.mark.slow
def test_on_the_command_line(few: Path, many: Path, tmp_path: Path, fresh_ftx: Zygote) -> None:
    first, _ = trained(asked(few, "lora"), tmp_path / "first")
    said = fresh_ftx("train", "--from", first.path, "--data", many, "--out", tmp_path / "second", "--json")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["classes"] == 4
    assert json.loads((tmp_path / "second" / "run.json").read_text())["begun_from"]["labels_kept"] == 2
    for words in (("--config", "multiclass-lora"), ("--resume", first.path)):
        said = fresh_ftx("train", "--from", first.path, *words)
        assert said.returncode == 2
        assert "--from" in said.stderr


def test_a_run_that_is_missing_is_named_before_the_data(tmp_path: Path) -> None:
    said = call("train", "--from", str(tmp_path / "typo"), "--data", str(tmp_path / "none"))
    assert (said.status, "typo" in said.err, "none" in said.err) == (2, True, False), said.err
