"""Prediction sets from end to end: calibrated at export, by the images and kernels that count, and then predicted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import ColourModel, Listener, calibrate, colour_pixels
from tests.effects.lab import call
from tests.gates.faults import edit_json

from ftx.classifier import Classifier
from ftx.core.errors import DataError, InputError
from ftx.data.dataset import Entry, Split
from ftx.evaluating import validate
from ftx.evaluating.calibrate import calibrate_run, calibrated_ways
from ftx.evaluating.evaluate import evaluate
from ftx.evaluating.predict import predict
from ftx.runs.artifacts import IR_FP32, IR_INT8, IRS
from ftx.runs.calibration import Calibration, SetScores
from ftx.runs.card_json import PROOF_FILE
from ftx.runs.compute_precision import F32, ComputePrecision
from ftx.runs.machine import cpu_flags, sets_of, this_machine, this_set
from ftx.runs.proof_json import keep_calibrations, read_proof
from ftx.runs.run import Run
from ftx.runtimes import load
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.tasks.scores import softmax
from ftx.tasks.thresholds import Floats

# Of 100 images 90 are right: 80 % need no other label; 95 % (rank 96) the sixth score, 99 % (rank 100) the last. The
# model of these tests is sure of most images.
SCORES = [0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.98, 0.99, 0.999, 0.9999]


@pytest.fixture
def run(validated_run: Path, tmp_path: Path) -> Run:
    return Run.open(Path(shutil.copytree(validated_run, tmp_path / "run")))


def logits_of(run: Run, predictor: OpenVinoPredictor, entries: tuple[Entry, ...]) -> Floats:
    files = [run.data_root() / entry.path for entry in entries]
    return np.stack([np.asarray(row) for row in predictor.logits_from_files(files)])


def truth(run: Run, entries: tuple[Entry, ...]) -> np.ndarray:
    return run.task.targets([entry.labels for entry in entries]).argmax(axis=1)


def test_an_export_calibrates_each_way_that_it_runs_here_and_a_verdict_keeps_that(run: Run) -> None:
    folder, val = run.folder(IR_FP32), run.entries("val")
    proof = read_proof(folder)
    assert proof.run is not None  # of ftx validate, which came later
    assert len(proof.calibrations) == len(calibrated_ways(folder))
    dtypes = {one.compute.dtype for one in proof.calibrations}
    assert dtypes == {"f32", OpenVinoPredictor(folder).compute.dtype}
    for one in proof.calibrations:
        assert (one.isa, one.machine, one.source) == (this_set(), this_machine(), "val")
        assert one.images == len(val) == 24
        compute = "f32" if one.compute.dtype == "f32" else "auto"
        logits_NC = logits_of(run, OpenVinoPredictor(folder, compute, kernels=one.kernels), val)
        true_N, scores_NC = truth(run, val), softmax(logits_NC)
        wrong_N = logits_NC.argmax(axis=1) != true_N
        expected = np.sort(1 - scores_NC[np.arange(24), true_N][wrong_N])
        np.testing.assert_allclose(one.pooled.scores, expected, atol=2e-6)


def with_scores(run: Run, scores: list[float], images: int = 100, **changed: object) -> Path:
    """The fp32 model of a run with a calibration of our own."""
    folder = run.folder(IR_FP32)
    edit_json(folder / PROOF_FILE, lambda raw: raw.update(calibrations=[]))
    return calibrate(folder, scores, images, **changed)


def test_a_set_has_the_labels_near_enough_for_the_coverage(run: Run) -> None:
    folder, entries = with_scores(run, SCORES), run.entries("test")[:60]
    files = [run.data_root() / entry.path for entry in entries]
    predictor = load(folder)
    assert isinstance(predictor, OpenVinoPredictor)
    scores_NC = softmax(logits_of(run, predictor, entries))
    sizes: list[int] = []
    for coverage, threshold in ((0.8, 0.0), (0.95, 0.97), (0.99, 0.9999)):
        found = list(predict(files, folder, coverage=coverage))
        for one, scores_C in zip(found, scores_NC, strict=True):
            best = scores_C.argmax()
            near = [row for row in np.argsort(-scores_C) if row == best or 1 - scores_C[row] <= threshold]
            assert one.set == [run.task.labels.names[row] for row in near]
        sizes.append(sum(len(one.set or ()) for one in found))
    assert 60 == sizes[0] < sizes[1] < sizes[2]
    for coverage in (0.0, 1.0):
        with pytest.raises(InputError, match="--coverage must be between 0 and 1"):
            list(predict(files, folder, coverage=coverage))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "prediction sets contain the label for 95 % of images on average over calibration sets, and for at least"),
        ({"isa": "avx2" if this_set() != "avx2" else "avx512"}, "prediction sets are unproved: the model was"),
        ({"compute": ComputePrecision("f16", chosen_by_runtime=True)}, "prediction sets are unproved: the model was"),
        ({"kernels": "single"}, "prediction sets are unproved: the model was calibrated with other kernels"),
        ({"machine": this_machine().model_copy(update={"openvino": "2025.0"})}, "prediction sets are unproved: the"),
        ({"machine": this_machine().model_copy(update={"device": "GPU"})}, "prediction sets are unproved: the model"),
        ({"machine": this_machine().model_copy(update={"cpu": "another"})}, "prediction sets contain the label"),
    ],
)
def test_it_says_whether_the_guarantee_is_for_the_kernels_that_run(
    run: Run, changed: dict[str, object], said: str
) -> None:
    folder, listener = with_scores(run, [0.7] * 10, **changed), Listener()
    image = run.data_root() / run.entries("test")[0].path
    (found,) = predict(image, folder, progress=listener)
    assert found.set
    assert [note for note in listener.said if note.startswith(said)]


def test_without_enough_calibration_images_there_is_no_set(run: Run) -> None:
    folder, listener = with_scores(run, [0.7], images=18), Listener()
    image = run.data_root() / run.entries("test")[0].path
    (found,) = predict(image, folder, progress=listener)
    assert found.set is None
    assert "prediction sets are unproved: 18 calibration images, and sets need 19" in listener.said
    (found,) = predict(image, folder, coverage=0.9, progress=listener)  # for which 9 are enough
    assert found.set
    edit_json(folder / PROOF_FILE, lambda raw: raw.update(calibrations=[]))
    (found,) = predict(image, folder)
    assert found.set is None
    assert '"set"' not in found.to_line()


def test_images_that_training_saw_or_reports_use_do_not_calibrate(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run.folder(IR_FP32)
    entries = run.entries()

    def without_test(run: Run, split: Split | None = None) -> tuple[Entry, ...]:
        return tuple(one for one in entries if one.split != "test" and split in (None, one.split))

    monkeypatch.setattr(Run, "entries", without_test)
    calibrate_run(run, folder, None)
    assert {(one.source, one.images) for one in read_proof(folder).calibrations} == {("half of val", 12)}
    monkeypatch.setattr(Run, "entries", lambda run, split=None: ())
    edit_json(folder / PROOF_FILE, lambda raw: raw.update(calibrations=[]))
    calibrate_run(run, folder, None)
    assert read_proof(folder).calibrations == []


def test_eval_counts_sets_on_images_that_did_not_calibrate_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with_scores(run, SCORES)
    test = run.entries("test")
    scores_NC = softmax(logits_of(run, OpenVinoPredictor(run.folder(IR_FP32)), test))
    own_N = scores_NC[np.arange(len(test)), truth(run, test)]
    right_N = (1 - own_N <= 0.97) | (scores_NC.argmax(axis=1) == truth(run, test))
    sizes_N = ((1 - scores_NC <= 0.97) | (scores_NC == scores_NC.max(axis=1, keepdims=True))).sum(axis=1)
    sets = evaluate(run, "openvino/fp32").sets
    assert sets is not None
    assert (sets.images, sets.coverage, sets.size) == (
        240,
        pytest.approx(right_N.mean()),
        pytest.approx(sizes_N.mean()),
    )
    assert sets.guarantee.startswith("prediction sets contain the label for 95 % of images")
    kept = json.loads((run.path / "reports" / "eval.json").read_bytes())
    assert kept["sets"]["size"] == sets.size
    entries = run.entries()

    def without_test(run: Run, split: Split | None = None) -> tuple[Entry, ...]:
        return tuple(one for one in entries if one.split != "test" and split in (None, one.split))

    monkeypatch.setattr(Run, "entries", without_test)
    half = evaluate(run, "openvino/fp32").sets
    assert half is not None
    assert half.images == 12
    assert evaluate(run, "dense").sets is None


def test_a_calibration_replaces_the_one_for_the_same_kernels(colour_model: ColourModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(colour_model.folder, tmp_path / "ir"))
    some = [SetScores(label=None, images=19, scores=[0.5])]
    first = Calibration(machine=this_machine(), isa="amx", compute=F32, kernels="batch", source="val", sets=some)
    other = first.model_copy(update={"isa": "avx2"})
    keep_calibrations(folder, [first, other])
    again = first.model_copy(update={"source": "half of val"})
    keep_calibrations(folder, [again])
    assert read_proof(folder).calibrations == [other, again]


def test_the_table_has_a_column_of_sets_only_for_a_calibrated_model(colour_model: ColourModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(colour_model.folder, tmp_path / "ir"))
    image = tmp_path / "a.png"
    Image.new("RGB", (24, 24), (130, 140, 40)).save(image)  # hardly greener than red
    words = ("predict", str(image), "--artifact", str(folder))
    assert next(line.split() for line in call(*words).out.splitlines()) == ["image", "label", "score"]
    calibrate(folder, [0.6, 0.7, 0.8, 0.85, 0.9, 0.95])
    said = call(*words)
    heads, row = (line.split() for line in said.out.splitlines())
    assert heads == ["image", "label", "score", "may", "also", "be"]
    assert row[1:] == ["green", row[2], "red"]
    assert "prediction sets contain the label for 95 % of images on average" in " ".join(said.err.split())


@pytest.mark.representative
def test_validate_calibrates_and_counts_sets_in_each_instruction_set(run: Run) -> None:
    folder = run.folder(IR_FP32)
    other = next(one for one in sets_of(cpu_flags()) if one != this_set())
    edit_json(folder / PROOF_FILE, lambda raw: raw.update(calibrations=[]))
    keep_before = {one.way for one in read_proof(run.folder(IR_INT8)).calibrations}
    report = validate(run, isa=[other])
    known = read_proof(folder).calibrations
    assert {one.isa for one in known} == {this_set(), other}
    assert keep_before < {one.way for one in read_proof(run.folder(IR_INT8)).calibrations}
    test = run.entries("test")
    rows = {(one.artifact, one.isa): one for one in report.prediction_sets if one.kernels == "batch"}
    assert set(rows) >= {(name, isa) for name in ("openvino/fp32", "openvino/int8") for isa in (this_set(), other)}
    row = rows["openvino/fp32", this_set()]
    logits_NC = logits_of(run, OpenVinoPredictor(folder), test)
    chosen = next(one for one in known if (one.isa, one.compute) == (row.isa, row.compute))
    sets_NC = run.task.prediction_set(logits_NC, chosen.thresholds(run.task, 0.95))
    right_N = sets_NC[np.arange(len(test)), truth(run, test)]
    # In the graph view the pixels are the same, and so nearly are the logits.
    if row.images == len(test):
        assert row.coverage == pytest.approx(right_N.mean(), abs=1e-9)
        assert row.size == pytest.approx(sets_NC.sum(axis=1).mean(), abs=0.01)
    assert row.guarantee == chosen.guarantee(run.task, 0.95)


@pytest.fixture
def device(colour_model: ColourModel, tmp_path: Path) -> tuple[Path, Path]:
    """The colours' model, and 30 images of a device with their labels as folders."""
    data = tmp_path / "photos"
    for number in range(30):
        colour = number % 3
        file = data / ("red", "green", "blue")[colour] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = colour_pixels(colour, 20, 20, number).astype(int)
        pixels[..., (colour + 1) % 3] += 60 + number  # of some, the next colour is stronger
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file)
    return Path(shutil.copytree(colour_model.folder, tmp_path / "ir")), data


