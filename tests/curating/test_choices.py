"""The table of choices: what is written, what is taken over, and what is never overwritten."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ftx.core import untrusted_input
from ftx.core.errors import InputError, RunError
from ftx.curating import choices
from ftx.curating.choices import COLUMNS, ChoiceTable, images_file, read_choices, write_images
from ftx.curating.issues import Issue, Spelling
from ftx.tasks.labels import Labels

FLAT = Spelling("multiclass", Labels.multiclass(["cat", "dog", "a;b"]), False)
TREE = Spelling(
    "hierarchical",
    Labels(
        ("warm", "cold", "warm/red", "cold/red", "wet"),
        groups=(("warm", "cold"),),
        singles=("warm/red", "cold/red", "wet"),
        parents={"warm/red": "warm", "cold/red": "cold"},
    ),
    True,
)
# A name that HTML, CSV and a line would each make something else of.
STRANGE = 'x,"y"\n<b>.png'
ISSUES = [
    Issue(path="1.png", issue="label", given="cat", suggested="dog", score=0.0123),
    Issue(path=STRANGE, issue="label", given="a;b", suggested="cat", score=0.5),
    Issue(path="1.png", issue="near-duplicate", given="cat", suggested="2.png", score=1, other="2.png"),
    Issue(path="3.png", issue="unreadable", given="dog", reason="broken"),
]
IMAGES = {path: path * 2 for path in ("1.png", STRANGE, "2.png", "3.png")}  # any text is as good as a digest


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return [*csv.reader(stream)]


def test_every_issue_stands_in_it_from_the_start(tmp_path: Path) -> None:
    out = tmp_path / "new" / "t.csv"
    ChoiceTable(out, FLAT, ISSUES, IMAGES)
    assert rows(out) == [
        [*COLUMNS],
        ["1.png", "label", "cat", "dog", "0.0123", ""],
        [STRANGE, "label", "a;b", "cat", "0.5000", ""],
        ["1.png", "near-duplicate", "cat", "2.png", "1.0000", ""],
        ["3.png", "unreadable", "dog", "", "", ""],
    ]
    # nothing half-written beside it
    assert sorted(path.name for path in out.parent.iterdir()) == ["t.csv", "t.csv.images.json"]


def test_a_choice_is_on_disk_when_it_was_made_and_is_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "t.csv"
    table = ChoiceTable(out, FLAT, ISSUES, IMAGES)
    assert table.choose(1, "relabel: a;b ").choice == "relabel:a;b"
    table.choose(2, "drop")
    assert [row[5] for row in rows(out)[1:]] == ["", "relabel:a;b", "drop", ""]
    assert table.summary() == "2 label, 1 near-duplicate, 1 unreadable; 2 decided"
    # The first image was relabelled meanwhile, the second is not suspected any more.
    again = [ISSUES[0].model_copy(update={"score": 0.2}), ISSUES[2].model_copy(update={"given": "dog"}), ISSUES[3]]
    table = ChoiceTable(out, FLAT, again, IMAGES, read_choices(out, FLAT, IMAGES))
    assert [row[5] for row in rows(out)[1:]] == ["", "", "", "relabel:a;b", "drop"]
    assert [row[:3] for row in rows(out)[4:]] == [[STRANGE, "label", "a;b"], ["1.png", "near-duplicate", "cat"]]
    assert table.unmatched == 2
    table.choose(0, "keep")
    table.choose(0, "")
    assert rows(out)[1][5] == ""
    # The first has its old label again: what was chosen then holds.
    table = ChoiceTable(out, FLAT, ISSUES, IMAGES, read_choices(out, FLAT, IMAGES))
    assert [row[5] for row in rows(out)[1:]] == ["", "relabel:a;b", "drop", ""]
    assert table.unmatched == 0


def test_a_choice_outlives_its_image_and_is_of_no_other(tmp_path: Path) -> None:
    out = tmp_path / "t.csv"
    ChoiceTable(out, FLAT, ISSUES, IMAGES).choose(0, "drop")
    rest = {path: digest for path, digest in IMAGES.items() if path != "1.png"}
    for _ in range(2):  # what is gone is remembered by the table that was written without it
        ChoiceTable(out, FLAT, ISSUES[3:], rest, read_choices(out, FLAT, rest))
        assert [(row[0], row[5]) for row in rows(out)[1:]] == [("3.png", ""), ("1.png", "drop")]
    before = out.read_bytes()
    with pytest.raises(InputError, match="images have changed") as error:
        read_choices(out, FLAT, rest | {"1.png": "another"})
    assert error.value.found == "1.png"
    # An image that nothing was chosen for may be another.
    assert read_choices(out, FLAT, rest | {"3.png": "another"}).rows
    assert out.read_bytes() == before


def test_a_table_of_images_of_the_same_names_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "t.csv"
    ChoiceTable(out, FLAT, ISSUES, IMAGES)
    with pytest.raises(InputError, match="must be of this data"):
        read_choices(out, FLAT, dict.fromkeys(IMAGES, "another"))
    images_file(out).unlink()
    with pytest.raises(InputError, match="table must have its list of images"):
        read_choices(out, FLAT, IMAGES)
    for content in ("[]", "{", '{"images": {"1.png": 1}}'):
        images_file(out).write_text(content)
        with pytest.raises(InputError, match="must be the image list"):
            read_choices(out, FLAT, IMAGES)
        assert images_file(out).read_text() == content


def test_the_file_of_images_has_a_limit_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of a million images is larger than any other document that is read."""
    assert choices.MOST_BYTES > untrusted_input.MOST_BYTES
    write_images(tmp_path / "t.csv", IMAGES)
    size_bytes = images_file(tmp_path / "t.csv").stat().st_size
    monkeypatch.setattr(choices, "MOST_BYTES", size_bytes)
    assert choices.read_images(tmp_path / "t.csv") == IMAGES
    monkeypatch.setattr(choices, "MOST_BYTES", size_bytes - 1)
    with pytest.raises(InputError, match="must be the image list"):
        choices.read_images(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("choice", "said"),
    [("kep", "no choice 'kep'"), ("relabel:dgo", "no label 'dgo'"), ("relabel:", "no label ''"), ("Keep", "no choice")],
)
def test_a_choice_that_does_not_hold_is_refused(tmp_path: Path, choice: str, said: str) -> None:
    table = ChoiceTable(tmp_path / "t.csv", FLAT, ISSUES, IMAGES)
    before = (tmp_path / "t.csv").read_bytes()
    with pytest.raises(InputError, match=said):
        table.choose(0, choice)
    with pytest.raises(InputError, match="no such issue"):
        table.choose(len(ISSUES), "keep")
    assert (tmp_path / "t.csv").read_bytes() == before


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "\tx", "'=x", "''-x", "'x", "x=1", "\uff1d1", "\uff20x"])
def test_no_cell_is_a_formula_of_a_spreadsheet(text: str, tmp_path: Path) -> None:
    """What a folder or a label is called is read back as it was."""
    out, images = tmp_path / "t.csv", {f"{text}/1.png": "0" * 64}
    flat = Spelling("multiclass", Labels.multiclass([text, "other"]), False)
    issue = Issue(path=f"{text}/1.png", issue="label", given=text, suggested="other", score=0.5, choice="")
    table = ChoiceTable(out, flat, [issue], images)
    table.choose(0, "keep")
    with out.open(newline="") as stream:
        path, _, given, *_ = [*csv.reader(stream)][1]
    assert not {path[0], given[0]} & set("=+-@\t\uff1d\uff0b\uff0d\uff20")
    assert [(one.path, one.given, one.choice) for one in read_choices(out, flat, images).rows] == [
        (f"{text}/1.png", text, "keep")
    ]


