"""Multi-label and hierarchical from a table to an IR that Model API opens and reads as ``ftx predict`` does."""

from __future__ import annotations

import ast
import json
import shutil
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from model_api.adapters import OpenvinoAdapter
from model_api.models import Model
from PIL import Image
from tests.backbones.architectures import SHALLOW
from tests.conftest import answers_of_card

from ftx.core.errors import ImageError
from ftx.evaluating import validate
from ftx.evaluating.evaluate import evaluate
from ftx.evaluating.predict import predict
from ftx.exporting import export
from ftx.merging.merge_and_prove import merge
from ftx.recipe.schema import Recipe
from ftx.runs.run import Run
from ftx.runtimes import load
from ftx.runtimes.compiled_network import core
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.thresholds import Thresholds
from ftx.training import train

# Spaces, letters that are not ASCII, what XML reserves, and a name that another becomes when its space is replaced.
HUES = {"red one": (200, 40, 40), "grün": (40, 180, 60), "a<b>&": (50, 60, 200), "red_one": (210, 200, 60)}
TREE = {
    "warm/red tone": (210, 40, 40),
    "warm/orange": (230, 150, 30),
    "kühl/blau": (40, 50, 210),
    "kühl/t&l": (30, 150, 150),
}


def save(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def sheets(root: Path) -> Path:
    """Squares of several hues on grey; an image may have none."""
    generator = np.random.default_rng(0)
    lines = []
    for number in range(72):
        pixels = np.full((32, 32, 3), 128.0) + generator.normal(0, 10, (32, 32, 3))
        held = [name for name in HUES if generator.random() < 0.4]
        for name in held:
            y, x = generator.integers(0, 20, size=2)
            pixels[y : y + 12, x : x + 12] = HUES[name]
        save(pixels, root / f"{number}.png")
        lines.append(json.dumps({"path": f"{number}.png", "labels": held}, ensure_ascii=False))
    (root / "labels.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return root / "labels.jsonl"


def tones(root: Path) -> Path:
    """A tree of hues; some are known to the first level only, some are dark as well."""
    generator = np.random.default_rng(1)
    lines = ["path,labels"]
    for number in range(96):
        path = list(TREE)[number % 4]
        dark = generator.random() < 0.4
        pixels = np.array(TREE[path]) * (0.45 if dark else 1) + generator.normal(0, 10, (32, 32, 3))
        save(pixels, root / f"{number}.png")
        known = path.split("/")[0] if number % 9 == 0 else path
        lines.append(f"{number}.png,{known}{';dark' if dark else ''}")
    (root / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    return root / "labels.csv"


# An adapter in all blocks, on all patches of augmented images.
PLAIN = ("adapter.blocks=all", "train.augment=light", "train.patch_dropout=0")


@pytest.fixture(scope="module", params=["multilabel", "hierarchical"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp(request.param)
    table = (sheets if request.param == "multilabel" else tones)(root)
    overrides = [
        f"task={request.param}",
        f"data.path={table}",
        "data.image_size=32",
        f"model.name={SHALLOW.name}",
        "model.weights=none",
        "model.peft=lora",
        *PLAIN,
        "train.epochs=8",
        "train.lr=4e-3",
        "train.precision=f32",
    ]
    torch.set_num_threads(1)
    with chdir(root):
        made = Run.open(train(Recipe().with_overrides(overrides), out=root / "run").run)
    merge(made)
    export(made, formats=["onnx", "openvino"], precisions=["fp32"])
    return made


def test_every_artifact_answers_as_the_trained_model(run: Run) -> None:
    report = validate(run)
    assert report.ok, report.problems
    assert validate(run.path / "openvino" / "fp32").ok


def test_it_learns_and_is_measured_by_its_own_metrics(run: Run) -> None:
    report = evaluate(run, "dense")
    # 1.0 is measured for both, on 14 and 19 images; chance is 0.4 for mAP and 0.15 for a path with its single.
    assert report.metrics[run.task.metric] > 0.9
    assert report.confusion is None
    assert {score.name for score in report.classes} == set(run.manifest.labels.names)


@pytest.mark.parametrize("artifact", ["trained", "dense"])
def test_the_code_of_a_model_card_reads_the_logits_as_ftx_does(run: Run, artifact: str) -> None:
    image = next(Path(run.manifest.data_root).glob("*.png"))
    (expected,) = predict([image], artifact=run.path / "dense", scores=True)
    assert expected.scores is not None
    for _, said in answers_of_card(run.path / artifact, image):
        found = ast.literal_eval(said)
        if run.manifest.task == "hierarchical":
            # f32 rounding; peft sums the adapter's product, ftx its weight
            assert found == pytest.approx(expected.scores, abs=1e-4)
        else:
            assert sorted(found) == sorted(label.name for label in expected.labels)


@pytest.mark.parametrize("artifact", ["dense", "openvino/fp32"])
def test_a_folder_that_was_copied_away_keeps_its_meaning(run: Run, artifact: str, tmp_path: Path) -> None:
    alone = load(Path(shutil.copytree(run.path / artifact, tmp_path / "elsewhere")))
    assert alone.task.labels == run.manifest.labels
    assert alone.task.thresholds == run.manifest.thresholds
    # And there is something to keep: thresholds that were tuned, 0.58 to 0.76 here.
    assert min(abs(threshold - 0.5) for threshold in run.manifest.thresholds.labels.values()) > 0.01


@pytest.mark.parametrize("resolver", ["greedy", "probabilistic"])
def test_model_api_gives_the_same_labels_and_scores(run: Run, resolver: str) -> None:
    folder = run.path / "openvino" / "fp32"
    predictor = load(folder, compute="f32")
    pinned = {"INFERENCE_PRECISION_HINT": "f32"}
    adapter = OpenvinoAdapter(core(), str(folder / "model.xml"), device="CPU", plugin_config=pinned)
    theirs = Model.create_model(adapter, configuration={"hierarchical_postproc": resolver}, preload=True)
    # Model API knows one threshold: ours are all set to the one that the metadata carries.
    names, shared = predictor.task.labels.names, float(theirs.params.confidence_threshold)
    assert shared == pytest.approx(run.manifest.thresholds.shared, abs=1e-6)
    task = TASKS[run.manifest.task](run.manifest.labels, Thresholds(dict.fromkeys(names, shared), shared))
    original = dict(zip(theirs.params.labels, names, strict=True))
    for entry in run.report_entries():
        path = run.data_root() / entry.path
        found = theirs(np.asarray(Image.open(path)))
        (logits_C,) = predictor.logits_from_files([path])
        assert not isinstance(logits_C, ImageError)
        scores = task.scores(logits_C[None])[0]
        # f32: a sigmoid or a softmax by another formula
        np.testing.assert_allclose(found.raw_scores, scores, rtol=0, atol=1e-5)
        answer = {label.name: label.score for label in task.decode(scores)}
        told = {original.get(label.name, label.name): label.confidence for label in found.top_labels}
        assert told == pytest.approx(answer, abs=1e-5)


@pytest.mark.slow
def test_one_class_works_from_training_to_the_edge(tmp_path: Path) -> None:
    """Model API refuses a multi-label model of one class; ftx does not."""
    generator = np.random.default_rng(3)
    lines = ["path,labels"]
    for number in range(40):
        pixels = np.array((200, 60, 60) if number % 2 else (60, 60, 200)) + generator.normal(0, 15, (32, 32, 3))
        save(pixels, tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'a defect' if number % 2 else ''}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    keys = ("data.image_size=32", f"model.name={SHALLOW.name}", "model.weights=none", "model.peft=lora")
    more = (*PLAIN, "task=multilabel", "train.epochs=6", "train.lr=4e-3", "train.precision=f32")
    recipe = Recipe().with_overrides([f"data.path={tmp_path / 'labels.csv'}", *keys, *more])
    torch.set_num_threads(1)
    with chdir(tmp_path):
        made = Run.open(train(recipe, out=tmp_path / "run").run)
        merge(made)
        export(made, formats=["openvino"], precisions=["fp32"])
        report = validate(made)
        assert report.ok, report.problems
        answers = list(predict([tmp_path / "1.png", tmp_path / "2.png"], made.path / "openvino" / "fp32"))
    assert [[label.name for label in answer.labels] for answer in answers] == [["a defect"], []]
