"""``ftx validate`` fails the very rows that a fault on the disk belongs to, and no other.

Each artifact of one run is damaged in its own way and the hashes are fixed; a fresh process validates the run once.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.conftest import Listener
from tests.gates.faults import Constant, Tensors, edit_constants, edit_json, edit_tensors, keep, vouch
from tests.zygote import Zygote

from ftx.evaluating import validate
from ftx.runs.card_json import read_card, write_card
from ftx.runtimes import load
from ftx.runtimes.openvino import default_compute
from ftx.tasks.labels import Labels

Rows = set[tuple[str, str, str]]
LABELS = ["amber", "blue", "green", "red"]
WIDTH = 64  # of the model of ``whole_run``


class Validated(NamedTuple):
    """A damaged run, and what a fresh process said of it."""

    run: Path
    status: int
    report: Any
    stderr: str

    def failing(self, artifact: str) -> Rows:
        """Runtime, view and precision (f32 or auto) of each row that failed."""
        rows = [row for row in self.report["rows"] if row["artifact"] == artifact and not row["ok"]]
        return {(row["runtime"], row["view"], row["compute"].partition(":")[0]) for row in rows}

    def largest(self, artifact: str, view: str, compute: str) -> tuple[float, float]:
        """The largest difference of a logit in a row, and its bound."""
        (row,) = [
            row
            for row in self.report["rows"]
            if (row["artifact"], row["view"], row["compute"].partition(":")[0]) == (artifact, view, compute)
        ]
        return row["max_abs"], row["bound"]["max_abs"]


def validated(fresh_ftx: Zygote, run: Path) -> Validated:
    vouch(run)
    done = fresh_ftx("validate", run, "--images", "24", "--json")  # a fault shows on any image
    assert done.returncode in (0, 1), done.stderr
    return Validated(run, done.returncode, json.loads(done.stdout), done.stderr)


def scaled_weight(factor: float) -> Any:
    """The largest weight matrix, which lies in the middle of the model."""

    def change(constants: list[Constant]) -> int:
        matrices = [c.values for c in constants if c.values.ndim == 2 and min(c.values.shape) > len(LABELS)]
        chosen = max(matrices, key=lambda values: values.size)
        chosen *= np.asarray(factor, chosen.dtype)
        return 1

    return change


def one_percent_of_dense(tensors: Tensors) -> None:
    tensors["blocks.5.mlp.fc1.weight"] *= np.float32(1.01)


def one_percent_of_onnx(path: Path) -> None:
    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest) * np.float32(1.01), largest.name))
    onnx.save(model, path)


def another_kernel(constants: list[Constant]) -> int:
    """The cubic's leading 1.5 with the other sign: at whole distances, as in an identity, the kernel stays the same."""
    cubics = [c.values for c in constants if c.values.dtype == np.float32 and c.values.size == 1]
    leading = [values for values in cubics if values.item() == 1.5]
    for values in leading:
        values[...] = -1.5
    return len(leading)


def scales_trebled(constants: list[Constant]) -> int:
    """What the int8 weights of every layer are multiplied by."""
    scales = [c.values for c in constants if c.values.shape in ((WIDTH, 1), (3 * WIDTH, 1))]
    for values in scales:
        values *= np.float32(3)
    return len(scales)


@pytest.fixture(scope="module")
def damaged(whole_run: Path, tmp_path_factory: pytest.TempPathFactory, fresh_ftx: Zygote) -> Validated:
    """A weight of each model but fp32, and of that the image path."""
    run = Path(shutil.copytree(whole_run, tmp_path_factory.mktemp("damaged") / "run"))
    edit_tensors(run / "dense" / "model.safetensors", one_percent_of_dense)
    one_percent_of_onnx(run / "onnx" / "model.onnx")
    edit_constants(run / "openvino" / "fp32", another_kernel)
    edit_constants(run / "openvino" / "fp16", scaled_weight(1.03))
    edit_constants(run / "openvino" / "int8", scales_trebled)
    return validated(fresh_ftx, run)


