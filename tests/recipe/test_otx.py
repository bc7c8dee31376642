"""Recipes of OpenVINO Training Extensions: what they become, and what cannot be carried over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftx.cli.app import run
from ftx.cli.recipe_flags import read_recipe
from ftx.core.errors import RecipeError
from ftx.recipe.schema import Recipe, notes_on_otx

Capture = pytest.CaptureFixture[str]

VIT = "otx.backend.native.models.classification"
INIT_ARGS = {
    "peft",
    "freeze_backbone",
    "scheduler",
    "model_name",
    "label_info",
    "pretrained",
    "torch_compile",
    "optimizer",
}


def otx(**changes: object) -> str:
    """The form of the PEFT page; JSON is YAML as well."""
    init_args: dict[str, object] = {
        "label_info": 1000,
        "model_name": "dinov2-small",
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.0001, "weight_decay": 0.05}},
    }
    document: dict[str, object] = {
        "task": "MULTI_CLASS_CLS",
        "model": {"class_path": f"{VIT}.multiclass_models.vit.VisionTransformerMulticlassCls", "init_args": init_args},
    }
    for key, value in changes.items():
        (init_args if key in INIT_ARGS else document)[key] = value
    return json.dumps(document)


def read(tmp_path: Path, text: str, **flags: object) -> Recipe:
    path = tmp_path / "otx.yaml"
    path.write_text(text, encoding="utf-8")
    assert notes_on_otx(path) is not None
    return Recipe.build(path, flags=flags)


def test_the_dora_recipe_of_the_peft_page(tmp_path: Path) -> None:
    recipe = read(tmp_path, otx(peft="dora"), **{"data.path": "photos"})
    # As OTX trains: on augmented images, all of them, in all blocks.
    keys = ["data.path=photos", "data.classes=1000", "model.peft=dora", "train.lr=1e-4"]
    keys += ["adapter.blocks=all", "train.augment=light", "train.patch_dropout=0", "train.head_init=random"]
    assert recipe == Recipe.build(overrides=keys)
    assert Recipe.loads(recipe.dumps(defaults=False)) == recipe


def test_the_linear_recipe_of_the_peft_page(tmp_path: Path) -> None:
    recipe = read(tmp_path, otx(freeze_backbone=True))
    assert (recipe.model.peft, recipe.model.freeze_backbone) == ("none", True)
    # A head that is solved in one go has no use for OTX's augmentation: no note on a key that nobody wrote.
    assert recipe.train.augment == "auto"
    assert "augment" not in recipe.train.model_fields_set
    assert "adapter" not in recipe.model_fields_set


def test_what_means_something_else_is_noted(tmp_path: Path) -> None:
    (tmp_path / "otx.yaml").write_text(otx(peft="dora"))
    notes = notes_on_otx(tmp_path / "otx.yaml")
    assert notes is not None
    assert any("register tokens" in note for note in notes)
    assert any("rank, alpha and targets" in note for note in notes)
    assert not any(note.startswith("patience") for note in notes)
    early = {"class_path": "otx.callbacks.EarlyStopping", "init_args": {"patience": 7}}
    (tmp_path / "otx.yaml").write_text(otx(peft="dora", callbacks=[early]))
    notes = notes_on_otx(tmp_path / "otx.yaml")
    assert notes is not None
    assert any(note.startswith("patience") and "mean metric of three" in note for note in notes)


def test_the_order_of_keys_says_nothing(tmp_path: Path) -> None:
    model = {"init_args": {"model_name": "vit_tiny_patch16_224"}, "class_path": "o.TimmModelMulticlassCls"}
    assert read(tmp_path, otx(model=model)).model.name == "vit_tiny_patch16_224"


def test_an_optimizer_has_the_defaults_of_torchs_adamw(tmp_path: Path) -> None:
    recipe = read(tmp_path, otx(optimizer={"class_path": "torch.optim.AdamW"}))
    assert (recipe.train.lr, recipe.train.weight_decay) == (1e-3, 1e-2)
    for given, expected in ({"lr": 0.3}, (0.3, 1e-2)), ({"weight_decay": 0.4}, (1e-3, 0.4)), ({}, (1e-3, 1e-2)):
        recipe = read(tmp_path, otx(optimizer={"init_args": given}))
        assert (recipe.train.lr, recipe.train.weight_decay) == expected
    # A flag goes over them, and a recipe that has no optimizer has ftx's own.
    recipe = read(tmp_path, otx(optimizer={"class_path": "torch.optim.AdamW"}), **{"train.lr": "0.7"})
    assert (recipe.train.lr, recipe.train.weight_decay) == (0.7, 1e-2)
    no_optimizer = json.loads(otx())
    del no_optimizer["model"]["init_args"]["optimizer"]
    recipe = read(tmp_path, json.dumps(no_optimizer))
    assert (recipe.train.lr, recipe.train.weight_decay) == (Recipe().train.lr, Recipe().train.weight_decay)


def test_what_goes_over_it_is_checked_with_it(tmp_path: Path) -> None:
    (tmp_path / "otx.yaml").write_text(otx(scheduler={}))
    with pytest.raises(RecipeError, match="2 errors"):
        Recipe.build(tmp_path / "otx.yaml", overrides=["train.lrate=1"])


@pytest.mark.parametrize("given", [{"peft": ""}, {"peft": None}, {}])
def test_no_peft_is_full_fine_tuning(given: dict[str, object], tmp_path: Path) -> None:
    recipe = read(tmp_path, otx(**given))
    assert (recipe.model.peft, recipe.model.freeze_backbone) == ("none", False)


@pytest.mark.parametrize(
    ("task", "name", "ours"),
    [
        ("MULTI_LABEL_CLS", "multilabel_models.vit.VisionTransformerMultilabelCls", "multilabel"),
        ("H_LABEL_CLS", "hlabel_models.vit.VisionTransformerHLabelCls", "hierarchical"),
        ("MULTI_CLASS_CLS", "vit.VisionTransformerForMulticlassCls", "multiclass"),
    ],
)
def test_tasks(task: str, name: str, ours: str, tmp_path: Path) -> None:
    text = otx(task=task, peft="lora").replace("multiclass_models.vit.VisionTransformerMulticlassCls", name)
    assert read(tmp_path, text).task == ours


def test_what_says_the_same_is_carried_over(tmp_path: Path) -> None:
    early = {"class_path": "otx.callbacks.EarlyStoppingWithWarmup", "init_args": {"patience": 3}}
    recipe = read(
        tmp_path,
        otx(
            peft="lora",
            pretrained=False,
            torch_compile=True,
            model_name="deit-tiny",
            label_info=3,
            engine={"device": "auto"},
            callback_monitor="val/accuracy",
            callbacks=[early],
            overrides={"max_epochs": 90},
            seed=7,
        ),
    )
    assert recipe.model.name == "deit_tiny_patch16_224"
    assert (recipe.model.weights, recipe.train.compile) == ("none", "auto")
    assert read(tmp_path, otx(torch_compile=False)).train.compile == "none"
    assert (recipe.data.classes, recipe.train.patience, recipe.train.epochs, recipe.seed) == (3, 3, 90, 7)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"scheduler": {"class_path": "x.LinearWarmup"}}, "model.init_args.scheduler: has no counterpart"),
        ({"data": "../data.yaml"}, "data: has no counterpart in ftx; name the data with --data"),
        ({"overrides": {"gradient_clip_val": 1}}, "overrides.gradient_clip_val: has no counterpart"),
        ({"callbacks": [{"class_path": "l.ModelCheckpoint"}]}, "callbacks.0: ftx has no callback ModelCheckpoint"),
        ({"engine": {"device": "xpu"}}, "engine.device: must be 'auto'"),
        ({"callback_monitor": "val/loss"}, "callback_monitor: must be the task's own metric"),
        ({"pretrained": "weights.pth"}, "pretrained: must be true or false; found 'weights.pth'"),
        ({"torch_compile": "yes"}, "torch_compile: must be true or false; found 'yes'"),
        ({"pretrained": 1}, "pretrained: must be true or false; found 1"),
        ({"engine.device": "auto"}, "engine.device: has no counterpart in ftx"),
        ({"callback_monitor": None}, "callback_monitor: must be the task's own metric"),
        ({"callbacks": [[1]]}, "callbacks.0: ftx has no callback without a class_path"),
        ({"peft": False}, "peft: must be lora, dora, or empty"),
        ({"label_info": {"label_names": ["a"], "label_groups": [["a"]]}}, "label_info: must be the number of labels"),
        ({"label_info": ["a", "b"]}, "label_info: must be the number of labels"),
        ({"model_name": None}, "model_name: must be one of dinov2-small"),
        ({"model": {"class_path": "o.VisionTransformerMulticlassCls"}}, "model_name: must be given"),
        ({"max_epochs": 5, "overrides": {"max_epochs": 9}}, "overrides.max_epochs: sets the same value as max_epochs"),
        ({"callbacks": [{"class_path": "x.EarlyStopping", "dict_kwargs": {}}]}, "callbacks.0.dict_kwargs: has no"),
        ({"task": "DETECTION"}, "task: must be one of MULTI_CLASS_CLS"),
        ({"task": "H_LABEL_CLS"}, "class_path: must be a class of the task"),
        ({"model_name": "resnet-18"}, "model.init_args.model_name: must be one of dinov2-small"),
        ({"model": {"class_path": "o.EfficientNetMulticlassCls"}}, "found 'EfficientNetMulticlassCls'"),
        ({"peft": "adalora"}, "model.init_args.peft: must be lora, dora"),
        ({"optimizer": {"class_path": "torch.optim.SGD"}}, "AdamW; found 'torch.optim.SGD'"),
        ({"optimizer": {"init_args": {"betas": [0.5, 0.9]}}}, "betas: must be [0.9, 0.999]"),
        ({"model": {"class_path": "o.VisionTransformerMulticlassCls", "init_args": [1]}}, "init_args: must hold keys"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_over_is_an_error(changes: dict[str, object], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, otx(**changes))
    assert complaint in str(caught.value)


def test_all_that_cannot_be_carried_over_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="3 errors") as caught:
        read(tmp_path, otx(scheduler={}, data="x.yaml", callback_monitor="val/loss"))
    assert "remove the key" in str(caught.value)


def test_the_data_decides_how_many_labels_there_are(
    colour_model: object, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "otx.yaml").write_text(otx(peft="dora"), encoding="utf-8")
    data = str(colour_model.images)  # pyright: ignore[reportAttributeAccessIssue]
    words = ["train", "--config", "otx.yaml", "--data", data, "--image-size", "28", "--dry-run"]
    assert run(words) == 0
    said = capsys.readouterr()
    assert said.out.startswith("class ")  # a table for a person
    assert "adapted layers" in said.out
    assert "data.classes is 1000 in the recipe, but the data has 3 labels: training uses 3" in said.err
    assert "peft: dora" in said.err
    assert run([*words, "--strict"]) == 2
    assert "data.classes must be 3" in capsys.readouterr().err


def test_what_means_something_else_is_told_with_the_recipe(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "otx.yaml"
    path.write_text(otx(peft="dora"), encoding="utf-8")
    recipe = read_recipe(str(path), (), {"train.epochs": 3, "data.path": str(tmp_path)})
    said = capsys.readouterr().err
    assert "  epochs: 3\n" in said
    assert recipe.train.epochs == 3
    told = [line.removeprefix("note: ") for line in said.splitlines() if line.startswith("note: ")]
    assert told
    assert told == notes_on_otx(path)
