"""What an earlier commit wrote still opens, and answers as it did: runs, adapters, dense folders, ONNX and IRs.

Each folder ``v…`` beside this file holds a schema version, made once by ``make.py``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.numpy import load_file

from ftx import Recipe, Run, compare, merge, predict, validate
from ftx.recipe.strict_yaml import parse_yaml
from ftx.runs.bench_json import BenchReport
from ftx.runs.quantize_json import QuantizeReport
from ftx.runs.tuning_json import read_tuning
from ftx.runtimes import load, load_artifact
from ftx.updating.apply import apply

HERE = Path(__file__).parent
EDGE = HERE / "v1-edge"
ANSWERS = load_file(HERE / "v1" / "answers.safetensors")
RUNS = sorted({name.partition("/")[0] for name in ANSWERS})
WHOLE = "multiclass-dora"
# Another release of a library, or another machine, sums in another order: f32 networks of a few blocks differ by that.
ROUNDING = 1e-4
# An int8 model's kernels differ between kinds of CPU (docs/decisions/0008-verdict.md).
INT8 = 0.5


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy, as verbs write into a run."""
    copy = tmp_path_factory.mktemp("written") / "v1"
    shutil.copytree(HERE / "v1", copy)
    torch.set_num_threads(1)
    with chdir(copy):
        yield copy


def held_out() -> list[Path]:
    return [Path(f"images/{number}.png") for number in range(24, 32)]


def close(found: np.ndarray, expected: np.ndarray, share: float = ROUNDING) -> None:
    assert_allclose(found, expected, rtol=0, atol=share * max(1.0, float(np.abs(expected).max())))


def test_a_run_of_each_method_and_task_is_there() -> None:
    methods, tasks = ("lora", "dora", "linear", "full"), ("multiclass", "multilabel", "hierarchical")
    assert {f"{task}-{method}" for task in tasks for method in methods} == set(RUNS)


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_an_artifact_answers_as_it_did(written: Path, name: str) -> None:
    run, _, artifact = name.partition("/")
    predictor = load_artifact(Run.open(run), artifact, compute="f32")
    found = np.stack([np.asarray(row) for row in predictor.logits_from_files(held_out())])
    close(found, ANSWERS[name], INT8 if artifact.endswith("int8") else ROUNDING)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_says_what_it_was_made_of(written: Path, name: str) -> None:
    run = Run.open(name)
    task, _, method = name.partition("-")
    assert (run.manifest.task, run.manifest.method) == (task, method)
    assert [len(run.entries(side)) for side in ("train", "val", "test")] == [20, 4, 8]
    recipe = Recipe.load(run.file("recipe.yaml"))
    # Each key that it had has the value that it had; what came later has its default.
    before, now = (parse_yaml(text) for text in (run.file("recipe.yaml").read_text(), recipe.dumps()))
    assert isinstance(before, dict)
    assert isinstance(now, dict)
    for key, value in before.items():
        assert (now[key] | value if isinstance(value, dict) else value) == now[key]


@pytest.mark.parametrize("name", [name for name in RUNS if name != WHOLE])
def test_a_run_merges(written: Path, name: str) -> None:
    run = Run.open(name)
    merge(run)
    dense = load_artifact(run, "dense")
    found = np.stack([np.asarray(row) for row in dense.logits_from_files(held_out())])
    close(found, ANSWERS[f"{name}/trained"])


def test_a_dense_folder_and_an_ir_stand_alone(written: Path) -> None:
    for artifact in ("dense", "openvino/fp32"):
        alone = written / "alone" / artifact
        shutil.copytree(written / WHOLE / artifact, alone)
        found = np.stack([np.asarray(row) for row in load(alone, compute="f32").logits_from_files(held_out())])
        close(found, ANSWERS[f"{WHOLE}/{artifact}"])
    (answer,) = predict([held_out()[0]], written / "alone" / "openvino" / "fp32")
    (best,) = answer.labels
    assert best.name == ("blue", "green", "red")[int(ANSWERS[f"{WHOLE}/openvino/fp32"][0].argmax())]


def test_adapters_are_compared(written: Path) -> None:
    report = compare([Path(WHOLE), Path("multilabel-dora"), Path("multiclass-lora")])
    assert [one.kind for one in report.adapters] == ["dora", "dora", "lora"]
    # PiSSA's file holds a plain adapter of twice the rank.
    assert report.adapters[2].ranks == [4, 12]


def test_an_update_becomes_a_model_on_its_base(written: Path, tmp_path: Path) -> None:
    report = apply(EDGE / "update.zip", EDGE / "base", tmp_path / "model")
    assert (report.exact, report.sequence, report.layers) == (True, 1, 12)
    found = np.stack([np.asarray(row) for row in load(tmp_path / "model", compute="f32").logits_from_files(held_out())])
    close(found, ANSWERS[f"{WHOLE}/openvino/fp32"])


def test_what_bench_and_the_search_said_is_read(written: Path) -> None:
    model = written / WHOLE / "openvino" / "fp32"
    shutil.copy(EDGE / "tuning.json", model)
    (tuned,) = read_tuning(model).tuned
    assert tuned.p50_ms > 0
    report = BenchReport.model_validate_json((EDGE / "bench.json").read_bytes())
    assert {row.artifact for row in report.rows} == {"openvino/fp32"}
    searched = QuantizeReport.model_validate_json((EDGE / "quantize.json").read_bytes())
    assert sum(row.chosen for row in searched.candidates) == 1


@pytest.mark.slow
def test_a_run_and_an_ir_validate(written: Path) -> None:
    assert set(validate(Path(WHOLE)).verdicts) == {"dense", "onnx", "openvino/fp32", "openvino/fp16", "openvino/int8"}
    report = validate(written / WHOLE / "openvino" / "fp32")
    assert report.transfer is not None
    assert report.transfer.same