IN_F32 = default_compute().dtype == "f32"
BOTH = {("openvino", view, compute) for view in ("graph", "files") for compute in ("f32", "auto")}


@pytest.mark.parametrize(
    ("artifact", "rows"),
    [
        ("trained", set()),
        ("dense", {("torch", "graph", "f32")}),
        # Its image path is the training path: from files it is held to the bound of the graph.
        ("onnx", {("onnx", "graph", "f32"), ("onnx", "files", "f32")}),
        ("openvino/fp32", {("openvino", "files", "f32"), ("openvino", "files", "auto")}),
        # In bf16, where the CPU computes in it by itself, it is held to labels.
        ("openvino/fp16", {("openvino", "graph", "f32")} | ({("openvino", "graph", "auto")} if IN_F32 else set())),
        ("openvino/int8", BOTH),
    ],
)
def test_a_fault_fails_its_own_rows_alone(damaged: Validated, artifact: str, rows: Rows) -> None:
    assert damaged.failing(artifact) == rows
    assert (artifact in damaged.report["faulty"]) is bool(rows)
    assert any(problem.startswith(f"{artifact} ") for problem in damaged.report["problems"]) is bool(rows)


def test_one_row_that_fails_fails_the_verb(damaged: Validated) -> None:
    assert (damaged.status, damaged.report["ok"]) == (1, False)


def test_a_view_sees_its_own_path_alone(damaged: Validated) -> None:
    found, bound = damaged.largest("openvino/fp32", "graph", "f32")
    assert found < bound / 50  # measured 1.4e-6 of 3.2e-4: the same weights, and a resize that is an identity
    found, bound = damaged.largest("openvino/fp32", "files", "f32")
    assert found > 5 * bound  # measured 6.1 of 0.32


@pytest.mark.representative
def test_a_device_finds_what_lies_in_the_graph(damaged: Validated, tmp_path: Path) -> None:
    alone = {}
    for precision in ("fp32", "int8"):
        alone[precision] = Path(shutil.copytree(damaged.run / "openvino" / precision, tmp_path / precision))
        (alone[precision] / "proof.json").unlink()
    assert not validate(alone["int8"]).ok
    # Its reference images have the network's size already: the image path shows beside the card.
    found = validate(alone["fp32"])
    assert (found.ok, len(found.problems)) == (False, 1)
    assert "in card.json are not the model's" in found.problems[0]
    assert not validate(damaged.run / "openvino" / "fp32").ok


def heavy_head(constants: list[Constant]) -> int:
    """64 on every weight of the head: what it reads has mean zero, so this cancels, unless it is rounded to bf16."""
    heads = [c.values for c in constants if c.values.shape == (len(LABELS), WIDTH)]
    for values in heads:
        values += np.float32(64)
    return len(heads)


def relabel(folder: Path, names: list[str]) -> None:
    """Write the labels of an IR in another order, into the card and the model's own metadata."""
    text = (folder / "model.xml").read_text()
    assert " ".join(LABELS) in text
    (folder / "model.xml").write_text(text.replace(" ".join(LABELS), " ".join(names)))
    edit_json(folder / "card.json", lambda raw: raw["files"].clear())
    card = read_card(folder)
    write_card(folder, card.model_copy(update={"labels": Labels.multiclass(names)}))


@pytest.fixture(scope="module")
def disguised(whole_run: Path, tmp_path_factory: pytest.TempPathFactory, fresh_ftx: Zygote) -> Validated:
    """What no number shows: other labels; and a fault under bf16 alone."""
    run = Path(shutil.copytree(whole_run, tmp_path_factory.mktemp("disguised") / "run"))
    keep(run, "openvino/fp32", "openvino/fp16", "openvino/int8")
    edit_json(run / "dense" / "config.json", lambda raw: raw.update(label_names=raw["label_names"][::-1]))
    edit_constants(run / "openvino" / "fp32", heavy_head)
    relabel(run / "openvino" / "fp16", ["blue", "amber", "green", "red"])
    edit_json(run / "openvino" / "int8" / "card.json", lambda raw: raw["preprocess"].update(resize=36))
    return validated(fresh_ftx, run)


