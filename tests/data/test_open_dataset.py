from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ftx.core.errors import DataError
from ftx.data.check import check
from ftx.data.dataset import Dataset, Entry
from ftx.data.open_dataset import survey
from ftx.tasks.task_names import TaskName


class Notes:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.totals: list[int | None] = []
        self.steps = 0

    @contextmanager
    def track(self, description: str, total: int | None) -> Iterator[Notes]:
        self.totals.append(total)
        yield self

    def advance(self, steps: int = 1, **fields: str) -> None:
        self.steps += steps

    def note(self, text: str) -> None:
        self.notes.append(text)


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)).save(path)
    return path


def tree(root: Path, counts: dict[str, int], *, seed: int = 0) -> Path:
    """Folders with so many different images each."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            picture(root / name / f"{index:03}.png", 10_000 * seed + 1000 * number + index)
    return root


def sides(dataset: Dataset) -> dict[str, str]:
    return {entry.sha256: entry.split for entry in dataset.entries}


def test_one_tree_is_split_by_content(tmp_path: Path) -> None:
    progress = Notes()
    found = survey(tree(tmp_path / "data", {"dog": 10, "cat": 5}), val_fraction=0.2, progress=progress)
    dataset = found.dataset
    assert found.layout == "folders"
    assert dataset.labels.names == ("cat", "dog")
    assert found.counts() == {"cat": {"train": 4, "val": 1}, "dog": {"train": 8, "val": 2}}
    assert dataset.report_split == "val"
    assert "there is no test/: reports use val" in progress.notes
    assert (progress.totals, progress.steps) == ([15], 15)
    assert [entry.path for entry in dataset.entries] == sorted(entry.path for entry in dataset.entries)
    for entry in dataset.entries:
        assert entry.path.startswith(f"{entry.labels[0]}/")
        assert entry.sha256 == sha256((tmp_path / "data" / entry.path).read_bytes()).hexdigest()


def test_names_and_copies_do_not_move_an_image(tmp_path: Path) -> None:
    before = survey(tree(tmp_path / "a", {"cat": 12, "dog": 12}), val_fraction=0.25).dataset
    renamed = tmp_path / "b"
    for entry in before.entries:
        path = renamed / entry.labels[0] / f"{entry.sha256[::-1]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(before.root / entry.path, path)
        shutil.copy(path, path.with_suffix(".copy.png"))
    found = survey(renamed, val_fraction=0.25)
    assert sides(found.dataset) == sides(before)
    assert found.copies == 24
    assert len(found.dataset.entries) == 48


def test_given_sides_are_taken_as_they_are(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        tree(tmp_path / split, {"cat": count, "dog": count}, seed=count)
    found = survey(tmp_path, val_fraction=0.2)
    assert found.layout == "splits"
    assert found.counts() == {name: {"train": 4, "val": 2, "test": 3} for name in ("cat", "dog")}
    assert all(entry.path.startswith(f"{entry.split}/") for entry in found.dataset.entries)
    assert found.dataset.report_split == "test"


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Train", "Valid", None),
        ("training", "valid", "testing"),
        ("TRAIN", "VAL", "TEST"),
        ("Training", "Validation", "Test"),
        ("train", "validation", "Testing"),
        ("train", None, "TESTING"),
        ("train2017", "val2017", None),
        ("Train_Set", "valid-images", "test data"),
        ("training_images", "validation images", "testset"),
    ],
)
@pytest.mark.parametrize("task", ["multiclass", "hierarchical"])
def test_splits_have_their_usual_names_in_any_case(
    train: str, val: str | None, test: str | None, task: TaskName, tmp_path: Path
) -> None:
    for name, count in ((train, 5), (val, 2), (test, 3)):
        if name is not None:
            tree(tmp_path / name, {"cat": count, "dog": count}, seed=count)
    found = survey(tmp_path, task, val_fraction=0.2)
    wanted = {"train": 4 + (val is not None), "val": 2 if val else 1} | ({"test": 3} if test else {})
    assert found.counts() == dict.fromkeys(("cat", "dog"), wanted)
    assert {entry.path.partition("/")[0] for entry in found.dataset.split("train")} == {train}


def test_a_class_may_end_in_a_colon(tmp_path: Path) -> None:
    """Its images' paths then begin as an address does, and are read back from a run as they are."""
    dataset = survey(tree(tmp_path, {"crack:": 2, "http:": 2}), val_fraction=0.2).dataset
    assert dataset.labels.names == ("crack:", "http:")
    read = [Entry.from_json(json.loads(json.dumps(entry.to_json()))) for entry in dataset.entries]
    assert read == list(dataset.entries)


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train", "Training", "val"):
        tree(tmp_path / name, {"cat": 2, "dog": 2})
    error = refusal(tmp_path)
    assert (error.what, error.found) == ("only one folder may be the split train", "Training and train")


