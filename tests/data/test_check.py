"""``ftx data check``: what is understood, and everything that is wrong at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ftx.cli.app import run
from ftx.core.errors import DataError
from ftx.data.check import check
from ftx.tasks.output_meaning import TASKS

Capture = pytest.CaptureFixture[str]


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(path)
    return path


def folders(root: Path, counts: dict[str, int]) -> Path:
    for number, (name, count) in enumerate(counts.items()):
        for index in range(count):
            picture(root / name / f"{index}.png", 1000 * number + index)
    return root


def test_class_folders(tmp_path: Path) -> None:
    report = check(folders(tmp_path, {"train/a": 12, "train/b": 4, "val/a": 3, "val/b": 1}))
    assert (report.layout, report.task, report.ok) == ("splits", "multiclass", True)
    assert (report.images, report.val_from_train) == ({"train": 16, "val": 4}, False)
    assert report.counts == {"a": {"train": 12, "val": 3}, "b": {"train": 4, "val": 1}}
    assert report.imbalance == 3
    assert not report.near_duplicates


def test_the_task_is_what_the_labels_look_like(tmp_path: Path) -> None:
    nested = folders(tmp_path / "nested", {"x/a": 3, "x/b": 6, "y": 5})
    report = check(nested)
    assert report.task == "hierarchical"
    assert report.labels.groups == (("x", "y"), ("a", "b"))
    assert report.imbalance == pytest.approx(2.5)  # of a to b: 2 and 5 to train on
    with pytest.raises(DataError, match="must contain only images"):
        check(nested, "multiclass")
    for number in range(6):
        picture(tmp_path / f"{number}.png", number)
    (tmp_path / "t.csv").write_text("path,labels\n" + "".join(f"{n}.png,{'a;b' if n % 2 else ''}\n" for n in range(6)))
    report = check(tmp_path / "t.csv")
    assert (report.task, report.unlabelled) == ("multilabel", 3)


def test_a_near_duplicate_across_the_split(tmp_path: Path) -> None:
    root = folders(tmp_path, {"train/a": 5, "train/b": 5, "val/a": 2, "val/b": 2, "test/a": 2, "test/b": 2})
    Image.open(root / "train" / "a" / "3.png").resize((40, 40)).save(root / "val" / "a" / "again.jpg", quality=70)
    shutil.copy(root / "train" / "b" / "1.png", root / "test" / "b" / "same.png")
    found = {one.held_out: one for one in check(root).near_duplicates}
    assert found["val/a/again.jpg"].train == "train/a/3.png"
    assert found["test/b/same.png"].correlation == 1
    assert len(found) == 2


def test_equal_files_are_found_whatever_they_show(tmp_path: Path) -> None:
    root = folders(tmp_path, {"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2})
    for side in ("train", "val"):
        Image.new("RGB", (20, 20)).save(root / side / "a" / "black.png")
    (found,) = check(root).near_duplicates
    assert (found.held_out, found.train, found.correlation) == ("val/a/black.png", "train/a/black.png", 1)


def test_an_empty_class_folder_is_a_mistake_in_every_task(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 4, "b": 4})
    (root / "c").mkdir()
    for task in TASKS:
        assert any("c: 0" in problem for problem in check(root, task).problems), task


def test_an_image_known_to_the_first_level_only(tmp_path: Path) -> None:
    report = check(folders(tmp_path, {"animal/cat": 6, "animal/dog": 5, "plant/tree": 4, "plant/fern": 4}))
    assert report.ok
    picture(tmp_path / "animal" / "some.png", 77)
    report = check(tmp_path)
    assert report.ok, report.problems
    assert sum(report.counts["animal"].values()) == 12


def test_a_rare_single_is_uneven(tmp_path: Path) -> None:
    rows = [f"{picture(tmp_path / f'{n}.png', n).name},{'defect' if n % 12 == 0 else ''},train" for n in range(48)]
    rows += [f"{picture(tmp_path / f'{n}.png', n).name},defect,val" for n in range(48, 50)]
    (tmp_path / "t.csv").write_text("\n".join(["path,labels,split", *rows]))
    assert check(tmp_path / "t.csv").imbalance == 11


def test_copies_in_two_groups_keep_the_groups_together(tmp_path: Path) -> None:
    rows = ["path,labels,group"]
    for number in range(12):
        one = picture(tmp_path / f"{number}.png", number)
        shutil.copy(one, tmp_path / f"copy-{number}.png")
        rows += [f"{number}.png,{'ab'[number % 2]},g{number}", f"copy-{number}.png,{'ab'[number % 2]},h{number}"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    report = check(tmp_path / "t.csv")
    assert report.images["val"] > 0
    assert not report.near_duplicates


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Everything at once: a class of one image, one image under two labels, files that are none."""
    root = folders(tmp_path / "data", {"a": 30, "b": 30, "lonely": 1})
    shutil.copy(root / "a" / "0.png", root / "b" / "also.png")
    (root / "a" / "cut.png").write_bytes((root / "a" / "1.png").read_bytes()[:200])
    (root / "a" / "notes.txt").write_text("x")
    return root