def test_a_device_calibrates_with_labelled_images_of_its_own(device: tuple[Path, Path]) -> None:
    folder, data = device
    calibrate(folder, [0.5], machine=this_machine().model_copy(update={"openvino": "2025.0"}))  # of the server
    shutil.copy(data / "red" / "0.png", data / "red" / "copy.png")
    listener = Listener()
    validate(folder, data=data, progress=listener)
    server, *own = read_proof(folder).calibrations
    assert server.machine.openvino == "2025.0"
    assert {(one.isa, one.images, one.source) for one in own} == {(this_set(), 30, f"images in {data}")}
    files = sorted(data.rglob("[0-9]*.png"))
    predictor = OpenVinoPredictor(folder)
    logits_NC = np.stack([np.asarray(row) for row in predictor.logits_from_files(files)])
    true_N = np.array([predictor.task.labels.names.index(file.parent.name) for file in files])
    wrong_N = logits_NC.argmax(axis=1) != true_N
    assert 3 < wrong_N.sum() < 27
    scores = np.sort(1 - softmax(logits_NC)[np.arange(30), true_N][wrong_N])
    np.testing.assert_allclose(own[0].pooled.scores, scores, atol=1e-5)
    assert any(note.startswith("prediction sets contain the label for 95 %") for note in listener.said)