def test_val_is_taken_from_train_where_there_is_none(tmp_path: Path) -> None:
    tree(tmp_path / "train", {"cat": 5, "dog": 5}, seed=1)
    tree(tmp_path / "test", {"cat": 3, "dog": 3}, seed=2)
    found = survey(tmp_path, val_fraction=0.2)
    assert found.counts() == {name: {"train": 4, "val": 1, "test": 3} for name in ("cat", "dog")}
    alone = tmp_path / "alone"
    shutil.copytree(tmp_path / "train", alone / "train")
    train_only = sides(survey(alone, val_fraction=0.2).dataset)
    assert train_only.items() <= sides(found.dataset).items()


def test_reports_use_val_where_there_is_no_test(tmp_path: Path) -> None:
    tree(tmp_path / "train", {"cat": 2, "dog": 2}, seed=1)
    tree(tmp_path / "val", {"cat": 1, "dog": 1}, seed=2)
    progress = Notes()
    dataset = survey(tmp_path, val_fraction=0.2, progress=progress).dataset
    assert dataset.report_split == "val"
    assert "there is no test/: reports use val" in progress.notes


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    dataset = survey(tree(tmp_path, {"train": 2, "plane": 2}), val_fraction=0.2).dataset
    assert dataset.labels.names == ("plane", "train")


def test_spaces_and_letters_of_any_alphabet(tmp_path: Path) -> None:
    picture(tmp_path / "Ankle boot" / "no 1 (copy).png", 1)
    picture(tmp_path / "Ankle boot" / "наливной.png", 2)
    picture(tmp_path / "čižmička 靴" / "ü.PNG", 3)
    picture(tmp_path / "čižmička 靴" / "a#?&%20.jpeg", 4)
    dataset = survey(tmp_path, val_fraction=0.5).dataset
    assert dataset.labels.names == ("Ankle boot", "čižmička 靴")
    assert {entry.path for entry in dataset.entries} == {
        "Ankle boot/no 1 (copy).png",
        "Ankle boot/наливной.png",
        "čižmička 靴/ü.PNG",
        "čižmička 靴/a#?&%20.jpeg",
    }


