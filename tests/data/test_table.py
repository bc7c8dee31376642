"""Tables of images: CSV and JSON lines, for each task, and what does not hold in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ftx.core.errors import DataError
from ftx.data.open_dataset import survey
from ftx.data.sources import list_images
from ftx.data.sources.csv_table import read_table
from ftx.data.split import hash_split_sets
from ftx.tasks.base import RelatedLabels, Task
from ftx.tasks.hierarchical import Hierarchical
from ftx.tasks.labels import LabelDeclaration
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.task_names import TaskName


def relate(kind: type[Task], samples: list[tuple[str, ...]]) -> RelatedLabels:
    return kind.relate({f"{number}.png": names for number, names in enumerate(samples)}, LabelDeclaration(), "t.csv")


def pictures(folder: Path, count: int) -> list[str]:
    (folder / "img").mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "img" / f"{number}.png")
    return [f"img/{number}.png" for number in range(count)]


def write(table: Path, *lines: str) -> Path:
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def test_csv_and_json_lines_say_the_same(tmp_path: Path) -> None:
    rows = [("a b/ü.png", "red one;grün", "train", "p 1"), ("c.png", "", "val", ""), ('"q",x.png', "a<b>&", "", "p 2")]
    quoted = ["a b/ü.png,red one;grün,train,p 1", "c.png,,validation,", '"""q"",x.png",a<b>&,,p 2']
    csv = write(tmp_path / "a.csv", "\ufefffile_name,label,split,subject".replace("\ufeff", ""), *quoted)
    lines = [
        json.dumps({"path": path, "labels": labels.split(";") if labels else [], "split": split, "group": group})
        for path, labels, split, group in rows
    ]
    found = read_table(csv).files
    assert found == read_table(write(tmp_path / "a.jsonl", *lines)).files
    assert [(one.path, one.labels, one.split, one.group) for one in found] == [
        ("a b/ü.png", ("grün", "red one"), "train", "p 1"),
        ("c.png", (), "val", None),
        ('"q",x.png', ("a<b>&",), None, "p 2"),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,labels", "/etc/passwd,a"], "is absolute"),
        (["path,labels", "../x.png,a"], "leaves the data folder"),
        (["path,labels", "C:\\x.png,a"], "is absolute"),
        (["path,labels", "out/x.png,a"], "a link that leaves"),
        (["path,labels,split", "x.png,a,sometimes"], "the split 'sometimes'"),
        (["path,labels", "x.png,a", "x.png,b"], "is on an earlier line with a"),
        (["pfad,labels", "x.png,a"], "must have a column path"),
        (["path;labels", "x.png;a"], "semicolons"),
        (["path,labels", "x.png"], "as many columns as the first"),
        (["path,labels"], "must name at least one image"),
        (["path\tlabels", "x.png\ta"], "tabs"),
    ],
)
def test_a_table_that_does_not_hold(lines: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/etc")
    with pytest.raises(DataError) as caught:
        read_table(write(tmp_path / "t.csv", *lines))
    assert message in str(caught.value)


def test_lines_that_are_no_json_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be a JSON object") as caught:
        read_table(write(tmp_path / "t.jsonl", '{"path": "a.png", "labels": "x"}', "", "{"))
    assert "line 3" in str(caught.value)


def test_a_tree_is_read_off_the_paths_of_its_labels() -> None:
    samples = [("animal/cat", "wet"), ("animal/dog",), ("vehicle/car/van",), ("vehicle/bus", "wet"), ("vehicle",)]
    labels, named = relate(Hierarchical, samples)
    assert labels.groups == (("animal", "vehicle"), ("cat", "dog"), ("bus", "car"))
    assert labels.singles == ("van", "wet")  # an only child holds or does not, as a root beside others does
    assert dict(labels.parents) == {"cat": "animal", "dog": "animal", "bus": "vehicle", "car": "vehicle", "van": "car"}
    assert named[2] == ("van",)


def test_a_root_beside_another_may_be_a_single() -> None:
    samples = [("bag", "new"), ("shoe/boot", "new"), ("shoe/clog",), ("bag",)]
    labels, _ = relate(Hierarchical, samples)
    assert labels.groups == (("bag", "shoe"), ("boot", "clog"))
    assert labels.singles == ("new",)
    labels, _ = relate(Hierarchical, [("a", "b"), ("b", "c"), ("a", "c"), ("d/x",), ("d/y",)])
    assert set(labels.singles) == {"a", "b"}  # of three that meet in pairs, one may stay


def test_labels_of_one_name_keep_their_paths() -> None:
    labels, named = relate(Hierarchical, [("a/other",), ("b/other",), ("a/x",), ("b/y",)])
    assert named[:2] == [("a/other",), ("b/other",)]
    assert labels.parents["b/other"] == "b"


@pytest.mark.parametrize(
    ("task", "samples", "message"),
    [
        ("multiclass", [("a",), ("a", "b")], "exactly one label"),
        ("multiclass", [("a",), ()], "exactly one label"),
        ("multilabel", [(), ()], "at least one image must have a label"),
        ("hierarchical", [("a/x", "a/y"), ("b",)], "mutually exclusive"),
        ("hierarchical", [("a/x", "b/z"), ("a/y",)], "mutually exclusive"),
    ],
)
def test_labels_that_do_not_suit_the_task(task: TaskName, samples: list[tuple[str, ...]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        relate(TASKS[task], samples)


def test_a_data_set_of_a_table(tmp_path: Path) -> None:
    paths = pictures(tmp_path, 12)
    lines = [f"{path},{'a;b' if row % 3 == 0 else 'b' if row % 3 == 1 else ''}" for row, path in enumerate(paths)]
    dataset = survey(write(tmp_path / "t.csv", "path,labels", *lines), "multilabel", val_fraction=0.25).dataset
    assert dataset.labels.singles == ("a", "b")
    assert len(dataset.split("val")) == 3
    assert dataset.root == tmp_path
    for side in ("train", "val"):
        assert {name for entry in dataset.split(side) for name in entry.labels} == {"a", "b"}


def test_a_folder_with_metadata_is_a_table(tmp_path: Path) -> None:
    paths = pictures(tmp_path, 6)
    write(
        tmp_path / "metadata.jsonl", *(json.dumps({"file_name": p, "label": "ab"[i % 2]}) for i, p in enumerate(paths))
    )
    dataset = survey(tmp_path, val_fraction=0.34).dataset
    assert dataset.labels.names == ("a", "b")
    assert len(dataset.entries) == 6


def test_a_folder_of_sides_with_metadata_each(tmp_path: Path) -> None:
    for side, count in (("train", 6), ("validation", 3)):
        (tmp_path / side).mkdir()
        paths = pictures(tmp_path / side, count)
        lines = [json.dumps({"file_name": path, "label": number % 2}) for number, path in enumerate(paths)]
        write(tmp_path / side / "metadata.jsonl", *lines)
    for path in (tmp_path / "validation").rglob("*.png"):  # others than those of train
        path.write_bytes(path.read_bytes() + b"1")
    dataset = survey(tmp_path, val_fraction=0.2).dataset
    assert dataset.labels.names == ("0", "1")  # a label called 0 is one
    assert [len(dataset.split(side)) for side in ("train", "val")] == [6, 3]
    assert dataset.split("val")[0].path.startswith("validation/")


def test_sides_without_a_table_or_with_two_are_refused(tmp_path: Path) -> None:
    for side in ("train", "test"):
        (tmp_path / side).mkdir()
    write(tmp_path / "train" / "metadata.csv", "path,labels", "a.png,x")
    with pytest.raises(DataError, match="each split must have a table"):
        list_images(tmp_path)
    write(tmp_path / "test" / "metadata.jsonl", '{"path": "b.png", "labels": "y", "split": "train"}')
    with pytest.raises(DataError, match="must be that of its folder"):
        list_images(tmp_path)
    write(tmp_path / "test" / "metadata.jsonl", '{"path": "b.png", "labels": "y"}')
    assert [(file.path, file.split) for file in list_images(tmp_path).files] == [
        ("test/b.png", "test"), ("train/a.png", "train")
    ]  # fmt: skip
    write(tmp_path / "test" / "metadata.csv", "path,labels", "b.png,y")
    with pytest.raises(DataError, match="only one table"):
        list_images(tmp_path)


def test_a_side_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    write(outside / "metadata.csv", "path,labels", "a.png,x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(outside)
    with pytest.raises(DataError, match="a link must not lead out"):
        list_images(tmp_path / "data")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,label,labels", "a.png,x,y"], "two columns must not have the same meaning"),
        (["path,Path,labels", "a.png,b.png,y"], "two columns must not have the same meaning"),
        (["path,labels", "a.png,x\x1b[31m"], "characters that cannot be printed"),
        (["path,labels", "C:/a.png,x"], "is absolute"),
    ],
)
def test_more_tables_that_do_not_hold(lines: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_table(write(tmp_path / "t.csv", *lines))
    assert message in str(caught.value)


def test_names_that_only_look_odd(tmp_path: Path) -> None:
    (found,) = read_table(write(tmp_path / "t.csv", "path,labels", "12:30.png,b;a;b")).files
    assert (found.path, found.labels) == ("12:30.png", ("a", "b"))  # in one order, and once


def test_a_line_that_nests_too_deeply(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be a JSON object"):
        read_table(write(tmp_path / "t.jsonl", "[" * 100_000))


def test_what_never_stands_alone_is_the_single(tmp_path: Path) -> None:
    samples = [("Bag",)] * 50 + [("Shoe",)] * 50 + [("Hat",)] * 50 + [("Bag", "new")] * 20 + [("Bag", "light")]
    labels, _ = relate(Hierarchical, samples)
    assert labels.groups == (("Bag", "Hat", "Shoe"),)
    assert labels.singles == ("light", "new")


@pytest.mark.parametrize("name", ["animal//dog", "animal/ /dog"])
def test_an_empty_part_of_a_path_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="empty part"):
        relate(Hierarchical, [(name,), ("plant/tree",)])


def test_blanks_in_a_path_say_nothing() -> None:
    labels, _ = relate(Hierarchical, [("animal/ cat",), ("animal /cat",), ("animal/dog",), ("plant",)])
    assert labels.groups == (("animal", "plant"), ("cat", "dog"))


def test_images_that_exclude_each_others_labels_are_named() -> None:
    with pytest.raises(DataError) as caught:
        relate(Hierarchical, [("a/x", "a/y"), ("a/x",), ("a/y", "a/x"), ("b",)])
    assert caught.value.found == "0.png: a/x and a/y; 2.png: a/x and a/y"


def test_one_class_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least two classes") as caught:
        relate(TASKS["multiclass"], [("cat",)] * 3)
    assert "multilabel" in str(caught.value)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_images_of_one_group_stand_on_one_side(task: TaskName, tmp_path: Path) -> None:
    """Sixty images of twenty patients, three each: split image by image, hardly a patient of val were not in train."""
    paths = pictures(tmp_path, 60)
    rows = [f"{path},{'ab'[number % 2]},patient {number // 3}" for number, path in enumerate(paths)]
    dataset = survey(write(tmp_path / "t.csv", "path,labels,group", *rows), task, val_fraction=0.2).dataset
    patient = {path: number // 3 for number, path in enumerate(paths)}
    sides = {side: [patient[entry.path] for entry in dataset.split(side)] for side in ("train", "val")}
    assert not set(sides["train"]) & set(sides["val"])
    # A fifth of the patients, each with all its images.
    assert sorted(sides["val"]) == sorted(3 * sorted(set(sides["val"])))
    assert len(set(sides["val"])) == 4
    assert len(sides["train"]) == 48


def test_copies_tie_the_groups_that_they_stand_in(tmp_path: Path) -> None:
    paths = pictures(tmp_path, 40)
    for pair in range(0, 40, 4):  # groups 0 and 1, 2 and 3, … share an image
        (tmp_path / paths[pair + 2]).write_bytes((tmp_path / paths[pair]).read_bytes())
    rows = [f"{path},{'ab'[number // 4 % 2]},{number // 2}" for number, path in enumerate(paths)]
    dataset = survey(write(tmp_path / "t.csv", "path,labels,group", *rows), "multilabel", val_fraction=0.3).dataset
    tied = {path: number // 4 for number, path in enumerate(paths)}
    val = [tied[entry.path] for entry in dataset.split("val")]
    assert sorted(val) == sorted(4 * sorted(set(val)))
    assert len(set(val)) == 3


def test_a_group_on_two_sides_is_refused(tmp_path: Path) -> None:
    paths = pictures(tmp_path, 6)
    rows = [f"{path},{'ab'[n % 2]},{'test' if n > 3 else ''},farm {n % 5}" for n, path in enumerate(paths)]
    table = write(tmp_path / "t.csv", "path,labels,split,group", *rows)
    with pytest.raises(DataError, match="all images of a group must be in one split") as caught:
        survey(table, val_fraction=0.5)
    assert "farm 0: test and train" in str(caught.value)


@pytest.mark.parametrize("cell", ["true", "1.5", '{"a": 1}', '["a", ["b"]]'])
def test_what_is_no_label_is_refused(cell: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="invalid lines") as caught:
        read_table(write(tmp_path / "t.jsonl", f'{{"path": "a.png", "labels": {cell}}}'))
    assert "is not a label" in str(caught.value)


@pytest.mark.parametrize("sides", [("",), ("train/", "val/", "test/")])
def test_nested_folders_are_a_tree(tmp_path: Path, sides: tuple[str, ...]) -> None:
    names = ("animal/cat", "animal/dog é", "animal", "vehicle/car/van", "vehicle/car", "vehicle/bus")
    for seed, (side, name) in enumerate((side, name) for side in sides for name in names):
        (tmp_path / side / name).mkdir(parents=True, exist_ok=True)
        for number in range(4):
            pixels = np.random.default_rng([seed, number]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / side / name / f"{number}.png")
    dataset = survey(tmp_path, "hierarchical", val_fraction=0.25).dataset
    assert dataset.labels.groups == (("animal", "vehicle"), ("cat", "dog é"), ("bus", "car"))
    assert dataset.labels.singles == ("van",)
    assert {entry.labels for entry in dataset.entries if "/animal/" in f"/{entry.path}"} == {
        ("animal",), ("cat",), ("dog é",)
    }  # fmt: skip
    assert len(dataset.entries) == 4 * len(names) * len(sides)
    assert {entry.split for entry in dataset.entries} == (
        {"train", "val", "test"} if len(sides) > 1 else {"train", "val"}
    )
    with pytest.raises(DataError, match="must contain only images"):
        survey(tmp_path, "multiclass", val_fraction=0.25)


@settings(max_examples=80)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.sets(st.sampled_from("abcd"))), min_size=2, max_size=40),
    st.sampled_from([0.1, 0.25, 0.5]),
)
def test_subjects_never_straddle_and_each_label_is_on_both_sides_if_it_can(
    drawn: list[tuple[int, set[str]]], fraction: float
) -> None:
    samples = [(f"{subject:02}", tuple(sorted(labels))) for subject, labels in drawn]
    keys_of = {label: {key for key, each in samples if label in each} for _, labels in samples for label in labels}
    own = {key for keys in keys_of.values() if len(keys) == 1 for key in keys}  # of labels that no other has
    if len({key for key, _ in samples}) < 2 or own == {key for key, _ in samples}:
        with pytest.raises(DataError):
            hash_split_sets(samples, fraction)
        return
    sides = hash_split_sets(samples, fraction)
    assert set(sides) == {"train", "val"}
    side_of = dict(zip([key for key, _ in samples], sides, strict=True))
    assert all(side_of[key] == side for (key, _), side in zip(samples, sides, strict=True))
    for label in {label for _, labels in samples for label in labels}:
        keys = {key for key, labels in samples if label in labels}
        if len(keys) == 1:
            assert side_of[keys.pop()] == "train"
    # Those that were learnt from the last time are again.
    learnt = {key for key, side in side_of.items() if side == "train"}
    assert hash_split_sets(samples, fraction, learnt) == sides


@pytest.mark.parametrize("folder", ["train", "val", "test"])
def test_a_line_of_a_folder_of_one_split_may_not_name_another(folder: str, tmp_path: Path) -> None:
    """A split's own name in any spelling, or none, is right; each other one is refused with its line."""
    words = {"train": "training", "val": "valid", "test": "TEST"}
    for name in words:
        (tmp_path / name).mkdir()
        write(tmp_path / name / "metadata.csv", "path,labels,split", f"a.png,x,{words[name]}", "b.png,y,")
    files = list_images(tmp_path).files
    assert {(file.path, file.split) for file in files} == {(f"{one}/{n}.png", one) for one in words for n in "ab"}
    for other in words:
        if other == folder:
            continue
        write(tmp_path / folder / "metadata.csv", "path,labels,split", f"a.png,x,{folder}", f"b.png,y,{other}")
        with pytest.raises(DataError, match="must be that of its folder") as caught:
            list_images(tmp_path)
        assert caught.value.found == f"b.png: {other}"
        assert caught.value.where == str(tmp_path / folder / "metadata.csv")


def test_each_image_of_folders_with_tables_keeps_its_labels_and_group(tmp_path: Path) -> None:
    for side, group in (("train", "p"), ("test", "q")):
        (tmp_path / side).mkdir()
        write(tmp_path / side / "metadata.csv", "path,labels,group", f"a.png,x;{side},{group}", "b.png,y,")
    assert {(one.path, one.labels, one.group) for one in list_images(tmp_path).files} == {
        ("train/a.png", ("train", "x"), "p"),
        ("train/b.png", ("y",), None),
        ("test/a.png", ("test", "x"), "q"),
        ("test/b.png", ("y",), None),
    }


@pytest.mark.parametrize("again", ["a.png,x,val,p", "a.png,x,train,q", "a.png,x,train,", "a.png,x;y,train,p"])
def test_an_image_that_comes_again_with_another_split_group_or_label_is_refused(again: str, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "path,labels,split,group", "a.png,x,train,p", "b.png,y,train,p", again)
    with pytest.raises(DataError, match="the table has invalid lines: 1") as caught:
        read_table(table)
    assert "line 4: a.png is on an earlier line with x" in str(caught.value)
    write(table, "path,labels,split,group", "a.png,x,train,p", "b.png,y,train,p", "a.png,x,train,p")
    assert read_table(table).repeated == ("line 4: a.png",)
