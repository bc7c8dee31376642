"""An exported folder proves itself: no run, no torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tests.conftest import Listener

from ftx.core.errors import ExportError
from ftx.core.files import sha256_file
from ftx.core.progress import NOTES_ONLY
from ftx.evaluating import validate
from ftx.evaluating.parity_images import read_reference
from ftx.evaluating.predict import predict
from ftx.runs.artifacts import IR_INT8
from ftx.runs.card_json import CARD_FILE, PROOF_FILE, REFERENCE_FILE, read_card, write_card
from ftx.runs.compute_precision import F32, ComputePrecision
from ftx.runs.machine import this_set
from ftx.runs.parity_json import RowBound
from ftx.runs.proof_json import PROOF_SCHEMA, ReferenceLogits, RunProof, ir_digest, keep_proof, read_proof
from ftx.runtimes.openvino import OpenVinoPredictor, default_compute
from ftx.tasks.labels import Labels


def colour_pixels(colour: int) -> np.ndarray:
    pixels = np.full((16, 16, 3), 60, np.uint8)
    pixels[..., colour] += 100
    return pixels


@pytest.fixture
def folder(colour_model: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(colour_model.folder, tmp_path / "fp32"))


def alter(folder: Path, change: Callable[[dict[str, np.ndarray], dict[str, str]], None]) -> None:
    """Alter the reference, and the card so that the hash holds."""
    card = read_card(folder)
    tensors = load_file(folder / REFERENCE_FILE)
    with safe_open(folder / REFERENCE_FILE, framework="np") as file:
        metadata = dict(file.metadata())
    change(tensors, metadata)
    save_file(tensors, folder / REFERENCE_FILE, metadata=metadata)
    write_card(folder, card)


def test_a_whole_folder_passes_in_both_precisions(folder: Path) -> None:
    report = validate(folder)
    assert report.ok
    assert report.problems == []
    assert (report.verb, report.run, report.folder) == ("validate", None, str(folder))
    assert [(row.artifact, row.view) for row in report.rows] == [("openvino/fp32", "graph")] * 2
    pinned, chosen = report.rows
    assert str(pinned.compute) == "f32"
    assert str(chosen.compute).startswith("auto:")
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
    own, none = validate(folder, bounds={"fp32.graph.max_abs": 0.02}), validate(folder)
    assert own.ok
    assert own.verdicts == {"openvino/fp32": "unproved"}
    assert ["bounds of your own" in said for report in (own, none) for said in report.summary.values()] == [True, False]
    assert not validate(folder, bounds={"fp32.graph.max_abs": 0.005}).ok


def test_labels_in_another_order_fail(folder: Path) -> None:
    card = read_card(folder).model_copy(update={"labels": Labels.multiclass(["green", "red", "blue"])})
    write_card(folder, card)
    report = validate(folder)
    assert not report.ok
    assert "the labels in model.xml" in report.problems[0]


def test_a_model_that_names_no_labels_fails(folder: Path) -> None:
    card = read_card(folder)
    text = (folder / "model.xml").read_text()
    before, _, rest = text.partition("<model_info>")
    (folder / "model.xml").write_text(before + rest.partition("</model_info>")[2])
    write_card(folder, card)
    report = validate(folder)
    assert report.faulty == ["openvino/fp32"]
    assert report.problems == [
        "openvino/fp32: the labels in model.xml are not the run's: none instead of red green blue"
    ]


def test_the_bar_ends_where_it_said_it_would(folder: Path) -> None:
    listener = Listener()
    validate(folder, progress=listener)
    assert listener.steps == listener.total == 2 * 12  # images, in f32 and as deployed


def test_an_image_is_as_high_and_as_wide_as_the_card_says(folder: Path) -> None:
    card = read_card(folder)
    wide = replace(card.preprocess, width=20, resize=(16, 20))
    write_card(folder, card.model_copy(update={"preprocess": wide}))

    def widen(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
        tensors["images"] = np.pad(tensors["images"], ((0, 0), (0, 0), (2, 2), (0, 0)), mode="edge")

    alter(folder, widen)
    _, pixels = read_reference(OpenVinoPredictor(folder))
    assert pixels.shape == (12, 16, 20, 3)

    def turn(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
        tensors["images"] = tensors["images"].transpose(0, 2, 1, 3).copy()

    alter(folder, turn)
    with pytest.raises(ExportError, match="the reference must be of the same model as the card"):
        validate(folder)


def test_an_altered_file_is_refused_by_its_hash(folder: Path) -> None:
    tensors = load_file(folder / REFERENCE_FILE)
    tensors["logits"][0, 0] += 1
    save_file(tensors, folder / REFERENCE_FILE)
    with pytest.raises(ExportError, match="has changed since ftx wrote it"):
        validate(folder)


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("is damaged", lambda tensors, metadata: tensors.pop("targets")),
        ("is damaged", lambda tensors, metadata: metadata.update(paths="[")),
        ("is damaged", lambda tensors, metadata: tensors.pop("logits")),
        ("of the same model", lambda tensors, metadata: tensors.update(targets=tensors["targets"][:1].copy())),
        ("of the same model", lambda tensors, metadata: tensors["targets"].__setitem__((0, 0), 9)),
        ("of the same model", lambda tensors, metadata: tensors.update(images=tensors["images"][:, 1:].copy())),
        ("of the same model", lambda tensors, metadata: tensors.update(logits=tensors["logits"][:, :2].copy())),
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
    assert "contain NaN or infinity" in report.problems[0]
    json.loads(report.model_dump_json(), parse_constant=pytest.fail)


def judged_elsewhere(folder: Path, there: str, *, off: float = 0.0, lost: int = 2, **changes: object) -> None:
    """Leave beside the model what ``ftx validate RUN`` writes: a verdict, and the model's answers, off by so much."""
    report = validate(folder)
    counts = {"labelled": 900, "lost": lost, "gained": 2, "artifact": "openvino/int8", **changes}
    rows = [row.model_copy(update=counts) for row in report.rows]
    images = load_file(folder / REFERENCE_FILE)["images"]
    answers = [
        ReferenceLogits.of(compute, OpenVinoPredictor(folder, role).logits(images) + off)
        for role, compute in (("f32", F32), ("auto", ComputePrecision("f32", chosen_by_runtime=True)))
    ]
    found = report.model_copy(
        update={"verdicts": {"openvino/int8": there}, "rows": rows}
        | {"summary": {"openvino/int8": "at most 1.0 points lost (95 %): 2 lost, 2 gained of 900"}}
    )
    card = read_card(folder)
    write_card(folder, card.model_copy(update={"precision": "int8"}))  # what rests on labels, and on no bound of f32
    keep_proof(folder, ir_digest(folder), found, IR_INT8, answers)


