"""Model API reads what ftx writes for 2 to 1,000 labels of every task, whatever they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from model_api.adapters import OpenvinoAdapter
from model_api.models import Model
from openvino import opset13 as op

from ftx.data.preprocess import Preprocess
from ftx.runtimes.compiled_network import core
from ftx.runtimes.model_api import model_info
from ftx.tasks.base import Task
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.task_names import TaskName
from ftx.tasks.thresholds import Thresholds

PREPROCESS = Preprocess(height=8, width=8, resize=8, interpolation="bicubic", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
# Spaces, letters beyond ASCII, what XML reserves, and a name that the first becomes without its space.
KINDS = ("größe {}", "größe_{}", "a<b>&\"'{}", "日本 {}", "plain{}", "path/{}")
SHARED = 0.37


def names(count: int) -> tuple[str, ...]:
    return tuple(KINDS[number % len(KINDS)].format(number // len(KINDS)) for number in range(count))


def tree(count: int) -> Labels:
    """Groups of two to five with parents among the labels before them, and singles, one of which has a parent."""
    generator = np.random.default_rng(count)
    given = names(count)
    groups: list[tuple[str, ...]] = []
    parents: dict[str, str] = {}
    at = 0
    while count - at > max(2, count // 10):
        size = min(int(generator.integers(2, 6)), count - at)
        group = given[at : at + size]
        if size < 2:
            break
        if at and generator.random() < 0.8:
            parents |= dict.fromkeys(group, given[int(generator.integers(at))])
        groups.append(group)
        at += size
    singles = given[at:]
    if singles and at:
        parents[singles[0]] = given[0]
    return Labels(given, tuple(groups), singles, parents)


def labels_of(task: TaskName, count: int) -> Labels:
    if task == "multiclass":
        return Labels.multiclass(names(count))
    return tree(count) if task == "hierarchical" else Labels(names(count), singles=names(count))


def write_ir(task: Task, path: Path) -> Path:
    """Logits that a picture's three channels mix, as random for each label as can be."""
    weights = np.random.default_rng(len(task.labels)).normal(0, 0.05, (3, len(task.labels))).astype(np.float32)
    image = op.parameter([-1, -1, -1, 3], np.uint8, name="image")
    mean = op.reduce_mean(op.convert(image, np.float32), np.array([1, 2]), keep_dims=False)
    logits = op.matmul(op.subtract(mean, np.float32(128)), op.constant(weights), False, False)
    logits.output(0).set_names({"logits"})
    model = ov.Model([logits], [image], "mix")
    for key, value in model_info(task, PREPROCESS, embedded=True).items():
        model.set_rt_info(value, ["model_info", key])
    ov.save_model(model, path, compress_to_fp16=False)
    return path


@pytest.mark.parametrize("count", [2, 3, 10, 101, 1000])
@pytest.mark.parametrize(
    ("kind", "resolver"),
    [("multiclass", ""), ("multilabel", ""), ("hierarchical", "greedy"), ("hierarchical", "probabilistic")],
)
def test_labels_and_scores_are_the_same(kind: TaskName, resolver: str, count: int, tmp_path: Path) -> None:
    labels = labels_of(kind, count)
    task = TASKS[kind](labels, Thresholds(dict.fromkeys(labels.names, SHARED), SHARED))
    path = write_ir(task, tmp_path / "model.xml")
    pinned = {"INFERENCE_PRECISION_HINT": "f32"}
    adapter = OpenvinoAdapter(core(), str(path), device="CPU", plugin_config=pinned)
    changed = {"hierarchical_postproc": resolver} if resolver else {}
    theirs = Model.create_model(adapter, configuration=changed, preload=True)
    original = dict(zip(theirs.params.labels, labels.names, strict=True))
    assert len(original) == count
    infer = core().compile_model(path, "CPU", pinned)
    called = 0
    for seed in range(8):
        pixels = np.random.default_rng([count, seed]).integers(0, 256, 3, dtype=np.uint8)
        image = np.broadcast_to(pixels, (8, 8, 3)).copy()
        logits = np.asarray(infer(image[None])[0])
        scores = task.scores(logits)[0]
        found = theirs(image)
        # f32: a softmax or sigmoid by another formula
        np.testing.assert_allclose(found.raw_scores, scores, rtol=0, atol=1e-6)
        told = {original.get(label.name, label.name): label.confidence for label in found.top_labels}
        answer = {label.name: label.score for label in task.decode(scores)}
        assert told == pytest.approx(answer, abs=1e-6)
        called += len(answer)
    assert called
