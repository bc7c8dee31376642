"""Documents at the ends of what can be written: nesting, numbers, half characters, sizes, counts, names of runs."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tests.conftest import ColourModel

from ftx.cli.app import run as ftx
from ftx.core.errors import DataError, ExportError, InputError, RecipeError, RunError, listed, nearest
from ftx.core.files import sha256_file
from ftx.core.untrusted_input import MOST_BYTES, MOST_LEVELS, IrregularFile, JsonError, parse_json, read_json
from ftx.data.preprocess import Preprocess
from ftx.recipe.error_lines import error_lines
from ftx.recipe.schema import Recipe
from ftx.recipe.strict_yaml import YamlError, parse_yaml
from ftx.runs.card_json import CARD_FILE, read_card, write_card
from ftx.runs.run import Run
from ftx.runs.run_json import Manifest
from ftx.runs.runs_folder import latest_run
from ftx.runtimes import load
from ftx.tasks.labels import Labels, spaceless_names

MANIFEST: Any = json.loads(
    Manifest(
        task="hierarchical",
        model="dinov2-small",
        architecture="vit_small_patch14_dinov2",
        method="dora",
        base_digest="",
        labels=Labels(("a", "b", "c"), (("a", "b"),), ("c",), {"c": "a"}),
        preprocess=Preprocess(32, 32, 32, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        data_root="data",
    ).model_dump_json()
)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Of this process, however busy the machine is."""
    started = time.process_time()
    yield
    assert time.process_time() - started < seconds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "levels"),
        ('{"a":' * 100_000, "levels"),
        ("[" * (MOST_LEVELS + 1) + "]" * (MOST_LEVELS + 1), "levels"),
        (f'{{"a": {"1" * 400}}}', "64 bits"),
        (f'{{"a": -{"1" * 5000}}}', "64 bits"),
        (str(2**63), "64 bits"),
        ("1e400", "64 bits"),
        ("NaN", "NaN is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' appears twice"),
        (r'"\ud800"', "lone surrogate"),
        (r'{"\udcff": 1}', "lone surrogate"),
        (r'["\ud83d", "\ude00"]', "lone surrogate"),
        ('"\\' * 100_000, "column"),
        ('"' * 100_001, "column"),
        ("", "column"),
        (b"\xff\xfe[\x00]\x00", "UTF-8"),
    ],
)
def test_json_is_refused_for_one_reason(text: str | bytes, said: str) -> None:
    with within(2), pytest.raises(JsonError, match=said) as refused:
        parse_json(text)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    "text",
    [r'"😀 \ud83d\ude00"', "[" * MOST_LEVELS + "]" * MOST_LEVELS, str(2**63 - 1), str(-(2**63)), "1e308", '"[[{"'],
)
def test_json_of_the_last_kind_that_is_taken(text: str) -> None:
    assert parse_json(text) == json.loads(text)


def test_a_file_that_is_no_document_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(MOST_BYTES + 1)
    for name in ("pipe", ""):
        with pytest.raises(IrregularFile):
            read_json(tmp_path / name)
    with pytest.raises(JsonError, match="more than"):
        read_json(tmp_path / "large")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "levels"),
        ("- " * 33 + "a", "levels"),
        ("".join(f"a{number}: 1\n" for number in range(60_000)), "more than 20,000"),
        ("a: &a [1]\nb: *a", "anchors"),
        (f"a: {'1' * 400}", "64 bits"),
        (f"a: {'1' * 5000}", "64 bits"),
        (r'a: "\ud800"', "lone surrogate"),
        (r'"\udcff": 1', "lone surrogate"),
    ],
)
def test_yaml_is_refused_for_one_reason(text: str, said: str) -> None:
    with within(4), pytest.raises(YamlError, match=said) as refused:
        parse_yaml(text)
    assert len(str(refused.value)) < 200


