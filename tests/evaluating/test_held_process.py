"""What a process that is held to an instruction set is asked about a run: these images, from there, by this model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.evaluating.written_runs import keep, written_run

from ftx.core.errors import DataError
from ftx.core.progress import SILENT
from ftx.data.preprocess import load_pixels
from ftx.evaluating import validate
from ftx.evaluating.held_process import HeldModel, measure_here, measure_in_sets
from ftx.evaluating.logit_bounds import Bounds
from ftx.evaluating.measure import measure_run
from ftx.evaluating.parity_images import run_images
from ftx.runs.artifacts import IR_FP32, IR_INT8, Artifact
from ftx.runs.machine import cpu_flags, sets_of, this_set
from ftx.runs.proof_json import read_proof
from ftx.runs.run import Run
from ftx.runtimes import load_artifact
from ftx.runtimes.openvino import OpenVinoPredictor, default_compute

pytestmark = pytest.mark.skipif(this_set() is None, reason="this CPU has none of the instruction sets")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Its images lie elsewhere, in ``moved``."""
    run = written_run("multiclass-dora", tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "moved").mkdir()
    (tmp_path / "here" / "images").rename(tmp_path / "moved" / "images")
    return run


def held(run: Run, data: Path | None, artifact: Artifact = IR_INT8, images: int | None = None) -> HeldModel:
    return HeldModel(folder=run.folder(artifact), run=run.path, data=data, images=images)


def test_the_images_are_looked_for_where_data_says_they_are(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        measure_here(held(run, None))
    rows = measure_here(held(run, tmp_path / "moved")).rows
    paths = [tmp_path / "moved" / entry.path for entry in run.report_entries()]
    for row in rows:
        compute = "auto" if row.logits.compute.chosen_by_runtime else "f32"
        model = load_artifact(run, IR_INT8, compute=compute)
        assert isinstance(model, OpenVinoPredictor)
        # From files it resizes by itself, which an image of 40 x 30 shows by a grey level.
        found = np.stack([np.asarray(one) for one in model.logits_from_files(paths)])
        assert row.logits.array.shape == found.shape == (8, 3)
        np.testing.assert_allclose(row.logits.array, found, rtol=0, atol=0.1 * np.abs(found).max())
        assert row.on_reference.images == 8
    # As deployed, and in f32 if that is another precision.
    precisions = [str(row.logits.compute) for row in rows if row.logits.view == "graph"]
    assert precisions == ["f32"] * (default_compute().dtype != "f32") + [str(default_compute())]


def test_as_many_images_are_asked_about_as_were_wanted_of_the_model_that_was_named(run: Run, tmp_path: Path) -> None:
    """Spread over the held-out ones."""
    paths = [tmp_path / "moved" / run.report_entries()[row].path for row in (0, 2, 5)]
    for row in measure_here(held(run, tmp_path / "moved", IR_FP32, 3)).rows:
        model = load_artifact(run, IR_FP32, compute="auto" if row.logits.compute.chosen_by_runtime else "f32")
        expected = model.logits(np.stack([load_pixels(path, model.preprocess) for path in paths]))
        # The same kernels on as many images.
        atol = 1e-4 * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(row.logits.array, expected, rtol=0, atol=atol)
        assert (row.isa, row.emulated, row.logits.images) == (this_set(), False, 3)


@pytest.mark.representative
@pytest.mark.skipif(this_set() == "avx2" or "avx2" not in sets_of(cpu_flags()), reason="no other set than AVX2")
def test_images_that_made_a_model_say_nothing_about_it_in_another_set_either(run: Run, tmp_path: Path) -> None:
    entries, images = run_images(run, tmp_path / "moved", None)
    here = measure_run(run, [IR_FP32], entries, images, Bounds.of(None), SILENT)
    here = replace(here, spent={IR_FP32: {0, 1}})
    models = {IR_FP32: held(run, tmp_path / "moved", IR_FP32)}
    ((_, _, found),) = measure_in_sets(models, ["avx2"], here, SILENT)
    assert found is not None
    assert {one.images for one in found.comparisons} == {len(entries) - 2}


@pytest.mark.representative
@pytest.mark.skipif(this_set() == "avx2" or "avx2" not in sets_of(cpu_flags()), reason="no other set than AVX2")
def test_a_run_whose_images_were_moved_is_asked_in_another_set(run: Run, tmp_path: Path) -> None:
    keep(run, "openvino/fp32")
    report = validate(run, data=tmp_path / "moved", isa=("avx2",), images=6)
    (one,) = report.sets
    assert (one.artifact, one.isa, one.emulated) == ("openvino/fp32", "avx2", True)
    assert one.verdict != "failed"
    held = [row for row in report.rows if row.emulated]
    assert {(row.artifact, row.isa, row.images) for row in held} == {("openvino/fp32", "avx2", 6)}
    (proof,) = read_proof(run.folder(IR_FP32)).sets
    assert (proof.isa, proof.verdict, proof.summary) == ("avx2", one.verdict, one.summary)
    # A device compares its answers to the reference images beside the model, whatever was held out.
    assert {answers.images for answers in proof.answers} == {8}
