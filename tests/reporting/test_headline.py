"""The verdict in one sentence, and the chain of parity: each word for the state that it stands for."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.gates.faults import vouch_for

from ftx.core.progress import SILENT
from ftx.reporting.facts import RunFacts, gather
from ftx.reporting.headline import Headline, headline
from ftx.reporting.held_out import held_out
from ftx.reporting.measurements import chain, latency
from ftx.reporting.report import report
from ftx.runs.artifacts import IR_FP32, IRS, TRAINED
from ftx.runs.bench_json import BenchReport, BenchRow
from ftx.runs.best_epoch import rank
from ftx.runs.kept_logits import read_logits
from ftx.runs.machine import this_machine
from ftx.runs.parity_json import PARITY_FILE, Verdict
from ftx.runs.run import Run
from ftx.runs.train_jsonl import Epoch


def with_verdicts(run: Path, where: Path, verdict: Verdict) -> RunFacts:
    """A copy of a run whose OpenVINO models, and all their rows, were given this verdict."""
    copied = Run.open(shutil.copytree(run, where, symlinks=True))
    facts = gather(copied)
    assert facts.parity is not None
    irs = {artifact.name for artifact in IRS.values()}
    rows = [row.model_copy(update={"verdict": verdict}) if row.artifact in irs else row for row in facts.parity.rows]
    verdicts = {name: verdict if name in irs else found for name, found in facts.parity.verdicts.items()}
    said = {name: "it was said" if name in irs else text for name, text in facts.parity.summary.items()}
    parity = facts.parity.model_copy(update={"rows": rows, "verdicts": verdicts, "summary": said})
    (copied.path / PARITY_FILE).write_text(parity.model_dump_json(), encoding="utf-8")
    vouch_for(copied.path, PARITY_FILE.as_posix())
    return gather(copied)


def said_of(facts: RunFacts) -> Headline:
    return headline(facts, held_out(facts.run, TRAINED, None, SILENT))


def test_proved_is_ready(validated_run: Path) -> None:
    found = said_of(gather(Run.open(validated_run)))
    assert (found.kind, found.word) == ("ok", "Ready to use")
    assert re.fullmatch(r"(fp32|fp16|int8) is verified", found.finding)
    assert re.match(
        r"(At most \d\.\d points of accuracy lost \(95 % confidence, |It .* \()240 images\)\.", found.evidence
    )


def test_unproved_is_not_proved_and_says_why(validated_run: Path, tmp_path: Path) -> None:
    found = said_of(with_verdicts(validated_run, tmp_path / "run", "unproved"))
    assert (found.kind, found.word) == ("warn", "Not proved")
    assert found.finding.endswith(" is not verified")
    assert found.evidence == "ftx validate reports: it was said."


def test_failed_is_not_to_be_used(validated_run: Path, tmp_path: Path) -> None:
    facts = with_verdicts(validated_run, tmp_path / "run", "failed")
    found = said_of(facts)
    assert (found.kind, found.word) == ("bad", "Do not use yet")
    assert found.finding == "every exported model failed verification"
    assert found.evidence.startswith("fp32: it was said. ")
    assert found.evidence.endswith(" Export it again with other settings.")
    states = {hop.name: hop.state for hop in chain(facts)}
    assert states == {"trained": "reference", "dense": "proved", "onnx": "proved"} | {
        artifact.name: "failed" for artifact in IRS.values() if facts.run.has(artifact)
    }


def test_what_nobody_validated_is_not_proved(whole_run: Path) -> None:
    facts = gather(Run.open(whole_run))
    found = headline(facts, None)
    assert (found.kind, found.word) == ("warn", "Not proved")
    assert found.finding == "fp32 is not compared with the trained model yet"
    assert "is not known" in found.accuracy
    assert {hop.state for hop in chain(facts)} == {"reference", "not validated"}
    assert facts.lacks[0].what == "a validation of the exported models"


def test_what_was_exported_since_is_not_proved(validated_run: Path, tmp_path: Path) -> None:
    """A verdict is of the files that were there: of others, though they have their place, it says nothing."""
    run = Run.open(shutil.copytree(validated_run, tmp_path / "run", symlinks=True))
    with run.add(IR_FP32) as staged:
        for file in (validated_run / "openvino" / "fp32").iterdir():
            shutil.copyfile(file, staged / file.name)
        with (staged / "model.xml").open("a", encoding="utf-8") as xml:
            xml.write("\n")
    facts = gather(run)
    assert facts.faults == []
    assert facts.verdict(IR_FP32) is None
    assert "a validation of the models exported since the last one" in [lack.what for lack in facts.lacks]
    assert next(hop for hop in chain(facts) if hop.name == IR_FP32.name).state == "not validated"


@pytest.mark.parametrize("view", ["graph", "files"])
def test_the_row_that_says_least_is_shown(validated_run: Path, view: str) -> None:
    facts = gather(Run.open(validated_run))
    assert facts.parity is not None
    rows = [
        row.model_copy(update={"verdict": "failed", "max_abs": 7.25})
        if row.artifact == IR_FP32.name and row.view == view and str(row.compute) == "f32"
        else row
        for row in facts.parity.rows
    ]
    hop = next(
        hop
        for hop in chain(replace(facts, parity=facts.parity.model_copy(update={"rows": rows})))
        if (hop.name, hop.compute) == (IR_FP32.name, "fp32")
    )
    assert hop.state == "failed"
    assert hop.figures[0][1].startswith("7.2")


def test_a_proof_by_a_wider_margin_or_of_another_machine_is_none_here(validated_run: Path, tmp_path: Path) -> None:
    """What ``ftx predict`` does not count as proved, no page calls ready."""
    facts = gather(Run.open(validated_run))
    assert facts.parity is not None
    wide = facts.parity.model_copy(update={"max_drop": 0.5})
    elsewhere = facts.parity.model_copy(
        update={"machine": facts.parity.machine.model_copy(update={"cpu": "another CPU"})}
    )
    for parity, why in ((wide, "a wider margin"), (elsewhere, "another CPU")):
        found = said_of(replace(facts, parity=parity))
        assert (found.kind, found.word) == ("warn", "Not proved here")
        assert why in found.evidence


def test_without_answers_nothing_is_ready(validated_run: Path) -> None:
    found = headline(gather(Run.open(validated_run)), None)
    assert (found.kind, found.word) == ("warn", "Not known")


def test_what_a_report_makes_again_is_no_fault(validated_run: Path, tmp_path: Path) -> None:
    """Moving the page away, or losing the kept predictions, changes no model."""
    run = Run.open(shutil.copytree(validated_run, tmp_path / "run", symlinks=True))
    report(run)
    (run.path / "reports" / "report.html").unlink()
    (run.path / "reports" / "near_duplicates.json").write_text("{}", encoding="utf-8")
    predictions = run.path / "reports" / "answers" / "trained.safetensors"
    content = bytearray(predictions.read_bytes())
    content[-1] ^= 0x40  # a logit that nobody answered
    predictions.write_bytes(content)
    assert gather(run).faults == []
    assert read_logits(run, TRAINED) is None
    assert read_logits(Run.open(validated_run), TRAINED) is not None


def test_a_bench_of_other_models_is_not_shown(validated_run: Path, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(validated_run, tmp_path / "run", symlinks=True))
    row = BenchRow(
        artifact="openvino/fp32", runtime="openvino", compute="f32", isa=None, primitives={}, batch=1, threads=1,
        streams=1, requests=3, p50_ms=1.25, p90_ms=2, p99_ms=3, images_per_s=800, compile_ms=1, compile_cached_ms=1,
        first_ms=1, peak_bytes=1,
    )  # fmt: skip
    digest = run.manifest.digest(IR_FP32)
    for digests, shown in (({}, True), ({"openvino/fp32": digest}, True), ({"openvino/fp32": "0" * 64}, False)):
        run.write_report(
            "bench",
            BenchReport(
                machine=this_machine(), processors=2, image_size=32, seconds=1, rounds=3, tried=1, rows=[row], saved=[],
                notes=[], digests=digests,
            ),
        )  # fmt: skip
        facts = gather(run)
        assert (facts.bench is not None) is shown
        found = latency(facts)
        assert found is not None
        assert ("by ftx bench with images of 32 px" in found.summary) is shown
        wanted = "a benchmark of " + ("the models exported since the last one" if shown else "latency and throughput")
        # int8 and the others have no row.
        assert [lack.command for lack in facts.lacks if lack.what == wanted] == [f"ftx bench {run.path}"]


def test_of_equally_good_epochs_the_one_of_the_smaller_loss_is_the_kept_one() -> None:
    """As training keeps it."""
    first, second = (
        Epoch(number, 1, loss, 0.98, {"accuracy": 0.98}, 1e-3, 1, 1) for number, loss in ((1, 0.3), (2, 0.2))
    )
    assert max([first, second], key=lambda epoch: rank(epoch, "accuracy")) == second
