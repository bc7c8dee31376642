from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.evaluating.written_runs import edit_entries, relabel, written_run
from tests.gates.faults import edit_tensors, vouch_for
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
    multiclass_specificity,
)

from ftx.cli.app import run as main
from ftx.core.errors import DataError, GateFailed
from ftx.core.progress import SILENT
from ftx.core.statistics import wilson_interval
from ftx.evaluating.evaluate import EvalReport, class_scores, confusion_matrix, evaluate
from ftx.reporting.held_out import class_scores_of, held_out
from ftx.runs.artifacts import TRAINED
from ftx.runs.run import Run
from ftx.runtimes.choose_artifact import furthest
from ftx.tasks.metrics import f1_of

# Both divide whole numbers below 2^24; torchmetrics does it in f32.
F32_RTOL = 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_the_scores_are_torchmetrics(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = 7
    # Label 5 is never true, label 6 never called, label 4 neither (where the seed is even).
    truth = generator.choice([0, 1, 2, 3, 6], size=200)
    called = np.where(generator.random(200) < 0.6, truth % 6, generator.choice([0, 1, 2, 3, 5], size=200))
    if seed % 2:
        truth[0] = called[0] = 4
    t, c = torch.from_numpy(truth), torch.from_numpy(called)
    true_NC, predicted_NC = (np.eye(labels, dtype=bool)[values] for values in (truth, called))
    matrix = confusion_matrix(true_NC, predicted_NC)
    np.testing.assert_array_equal(matrix, multiclass_confusion_matrix(c, t, labels).numpy())
    scores = class_scores(predicted_NC, true_NC, predicted_NC.astype(np.float32), tuple("abcdefg"))
    for ours, oracle in (
        ([score.precision for score in scores], multiclass_precision),
        ([score.recall for score in scores], multiclass_recall),
        ([score.f1 for score in scores], multiclass_f1_score),
        ([1 - score.false_positive_rate for score in scores], multiclass_specificity),
    ):
        np.testing.assert_allclose(ours, oracle(c, t, labels, average=None).numpy(), rtol=F32_RTOL)
    assert f1_of(predicted_NC, true_NC)[0] == pytest.approx(
        float(multiclass_f1_score(c, t, labels, average="macro")), rel=F32_RTOL
    )
    assert [score.support for score in scores] == np.bincount(truth, minlength=labels).tolist()


@pytest.mark.parametrize("verb", ["eval", "validate"])
def test_a_schema_allows_no_key_that_no_report_has(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """So that whoever checks an answer by it finds a misspelt one, in each class and row as well."""
    assert main(["schema", verb]) == 0
    schema = json.loads(capsys.readouterr().out)
    objects = [schema, *(part for part in schema["$defs"].values() if "properties" in part)]
    assert len(objects) > 1
    assert [part["title"] for part in objects if part.get("additionalProperties") is not False] == []


def test_a_run_is_evaluated_from_its_files(validated_run: Path, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(validated_run, tmp_path / "run"))
    report = evaluate(run)
    assert (report.runtime, report.split, report.images) == ("openvino", "test", 240)
    assert report.artifact == furthest(run).name
    assert report.artifact.startswith("openvino/")
    assert report.compute.chosen_by_runtime
    assert str(report.compute).startswith("auto:")
    matrix = np.array(report.confusion)
    assert matrix.sum() == 240
    assert report.accuracy == np.trace(matrix) / 240
    assert report.accuracy_low < report.accuracy <= report.accuracy_high
    assert [score.name for score in report.classes] == list(run.manifest.labels.names)
    assert [score.support for score in report.classes] == matrix.sum(axis=1).tolist() == [60] * 4
    assert EvalReport.model_validate_json((run.path / "reports" / "eval.json").read_bytes()) == report


@pytest.mark.parametrize("artifact", ["trained", "dense", "onnx", "openvino/fp16"])
def test_any_artifact_can_be_evaluated(validated_run: Path, tmp_path: Path, artifact: str) -> None:
    run = Path(shutil.copytree(validated_run, tmp_path / "run"))
    report = evaluate(run, artifact)
    assert report.artifact == artifact
    # Plain colours: every artifact that still is the trained model tells them apart.
    assert report.accuracy > 0.9


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of the tree cold (blue, green), warm (pink, red) and wet, whose model calls every image warm and red."""
    run = written_run("hierarchical-linear", tmp_path / "tree")
    assert run.manifest.labels.names == ("cold", "warm", "blue", "green", "pink", "red", "wet")

    def always(tensors: dict[str, np.ndarray]) -> None:
        tensors["head.weight"][:] = 0
        tensors["head.bias"][:] = [0, 2, 1, 0, 0, 3, -4]

    edit_tensors(run.path / "trained" / "head.safetensors", always)
    vouch_for(run.path, "trained/head.safetensors")
    warm, red, pink, blue = ("warm",), ("red",), ("pink",), ("blue",)
    relabel(run, [warm, red, warm, pink, warm, red, blue, ("red", "wet")])
    monkeypatch.chdir(tmp_path / "tree")
    return run


def test_of_a_tree_what_the_truth_does_not_say_is_no_mistake(tree: Run) -> None:
    """Of three images it only says that they are warm: pink or red, nobody knows."""
    report = evaluate(tree, "trained")
    right = 3 + 2  # the warm ones, and the red ones that are not wet
    assert (report.accuracy, report.images, report.split) == (right / 8, 8, "test")
    assert (report.accuracy_low, report.accuracy_high) == wilson_interval(right, 8)
    found = {score.name: score for score in report.classes}
    # Of the one that is blue it is known that it is not red.
    red = found["red"]
    assert (red.precision, red.recall, red.f1, red.support) == (3 / 5, 1.0, 2 * 3 / (5 + 3), 3)
    assert red.false_positive_rate == 2 / 5
    warm = found["warm"]
    assert (warm.precision, warm.recall, warm.false_positive_rate, warm.support) == (7 / 8, 1.0, 1.0, 7)
    assert [(found[name].f1, found[name].support) for name in ("cold", "blue", "green", "pink", "wet")] == [
        (0, 1), (0, 1), (0, 0), (0, 1), (0, 1),
    ]  # fmt: skip
    # The mean over labels that occur or were called.
    assert report.macro_f1 == pytest.approx((red.f1 + warm.f1) / 6)
    assert report.metrics["path_accuracy"] == report.accuracy
    assert report.confusion is None  # an image has several labels
    # The page of a report says the same of each label.
    assert class_scores_of(held_out(tree, TRAINED, None, SILENT)) == report.classes


def test_the_images_are_looked_for_where_data_says_they_are(tree: Run, tmp_path: Path) -> None:
    Path("images").rename(tmp_path / "images")
    with pytest.raises(DataError):
        evaluate(tree, "trained")
    assert not (tree.path / "reports" / "eval.json").exists()
    assert evaluate(tree, "trained", data=tmp_path).accuracy == 5 / 8


def test_without_a_test_split_the_images_that_chose_the_epoch_are_asked_about(tree: Run) -> None:
    edit_entries(tree, lambda entry: entry | {"split": {"test": "train"}.get(entry["split"], entry["split"])})
    report = evaluate(tree, "trained")
    assert (report.split, report.images) == ("val", 4)
    assert report.accuracy_high == wilson_interval(round(4 * report.accuracy), 4)[1]


def test_an_answer_that_is_no_number_ends_the_evaluation(tree: Run) -> None:
    head = tree.path / "trained" / "head.safetensors"
    edit_tensors(head, lambda tensors: tensors["head.weight"][5].fill(3e38))  # finite, as a sum of such is not
    vouch_for(tree.path, "trained/head.safetensors")
    with pytest.raises(GateFailed, match="trained computes NaN or infinity"):
        evaluate(tree, "trained")
    assert not (tree.path / "reports" / "eval.json").exists()


@pytest.mark.parametrize(("bias", "each"), [(9, "several"), (-9, "none")])
def test_of_independent_labels_nobody_is_taken_for_another(
    bias: int, each: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where each image has one label: the model calls several of them, or none."""
    run = written_run("multilabel-linear", tmp_path / "run")

    def always(tensors: dict[str, np.ndarray]) -> None:
        tensors["head.weight"][:] = 0
        tensors["head.bias"][:] = bias

    edit_tensors(run.path / "trained" / "head.safetensors", always)
    vouch_for(run.path, "trained/head.safetensors")
    first = run.manifest.labels.names[0]
    relabel(run, [(first,)] * len(run.entries("test")))
    monkeypatch.chdir(tmp_path / "run")
    report = evaluate(run, "trained")
    assert report.confusion is None, each
    assert report.classes[0].recall == (bias > 0)