def test_twenty_complaints_and_a_count_of_the_rest() -> None:
    text = "".join(f"key{number}: {number}\n" for number in range(9000))
    with within(4), pytest.raises(RecipeError) as refused:
        Recipe.loads(text)
    lines = refused.value.what.split("\n  ")
    assert lines[0] == "9,000 errors in the recipe:"
    assert [line.partition(":")[0] for line in lines[1:-1]] == [f"key{number}" for number in range(20)]
    assert lines[-1] == "and 8,980 more"
    with within(2), pytest.raises(RecipeError, match=r"and 59,981 more"):
        Recipe.build(flags={**{f"key{number}": number for number in range(60_000)}, "train.epochs": 0})


def test_no_more_complaints_are_worded_than_are_told() -> None:
    """Each looks for the nearest known key."""
    with pytest.raises(ValidationError) as refused:
        Recipe.model_validate({f"key{number}": number for number in range(60_000)})
    with within(2):
        assert len(error_lines(refused.value, Recipe)) == 20


def test_one_complaint_of_a_manifest_and_a_count_of_the_rest(tmp_path: Path) -> None:
    spare = {f"key{number}": number for number in range(60_000)}
    (tmp_path / "run.json").write_text(json.dumps({**MANIFEST, **spare}))
    with within(4), pytest.raises(RunError, match="and 59,999 more") as refused:
        Run.open(tmp_path)
    assert len(str(refused.value)) < 500


def test_complaints_of_otx_are_counted(tmp_path: Path) -> None:
    spare = "".join(f"key{number}: 1\n" for number in range(9000))
    (tmp_path / "otx.yaml").write_text(f"task: MULTI_CLASS_CLS\n{spare}")
    with within(4), pytest.raises(RecipeError, match=r"and \d,\d+ more") as refused:
        Recipe.load(tmp_path / "otx.yaml")
    assert refused.value.what.count("\n") == 21


def test_the_nearest_name_is_looked_for_in_a_bounded_time() -> None:
    known = [f"name{number:05}" for number in range(100_000)]
    with within(2):
        assert nearest("x" * 1_000_000, known) is None
        assert nearest("nane00007", known) == "name00007"
        letters = [chr(0x4E00 + number % 150) for number in range(20_000)]
        shuffled = ["".join(random.Random(seed).sample(letters, len(letters))) for seed in range(20)]
        assert nearest(shuffled[0], shuffled[1:]) is None
    assert listed([str(number) for number in range(12)]).endswith("; and 2 more")


@pytest.mark.parametrize(
    "preprocess",
    [
        {"height": 1_000_000},
        {"width": 4097, "resize": 4097},
        {"resize": 1_000_000},
        {"resize": [32, 10**12]},
        {"height": 0},
        {"height": -1},
        {"std": [0, 1, 1]},
        {"std": [1, 1, float("nan")]},
        {"mean": [float("inf"), 0, 0]},
        {"interpolation": "nearest"},
    ],
)
def test_an_image_path_that_no_model_has(
    preprocess: dict[str, object], tmp_path: Path, colour_model: ColourModel
) -> None:
    (tmp_path / "run.json").write_text(json.dumps({**MANIFEST, "preprocess": {**MANIFEST["preprocess"], **preprocess}}))
    with pytest.raises(RunError):
        Run.open(tmp_path)
    folder = Path(shutil.copytree(colour_model.folder, tmp_path / "ir"))
    card = json.loads((folder / CARD_FILE).read_text())
    card["preprocess"] |= preprocess
    (folder / CARD_FILE).write_text(json.dumps(card))
    with pytest.raises(ExportError):
        load(folder)


def test_sides_of_a_recipe_are_those_of_a_model() -> None:
    assert Recipe.build(flags={"data.image_size": "4096x32"}).data.image_size == "4096x32"
    for size in (4097, "32x4097", 10**400):
        with pytest.raises(RecipeError, match=r"data\.image_size"):
            Recipe.build(flags={"data.image_size": size})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("adapter.rank", 65_537),
        ("adapter.rank", 10**400),
        ("adapter.blocks", ",".join(["0-9999"] * 20_000)),
        ("adapter.blocks", "first:" + "9" * 5000),
        ("adapter.layers", "a" * 70_000),
        ("train.epochs", 10**400),
        ("train.batch_size", 10**10),
        ("data.classes", 10**6),
        ("model.name", "x" * 5000),
    ],
)
def test_numbers_of_a_recipe_are_within_bounds(key: str, value: object) -> None:
    with within(2), pytest.raises(RecipeError, match=key.replace(".", r"\.")) as refused:
        Recipe.build(flags={key: value})
    assert len(str(refused.value)) < 500


