"""What ``ftx validate`` leaves behind: a report, a proof beside each IR, a section of the model card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from tests.conftest import Listener
from tests.exporting.conftest import LABELS, MODEL_CARD, PREPROCESS, Validated
from tests.gates.faults import edit_json, keep, vouch

from ftx.core.errors import ExportError
from ftx.core.files import sha256_file
from ftx.evaluating import ParityReport, validate
from ftx.evaluating.readme_verdicts import write_verdicts
from ftx.evaluating.stated_labels import identity_faults
from ftx.runs.artifacts import IR_FP32
from ftx.runs.proof_json import read_proof
from ftx.runtimes.onnx import OnnxPredictor
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.tasks.labels import Labels
from ftx.tasks.multiclass import Multiclass

HELD_OUT = 12
IRS = ("openvino/fp32", "openvino/fp16")


def test_each_artifact_is_asked_in_each_view_and_precision(validated: Validated) -> None:
    report = validated.report
    assert [(row.artifact, row.view, str(row.compute).partition(":")[0], row.images) for row in report.rows] == [
        ("trained", "files", "f32", HELD_OUT),
        ("dense", "graph", "f32", HELD_OUT),
        ("onnx", "graph", "f32", HELD_OUT),
        ("onnx", "files", "f32", HELD_OUT),
        *(
            (name, view, compute, HELD_OUT)
            for name in IRS
            for compute in ("f32", "auto")
            for view in ("graph", "files")
        ),
    ]
    assert {row.runtime for row in report.rows} == {"torch", "onnx", "openvino"}
    assert (report.split, report.max_drop, report.whole, report.ok) == ("test", 0.02, True, True)
    # In f32 the bound on logits proves it; rounded weights change labels, and 12 images prove two points of none.
    assert {name: report.verdicts[name] for name in ("dense", "onnx", "openvino/fp16")} == {
        "dense": "proved",
        "onnx": "proved",
        "openvino/fp16": "unproved",
    }
    assert (report.problems, report.faulty) == ([], [])
    assert set(report.digests) == {"trained", "dense", "onnx", *IRS}
    kept = (validated.run.path / "reports" / "parity.json").read_bytes()
    assert ParityReport.model_validate_json(kept) == report


def test_the_bar_ends_where_it_said_it_would(validated: Validated) -> None:
    assert validated.listener.steps == validated.listener.total > 0


def test_a_proof_holds_the_verdict_the_rows_and_the_models_own_answers(validated: Validated) -> None:
    artifact, report = "openvino/fp16", validated.report
    folder = validated.run.path / artifact
    proof = read_proof(folder)
    assert (proof.ir, proof.devices) == (sha256_file(folder / "card.json"), [])
    found = proof.run
    assert found is not None
    assert (found.verdict, found.summary) == (report.verdicts[artifact], report.summary[artifact])
    assert (found.max_drop, found.split, found.whole) == (0.02, "test", True)
    assert (found.machine, found.family) == (report.machine, report.family)
    assert found.rows == [row for row in report.rows if row.artifact == artifact]
    pixels = load_file(folder / "reference.safetensors")["images"]
    computes = [row.compute for row in found.rows if row.view == "graph"]
    assert [answers.compute for answers in found.answers] == computes
    for answers, pinned in zip(found.answers, ("f32", "auto"), strict=True):
        expected = OpenVinoPredictor(folder, pinned).logits(pixels[:16])  # a batch as ftx asks them
        np.testing.assert_array_equal(answers.array[:16], expected)
        assert len(answers.array) == len(pixels)


def test_the_model_card_holds_one_section_of_verdicts_whenever_it_is_told(validated: Validated, tmp_path: Path) -> None:
    run, report = validated.copy(tmp_path), validated.report
    before, rest = MODEL_CARD.split("## Use")

    def section() -> list[str]:
        text = (run.path / "dense" / "README.md").read_text()
        assert text.startswith(f"{before}## Verdicts\n")
        assert text.endswith(f"## Use{rest}")
        assert text.count("## Verdicts\n") == 1
        return text[len(before) : -len(f"## Use{rest}")].strip().splitlines()

    first = section()
    lines = [f"| {name} | {verdict} | {report.summary[name]} |" for name, verdict in report.verdicts.items()]
    assert first[-len(lines) :] == lines
    assert "The limit is 2 points of accuracy." in "\n".join(first)
    write_verdicts(run, report)
    assert section() == first
    run.require(IR_FP32)  # the card is vouched for, and nothing is stale by it


def test_one_grey_image_is_asked_about_in_colour_as_well_and_proves_nothing(
    validated: Validated, tmp_path: Path
) -> None:
    run = validated.copy(tmp_path)
    keep(run.path, "onnx")
    lines: list[str] = []
    for line in (run.path / "data.jsonl").read_text().splitlines():
        entry = json.loads(line)
        path = tmp_path / "grey" / entry["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.open(Path(run.manifest.data_root, entry["path"])).convert("L").save(path)
        lines.append(json.dumps(entry | {"sha256": sha256_file(path)}) + "\n")
    (run.path / "data.jsonl").write_text("".join(lines))
    vouch(run.path)
    kept = run.path / "reports" / "parity.json"
    kept.write_text("{}")  # of another version: nothing to hold on to
    listener = Listener()
    report = validate(run.path, data=tmp_path / "grey", images=1, max_drop=0.1, require_proof=True, progress=listener)
    assert (report.split, report.whole, report.max_drop, report.ok) == ("test", False, 0.1, False)
    assert set(report.verdicts.values()) == {"unproved"}, report.problems
    assert report.summary["onnx"].endswith("only 1 of 12 held-out images were run, and a proof takes all")
    (name,) = report.rows[0].worst
    for row in report.rows:
        assert set(row.worst) == {name, *([f"{name} (tinted)"] if row.view == "graph" else [])}
        assert row.images == 1  # the copy has no truth, and counts in no share
    assert listener.steps == listener.total
    assert ParityReport.model_validate_json(kept.read_bytes()) == report


def test_labels_of_a_card_that_are_not_the_runs_are_one_fault_in_words(validated: Validated, tmp_path: Path) -> None:
    run = validated.copy(tmp_path)
    keep(run.path, "openvino/fp32")
    folder = run.path / "openvino" / "fp32"
    edit_json(folder / "card.json", lambda card: card["labels"].update(names=["red_panda", "red panda", "größe"]))
    (fault,) = identity_faults(run, IR_FP32, OpenVinoPredictor(folder))
    assert fault.startswith("openvino/fp32: the labels of card.json are not the run's: ")


def test_a_proof_with_a_key_that_no_ftx_writes_is_refused(validated: Validated, tmp_path: Path) -> None:
    folder = validated.copy(tmp_path).path / "openvino" / "fp32"
    edit_json(folder / "proof.json", lambda proof: proof["run"]["rows"][0].update(verdict_of="mine"))
    with pytest.raises(ExportError, match=r"proof\.json is damaged") as caught:
        read_proof(folder)
    assert "verdict_of" in str(caught.value)


def test_an_onnx_model_of_another_size_or_other_labels_is_refused(validated: Validated) -> None:
    folder = validated.run.path / "onnx"
    task = Multiclass(LABELS)
    predictor = OnnxPredictor(folder, PREPROCESS, task)
    assert predictor.model_info["labels"].split() == ["red_panda_2", "red_panda", "größe"]
    larger = PREPROCESS.__class__(
        height=48, width=32, resize=48, interpolation="bicubic", mean=PREPROCESS.mean, std=PREPROCESS.std
    )
    for preprocess, meant in ((larger, task), (PREPROCESS, Multiclass(Labels.multiclass(["a", "b"])))):
        with pytest.raises(ExportError, match="must have the images and labels of its run"):
            OnnxPredictor(folder, preprocess, meant)
