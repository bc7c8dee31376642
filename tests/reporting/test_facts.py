"""How a run is known again, and made again: the commands are about the new run, each with what this one had."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.evaluating.written_runs import keep, written_run

from ftx.reporting.facts import dates, gather, provenance
from ftx.runs.run import Run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    written_run("multiclass-dora", tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return Run.open("multiclass-dora")


def test_the_commands_make_the_same_run_beside_this_one(run: Run) -> None:
    found = provenance(gather(run)).commands
    assert found == [
        "ftx train --config multiclass-dora/recipe.yaml --out multiclass-dora-again",
        "ftx merge multiclass-dora-again",
        "ftx export multiclass-dora-again --format onnx",
        "ftx export multiclass-dora-again --format openvino --precision fp32 --precision fp16 --precision int8",
        "ftx validate multiclass-dora-again",
        "ftx report multiclass-dora-again",
    ]
    # The old one is read once, and written never.
    assert [command for command in found if "multiclass-dora/" in command] == found[:1]
    keep(run, "openvino/fp16")
    assert [line for line in provenance(gather(Run.open(run.path))).commands if "export" in line] == [
        "ftx export multiclass-dora-again --format openvino --precision fp16"
    ]


def test_what_was_not_done_is_not_repeated(run: Run) -> None:
    keep(run)
    facts = replace(gather(Run.open(run.path)), parity=None)
    assert [line.split()[1] for line in provenance(facts).commands] == ["train", "merge", "report"]


def test_commands_can_be_pasted_whatever_the_run_is_called(run: Run) -> None:
    moved = Run(run.path.rename("my run"))
    assert provenance(gather(moved)).commands[0] == ("ftx train --config 'my run/recipe.yaml' --out 'my run-again'")


def test_each_model_has_its_own_digest_and_the_recipe_stands_as_it_was_written(run: Run) -> None:
    found = provenance(gather(run))
    manifest = run.manifest
    assert list(found.digests) == [(artifact.name, manifest.digest(artifact)) for artifact in run.artifacts()]
    assert len({digest for _, digest in found.digests}) == len(found.digests) == 6
    assert found.recipe == (run.path / "recipe.yaml").read_text()
    facts = dict(found.facts)
    assert facts["digest of the base model"] == manifest.base_digest
    report = gather(run).parity
    assert report is not None
    assert facts["validated on"] == str(report.machine)
    changed = replace(gather(run), parity=report.model_copy(update={
        "machine": report.machine.model_copy(update={"cpu": "another"})
    }))  # fmt: skip
    facts = dict(provenance(changed).facts)
    assert facts["validated on"].startswith("another (")
    assert not facts["page written on"].startswith("another (")
    (run.path / "recipe.yaml").write_text("altered: true")
    assert provenance(gather(run)).recipe == "recipe.yaml is invalid"


def test_a_run_without_its_curves_has_the_date_of_its_page_alone(run: Run) -> None:
    today = f"report of {datetime.now(UTC):%Y-%m-%d}"
    assert dates(gather(run)).endswith(f", {today}")
    (run.path / "reports" / "train.jsonl").unlink()
    assert dates(gather(run)) == today