@pytest.mark.parametrize(
    ("there", "off", "verdict"),
    [
        ("proved", 0.0, "proved"),
        ("unproved", 0.0, "unproved"),
        ("failed", 0.0, "failed"),
        # The largest logit is 2.4, so the same answers are those within 2.4e-4: the order of sums.
        ("proved", 2e-4, "proved"),
        ("proved", 3e-4, "unproved"),
        ("proved", 0.03, "unproved"),
    ],
)
def test_a_verdict_holds_here_where_the_model_answers_as_there(
    folder: Path, there: str, off: float, verdict: str
) -> None:
    judged_elsewhere(folder, there, off=off)
    report = validate(folder)
    assert report.verdicts == {"openvino/int8": verdict}
    assert report.ok is (verdict != "failed")
    found = report.transfer
    assert found is not None
    assert found.same is (off <= 2e-4)
    assert found.max_abs == pytest.approx(off, abs=1e-6)
    assert f"there {there}: at most 1.0 points lost" in found.summary
    if not found.same:
        # 0 of 12: 1 - 0.05^(1/12).
        assert "here 0 of 12 reference images change their labels: at most 22.1 % would" in found.summary


def test_a_model_that_was_never_judged_proves_little_by_itself(folder: Path) -> None:
    card = read_card(folder)
    write_card(folder, card.model_copy(update={"precision": "int8"}))
    report = validate(folder)
    assert report.verdicts == {"openvino/int8": "unproved"}
    assert (
        "12 images): 0 lost, 0 gained; 149 images with no further loss would prove at most 2"
        in report.summary["openvino/int8"]
    )
    assert report.ok
    assert not validate(folder, require_proof=True).ok


