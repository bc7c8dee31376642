"""``ftx run``, ``ftx recipes``, ``ftx.Classifier`` and what a training writes about itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.backbones.architectures import SHALLOW
from tests.conftest import write_data

import ftx
from ftx import pipeline
from ftx.cli.app import run
from ftx.core.errors import DataError, EnvironmentFault, FtxError, InputError, RecipeError
from ftx.core.progress import NOTES_ONLY, SILENT
from ftx.core.shipped_files import recipe_file, recipe_names
from ftx.recipe.schema import Recipe
from ftx.training import epoch_log as log

Capture = pytest.CaptureFixture[str]

TINY = {
    "image_size": 32,
    "weights": "none",
    "epochs": 3,
    "lr": 5e-3,
    "precision": "f32",
}
SET = [
    f"--set={key}"
    for key in (
        "data.image_size=32",
        f"model.name={SHALLOW.name}",
        "model.weights=none",
        "train.epochs=3",
        "train.precision=f32",
        "train.lr=5e-3",
    )
]
METHODS = ("lora", "dora", "linear", "full")
TASKS = ("multiclass", "multilabel", "hierarchical")


def test_there_is_a_recipe_for_each_task_and_method_and_they_say_what_they_are_called() -> None:
    names = recipe_names()
    assert {f"{task}-{method}" for task in TASKS for method in METHODS} <= set(names)
    assert {f"quickstart-{task}" for task in TASKS} <= set(names)
    for name in names:
        path = recipe_file(name)
        recipe = Recipe.load(path)
        assert recipe.task in name
        assert "quickstart" in name or name.endswith(recipe.method)
        assert path.read_text().startswith("# ")
        assert len(path.read_text().splitlines()) <= 8


def test_recipes_are_listed(capsys: Capture) -> None:
    said = subprocess.run([sys.executable, "-m", "ftx", "recipes", "--json"], capture_output=True, check=True)
    listed = json.loads(said.stdout)["recipes"]
    assert [one["name"] for one in listed] == recipe_names()
    assert all(one["about"] and not one["about"].startswith("#") for one in listed)
    assert run(["recipes"]) == 0
    assert "multilabel-dora" in capsys.readouterr().out


def test_a_folder_called_as_a_recipe_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "multiclass-dora").mkdir()
    assert recipe_file("multiclass-dora").suffix == ".yaml"


def test_a_name_that_is_none() -> None:
    with pytest.raises(RecipeError, match="the recipe must be a file") as caught:
        recipe_file("multiclas-dora")
    assert "did you mean multiclass-dora" in str(caught.value)


@pytest.mark.representative
def test_one_recipe_does_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    data = write_data(tmp_path / "data", 12)
    words = ["run", "multiclass-lora", "--data", str(data), "--out", "runs/one", *SET]
    assert run([*words, "--precision", "fp23"]) == 2
    assert not (tmp_path / "runs").exists()  # said before anything is trained
    capsys.readouterr()
    assert run([*words, "--precision", "fp32"]) == 0
    said = capsys.readouterr().err
    assert "onnx: verified, " in said
    assert "openvino/fp32: " in said
    made = ftx.Run.open("runs/one")
    assert [str(artifact) for artifact in made.artifacts()] == ["trained", "dense", "onnx", "openvino/fp32"]
    assert (made.path / "reports" / "parity.json").is_file()


@pytest.mark.representative
def test_a_signal_after_training_says_where_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    words = ["run", "multiclass-linear", "--data", str(write_data(tmp_path / "data", 12)), *SET, "--precision", "fp32"]
    stops = (("merge", "ftx merge", "trained"), ("validate", "ftx validate", "trained, dense, onnx, openvino/fp32"))
    for verb, command, held in stops:
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, verb, lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
            assert run([*words, "--out", f"runs/{verb}"]) == 130
        said = capsys.readouterr().err
        assert f"interrupted after training\n  found: runs/{verb} contains {held}\n" in said
        assert f"fix: resume with {command} runs/{verb}\n" in said


@pytest.mark.representative
def test_a_classifier_goes_the_whole_way(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data = write_data(tmp_path / "data", 12)
    with chdir(tmp_path):
        made = ftx.Classifier(SHALLOW.name, peft="lora", progress=SILENT, **TINY)
        assert "not fitted" in repr(made)
        with pytest.raises(InputError, match="not fitted"):
            made.predict(data)
        assert made.fit(data, out="runs/notebook") is made
        images = [data / "red" / "0.png", data / "blue" / "1.png"]
        trained = made.predict(images, scores=True)
        assert [Path(answer.path) for answer in trained] == images
        report = made.export(precisions=["fp32"])
        assert report.artifacts[0].artifact == "openvino/fp32"
        assert made.validate().ok
        exported = made.predict(images, scores=True)
        sent = made.predict([image.read_bytes() for image in images], scores=True)
        held = made.predict([Image.open(images[0]), np.asarray(Image.open(images[1]))], scores=True)
        for found in (sent, held):
            assert [answer.scores for answer in found] == [answer.scores for answer in exported]
        with pytest.raises(InputError, match="RGB of 8 bits"):
            made.predict([np.zeros((8, 8, 3))])  # pyright: ignore[reportArgumentType]
        again = ftx.Classifier.open("runs/notebook", progress=SILENT)
        assert again.recipe.method == "lora"
        assert again.predict(images)[0].scores is None
        moved = Path(shutil.move(data, tmp_path / "moved"))
        with pytest.raises(DataError, match="not where they were"):
            again.evaluate()
        there = ftx.Classifier.open("runs/notebook", data=moved, progress=SILENT)
        assert there.evaluate().accuracy == there.evaluate("trained").accuracy
        shutil.move(moved, data)
        assert again.predict(images, scores=True) == exported
        assert made.evaluate().artifact == "openvino/fp32"
    for one, other in zip(trained, exported, strict=True):
        assert one.scores is not None
        assert other.scores is not None
        # As deployed: the graph's own image path, and bf16 where the CPU has it.
        np.testing.assert_allclose(list(one.scores.values()), list(other.scores.values()), atol=0.05)


def test_a_classifier_takes_keys_of_the_recipe_and_no_others() -> None:
    made = ftx.Classifier(peft="dora", rank=4, epochs=2)
    assert (made.recipe.adapter.rank, made.recipe.train.epochs, made.progress) == (4, 2, NOTES_ONLY)
    assert ftx.Classifier(freeze_backbone=True).recipe.method == "linear"
    with pytest.raises(RecipeError, match=r"did you mean 'train\.epochs'"):
        ftx.Classifier(epoch=2)
    with pytest.raises(RecipeError, match="the model is the first argument"):
        ftx.Classifier("dinov2-small", name="vit_tiny_patch16_224")
    with pytest.raises(FtxError):
        ftx.Classifier(task="multiclas")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="the data folder does not exist"):
        made.fit("nowhere")


def test_a_notebook_is_told_how_it_goes(capsys: Capture) -> None:
    NOTES_ONLY.note("epoch 1")
    assert capsys.readouterr().err == "epoch 1\n"


def test_curves_for_tensorboard_say_what_the_log_says(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data = write_data(tmp_path / "data", 6)
    with chdir(tmp_path):
        made = ftx.Classifier("vit_tiny_patch16_224", peft="none", progress=SILENT, tensorboard=True, **TINY).fit(data)
    reports = tmp_path / made.run.path / "reports"
    lines = [json.loads(line) for line in (reports / "train.jsonl").read_text().splitlines()]
    curves = EventAccumulator(str(reports / "tensorboard")).Reload()
    assert [event.step for event in curves.Scalars("loss/train")] == [line["epoch"] for line in lines]
    for tag, values in {
        "loss/val": [line["val_loss"] for line in lines],
        "val/accuracy": [line["metrics"]["accuracy"] for line in lines],
    }.items():
        # stored as f32
        np.testing.assert_allclose([event.value for event in curves.Scalars(tag)], values, rtol=1e-6)


def test_without_the_package_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    data = write_data(tmp_path / "data", 4)
    with pytest.raises(EnvironmentFault, match="tensorboard") as caught:
        ftx.train(Recipe.named({"path": data, "tensorboard": True}))
    assert "[tensorboard]" in str(caught.value)
