"""What ``--base`` and ``--as-update`` write of a run: the numbers and labels of that run and of no other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load, load_file
from tests.gates.faults import edit_json, keep, vouch

from ftx.core.errors import ExportError
from ftx.exporting.base_ir import BaseReport, UpdateReport, export_base, export_update
from ftx.runs.artifacts import DENSE
from ftx.runs.card_json import read_card
from ftx.runs.proof_json import ir_digest
from ftx.runs.run import Run
from ftx.runs.update_zip import Update, read_update, tensor_digest

NAMES = ["amber", "blue", "green", "red"]
THRESHOLDS = {"amber": 0.2, "blue": 0.4, "green": 0.6, "red": 0.8}


@pytest.fixture(scope="module")
def based(whole_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BaseReport]:
    out = tmp_path_factory.mktemp("based") / "base"
    return out, export_base(whole_run, out)


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    """A copy without exports, to be edited."""
    heavy = shutil.ignore_patterns("onnx", "openvino")
    copy = Path(shutil.copytree(whole_run, tmp_path / "run", symlinks=True, ignore=heavy))
    keep(copy)
    return copy


def edited(run: Path, change: Callable[[Any], object]) -> Path:
    edit_json(run / "run.json", change)
    return run


def shipped(run: Path, base: Path, name: str = "update", **words: Any) -> tuple[Update, Any, UpdateReport]:
    """An update of a run, what it says that the trained model answers, and the report."""
    report = export_update(run, run.parent / name, base, **words)
    update, files = read_update(run.parent / name)
    return update, load(files["answers.safetensors"]), report


def as_multilabel(document: Any) -> None:
    """The same names, each decided by itself from a threshold of its own on."""
    document["labels"] |= {"groups": [], "singles": NAMES}
    document |= {"task": "multilabel", "thresholds": {"labels": THRESHOLDS}}


def test_the_report_and_the_card_of_a_base_say_what_lies_there(based: tuple[Path, BaseReport], whole_run: Path) -> None:
    out, report = based
    manifest, card = Run.open(whole_run).manifest, read_card(out)
    assert (report.run, report.path, report.precision) == (str(whole_run), str(out), "fp32")
    assert report.size_bytes == sum(path.stat().st_size for path in out.iterdir())
    assert (report.base_digest, report.base_ir_digest) == (manifest.base_digest, ir_digest(out))
    assert card.base is not None
    assert (card.base.base_digest, card.dense_digest) == (manifest.base_digest, manifest.base_digest)
    # patches' projection, four layers in each of six blocks, and the head's two
    assert report.constants == len(card.base.constants) == len(set(card.base.constants.values())) == 1 + 6 * 4 + 2
    assert (card.preprocess, card.labels, card.task) == (manifest.preprocess, manifest.labels, "multiclass")


def test_an_update_says_what_it_makes_of_its_base(based: tuple[Path, BaseReport], run: Path, whole_run: Path) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"validate": {"max_drop": 0.07}}))
    vouch(run)
    base, _ = based
    update, answers, report = shipped(run, base)
    manifest, dense = Run.open(run).manifest, load_file(run / "dense" / "model.safetensors")
    assert (update.base_digest, update.base_ir_digest) == (manifest.base_digest, ir_digest(base))
    assert (update.image_size, update.max_drop, update.dense_digest) == (32, 0.07, manifest.digest(DENSE))
    layers = [
        f"blocks.{block}.{leaf}" for block in range(6) for leaf in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    ]
    assert update.tensors.keys() == {*(f"{layer}.weight" for layer in layers), "head.weight", "head.bias"}
    assert update.tensors == {name: tensor_digest(dense[name]) for name in update.tensors}
    assert (report.tensors, report.sequence, report.verdict) == (26, 1, None)
    assert (report.run, report.base, report.path) == (str(run), str(base), str(run.parent / "update"))
    assert report.size_bytes == (run.parent / "update").stat().st_size
    reference = load_file(base / "reference.safetensors")
    np.testing.assert_array_equal(answers["targets"], reference["targets"])
    assert answers["targets"].sum(axis=0).tolist() == [16, 16, 16, 16]  # the classes take turns
    # The trained model's answers, and not those of the base, whose head nobody trained.
    assert (answers["logits"].argmax(axis=1) == reference["targets"].argmax(axis=1)).mean() > 0.9
    assert (reference["logits"].argmax(axis=1) == reference["targets"].argmax(axis=1)).mean() < 0.6
    before = run.parent / "update"
    second, _, said = shipped(run, base, "second", after=before)
    assert (update.sequence, update.previous) == (1, None)
    assert (second.sequence, second.previous) == (2, sha256(before.read_bytes()).hexdigest())
    assert said.sequence == 2


@pytest.mark.parametrize(
    "names",
    [["amber", "blue", "green", "scarlet"], ["blue", "amber", "green", "red"]],
    ids=["renamed", "another order"],
)
def test_the_truth_of_other_labels_is_not_the_updates(
    names: list[str], based: tuple[Path, BaseReport], run: Path
) -> None:
    """As many as the base has, and others all the same: a device would count by the old ones."""
    edited(run, lambda document: document["labels"].update(names=names, groups=[names]))
    update, answers, _ = shipped(run, based[0])
    assert list(update.labels.names) == names
    assert answers["targets"].shape == (0, 4)
    assert answers["logits"].shape == (64, 4)


def test_labels_that_decide_by_themselves_are_shipped_with_their_thresholds(
    based: tuple[Path, BaseReport], run: Path
) -> None:
    update, answers, _ = shipped(edited(run, as_multilabel), based[0])
    assert (update.task, update.thresholds.labels) == ("multilabel", THRESHOLDS)
    assert answers["targets"].shape == (0, 4)  # the base's exclude each other


@pytest.mark.representative
def test_a_base_has_the_thresholds_of_its_run_and_its_truth_is_that_of_updates(run: Path) -> None:
    base = run.parent / "half"
    report = export_base(edited(run, as_multilabel), base, precision="fp16")
    card = read_card(base)
    assert (card.task, card.thresholds.labels) == ("multilabel", THRESHOLDS)
    assert (report.precision, card.precision) == ("fp16", "fp16")
    assert (base / "model.bin").stat().st_size < 0.6 * (run / "dense" / "model.safetensors").stat().st_size
    _, answers, _ = shipped(run, base)
    assert answers["targets"].shape == (64, 4)


@pytest.mark.parametrize(
    ("key", "value"),
    [("mean", [0.5, 0.5, 0.4]), ("std", [0.4, 0.5, 0.5]), ("interpolation", "bilinear"), ("resize", 40)],
)
def test_a_base_that_takes_images_otherwise_is_refused(
    key: str, value: object, based: tuple[Path, BaseReport], run: Path
) -> None:
    edited(run, lambda document: document["preprocess"].update({key: value}))
    with pytest.raises(ExportError, match="must have the preprocessing of the run") as caught:
        export_update(run, run.parent / "update", based[0])
    assert caught.value.fix == f"write a base for this run: ftx export {run} --base DIR"
    assert not (run.parent / "update").exists()


def test_a_base_that_keeps_other_tokens_is_refused(based: tuple[Path, BaseReport], run: Path) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["model"]["keep_tokens"] = {3: 0.5}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    vouch(run)
    with pytest.raises(ExportError, match="must keep the same tokens as the run") as caught:
        export_update(run, run.parent / "update", based[0])
    assert caught.value.found == "all, the run keeps {3: 0.5}"