def test_a_proof_of_one_precision_alone_says_nothing_of_the_other(folder: Path) -> None:
    judged_elsewhere(folder, "proved")
    document = json.loads((folder / PROOF_FILE).read_text())
    document["run"]["answers"] = document["run"]["answers"][:1]
    (folder / PROOF_FILE).write_text(json.dumps(document))
    report = validate(folder)
    assert report.verdicts == {"openvino/int8": "unproved"}
    assert report.transfer is not None
    assert (report.transfer.same, report.transfer.max_abs, report.transfer.changed) == (False, None, 0.0)
    # Where it was asked in no way that it was here, nothing was compared, and no changed labels are told.
    document["run"]["answers"][0]["view"] = "one_image"
    (folder / PROOF_FILE).write_text(json.dumps(document))
    said = validate(folder).summary["openvino/int8"]
    assert "12 images): 0 lost, 0 gained" in said
    assert "change their labels" not in said


@pytest.mark.parametrize(
    ("there", "lost", "max_drop", "verdict"),
    [
        # 2 lost and 2 gained of 900 are at most 0.51 points.
        ("proved", 2, 0.02, "proved"),
        ("proved", 2, 0.006, "proved"),
        ("proved", 2, 0.005, "unproved"),
        # 20 and 2 are 2 points, at least 0.96 and at most 3.01.
        ("unproved", 20, 0.02, "unproved"),
        ("unproved", 20, 0.031, "proved"),
        ("unproved", 20, 0.005, "failed"),
        # 90 and 2 fail two points, and hold twelve.
        ("failed", 90, 0.02, "failed"),
        ("failed", 90, 0.12, "proved"),
    ],
)
def test_another_margin_is_held_against_what_was_counted_there(
    folder: Path, there: str, lost: int, max_drop: float, verdict: str
) -> None:
    judged_elsewhere(folder, there, lost=lost, verdict=there)
    assert validate(folder, max_drop=max_drop).verdicts == {"openvino/int8": verdict}


def with_sets(folder: Path, *sets: tuple[str | None, float, str]) -> None:
    """Beside what the run's machine found, what processes did that it held to a set: its name, how far off, a verdict.

    The run's own answers are those of another kind of CPU, and far from what is answered here.
    """
    judged_elsewhere(folder, "unproved", off=0.5)
    proof = read_proof(folder)
    assert proof.run is not None
    found: list[RunProof] = []
    for isa, off, verdict in sets:
        answers = [ReferenceLogits.of(one.compute, one.array - 0.5 + off) for one in proof.run.answers]
        held = {"isa": isa, "emulated": True, "verdict": verdict, "summary": f"held to {isa}", "answers": answers}
        found.append(proof.run.model_copy(update=held))
    run = proof.run.model_copy(update={"isa": "amx", "summary": "as it is"})
    (folder / PROOF_FILE).write_text(proof.model_copy(update={"run": run, "sets": found}).model_dump_json())


def test_the_proof_of_a_set_whose_answers_are_given_here_counts(folder: Path) -> None:
    """A CPU of that kind finds it behind that of the machine as it was."""
    with_sets(folder, ("avx512", 0.03, "failed"), ("avx2", 1e-5, "proved"))
    report = validate(folder)
    assert report.verdicts == {"openvino/int8": "proved"}
    assert report.transfer is not None
    assert report.transfer.max_abs == pytest.approx(1e-5, abs=1e-6)  # of what float32 keeps of 2.4
    assert "there, which was limited to avx2 proved: held to avx2" in report.transfer.summary
    with_sets(folder, ("avx2", 1e-5, "failed"))
    assert validate(folder).verdicts == {"openvino/int8": "failed"}