def test_litter_is_passed_over_and_other_files_are_counted(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 2, "dog": 2})
    for name in ("cat/Thumbs.db", "dog/.DS_Store", "dog/._001.png", "desktop.ini", ".cache/x.png", "__MACOSX/y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"litter")
    for name in ("cat/notes.txt", "dog/more.TXT", "README", "dog/raw.heic"):
        (tmp_path / name).write_text("not an image")
    picture(tmp_path / "overview.png", 99)
    progress = Notes()
    found = survey(tmp_path, val_fraction=0.2, progress=progress)
    assert len(found.dataset.entries) == 4
    assert dict(found.ignored) == {".txt": 2, ".heic": 1, "without an ending": 1, "images outside class folders": 1}
    assert any("2 .txt" in note for note in progress.notes)


def spoil(path: Path, how: str) -> None:
    if how == "corrupt":
        content = bytearray(path.read_bytes())
        content[len(content) // 2 :] = os.urandom(3)
        path.write_bytes(content)
    elif how == "zero bytes":
        path.write_bytes(b"")
    elif how == "HTML":
        path.write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")
    elif how == "200 megapixels":
        Image.new("1", (20_000, 10_000)).save(path)
    else:
        path.unlink()
        path.symlink_to("gone.png")


@pytest.mark.parametrize("how", ["corrupt", "zero bytes", "HTML", "200 megapixels", "dead link"])
def test_an_unreadable_image_is_named_counted_and_skipped(tmp_path: Path, how: str) -> None:
    tree(tmp_path, {"cat": 10, "dog": 10})
    spoil(tmp_path / "dog/003.png", how)
    progress = Notes()
    dataset = survey(tmp_path, val_fraction=0.2, progress=progress).dataset
    assert [one.path for one in dataset.unreadable] == ["dog/003.png"]
    assert dataset.unreadable[0].reason
    assert len(dataset.entries) == 19
    assert "1 of 20 images cannot be read and are skipped" in progress.notes
    assert any(note.startswith("skipped dog/003.png: ") for note in progress.notes)


def test_more_than_one_in_twenty_unreadable_images_stops_it(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 10, "dog": 9})  # one of 19 is 5.3 %
    spoil(tmp_path / "dog/003.png", "zero bytes")
    with pytest.raises(DataError, match="1 of 19 images cannot be read") as caught:
        survey(tmp_path, val_fraction=0.2)
    assert caught.value.found is not None
    assert "dog/003.png" in caught.value.found


def test_a_list_of_unreadable_images_ends_in_a_count(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 15, "dog": 2})
    for index in range(13):
        spoil(tmp_path / f"cat/{index:03}.png", "zero bytes")
    with pytest.raises(DataError) as caught:
        survey(tmp_path, val_fraction=0.2)
    assert caught.value.found is not None
    assert caught.value.found.count("cat/") == 10
    assert caught.value.found.endswith("and 3 more")


def refusal(root: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        survey(root, val_fraction=0.2)
    assert caught.value.exit_code == 2
    assert caught.value.where is not None
    return caught.value


def test_a_missing_folder_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "flowers").mkdir()
    error = refusal(tmp_path / "flower")
    assert error.what == "the data folder does not exist"
    assert error.found == f"nearest: {tmp_path / 'flowers'}"


def test_no_images(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "list.csv").write_text("a,b")
    error = refusal(tmp_path)
    assert (error.what, error.found) == ("the data folder must contain images", "1 .csv")


def test_an_empty_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path).what == "the data folder must contain one folder per class"


def test_images_without_class_folders(tmp_path: Path) -> None:
    for index in range(3):
        picture(tmp_path / f"{index}.png", index)
    error = refusal(tmp_path)
    assert (error.what, error.found) == ("the data folder must contain one folder per class", "3 images and no folders")
    shutil.copytree(tmp_path, tmp_path / "train")
    error = refusal(tmp_path)
    assert error.where == str(tmp_path / "train")


def test_only_one_class(tmp_path: Path) -> None:
    assert refusal(tree(tmp_path, {"cat": 5})).what == "the data must have at least two classes"


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("layout", ["tree", "train and val"])
def test_a_class_with_one_image_or_none(tmp_path: Path, layout: str, count: int) -> None:
    counts = {"cat": 5, "dog": count}
    if layout == "tree":
        tree(tmp_path, counts)
    else:
        tree(tmp_path / "train", counts, seed=1)
        tree(tmp_path / "val", {"cat": 2, "dog": 2}, seed=2)
    error = refusal(tmp_path)
    assert "at least 2 different images" in error.what
    assert error.found == f"dog: {count}"


def test_a_class_left_with_one_image_by_unreadable_ones(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 30, "dog": 2})
    spoil(tmp_path / "dog/001.png", "zero bytes")
    assert refusal(tmp_path).found == "dog: 1; of all images 1 cannot be read"