def test_all_that_is_wrong_is_said_at_once(broken: Path) -> None:
    report = check(broken)
    assert not report.ok
    assert any("different labels" in problem and "also.png" in problem for problem in report.problems)
    assert any("lonely: 1" in problem for problem in report.problems)
    assert report.unreadable[0].startswith("a/cut.png")
    assert report.ignored == {".txt": 1}


def test_status_and_words_of_the_verb(broken: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(["data", "check", str(broken)]) == 2
    said = capsys.readouterr()
    assert "the same image must not have different labels" in said.err
    assert "lonely" in said.out
    said = subprocess.run(
        [sys.executable, "-m", "ftx", "data", "check", str(broken), "--json"], capture_output=True, check=False
    )
    assert said.returncode == 2
    assert len(json.loads(said.stdout)["problems"]) == 2
    good = folders(tmp_path / "good", {"a": 20, "b": 20})
    assert run(["data", "check", str(good)]) == 0
    said = capsys.readouterr()
    assert "32 train, 8 val (val is taken from train)\n" in said.out
    assert f"ftx train --data {good}" in said.err
    (good / "a" / "cut.png").write_bytes(b"\x89PNG")
    assert run(["data", "check", str(good)]) == 4
    assert run(["data", "check", str(good), "--task", "multilable"]) == 2
    assert "did you mean 'multilabel'" in capsys.readouterr().err


def test_a_tree_is_drawn(tmp_path: Path, capsys: Capture) -> None:
    assert run(["data", "check", str(folders(tmp_path, {"x/a": 3, "x/b [1]": 3, "y": 5}))]) == 0
    said = capsys.readouterr()
    out = said.out
    assert "├── x" in out
    assert "│   └── b [1]" in out
    assert "--task hierarchical" in said.err


def test_the_verb_alone_shows_its_help(capsys: Capture) -> None:
    assert run(["data"]) == 2
    assert "check" in capsys.readouterr().out


def test_bars_where_blocks_cannot_be_written(tmp_path: Path) -> None:
    data = folders(tmp_path, {"a": 3, "b": 3})
    said = subprocess.run(
        [sys.executable, "-m", "ftx", "data", "check", str(data)],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert b"####" in said.stdout


def test_copies_are_those_within_a_split(tmp_path: Path) -> None:
    """Three in train and one in test, beside two that are in train and in val."""
    root = folders(tmp_path, {"train/a": 6, "train/b": 6, "val/a": 2, "val/b": 2, "test/a": 2, "test/b": 2})
    for one, other in (
        ("train/a/0.png", "train/a/again.png"),
        ("train/a/0.png", "train/a/once more.png"),
        ("train/b/1.png", "train/b/again.png"),
        ("test/b/0.png", "test/b/again.png"),
        ("train/a/2.png", "val/a/held.png"),
        ("train/b/3.png", "val/b/held.png"),
    ):
        shutil.copy(root / one, root / other)
    report = check(root)
    assert report.copies == 4
    assert len(report.near_duplicates) == 2
    assert report.images == {"train": 15, "val": 6, "test": 5}


def test_the_share_and_the_task_that_were_named_are_those_of_the_report(tmp_path: Path) -> None:
    """Half of ten images of each of two labels, and not the fifth that is the default."""
    report = check(folders(tmp_path, {"a": 10, "b": 10}), "multilabel", val_fraction=0.5)
    assert (report.task, report.task_named) == ("multilabel", True)
    assert (report.images, report.val_from_train) == ({"train": 10, "val": 10}, True)
    report = check(tmp_path)
    assert (report.task, report.task_named, report.images) == ("multiclass", False, {"train": 16, "val": 4})


def test_copies_of_one_image_are_no_two_images_to_learn_from(tmp_path: Path) -> None:
    root = folders(tmp_path, {"train/a": 4, "train/b": 1, "val/a": 2, "val/b": 2})
    shutil.copy(root / "train" / "b" / "0.png", root / "train" / "b" / "again.png")
    (problem,) = check(root).problems
    assert "at least 2 different images" in problem
    assert "b: 1" in problem
    picture(root / "train" / "b" / "other.png", 77)
    assert check(root).ok


def test_of_data_that_cannot_be_split_each_image_is_counted_where_it_was_put(tmp_path: Path) -> None:
    """All that there is to train on is of one group, and there is no val."""
    rows = [f"{picture(tmp_path / f'{n}.png', n).name},{'ab'[n % 3 > 0]},train,p" for n in range(6)]
    rows += [f"{picture(tmp_path / f'{n}.png', n).name},{'ab'[n % 2]},test," for n in range(6, 11)]
    rows.append("5.png,b,train,p")
    (tmp_path / "t.csv").write_text("\n".join(["path,labels,split,group", *rows]))
    report = check(tmp_path / "t.csv")
    (problem,) = report.problems
    assert "at least two different images or groups" in problem
    assert report.images == {"train": 6, "test": 5}
    assert report.counts == {"a": {"train": 2, "test": 3}, "b": {"train": 4, "test": 2}}
    assert report.copies == 0