@pytest.mark.skipif(this_set() in (None, "amx"), reason="the run's own set is this CPU's here")
def test_of_proofs_that_none_answers_alike_the_one_of_this_set_is_told(folder: Path) -> None:
    other = "avx2" if this_set() != "avx2" else "avx512"
    with_sets(folder, (other, 0.25, "proved"), (this_set(), 0.125, "unproved"))
    report = validate(folder)
    assert report.verdicts == {"openvino/int8": "unproved"}
    assert report.transfer is not None
    assert report.transfer.max_abs == pytest.approx(0.125, abs=1e-6)
    assert f"held to {this_set()}" in report.transfer.summary


def test_a_set_that_was_asked_as_deployed_alone_is_compared_as_deployed(folder: Path) -> None:
    """In f32 it would be off by far, and was not asked."""
    with_sets(folder, ("avx2", 1e-5, "proved"))
    document = json.loads((folder / PROOF_FILE).read_text())
    for one in document["sets"]:
        one["answers"] = [each for each in one["answers"] if each["compute"].startswith("auto")]
        assert len(one["answers"]) == 1
    (folder / PROOF_FILE).write_text(json.dumps(document))
    assert validate(folder).verdicts == {"openvino/int8": "proved"}
    for one in document["sets"]:
        one["emulated"] = False  # what a machine found as it is was asked in both
    (folder / PROOF_FILE).write_text(json.dumps(document))
    assert validate(folder).verdicts == {"openvino/int8": "unproved"}


def test_the_margin_is_that_of_the_run_unless_another_is_given(folder: Path) -> None:
    judged_elsewhere(folder, "proved")
    for given, found in ((None, 0.02), (0.3, 0.3)):
        report = validate(folder, max_drop=given)
        assert (report.max_drop, {row.max_drop for row in report.rows}) == (found, {found})
        assert report.transfer is not None
        assert report.transfer.max_drop == found
    document = json.loads((folder / PROOF_FILE).read_text())
    document["run"]["max_drop"] = 0.04
    (folder / PROOF_FILE).write_text(json.dumps(document))
    assert validate(folder).max_drop == 0.04


def test_labels_that_change_here_are_counted_as_deployed(folder: Path) -> None:
    """Where the model answered otherwise in f32 alone, nothing changes on the device."""
    judged_elsewhere(folder, "proved")
    document = json.loads((folder / PROOF_FILE).read_text())
    pinned, deployed = document["run"]["answers"]
    assert deployed["compute"].startswith("auto")
    others = {"deployed": (deployed, 3), "pinned": (pinned, 5)}
    for changed, (answers, count) in others.items():
        array = ReferenceLogits.model_validate(answers).array
        array[:count] = np.roll(array[:count], 1, axis=1)
        given = ReferenceLogits.of(ReferenceLogits.model_validate(answers).compute, array).model_dump(mode="json")
        both = [given if one is answers else one for one in (pinned, deployed)]
        altered = document | {"run": document["run"] | {"answers": both}}
        (folder / PROOF_FILE).write_text(json.dumps(altered))
        found = validate(folder).transfer
        assert found is not None
        lost = count if changed == "deployed" else 0
        assert (found.same, found.changed) == (False, lost / 12)
        assert f"here {lost} of 12 reference images change their labels" in found.summary


def test_bounds_of_ones_own_are_not_kept_as_what_this_machine_found(folder: Path) -> None:
    report = validate(folder, bounds={"fp32.graph.max_abs": 9.0})
    assert (report.whole, report.verdicts) == (False, {"openvino/fp32": "unproved"})
    assert not (folder / PROOF_FILE).exists()
    validate(folder)
    assert len(read_proof(folder).devices) == 1


@pytest.mark.parametrize("row", [{"max_abs": 9.0}, {"cosine": 0.1}, {"max_abs": None}, {"verdict": "proved"}])
def test_no_margin_mends_what_failed_by_its_logits_or_its_labels_names(folder: Path, row: dict[str, object]) -> None:
    bound = RowBound(max_abs=0.5, cosine=0.9, reason="as int8")
    judged_elsewhere(folder, "failed", **({"verdict": "failed", "bound": bound} | row))
    assert validate(folder, max_drop=0.5).verdicts == {"openvino/int8": "failed"}