def test_a_class_of_val_that_train_lacks_is_named_with_the_nearest(tmp_path: Path) -> None:
    tree(tmp_path / "train", {"cat": 2, "dog": 2}, seed=1)
    tree(tmp_path / "val", {"cat": 2, "dgo": 2}, seed=2)
    error = refusal(tmp_path)
    assert error.what == "each class of val/ must be in train/ too"
    assert (error.found, error.fix) == ("dgo", "did you mean dog?")


def test_a_misspelt_side_is_named_with_the_nearest(tmp_path: Path) -> None:
    tree(tmp_path / "train", {"cat": 2, "dog": 2}, seed=1)
    tree(tmp_path / "tests", {"cat": 2, "dog": 2}, seed=2)
    error = refusal(tmp_path)
    assert error.where == str(tmp_path / "tests")
    assert error.fix == "did you mean test?"


def test_sides_without_train(tmp_path: Path) -> None:
    tree(tmp_path / "val", {"cat": 2, "dog": 2}, seed=1)
    tree(tmp_path / "test", {"cat": 2, "dog": 2}, seed=2)
    assert refusal(tmp_path).what == "the data must have a folder train/"


def test_an_empty_side(tmp_path: Path) -> None:
    tree(tmp_path / "train", {"cat": 2, "dog": 2})
    tree(tmp_path / "val", {"cat": 0, "dog": 0})
    error = refusal(tmp_path)
    assert (error.what, error.where) == ("val/ must contain images", str(tmp_path / "val"))


def test_folders_inside_class_folders(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 2, "dog": 2})
    picture(tmp_path / "dog" / "poodle" / "1.png", 7)
    error = refusal(tmp_path)
    assert error.what == "a class folder must contain only images"
    assert error.where == str(tmp_path / "dog" / "poodle")


@pytest.mark.parametrize("root", [Path(), Path("train")])
def test_one_image_under_two_classes(tmp_path: Path, root: Path) -> None:
    tree(tmp_path / root, {"cat": 3, "dog": 3})
    other = tmp_path / root / "dog" / "same.png"
    if root.name:  # a contradiction across sides is one as well
        tree(tmp_path / "test", {"cat": 2, "dog": 2}, seed=2)
        other = tmp_path / "test" / "dog" / "same.png"
    shutil.copy(tmp_path / root / "cat/001.png", other)
    error = refusal(tmp_path)
    assert error.what == "the same image must not have different labels"
    assert error.found is not None
    assert "cat/001.png" in error.found
    assert other.relative_to(tmp_path).as_posix() in error.found


def test_an_image_in_train_and_test_is_told(tmp_path: Path) -> None:
    tree(tmp_path / "train", {"cat": 4, "dog": 4}, seed=1)
    tree(tmp_path / "val", {"cat": 2, "dog": 2}, seed=2)
    tree(tmp_path / "test", {"cat": 2, "dog": 2}, seed=3)
    shutil.copy(tmp_path / "train/cat/001.png", tmp_path / "test/cat/again.png")
    progress = Notes()
    found = survey(tmp_path, val_fraction=0.2, progress=progress)
    assert found.leaks == 1
    assert any("stand in val or test as well" in note for note in progress.notes)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, kind: str) -> None:
    outside = tree(tmp_path / "outside", {"eel": 2})
    root = tree(tmp_path / "data", {"cat": 2, "dog": 2})
    link, target = (
        (root / "eel", outside / "eel") if kind == "folder" else (root / "cat/x.png", outside / "eel/000.png")
    )
    link.symlink_to(target)
    error = refusal(root)
    assert error.what == "a link must not lead out of the data folder"
    assert error.where == str(link)


