"""``ftx report A B``: which run is better, by the images that both held out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.browsing import needs_chromium, visit

from ftx.core.errors import InputError
from ftx.core.progress import SILENT
from ftx.core.statistics import Paired
from ftx.reporting.compare_runs import Compared, RunPair, _names, _pair, compare_runs
from ftx.reporting.facts import gather
from ftx.reporting.headline import headline
from ftx.reporting.held_out import HeldOut, held_out
from ftx.runs.artifacts import TRAINED
from ftx.runs.compute_precision import F32
from ftx.runs.kept_answers import keep_answers
from ftx.runs.run import Run


@pytest.fixture
def worse(validated_run: Path, tmp_path: Path) -> Run:
    """A run whose trained model is remembered to have answered 12 of the images with the next label."""
    run = Run.open(shutil.copytree(validated_run, tmp_path / "other" / "run", symlinks=True))
    logits_NC = held_out(run, TRAINED, None, SILENT).logits_NC.copy()
    logits_NC[:12] = np.roll(logits_NC[:12], 1, axis=1)
    keep_answers(run, TRAINED, F32, logits_NC)
    return run


def test_the_better_run_is_named_with_its_interval(validated_run: Path, worse: Run, tmp_path: Path) -> None:
    found = compare_runs([validated_run, worse], out=tmp_path / "page.html", artifact="trained")
    paired = Paired(12, 0, 240)
    low, high = -100 * paired.drop_at_most(0.975), -100 * paired.drop_at_least(0.975)
    assert high < 0  # 12 of 240 lost and none gained is no chance
    (said,) = found.pairs
    names = list(found.verdicts)
    assert said == (
        f"{names[1]} against {names[0]}: {names[0]} is better: -5.0 points, 95 % interval {low:+.1f} to {high:+.1f}"
    )
    assert said in (tmp_path / "page.html").read_text(encoding="utf-8").replace("<strong>", "").replace("</strong>", "")


def test_runs_of_one_name_are_told_apart(validated_run: Path, worse: Run, tmp_path: Path) -> None:
    found = compare_runs([validated_run, worse], out=tmp_path / "page.html", artifact="trained")
    assert len(found.verdicts) == 2
    assert "other/run" in found.verdicts


def test_two_that_nothing_tells_apart() -> None:
    same = RunPair("a", "b", "image", 100, 3, 3, -0.05, 0.05)
    assert same.said == "neither is shown to be better: +0.0 points, 95 % interval -5.0 to +5.0"
    strangers = RunPair("a", "b", "image", 0, 0, 0, -1, 1)
    assert "share no held-out image" in strangers.said


def test_a_run_beside_itself_is_refused(validated_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="named twice"):
        compare_runs([validated_run, validated_run], out=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_names_are_as_long_as_it_takes() -> None:
    assert _names([Path("/a/runs/one"), Path("/b/runs/two")]) == ["one", "two"]
    assert _names([Path("/a/runs/one"), Path("/b/runs/one")]) == ["a/runs/one", "b/runs/one"]
    assert _names([Path("/one"), Path("/b/one")]) == ["/one", "b/one"]


def test_images_of_a_group_and_copies_are_no_evidence_each(validated_run: Path) -> None:
    """Thirty photographs of one patient, and the same bytes twice, count once."""
    run = Run.open(validated_run)
    right = held_out(run, TRAINED, None, SILENT)
    entries = list(right.entries)
    wrong = replace(right, logits_NC=np.roll(right.logits_NC, 1, axis=1))
    grouped = [replace(entry, group="one patient" if row < 100 else f"{row}") for row, entry in enumerate(entries)]
    found = _pair(
        of(run, "a", replace(right, entries=tuple(grouped))), of(run, "b", replace(wrong, entries=tuple(grouped)))
    )
    assert (found.unit, found.units, found.lost, found.gained) == ("group", 141, 141, 0)
    entries[1] = replace(entries[0])
    copied = _pair(
        of(run, "a", replace(right, entries=tuple(entries))), of(run, "b", replace(wrong, entries=tuple(entries)))
    )
    assert (copied.unit, copied.units) == ("image", 239)


def of(run: Run, name: str, answers: HeldOut) -> Compared:
    facts = gather(run)
    return Compared(name, facts, answers, [], headline(facts, answers), None, None, None)


@needs_chromium
@pytest.mark.slow
def test_in_a_browser(validated_run: Path, worse: Run, tmp_path: Path) -> None:
    compare_runs([validated_run, worse], out=tmp_path / "page.html", artifact="trained")
    for scheme, width in (("light", 1280), ("dark", 390)):
        with visit((tmp_path / "page.html").as_uri(), scheme=scheme, width=width) as seen:
            assert not seen.errors
            assert not seen.violations()
            assert seen.sideways() == 0
            assert [one for one in seen.requests if not one.startswith(("data:", "file:"))] == []
