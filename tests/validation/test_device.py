"""An exported folder proves itself: no run, no torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ftx.card import REFERENCE, read_card, write_card
from ftx.errors import ExportError
from ftx.labels import Labels
from ftx.validation import validate


@pytest.fixture
def folder(colour_model: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(colour_model.folder, tmp_path / "fp32"))


def alter(folder: Path, change: Callable[[dict[str, np.ndarray], dict[str, str]], None]) -> None:
    """Alter the reference, and the card so that the hash holds."""
    card = read_card(folder)
    tensors = load_file(folder / REFERENCE)
    with safe_open(folder / REFERENCE, framework="np") as file:
        metadata = dict(file.metadata())
    change(tensors, metadata)
    save_file(tensors, folder / REFERENCE, metadata=metadata)
    write_card(folder, card)


def test_a_whole_folder_passes_in_both_precisions(folder: Path) -> None:
    report = validate(folder)
    assert report.ok
    assert report.problems == []
    assert (report.verb, report.run, report.folder) == ("validate", None, str(folder))
    assert [(row.artifact, row.view) for row in report.rows] == [("openvino/fp32", "graph")] * 2
    pinned, chosen = report.rows
    assert pinned.compute == "f32"
    assert chosen.compute.startswith("auto:")
    assert (pinned.images, pinned.accuracy, pinned.agreement) == (12, 1.0, 1.0)
    # Wilson's lower end for 12 of 12: n / (n + z^2).
    assert pinned.accuracy_low == pytest.approx(12 / (12 + 1.959964**2), rel=1e-6)
    json.loads(report.model_dump_json(), parse_constant=pytest.fail)


def test_the_model_file_names_its_folder(folder: Path) -> None:
    assert validate(folder / "model.xml").folder == str(folder)


def test_another_answer_fails_and_names_the_image(folder: Path) -> None:
    def change(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
        tensors["logits"][7, 1] += 0.01

    alter(folder, change)
    report = validate(folder)
    assert not report.ok
    row = report.rows[0]
    assert not row.ok
    assert row.worst[0] == "green/7.png"
    assert row.max_abs == pytest.approx(0.01, abs=1e-4)  # the bound of the graph, relative to logits below 5
    assert "green/7.png" in report.problems[0]
    assert report.faulty == ["openvino/fp32"]


def test_a_bound_can_be_set(folder: Path) -> None:
    def change(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
        tensors["logits"][7, 1] += 0.01

    alter(folder, change)
    assert validate(folder, bounds={"fp32.graph.max_abs": 0.02}).ok
    assert not validate(folder, bounds={"fp32.graph.max_abs": 0.005}).ok


def test_labels_in_another_order_fail(folder: Path) -> None:
    card = read_card(folder).model_copy(update={"labels": Labels.multiclass(["green", "red", "blue"])})
    write_card(folder, card)
    report = validate(folder)
    assert not report.ok
    assert "the labels in model.xml" in report.problems[0]


def test_an_altered_file_is_refused_by_its_hash(folder: Path) -> None:
    tensors = load_file(folder / REFERENCE)
    tensors["logits"][0, 0] += 1
    save_file(tensors, folder / REFERENCE)
    with pytest.raises(ExportError, match="is not what was written"):
        validate(folder)


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("does not hold", lambda tensors, metadata: tensors.pop("targets")),
        ("does not hold", lambda tensors, metadata: metadata.update(paths="[")),
        ("does not hold", lambda tensors, metadata: tensors.pop("logits")),
        ("another model", lambda tensors, metadata: tensors.update(targets=tensors["targets"][:1].copy())),
        ("another model", lambda tensors, metadata: tensors["targets"].__setitem__((0, 0), 9)),
        ("another model", lambda tensors, metadata: tensors.update(images=tensors["images"][:, 1:].copy())),
        ("another model", lambda tensors, metadata: tensors.update(logits=tensors["logits"][:, :2].copy())),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(folder: Path, text: str, change: Any) -> None:
    alter(folder, change)
    with pytest.raises(ExportError, match=text):
        validate(folder)


def test_logits_that_are_no_numbers_fail(folder: Path) -> None:
    alter(folder, lambda tensors, metadata: tensors["logits"].__setitem__((0, 0), np.nan))
    report = validate(folder)
    assert not report.ok
    assert "not finite" in report.problems[0]
    json.loads(report.model_dump_json(), parse_constant=pytest.fail)