def test_links_within_the_folder_and_to_the_folder_are_followed(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", {"cat": 2, "dog": 2})
    (root / "cat" / "link.png").symlink_to("001.png")
    (tmp_path / "alias").symlink_to(root)
    found = survey(tmp_path / "alias", val_fraction=0.5)
    assert found.copies == 1
    assert found.dataset.root == tmp_path / "alias"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
def test_a_file_name_in_another_encoding_is_skipped_by_name(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 20, "dog": 20})
    shutil.copy(tmp_path / "cat/000.png", os.fsencode(tmp_path / "cat") + b"/caf\xe9.png")
    dataset = survey(tmp_path, val_fraction=0.2).dataset
    assert [one.path for one in dataset.unreadable] == [r"'cat/caf\udce9.png'"]


def test_images_that_are_held_out_as_well_are_counted_once_each(tmp_path: Path) -> None:
    """Three of train, of which one is in both val and test; one of val that is in test; two copies within train."""
    tree(tmp_path / "train", {"cat": 6, "dog": 4}, seed=1)
    tree(tmp_path / "val", {"cat": 2, "dog": 2}, seed=2)
    tree(tmp_path / "test", {"cat": 2, "dog": 2}, seed=3)
    copied = {
        "train/cat/000.png": ["val/cat/a.png"],
        "train/cat/001.png": ["val/cat/b.png", "test/cat/b.png"],
        "train/dog/002.png": ["val/dog/c.png"],
        "train/cat/003.png": ["train/cat/d.png", "train/cat/e.png"],
        "val/dog/001.png": ["test/dog/f.png"],
    }
    for one, others in copied.items():
        for other in others:
            shutil.copy(tmp_path / one, tmp_path / other)
    progress = Notes()
    found = survey(tmp_path, val_fraction=0.2, progress=progress)
    assert (found.leaks, found.copies) == (3, 2)
    assert "images that are copies of others with the same labels: 2" in progress.notes
    assert "images of train that stand in val or test as well (results will look too good): 3" in progress.notes
    assert found.counts() == {
        "cat": {"train": 8, "val": 4, "test": 3},
        "dog": {"train": 4, "val": 3, "test": 3},
    }


@pytest.mark.parametrize("split", ["", "train"])
def test_files_that_are_no_images_are_counted_in_every_layout(split: str, tmp_path: Path) -> None:
    """Beside the splits, beside the classes of each split, and in the classes; images outside of classes as well."""
    tree(tmp_path / split, {"cat": 4, "dog": 4})
    within = f"{split}/" if split else ""
    others = ["notes.txt", f"{within}cat/a.txt", f"{within}dog/raw.heic"]
    loose = [f"{within}over.png"]
    if split:
        tree(tmp_path / "val", {"cat": 2, "dog": 2}, seed=1)
        others += ["train/list.txt", "val/list.txt", "val/cat/b.heic", "val/cat/c.xmp"]
        loose += ["val/over.png", "top.png"]
    for name in others:
        (tmp_path / name).write_text("not an image")
    for number, name in enumerate(loose):
        picture(tmp_path / name, 900 + number)
    expected = {".txt": 2, ".heic": 1, "images outside class folders": 1}
    if split:
        expected = {".txt": 4, ".heic": 2, ".xmp": 1, "images outside class folders": 3}
    progress = Notes()
    found = survey(tmp_path, val_fraction=0.2, progress=progress)
    assert dict(found.ignored) == expected
    assert check(tmp_path).ignored == expected
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(expected.items()))
    assert f"ignored, as no images of a class: {said}" in progress.notes


def test_a_label_without_an_image_in_a_split_is_told_with_that_split(tmp_path: Path) -> None:
    tree(tmp_path / "train", {"cat": 3, "dog": 3, "eel": 3}, seed=1)
    tree(tmp_path / "val", {"cat": 1, "eel": 2}, seed=2)
    tree(tmp_path / "test", {"cat": 2}, seed=3)
    progress = Notes()
    survey(tmp_path, val_fraction=0.2, progress=progress)
    assert [note for note in progress.notes if note.startswith("no image of")] == [
        "no image of dog in val, test",
        "no image of eel in test",
    ]
