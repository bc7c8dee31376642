"""What the page is filled with, of a look made by hand: each picture by its own number, each figure in its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from ftx.curating.choices import ChoiceTable
from ftx.curating.issues import Issue, Spelling, counted
from ftx.curating.look import Look, LookReport
from ftx.curating.page_data import NAMES, page_data, shown_paths
from ftx.curating.wrong_labels import LabelJudgement
from ftx.data.dataset import Dataset
from ftx.tasks.labels import Labels

LABELS = Labels.multiclass(["ant", "bee", "cat", "dog", "e;f", "fox"])
ISSUES = [
    Issue(path="a/1.png", issue="label", given="cat", suggested="dog", score=0.01),
    Issue(path="a/2.png", issue="label", given="cat", suggested="e;f", score=0.02),
    Issue(path="a/3.png", issue="label-unproved", given="dog", suggested="cat", score=0.2, reason="too few"),
    Issue(path="a/2.png", issue="contradiction", given="cat", suggested="ant", score=1, other="b/2.png"),
    # As a file is called that is no label here.
    Issue(path="val/c.png", issue="near-duplicate", given="ant", suggested="fox", score=0.99, other="fox"),
    Issue(path="val/d.png", issue="near-duplicate", given="ant", suggested="a/1.png", score=0.98, other="a/1.png"),
    Issue(path="val/e.png", issue="near-duplicate", given="ant", suggested="b/2.png", score=0.98, other="b/2.png"),
    Issue(path="broken.png", issue="unreadable", given="ant", reason="cut off"),
]
JUDGED = [
    LabelJudgement(name="cat", images=1200, subjects=700, found=0.912, mistaken=0.035, suspected=2),
    LabelJudgement(name="dog", images=4, subjects=3, found=0.5, mistaken=0.25, suspected=1, unproved="too few"),
]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    table = ChoiceTable(tmp_path / "t.csv", Spelling("multiclass", LABELS, False), ISSUES, {})
    table.choose(1, "drop")
    report = LookReport(
        ok=True,
        path=str(tmp_path / "photographs"),
        task="multiclass",
        images=1204,
        model="test_vit",
        image_size=32,
        folds=5,
        strength=0.1,
        metrics={"accuracy": 0.9},
        labels=JUDGED,
        counts=counted(table.issues),
        notes=[],
        problems=[],
        table=str(table.path),
        issues=[*table.issues],
    )
    return Look(report, table, Dataset(tmp_path, LABELS, ()))


def test_an_image_and_the_one_that_it_is_like_are_two_pictures(look: Look) -> None:
    paths = shown_paths(look.table.issues)
    assert paths == [
        "a/1.png",
        "a/2.png",
        "a/3.png",
        "b/2.png",
        "val/c.png",
        "fox",
        "val/d.png",
        "val/e.png",
        "broken.png",
    ]
    issues = cast("dict[str, Any]", page_data(look)["data"])["issues"]
    shown = [tuple(None if n is None else paths[n] for n in (one["image"], one["otherImage"])) for one in issues]
    expected = [(None if one.issue == "unreadable" else one.path, one.other) for one in ISSUES]
    assert shown == expected
    for key in ("path", "issue", "given", "suggested", "score", "reason", "other"):
        assert [one[key] for one in issues] == [getattr(one, key) for one in ISSUES]
    assert [one["choice"] for one in issues] == ["", "drop", *[""] * 6]


def test_each_figure_stands_in_its_place(look: Look) -> None:
    data = page_data(look)
    assert data["rows"] == [
        ("cat", "1,200", "91.2%", "3.5%", 2, "yes"),
        ("dog", "4", "50.0%", "25.0%", 1, "no: too few"),
    ]
    counts = {"label": 2, "label-unproved": 1, "contradiction": 1, "near-duplicate": 3, "unreadable": 1}
    assert data["names"] == [(kind, NAMES[kind], count) for kind, count in counts.items()]
    assert data["name"] == "photographs"


def test_the_classes_to_choose_from_are_those_that_occur(look: Look) -> None:
    """Given or suggested; a file that a near-duplicate is like is none, and a name with ``;`` is one."""
    data = page_data(look)
    assert data["known"] == ["ant", "bee", "cat", "dog", "e;f", "fox"]
    assert data["classes"] == ["ant", "cat", "dog"]
    given = [look.table.issues[0].model_copy(update={"given": "e;f"})]
    table = ChoiceTable(look.table.path.with_name("u.csv"), look.table.spelling, given, {})
    assert page_data(Look(look.report, table, look.dataset))["classes"] == ["dog", "e;f"]


@pytest.mark.parametrize(("task", "several"), [("multiclass", False), ("multilabel", True), ("hierarchical", True)])
def test_only_of_classes_one_label_alone_can_be_chosen(task: Any, several: bool, look: Look) -> None:
    other = replace(look, report=look.report.model_copy(update={"task": task}))
    assert cast("dict[str, Any]", page_data(other)["data"])["several"] is several
