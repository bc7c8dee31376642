from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
    multiclass_specificity,
)

from ftx.cli.app import run as main
from ftx.evaluating.evaluate import EvalReport, class_scores, confusion_matrix, evaluate
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
    true_NC, called_NC = (np.eye(labels, dtype=bool)[values] for values in (truth, called))
    matrix = confusion_matrix(true_NC, called_NC)
    np.testing.assert_array_equal(matrix, multiclass_confusion_matrix(c, t, labels).numpy())
    scores = class_scores(called_NC, true_NC, called_NC.astype(np.float32), tuple("abcdefg"))
    for ours, oracle in (
        ([score.precision for score in scores], multiclass_precision),
        ([score.recall for score in scores], multiclass_recall),
        ([score.f1 for score in scores], multiclass_f1_score),
        ([1 - score.false_positive_rate for score in scores], multiclass_specificity),
    ):
        np.testing.assert_allclose(ours, oracle(c, t, labels, average=None).numpy(), rtol=F32_RTOL)
    assert f1_of(called_NC, true_NC)[0] == pytest.approx(
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
