"""The verdict in one sentence, and the chain of parity: each word for the state that it stands for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ftx.core.progress import SILENT
from ftx.reporting.facts import RunFacts, gather
from ftx.reporting.headline import Headline, headline
from ftx.reporting.held_out import held_out
from ftx.reporting.parity_chain import chain
from ftx.runs.artifacts import IR_FP32, IRS, TRAINED
from ftx.runs.parity_json import PARITY_FILE, Verdict
from ftx.runs.run import Run


def with_verdicts(run: Path, where: Path, verdict: Verdict) -> RunFacts:
    """A copy of a run whose OpenVINO models, and all their rows, were given this verdict."""
    copied = Run.open(shutil.copytree(run, where, symlinks=True))
    facts = gather(copied)
    assert facts.parity is not None
    irs = {artifact.name for artifact in IRS.values()}
    rows = [row.model_copy(update={"verdict": verdict}) if row.artifact in irs else row for row in facts.parity.rows]
    verdicts = {name: verdict if name in irs else found for name, found in facts.parity.verdicts.items()}
    said = {name: "it was said" if name in irs else text for name, text in facts.parity.said.items()}
    parity = facts.parity.model_copy(update={"rows": rows, "verdicts": verdicts, "said": said})
    (copied.path / PARITY_FILE).write_text(parity.model_dump_json(), encoding="utf-8")
    return replace(gather(copied), faults=[])  # that its report was written by somebody else is meant


def said_of(facts: RunFacts) -> Headline:
    return headline(facts, held_out(facts.run, TRAINED, None, SILENT))


def test_proved_is_ready(validated_run: Path) -> None:
    found = said_of(gather(Run.open(validated_run)))
    assert (found.kind, found.word) == ("ok", "Ready")
    assert "is proved to get at most 2 more in 100 wrong than what was trained" in found.sentence


def test_unproved_is_not_proved_and_says_why(validated_run: Path, tmp_path: Path) -> None:
    found = said_of(with_verdicts(validated_run, tmp_path / "run", "unproved"))
    assert (found.kind, found.word) == ("warn", "Not proved")
    assert found.sentence.endswith("keeps this is not proved: it was said.")


def test_failed_is_not_to_be_used(validated_run: Path, tmp_path: Path) -> None:
    facts = with_verdicts(validated_run, tmp_path / "run", "failed")
    found = said_of(facts)
    assert (found.kind, found.word) == ("bad", "Do not use it")
    assert "every model that was exported for a device failed" in found.sentence
    states = {hop.name: hop.state for hop in chain(facts)}
    assert states == {"trained": "reference", "dense": "proved", "onnx": "proved"} | {
        artifact.name: "failed" for artifact in IRS.values() if facts.run.has(artifact)
    }


def test_what_nobody_validated_is_not_proved(whole_run: Path) -> None:
    facts = gather(Run.open(whole_run))
    found = headline(facts, None)
    assert (found.kind, found.word) == ("warn", "Not proved")
    assert found.sentence.startswith("Nobody knows how often this model is right; nobody has validated")
    assert {hop.state for hop in chain(facts)} == {"reference", "not validated"}
    assert facts.lacks[0].what == "a validation of what was exported"


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
    assert "a validation of what was exported since" in [lack.what for lack in facts.lacks]
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
        if (hop.name, hop.compute) == (IR_FP32.name, "f32")
    )
    assert hop.state == "failed"
    assert hop.figures[0][1].startswith("7.2")