def test_labels_of_a_tree_are_spelt_as_paths() -> None:
    assert TREE.known == ["warm", "cold", "warm/red", "cold/red", "wet"]
    assert TREE.all(("warm/red", "wet")) == "warm/red;wet"
    assert TREE.checked("relabel:cold/red; wet") == "relabel:cold/red;wet"
    plain = Spelling("hierarchical", Labels(("a", "b"), singles=("a", "b"), parents={"b": "a"}), True)
    assert plain.known == ["a", "a/b"]
    declared = Spelling("hierarchical", Labels(("a", "b"), singles=("a", "b"), parents={"b": "a"}), False)
    assert declared.known == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,labels\n1.png,cat\n", "or a table of ftx data look"),
        ("", "or a table"),
        ("\x89PNG\udc80", "or a table"),
        ("path,issue,given,suggested,score,choice\n1.png,label,cat\n", "row 2: the row must have 6 columns, it has 3"),
        ("path,issue,given,suggested,score,choice\n1.png,odd,cat,dog,0.1,\n", "row 2: the issue must be one of"),
        ("path,issue,given,suggested,score,choice\n1.png,label,cat,dog,0.1,maybe\n", "there is no choice 'maybe'"),
    ],
)
def test_a_file_that_is_not_ours_is_refused_and_stays(tmp_path: Path, text: str, said: str) -> None:
    out = tmp_path / "t.csv"
    out.write_bytes(text.encode(errors="surrogateescape"))
    write_images(out, IMAGES)
    with pytest.raises(InputError) as error:
        read_choices(out, FLAT, IMAGES)
    assert said in str(error.value)
    assert out.read_bytes() == text.encode(errors="surrogateescape")