def chain(levels: int) -> dict[str, object]:
    names = [f"l{level}" for level in range(levels)]
    return {"names": names, "groups": [], "singles": names, "parents": dict(zip(names[1:], names, strict=False))}


@pytest.mark.parametrize("levels", [101, 3000, 60_000])
def test_a_label_tree_without_end(levels: int, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({**MANIFEST, "labels": chain(levels)}))
    with within(4), pytest.raises(RunError, match="at most 100 levels"):
        Run.open(tmp_path)


def test_a_label_tree_of_a_hundred_levels(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({**MANIFEST, "labels": chain(100)}))
    task = Run.open(tmp_path).task
    assert len(task.decode(np.full(100, 0.9, np.float32))) == 100
    with pytest.raises(DataError, match="must not be its own parent"):
        Labels(("a", "b"), (), ("a", "b"), {"a": "b", "b": "a"})


@pytest.mark.parametrize("names", [[], ["a", "a"], [f"l{number}" for number in range(70_000)]])
def test_labels_that_no_model_has(names: list[str], tmp_path: Path) -> None:
    labels = {"names": names, "groups": [], "singles": names}
    (tmp_path / "run.json").write_text(json.dumps({**MANIFEST, "labels": labels}))
    with within(4), pytest.raises(RunError) as refused:
        Run.open(tmp_path)
    assert len(str(refused.value)) < 1000


def test_names_with_blanks_are_told_apart_in_linear_time() -> None:
    names = [f"a{''.join(blanks)}b" for blanks in itertools.product(" \t", repeat=14)]
    with within(2):
        assert spaceless_names(names) == ("a_b", *(f"a_b_{number}" for number in range(2, 2**14 + 1)))


@pytest.mark.parametrize("thresholds", [{"shared": 1.5}, {"shared": -1e300}, {"labels": {"c": 1e308}}])
def test_a_threshold_is_a_score(thresholds: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({**MANIFEST, "thresholds": thresholds}))
    with pytest.raises(RunError, match="a threshold must be between"):
        Run.open(tmp_path)


@pytest.mark.parametrize("name", ["../other/model.xml", "/etc/passwd", "a/../../b", "", "x" * 5000])
def test_a_record_of_files_names_those_of_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({**MANIFEST, "files": {name: ""}}))
    with pytest.raises(RunError, match="must be a file below the folder"):
        Run.open(tmp_path)


@pytest.mark.parametrize("architecture", ["hf-hub:x/y", "a/b", 'x"); import os; os.system("x', "", "x" * 300, "a b"])
def test_an_architecture_is_a_name(architecture: str, tmp_path: Path) -> None:
    """It stands in the Python of a model card."""
    (tmp_path / "run.json").write_text(json.dumps({**MANIFEST, "architecture": architecture}))
    with pytest.raises(RunError, match="architecture"):
        Run.open(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"\n", b"\0\0", b"a\x1b[2J", b"x" * 10_000, b"a\nb"])
def test_the_newest_run_of_two_odd_bytes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "latest").write_bytes(content)
    with chdir(tmp_path), pytest.raises(RunError, match="must be the name of a run"):
        latest_run()


def test_the_newest_run_by_its_name_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs" / "täst 1").mkdir(parents=True)
    (tmp_path / "runs" / "latest").write_text("täst 1\n", encoding="utf-8")
    with chdir(tmp_path):
        assert latest_run() == Path("runs/täst 1")


