"""``card.json`` takes what ftx export wrote and names what it does not know."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from tests.conftest import COLOURS, ColourModel

from ftx.core.errors import ExportError
from ftx.runs.card_json import CARD_FILE, Card, read_card, write_card
from ftx.runs.run_json import Manifest
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import Meaning
from ftx.tasks.thresholds import Thresholds


@pytest.fixture
def folder(colour_model: ColourModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(colour_model.folder, tmp_path / "alone"))


def changed(folder: Path, **change: object) -> Path:
    path = folder / CARD_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return folder


@pytest.mark.parametrize(
    ("change", "what", "found"),
    [
        # One misspelt: its thresholds would silently be those of no label.
        ({"treshold": {}}, "card.json is invalid", "treshold"),
        ({"schema_version": 2}, "must have schema version 1", "version 2, this ftx reads 1"),
        ({"files": {"model.xml": "0" * 64}}, "changed since ftx wrote it", "card.json"),
        ({"files": {"model.onnx": "0" * 64}}, "is missing", ""),
    ],
)
def test_a_card_that_does_not_hold_is_refused(change: dict[str, object], what: str, found: str, folder: Path) -> None:
    assert read_card(folder).schema_version == 1
    with pytest.raises(ExportError, match=what) as caught:
        read_card(changed(folder, **change))
    assert found in (caught.value.found or "")


def test_a_card_keeps_what_the_logits_mean(folder: Path) -> None:
    thresholds = Thresholds({"red": 0.25, "blue": 0.75}, shared=0.625)
    meaning = Meaning(task="multilabel", labels=Labels(COLOURS, singles=COLOURS), thresholds=thresholds)
    write_card(folder, read_card(folder).model_copy(update=dict(meaning)))
    assert read_card(folder).meaning == meaning


def test_a_card_has_room_for_whatever_name_a_run_has(folder: Path) -> None:
    card = json.loads((folder / CARD_FILE).read_text())
    run = {name: card[name] for name in ("task", "labels", "preprocess")}
    run |= {"model": "m", "method": "full", "base_digest": "", "data_root": "data"}

    def taken(kind: type[BaseModel], document: dict[str, Any]) -> list[int]:
        lengths: list[int] = []
        for length in range(1, 1000):
            try:
                kind.model_validate(document | {"architecture": "a" * length})
            except ValidationError:
                continue
            lengths.append(length)
        return lengths

    assert taken(Card, card) == taken(Manifest, run)
    assert read_card(changed(folder, architecture="a" * max(taken(Manifest, run))))