def test_what_another_program_wrote_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "t.csv"
    table = ChoiceTable(out, FLAT, ISSUES, IMAGES)
    out.write_text("mine now")
    with pytest.raises(RunError, match="another program"):
        table.choose(0, "keep")
    assert out.read_text() == "mine now"
    assert table.issues[0].choice == ""


def test_choices_of_several_tabs_at_once_are_all_made(tmp_path: Path) -> None:
    """Each writes the whole table: none finds the one that another is writing, and none is left out of it."""
    images = {f"{number}.png": f"{number}" for number in range(24)}
    issues = [Issue(path=path, issue="label", given="cat", suggested="dog", score=0.5) for path in images]
    table = ChoiceTable(tmp_path / "t.csv", FLAT, issues, images)
    wanted = [("drop", "keep", "relabel:dog")[number % 3] for number in range(24)]
    with ThreadPoolExecutor(4) as tabs:
        made = [*tabs.map(table.choose, range(24), wanted)]
    assert [one.path for one in made] == [*images]
    assert [one.choice for one in made] == wanted
    assert [row[5] for row in rows(tmp_path / "t.csv")[1:]] == wanted


def test_a_choice_of_one_kind_of_issue_is_not_taken_for_another(tmp_path: Path) -> None:
    """An image may be suspected by its label and be like another, with the same labels given."""
    out = tmp_path / "t.csv"
    issues = [ISSUES[0], ISSUES[2]]
    ChoiceTable(out, FLAT, issues, IMAGES).choose(1, "drop")
    table = ChoiceTable(out, FLAT, issues[::-1], IMAGES, read_choices(out, FLAT, IMAGES))
    assert [(one.issue, one.choice) for one in table.issues] == [("near-duplicate", "drop"), ("label", "")]
    assert table.unmatched == 0


def test_of_two_labels_the_second_is_no_cell_of_its_own(tmp_path: Path) -> None:
    """Where a spreadsheet parts cells at semicolons, too."""
    several = Spelling("multilabel", Labels(("a", "=B1"), singles=("a", "=B1")), True)
    issue = Issue(path="1.png", issue="label", given="a;=B1", suggested="a", score=0.5)
    ChoiceTable(tmp_path / "t.csv", several, [issue], {"1.png": "0" * 64})
    with (tmp_path / "t.csv").open(newline="") as stream:
        _, row = csv.reader(stream, delimiter=";")
    assert not [cell for cell in row if cell.startswith("=")]
    assert read_choices(tmp_path / "t.csv", several, {"1.png": "0" * 64}).rows[0].given == "a;=B1"