def broken_ir(kind: str, folder: Path) -> None:
    import openvino
    from openvino import opset13 as op

    image = op.parameter([-1, -1, -1, 3], np.uint8, name="image")
    mean = op.reduce_mean(op.convert(image, np.float32), np.array([1, 2]), keep_dims=False)
    model = openvino.Model([mean], [image])
    if kind == "no outputs":
        model = openvino.Model([], [op.assign(op.read_value(mean, "v"), "v")], [image])
    elif kind == "one number":
        model = openvino.Model([op.reduce_mean(mean, np.array([0, 1]), keep_dims=False)], [image])
    elif kind == "any rank":
        other = op.parameter(openvino.PartialShape.dynamic(), np.float32)
        model = openvino.Model([op.relu(other)], [other])
    elif kind == "two inputs":
        other = op.parameter([-1, 3], np.float32)
        model = openvino.Model([op.add(mean, other)], [image, other])
    elif kind == "no inputs":
        model = openvino.Model([op.relu(op.constant(np.zeros((1, 3), np.float32)))], [])
    elif kind == "floats":
        other = op.parameter([-1, 3, 16, 16], np.float32)
        model = openvino.Model([op.reduce_mean(other, np.array([2, 3]), keep_dims=False)], [other])
    elif kind == "one size":
        other = op.parameter([1, 7, 7, 3], np.uint8)
        model = openvino.Model([op.reduce_mean(op.convert(other, np.float32), np.array([1, 2]))], [other])
    elif kind == "words for metadata":
        model.set_rt_info("x", ["model_info"])
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)


@pytest.mark.parametrize(
    "kind",
    ["no outputs", "one number", "any rank", "two inputs", "no inputs", "floats", "one size", "words for metadata"],
)
def test_an_ir_that_is_no_classifier(kind: str, colour_model: ColourModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(colour_model.folder, tmp_path / "ir"))
    card = read_card(folder)
    broken_ir(kind, folder)
    write_card(folder, card)
    image = next(colour_model.images.rglob("*.png"))
    status = ftx(["predict", str(image), "--artifact", str(folder)])
    assert status == (0 if kind == "words for metadata" else 2)
    assert ftx(["validate", str(folder)]) == (1 if kind == "words for metadata" else 2)


@pytest.mark.parametrize("bytes_", [b"", b"<net", b"<?xml version='1.0'?><net/>", b"<a>" * 10_000, b"\0" * 100])
def test_an_ir_that_is_no_ir(bytes_: bytes, colour_model: ColourModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(colour_model.folder, tmp_path / "ir"))
    card = read_card(folder)
    (folder / "model.xml").write_bytes(bytes_)
    write_card(folder, card)
    with pytest.raises(ExportError):
        load(folder)


@pytest.mark.parametrize("paths", ["[" * 100_000, "7", '{"a": 1}', "[1]", '["\\ud800"]', "null"])
def test_a_reference_that_does_not_hold(paths: str, colour_model: ColourModel, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    folder = Path(shutil.copytree(colour_model.folder, tmp_path / "ir"))
    path = folder / "reference.safetensors"
    with safe_open(path, framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"paths": paths})
    card = read_card_anyway(folder)
    card["files"]["reference.safetensors"] = sha256_file(path)
    (folder / CARD_FILE).write_text(json.dumps(card))
    assert ftx(["validate", str(folder)]) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.update(images=np.uint8(7)),
        lambda tensors: tensors.update(logits=np.float32(7)),
        lambda tensors: tensors.update(logits=tensors["logits"].astype(np.int64)),
        lambda tensors: tensors.update(targets=tensors["targets"].astype(bool)),
        lambda tensors: tensors.update(images=tensors["images"][:0], logits=tensors["logits"][:0]),
    ],
)
def test_a_reference_of_other_tensors(change: Any, colour_model: ColourModel, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    folder = Path(shutil.copytree(colour_model.folder, tmp_path / "ir"))
    path = folder / "reference.safetensors"
    with safe_open(path, framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    change(tensors)
    save_file({name: np.asarray(tensor) for name, tensor in tensors.items()}, path, metadata=metadata)
    card = read_card_anyway(folder)
    card["files"]["reference.safetensors"] = sha256_file(path)
    (folder / CARD_FILE).write_text(json.dumps(card))
    assert ftx(["validate", str(folder)]) == 2


def read_card_anyway(folder: Path) -> Any:
    return json.loads((folder / CARD_FILE).read_text())


def test_an_input_error_is_of_status_two() -> None:
    assert InputError.exit_code == RunError.exit_code == ExportError.exit_code == 2