def test_what_this_machine_found_is_kept_and_asked_for_again_on_another(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed(named: Path = folder) -> str:
        list(predict([folder.parent / "image.png"], named, progress=NOTES_ONLY))
        return capsys.readouterr().err

    Image.fromarray(colour_pixels(0)).save(folder.parent / "image.png")
    assert "this model is not validated yet on this CPU" in listed()
    # A CPU that computes in bf16 by itself proves nothing on twelve images, one that computes in f32 does.
    (verdict,) = validate(folder).verdicts.values()
    assert verdict == ("unproved" if str(default_compute()) == "auto:bf16" else "proved")
    assert listed() == "" if verdict == "proved" else "this model is unproved on this machine" in listed()
    assert listed(folder / "model.xml") == listed()
    proof = json.loads((folder / PROOF_FILE).read_text())
    assert [found["verdict"] for found in proof["devices"]] == [verdict]
    validate(folder)
    assert len(json.loads((folder / PROOF_FILE).read_text())["devices"]) == 1
    # The folder moves to a machine with another version of OpenVINO, then to another CPU.
    for field, value in (("openvino", "2020.1"), ("cpu", "another"), ("instructions", ["another"])):
        other = json.loads(json.dumps(proof))
        other["devices"][0]["machine"][field] = value
        (folder / PROOF_FILE).write_text(json.dumps(other))
        assert "this model is not validated yet on this CPU" in listed()
    validate(folder)
    assert len(json.loads((folder / PROOF_FILE).read_text())["devices"]) == 2
    # What was found by a wider margin than the default's does not count.
    wider = json.loads(json.dumps(proof))
    wider["devices"][0]["max_drop"] = 0.5
    (folder / PROOF_FILE).write_text(json.dumps(wider))
    assert "this model is not validated yet" in listed()
    # Of another model, as after an export into the same folder, it says nothing.
    (folder / PROOF_FILE).write_text(json.dumps(proof | {"ir": "another"}))
    assert "this model is not validated yet" in listed()


def test_the_proof_lies_outside_of_the_hashes_and_a_broken_one_is_refused(folder: Path) -> None:
    validate(folder)
    assert PROOF_FILE not in read_card(folder).files
    of_this = {"schema_version": PROOF_SCHEMA, "ir": sha256_file(folder / CARD_FILE)}
    faults = ({"devices": [{}]}, {"more": 1}, {"schema_version": 1, "more": 1})
    for text in ("{", "[]", *(json.dumps(of_this | fault) for fault in faults)):
        (folder / PROOF_FILE).write_text(text)
        with pytest.raises(ExportError, match=r"proof\.json is damaged"):
            validate(folder)
    # Of another model, or in a form that another version writes, it says nothing of this one, and that is said.
    of_later = of_this | {"schema_version": PROOF_SCHEMA + 1, "more": 1}
    for other, why in (
        ({"ir": 3}, f"it is of schema version None, this ftx reads 1, 2, 3, {PROOF_SCHEMA}"),
        (of_later, f"it is of schema version {PROOF_SCHEMA + 1}, this ftx reads 1, 2, 3, {PROOF_SCHEMA}"),
        (of_this | {"ir": "another", "devices": [{}]}, "it is of another model"),
    ):
        (folder / PROOF_FILE).write_text(json.dumps(other))
        listener = Listener()
        assert validate(folder, progress=listener).transfer is not None
        assert f"proof.json is not used: {why}" in listener.said
        # What a later version found stays.
        stays = json.loads((folder / PROOF_FILE).read_text()) == other
        assert stays is ("another" not in why)
    with pytest.raises(ValueError, match="bytes must be 2 x 2 numbers"):
        ReferenceLogits(compute=F32, images=2, labels=2, logits="AAAA")