@pytest.mark.parametrize(("labels", "named"), [((), "labels"), (("red", "pink"), "the images must have the labels")])
def test_images_without_the_labels_of_the_model_calibrate_nothing(
    device: tuple[Path, Path], labels: tuple[str, ...], named: str
) -> None:
    folder, data = device
    other = data.parent / "other"
    for name in labels or (".",):
        (other / name).mkdir(parents=True, exist_ok=True)
        for number in range(3):
            Image.new("RGB", (20, 20), (number, 9, len(name))).save(other / name / f"{number}.png")
    with pytest.raises(DataError, match=named):
        validate(folder, data=other)
    assert read_proof(folder).calibrations == []


def test_training_images_and_further_images_of_a_group_do_not_calibrate(device: tuple[Path, Path]) -> None:
    folder, data = device
    lines = ["path,label,split,group"]
    for number, file in enumerate(sorted(data.rglob("*.png"))):
        group = "part" if number < 4 else f"{number}"
        lines.append(f"{file.relative_to(data)},{file.parent.name},{'train' if number >= 25 else 'test'},{group}")
    (data / "metadata.csv").write_text("\n".join(lines))
    validate(folder, data=data)
    assert {one.images for one in read_proof(folder).calibrations} == {22}  # 25, of which four show one part


def test_a_classifier_predicts_sets_too(run: Run) -> None:
    files = [run.data_root() / entry.path for entry in run.entries("test")[:20]]
    for variant in IRS:
        if run.has(IRS[variant]):
            calibrate(run.folder(IRS[variant]), SCORES)
    sets = [one.set for one in Classifier.open(run.path).predict(files)]
    assert sets == [one.set for one in predict(files, run.path)]
    assert None not in sets
