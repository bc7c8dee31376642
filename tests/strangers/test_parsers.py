"""Every parser of a document says of a damaged one that the input is wrong, in one error, or reads it."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strangers.documents import as_json, as_yaml, damaged, damaged_bytes, refused_or_read, strange

from ftx.core.errors import ExportError, RecipeError, RunError
from ftx.core.untrusted_input import JsonError, parse_json
from ftx.data.preprocess import Preprocess
from ftx.recipe.schema import Recipe
from ftx.recipe.strict_yaml import YamlError, parse_yaml
from ftx.runs.artifacts import DENSE
from ftx.runs.card_json import CARD_FILE, Card, read_card
from ftx.runs.run import Run
from ftx.runs.run_json import Manifest
from ftx.tasks.labels import Labels

TREE = Labels(
    names=("animal", "vehicle", "cat", "dog", "wet"),
    groups=(("animal", "vehicle"), ("cat", "dog")),
    singles=("wet",),
    parents={"cat": "animal", "dog": "animal"},
)
PIXELS = Preprocess(32, 48, (36, 54), "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
RUN: Any = json.loads(
    Manifest(
        task="hierarchical",
        model="dinov2-small",
        architecture="vit_small_patch14_dinov2",
        method="dora",
        base_digest="0" * 64,
        labels=TREE,
        preprocess=PIXELS,
        data_root="/data",
        lineage={"dense": {"made_from": "trained", "digest": "1" * 64}},  # pyright: ignore[reportArgumentType]
        files={"trained/adapter_config.json": "2" * 64, "data.jsonl": "3" * 64},
    ).model_dump_json()
)
CARD_DOCUMENT: Any = json.loads(
    Card(
        task="hierarchical",
        architecture="vit_small_patch14_dinov2",
        precision="fp32",
        labels=TREE,
        preprocess=PIXELS,
        dense_digest="0" * 64,
        files={},
    ).model_dump_json()
)
RECIPE: Any = Recipe().model_dump(mode="json")
OTX: Any = {
    "task": "MULTI_CLASS_CLS",
    "seed": 3,
    "model": {
        "class_path": "otx.backend.native.models.VisionTransformerMulticlassCls",
        "init_args": {
            "label_info": 10,
            "model_name": "dinov2-small",
            "peft": "dora",
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-4, "betas": [0.9, 0.999]}},
        },
    },
    "engine": {"device": "auto"},
    "callback_monitor": "val/accuracy",
    "callbacks": [{"class_path": "lightning.EarlyStopping", "init_args": {"patience": 3}}],
    "overrides": {"max_epochs": 5},
}
ENTRY: Any = {"path": "cat/1.png", "sha256": "4" * 64, "labels": ["cat", "wet"], "split": "train"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documents")


@strange
@given(damaged(RUN))
def test_run(folder: Path, document: object) -> None:
    (folder / "run.json").write_bytes(as_json(document))
    run = refused_or_read(lambda: Run.open(folder), RunError)
    if run is not None:
        scores = run.task.scores(np.zeros((1, len(run.manifest.labels)), np.float32))
        run.task.decode(scores[0])
        run.manifest.preprocess.resized(480, 640)
        refused_or_read(lambda: run.require(DENSE), RunError)
        refused_or_read(lambda: run.file("data.jsonl"), RunError)


@strange
@given(damaged_bytes(json.dumps(RUN).encode()))
def test_bytes_of_a_run(folder: Path, content: bytes) -> None:
    (folder / "run.json").write_bytes(content)
    refused_or_read(lambda: Run.open(folder), RunError)


@strange
@given(damaged(CARD_DOCUMENT))
def test_card(folder: Path, document: object) -> None:
    (folder / CARD_FILE).write_bytes(as_json(document))
    card = refused_or_read(lambda: read_card(folder), ExportError)
    if card is not None:
        card.meaning.open().model_info()
        assert card.preprocess.height <= 4096


@strange
@given(damaged(RECIPE))
def test_recipe(document: object) -> None:
    recipe = refused_or_read(lambda: Recipe.loads(as_yaml(document)), RecipeError)
    if recipe is not None:
        assert Recipe.loads(recipe.dumps()) == recipe


@strange
@given(damaged_bytes(Recipe().dumps().encode()))
def test_bytes_of_a_recipe(folder: Path, content: bytes) -> None:
    (folder / "recipe.yaml").write_bytes(content)
    refused_or_read(lambda: Recipe.load(folder / "recipe.yaml"), RecipeError)


@strange
@given(damaged(OTX))
def test_recipe_of_otx(folder: Path, document: object) -> None:
    (folder / "otx.yaml").write_text(as_yaml(document))
    refused_or_read(lambda: Recipe.load(folder / "otx.yaml"), RecipeError)


@strange
@given(st.dictionaries(st.text(max_size=20), damaged(RECIPE), max_size=4))
def test_flags(flags: dict[str, object]) -> None:
    refused_or_read(lambda: Recipe.build(flags=flags), RecipeError)


@strange
@given(st.lists(damaged(ENTRY, most=2), max_size=3))
def test_images_of_a_run(folder: Path, entries: list[object]) -> None:
    content = b"\n".join(map(as_json, entries))
    (folder / "data.jsonl").write_bytes(content)
    run = {**RUN, "files": {"data.jsonl": hashlib.sha256(content).hexdigest()}}
    (folder / "run.json").write_bytes(as_json(run))
    found = refused_or_read(Run(folder).report_entries, RunError)
    assert found is None or all(set(entry.labels) <= set(TREE.names) for entry in found)


@strange
@given(st.one_of(damaged(RUN), damaged(OTX)))
def test_json_is_read_as_it_is_or_refused(document: object) -> None:
    """What passes is what the standard reader gives, and holds nothing that cannot be written again."""
    try:
        read = parse_json(as_json(document))
    except JsonError:
        return
    assert read == json.loads(as_json(document))
    json.dumps(read, allow_nan=False).encode()


def test_the_mark_that_windows_puts_before_a_text_is_none_of_it() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("text", ['"\\ud83d"', '"\\uD83D"', '["a", "\\uDC00b"]', '{"\\uD83D": 1}'])
def test_half_a_character_is_refused_in_any_spelling(text: str) -> None:
    with pytest.raises(JsonError):
        parse_json(text)
    assert parse_json('"\\uD83D\\uDE00"') == "\U0001f600"


@strange
@given(damaged_bytes(b"a: {b: [1, x], c: 'd'}\ne: 1e-4\n"))
def test_yaml_is_plain_data_or_refused(content: bytes) -> None:
    try:
        read = parse_yaml(content.decode(errors="replace"))
    except YamlError:
        return
    assert not isinstance(read, float) or not math.isnan(read) or b"nan" in content.lower()