def test_a_fault_under_the_cpus_own_precision_counts(disguised: Validated) -> None:
    (compute,) = {row["compute"] for row in disguised.report["rows"] if row["compute"].startswith("auto")}
    if compute == "auto:f32":
        pytest.skip("this CPU computes in f32 by itself")
    assert disguised.failing("openvino/fp32") == {("openvino", "graph", "auto"), ("openvino", "files", "auto")}
    assert "openvino/fp32" in disguised.report["faulty"]


def test_a_device_counts_it_too(disguised: Validated, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(disguised.run / "openvino" / "fp32", tmp_path / "fp32"))
    (folder / "proof.json").unlink()
    report = validate(folder)
    rows = {str(row.compute): row.ok for row in report.rows}
    if "auto:f32" in rows:
        pytest.skip("this CPU computes in f32 by itself")
    assert rows.pop("f32") is True
    assert set(rows.values()) == {False}
    assert not report.ok


@pytest.mark.parametrize(
    ("artifact", "said"),
    [
        ("dense", "the labels of config.json are not the run's"),
        ("openvino/fp16", "the labels of card.json are not the run's"),
        ("openvino/int8", "the image path of card.json are not the run's"),
    ],
)
def test_an_artifact_that_names_itself_otherwise_fails(disguised: Validated, artifact: str, said: str) -> None:
    named = {problem.split()[0].rstrip(":") for problem in disguised.report["problems"] if "not the run's" in problem}
    assert named == {"dense", "openvino/fp16", "openvino/int8"}  # each for its own: fp32's names are the run's
    assert any(said in problem and problem.startswith(artifact) for problem in disguised.report["problems"])
    assert (disguised.status, disguised.report["ok"]) == (1, False)


@pytest.mark.representative
def test_labels_in_the_model_that_its_card_does_not_have_fail_on_the_device(run: Path, fresh_ftx: Zygote) -> None:
    folder = run / "openvino" / "fp32"
    text = (folder / "model.xml").read_text()
    (folder / "model.xml").write_text(text.replace(" ".join(LABELS), "red green blue amber"))
    vouch(run)
    done = fresh_ftx("validate", folder)
    assert done.returncode == 1, done.stderr
    assert "the labels in model.xml are not the run's" in done.stderr.replace("\n", " ")


def choice(run: Path) -> str:
    """What ``ftx predict`` takes of a run, and why."""
    notes = Listener()
    load(run, progress=notes)
    return notes.said[0]


@pytest.mark.parametrize(
    "part",
    [
        pytest.param({"images": 8}, marks=pytest.mark.representative),
        pytest.param({"bounds": {"int8.graph.cosine": 0.97}}, marks=pytest.mark.slow),
    ],
)
def test_a_part_of_the_images_or_bounds_of_ones_own_are_no_proof(
    validated_run: Path, tmp_path: Path, part: dict[str, Any]
) -> None:
    run = Path(shutil.copytree(validated_run, tmp_path / "run"))
    keep(run, "openvino/fp32", "openvino/int8")
    report = json.loads((run / "reports" / "parity.json").read_text())
    assert {"proved"} == {report["verdicts"][artifact] for artifact in ("openvino/fp32", "openvino/int8")}
    assert "verified model here" in choice(run)
    again = validate(run, require_proof=True, **part)
    assert "proved" not in again.verdicts.values()
    assert not again.ok
    # No IR is proved by it, so the most exact is taken.
    assert f"{run / 'openvino' / 'fp32'}, the most exact" in choice(run)
    for artifact in ("fp32", "int8"):
        proof = json.loads((run / "openvino" / artifact / "proof.json").read_text())
        assert proof["run"]["verdict"] == "unproved"
