"""`ftx data check` names what is probably not meant, and nothing of data that are as they should be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.conftest import write_data
from tests.effects.lab import call

from ftx.core.errors import DataError
from ftx.data.check import check, likely_mistakes
from ftx.data.sources import Listing, list_images

LAYOUT = Listing(Path(), "splits", ())


def of_names(*names: str) -> list[str]:
    return [*likely_mistakes(LAYOUT, names, dict.fromkeys(names, 7))]


@pytest.mark.parametrize(
    "names",
    [
        ("Cat", "cat"),
        ("dog", "DOG", "cow"),
        ("ankle boot", "ankle_boot"),
        ("T-shirt", "tshirt"),
        ("animal/Cat", "animal/cat"),
        ("Animal/cat", "animal/cat"),
        ("Straße", "STRASSE"),
    ],
)
def test_labels_in_two_cases(names: tuple[str, ...]) -> None:
    (said,) = of_names(*names)
    alike = [name for name in names if name != "cow"]
    assert said == f"labels that differ only in upper case or in spaces and signs: {' and '.join(alike)}"


@pytest.mark.parametrize(
    "pair",
    [
        ("woman", "womann"),
        ("scratch", "scrach"),
        ("dent", "dint"),
        ("Woman", "womann"),
        ("womna", "woman"),
        ("crack", "cracks"),
        ("part/crack", "part/crak"),
    ],
)
def test_labels_a_letter_apart(pair: tuple[str, str]) -> None:
    first, second = sorted(pair)
    assert of_names(*pair, "something else") == [
        f"labels that differ in one letter (is one misspelt?): {first} and {second}"
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "car"),  # short
        ("grade1", "grade2"),
        ("M10x40", "M10x4"),
        ("woman", "man"),
        ("sandal", "ankle boot", "shirt", "trouser"),
        ("left/crack", "right/crack"),
        ("a/cats", "b/cats"),
        ("left/crack", "right/craks"),
        ("x" * 70, "x" * 69),
    ],
)
def test_labels_that_are_well_told_apart(names: tuple[str, ...]) -> None:
    assert of_names(*names) == []


def test_many_labels_are_one_sentence_and_a_series_none() -> None:
    pairs = [f"{first}{second}rust" for first in "bcdfg" for second in "aeiou"]
    (said,) = of_names(*pairs)
    assert said.startswith("labels that differ in one letter (is one misspelt?): barust and berust; ")
    assert len(said) < 400
    assert of_names(*(f"species {number}" for number in range(2000))) == []
    # Each of 20,000 beside each would be 200 million pairs.
    assert of_names(*(f"kind {chr(number)}" for number in range(0x4E00, 0x4E00 + 20_000))) == []


def test_one_training_image_of_a_class(tmp_path: Path) -> None:
    write_data(tmp_path, 8)
    for path in sorted((tmp_path / "red").iterdir())[2:]:
        path.unlink()
    report = check(tmp_path)
    assert report.counts["red"] == {"train": 1, "val": 1}
    assert report.warnings == ["labels with one training image: red"]
    said = call("data", "check", str(tmp_path))
    assert (said.status, "labels with one training image: red" in said.err) == (0, True)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "metadata.csv", "train/metadata.csv"])
def test_a_line_that_stands_twice(name: str, tmp_path: Path) -> None:
    write_data(tmp_path, 6)
    table = tmp_path / name
    if table.parent != tmp_path:
        table.parent.mkdir()
        for folder in ("red", "blue"):
            shutil.move(tmp_path / folder, table.parent / folder)
    names = [f"{colour}/{number}.png" for colour in ("red", "blue") for number in range(6)]
    names.insert(7, "red/4.png")
    rows = [f'{{"path": "{one}", "labels": ["{one[:3]}"]}}' for one in names]
    if table.suffix == ".csv":
        rows = ["path,label", *(f"{one},{one[:3]}" for one in names)]
    table.write_text("\n".join(rows))
    number = 8 if table.suffix == ".jsonl" else 9
    before = "train/metadata.csv, " if "train" in name else ""
    report = check(table if table.parent == tmp_path and "metadata" not in name else tmp_path)
    assert report.warnings == [f"duplicate lines in the table: {before}line {number}: red/4.png"]
    assert sum(report.images.values()) == 12


def test_the_parent_of_one_data_set(tmp_path: Path) -> None:
    write_data(tmp_path / "photos", 3)
    for nested in (False, True):
        with pytest.raises(DataError) as caught:
            list_images(tmp_path, nested=nested)
        assert str(caught.value.fix).startswith(f"did you mean {tmp_path / 'photos'}? If not, ")
    said = call("data", "check", str(tmp_path))
    assert (said.status, f"did you mean {tmp_path / 'photos'}?" in said.err.replace("\n", "")) == (2, True)


def test_the_parent_of_several_data_sets(tmp_path: Path) -> None:
    write_data(tmp_path / "january", 3)
    write_data(tmp_path / "february", 3, first=3)
    (said,) = check(tmp_path).warnings
    assert said == "the folders february and january hold classes of the same names: if each is a data set, name one"


def test_the_parent_of_splits(tmp_path: Path) -> None:
    write_data(tmp_path / "photos" / "Train", 3)
    write_data(tmp_path / "photos" / "valid", 3, first=3)
    write_data(tmp_path / "old", 3, first=6)
    (said,) = check(tmp_path).warnings
    assert said == "the folder photos holds Train and valid: if it is the data set, name it instead of its parent"
    (tmp_path / "old").rename(tmp_path / "z")  # so that the first class folder is the data set
    with pytest.raises(DataError, match="must contain only images") as caught:
        list_images(tmp_path)
    assert str(caught.value.fix).startswith(f"did you mean {tmp_path / 'photos'}? If not, use --task hierarchical")


def test_a_label_tree_is_none(tmp_path: Path) -> None:
    write_data(tmp_path / "warm", 3)
    (tmp_path / "cold").mkdir()
    (tmp_path / "warm" / "blue").rename(tmp_path / "cold" / "blue")
    assert check(tmp_path).warnings == []
