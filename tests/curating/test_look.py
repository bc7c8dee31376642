"""``ftx data look`` on real files, without its page: what is found, and what is refused before it costs anything."""

from __future__ import annotations

import csv
import json
import re
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.curating.lookable import EVIL, HUES, WRONG, class_folders, contradicting, look_at, recipe, square
from tests.zygote import Zygote

from ftx.core.errors import DataError, EnvironmentFault, InputError
from ftx.curating.look import look
from ftx.data.check import check
from ftx.data.sources import list_images


def contents(root: Path) -> dict[str, str]:
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("look") / "data")


def test_what_was_planted_is_found_and_nothing_is_changed(data: Path, tmp_path: Path) -> None:
    before = contents(data)
    found = look_at(data, tmp_path / "t.csv")
    assert {(one.path, one.suggested) for one in found.report.issues if one.issue == "label"} == {
        (f"train/{path}", name) for path, name in WRONG.items()
    }
    others = {(one.issue, one.path, one.suggested) for one in found.report.issues if one.issue != "label"}
    assert others == {
        ("near-duplicate", "val/blue/again.bmp", "train/blue/0.png"),
        ("unreadable", "train/amber/broken.png", ""),
    }
    assert found.report.metrics["accuracy"] == pytest.approx(55 / 57, abs=1e-4)
    assert contents(data) == before
    # The near-duplicate is in the fold of its twin: judged by a probe that saw neither.
    assert next(one for one in found.report.labels if one.name == "blue").subjects == 19


def test_a_picture_in_two_classes_contradicts_itself(tmp_path: Path) -> None:
    found = look_at(contradicting(tmp_path / "data"), tmp_path / "t.csv").report
    assert {(one.path, one.suggested, one.score) for one in found.issues if one.issue == "contradiction"} == {
        ("train/amber/3.png", "blue", 1),
        ("train/blue/copy.png", "amber", 1),
    }
    assert not found.ok
    assert any("different labels" in problem for problem in found.problems)


def test_two_images_a_class_prove_nothing(tmp_path: Path) -> None:
    for number, (name, hue) in enumerate(HUES.items()):
        for index in range(2):
            square(tmp_path / "data" / name / f"{index}.png", hue, number, index)
    found = look_at(tmp_path / "data", tmp_path / "t.csv").report
    assert not found.issues
    assert all("at least 5 are needed" in one.unproved for one in found.labels)
    assert any("no label can be judged" in note for note in found.notes)


def test_one_class_is_refused_and_as_a_single_label_cannot_be_judged(tmp_path: Path) -> None:
    for index in range(8):
        square(tmp_path / "data" / "amber" / f"{index}.png", HUES["amber"], 0, index)
    with pytest.raises(DataError, match="at least two classes"):
        look_at(tmp_path / "data", tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()
    table = tmp_path / "data" / "table.csv"
    table.write_text("\n".join(["path,labels", *(f"amber/{index}.png,amber" for index in range(8))]))
    found = look_at(table, tmp_path / "t.csv", "multilabel").report
    assert not found.issues
    assert not found.metrics["mAP"] < 1
    assert "0 different images without it" in found.labels[0].unproved


def test_several_labels_an_image(tmp_path: Path) -> None:
    """Red where one label holds, blue where the other does."""
    lines = ["path,labels,split"]
    for index in range(60):
        names = [name for bit, name in enumerate(("amber", "blue")) if index >> bit & 1]
        hue = (200 if "amber" in names else 60, 60, 200 if "blue" in names else 60)
        square(tmp_path / "data" / "images" / f"{index}.png", hue, 5, index)
        told = {3: ["amber"], 4: ["blue"]}.get(index, names)
        lines.append(f"images/{index}.png,{';'.join(told)},{'val' if index % 5 == 0 else 'train'}")
    table = tmp_path / "data" / "table.csv"
    table.write_text("\n".join(lines))
    found = look_at(table, tmp_path / "t.csv", "multilabel").report
    suspected = {one.path: (one.given, one.suggested) for one in found.issues if one.issue == "label"}
    assert suspected["images/3.png"] == ("amber", "amber;blue")
    assert suspected["images/4.png"] == ("blue", "")


def test_a_tree(tmp_path: Path) -> None:
    for number, (name, hue) in enumerate(
        {"warm/amber": (200, 150, 40), "warm/red": (190, 40, 50), "cold": (40, 60, 200)}.items()
    ):
        for index in range(14):
            square(tmp_path / "data" / name / f"{index}.png", hue, number, index)
    square(tmp_path / "data" / "warm" / "red" / "wrong.png", (40, 60, 200), 9, 9)
    found = look_at(tmp_path / "data", tmp_path / "t.csv").report
    assert found.task == "hierarchical"
    assert ("warm/red/wrong.png", "warm/red", "cold") in {(one.path, one.given, one.suggested) for one in found.issues}
    assert {one.name for one in found.labels} == {"warm", "cold", "warm/amber", "warm/red"}


def test_what_must_not_be_written_to_is_refused_first(data: Path, tmp_path: Path) -> None:
    before = contents(data)
    for out in (data / "t.csv", data / "new" / "t.csv"):
        with pytest.raises(InputError, match="must lie outside the data"):
            look_at(data, out)
    own = tmp_path / "mine.csv"
    own.write_text("path,labels\n")
    with pytest.raises(InputError, match="or a table of ftx data look"):
        look_at(data, own)
    assert own.read_text() == "path,labels\n"
    assert contents(data) == before


def test_a_table_of_images_may_have_the_choices_beside_it_but_not_among_its_images(tmp_path: Path) -> None:
    lines = ["path,labels"]
    for index in range(12):
        name = ("amber", "blue")[index % 2]
        square(tmp_path / "images" / f"{index}.png", HUES[name], index)
        lines.append(f"images/{index}.png,{name}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match="must lie outside the data"):
        look_at(tmp_path / "table.csv", tmp_path / "images" / "t.csv")
    look_at(tmp_path / "table.csv", tmp_path / "t.csv")
    assert (tmp_path / "t.csv").is_file()


def correct() -> None:
    """Run what the documentation says, in the working directory."""
    page = Path(__file__).parents[2] / "docs" / "pages" / "how-to" / "data" / "fix-wrong-labels.md"
    (block,) = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.M)
    assert '"photos"' in block
    block = block.replace('"photos"', '"data"')
    exec(compile(block, str(page), "exec"), {})


def test_the_documentation_makes_a_corrected_table(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(data, tmp_path / "data")
    found = look_at(tmp_path / "data", tmp_path / "data-look.csv")
    number = {(one.issue, one.path): row for row, one in enumerate(found.table.issues)}
    found.table.choose(number["label", "train/amber/wrong.png"], "relabel:blue")
    found.table.choose(number["label", "train/blue/wrong.png"], "keep")
    found.table.choose(number["near-duplicate", "val/blue/again.bmp"], "drop")
    found.table.choose(number["unreadable", "train/amber/broken.png"], "drop")
    monkeypatch.chdir(tmp_path)
    correct()
    before, after = (
        {one.path.removeprefix("data/"): (one.labels, one.split) for one in list_images(path).files}
        for path in (tmp_path / "data", tmp_path / "corrected.csv")
    )
    expected = before | {"train/amber/wrong.png": (("blue",), "train")}
    del expected["val/blue/again.bmp"], expected["train/amber/broken.png"]
    assert after == expected
    assert check(tmp_path / "corrected.csv").ok


def test_in_the_documentation_drop_wins_no_label_is_one_and_other_labels_choices_are_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("amber/0", "amber/1", "amber/2", "blue/3", "blue/4")):
        square(tmp_path / "data" / f"{name}.png", HUES["blue"], number)
    rows = [
        "path,issue,given,suggested,score,choice",
        "amber/0.png,label,amber,blue,0.1,drop",
        "amber/0.png,contradiction,amber,blue,0.9,relabel:blue",
        "amber/1.png,label,amber,,0.1,relabel:",
        "amber/2.png,label,amber,blue,0.1,relabel:blue",
        "amber/2.png,contradiction,amber,blue,0.1,keep",
        "blue/3.png,label,amber,blue,0.1,relabel:green",  # it was amber then
        "blue/4.png,label,blue,amber,0.1,",
    ]
    (tmp_path / "data-look.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    monkeypatch.chdir(tmp_path)
    correct()
    with Path("corrected.csv").open(newline="", encoding="utf-8") as stream:
        assert {row["path"]: row["labels"] for row in csv.DictReader(stream)} == {
            "data/amber/1.png": "",
            "data/amber/2.png": "blue",
            "data/blue/3.png": "blue",
            "data/blue/4.png": "blue",
        }


def test_choices_of_one_data_set_are_not_another_s(tmp_path: Path) -> None:
    """Two folders with the same names in them, looked at from one place."""
    for number, name in enumerate(("first", "second")):
        for index in range(12):
            label = ("amber", "blue")[index % 2]
            square(tmp_path / name / label / f"{index}.png", HUES[label], number, index)
        (tmp_path / name / "blue" / "broken.png").write_bytes(name.encode())
    found = look_at(tmp_path / "first", tmp_path / "t.csv")
    with pytest.raises(InputError, match="must be of this data"):
        look_at(tmp_path / "second", tmp_path / "t.csv")
    broken = next(row for row, one in enumerate(found.table.issues) if one.issue == "unreadable")
    found.table.choose(broken, "drop")
    shutil.copy(tmp_path / "first" / "blue" / "1.png", tmp_path / "second" / "blue" / "1.png")
    with pytest.raises(InputError, match=r"images have changed[\s\S]*blue/broken.png"):
        look_at(tmp_path / "second", tmp_path / "t.csv")
    # Of its own data it is known again, wherever that lies now.
    (tmp_path / "first").rename(tmp_path / "moved")
    again = look_at(tmp_path / "moved", tmp_path / "t.csv")
    assert [one.choice for one in again.table.issues if one.issue == "unreadable"] == ["drop"]
    (tmp_path / "moved" / "blue" / "broken.png").unlink()
    again = look_at(tmp_path / "moved", tmp_path / "t.csv")
    assert "earlier choices that match no issue now: 1; they are kept at the end of the table" in again.report.notes
    assert ",drop\n" in (tmp_path / "t.csv").read_text()


def test_no_image_that_can_be_read(tmp_path: Path) -> None:
    for name in "ab":
        for index in range(3):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / name / f"{index}.png").write_bytes(b"none")
    with pytest.raises(DataError, match="no image can be read"):
        look_at(tmp_path / "data", tmp_path / "t.csv")


@pytest.mark.slow
def test_the_answer_without_a_page(data: Path, tmp_path: Path, fresh_ftx: Zygote) -> None:
    small = ("--model", "test_vit", "--weights", "none", "--image-size", "32")
    out = tmp_path / "t.csv"
    done = fresh_ftx("data", "look", data, *small, "--out", out, "--json")
    assert done.returncode == 4
    said = json.loads(done.stdout)
    assert said["verb"] == "data look"
    assert said["counts"] == {"label": 2, "near-duplicate": 1, "unreadable": 1}
    with out.open(newline="", encoding="utf-8") as stream:
        rows = [*csv.DictReader(stream)]
    assert [row["path"] for row in rows] == [one["path"] for one in said["issues"]]
    assert EVIL in {row["suggested"] for row in rows}
    failed = fresh_ftx("data", "look", data, "--model", "test_vitt", "--out", out, "--json")
    assert (failed.returncode, json.loads(failed.stdout)["verb"]) == (2, "data look")
    assert fresh_ftx("data", "look", data, *small[:-1], "31", "--out", out, "--json").returncode == 2


def test_a_held_out_picture_has_its_own_labels_beside_it(tmp_path: Path) -> None:
    """It is nearly one of train that has others: both are told, each with what it is given."""
    data = class_folders(tmp_path / "data", 8)
    with Image.open(data / "train" / "blue" / "1.png") as image:
        image.save(data / "val" / "amber" / "other.bmp")
    found = look_at(data, tmp_path / "t.csv").report
    assert found.images == 24 + 2 + 12 + 2  # of train two in the wrong folder; the broken one is none
    alike = {one.path: (one.given, one.suggested, one.other) for one in found.issues if one.issue == "near-duplicate"}
    assert alike == {
        "val/amber/other.bmp": ("amber", "train/blue/1.png", "train/blue/1.png"),
        "val/blue/again.bmp": ("blue", "train/blue/0.png", "train/blue/0.png"),
    }
    unlike = {one.path: (one.given, one.suggested, one.other) for one in found.issues if one.issue == "contradiction"}
    assert unlike == {
        "val/amber/other.bmp": ("amber", "blue", "train/blue/1.png"),
        "train/blue/1.png": ("blue", "amber", "val/amber/other.bmp"),
    }


def test_near_copies_of_a_picture_do_not_help_to_judge_it(tmp_path: Path) -> None:
    """Of pictures with labels by chance, in three brightnesses each, a probe that saw one would know the others."""
    for number in range(20):
        for brighter in (0, 4, 8):
            hue = (100 + brighter, 100 + brighter, 100 + brighter)
            square(tmp_path / "data" / ("amber", "blue")[number % 2] / f"{number}-{brighter}.png", hue, 3, number)
    found = look_at(tmp_path / "data", tmp_path / "t.csv").report
    assert all((one.images, one.subjects) == (30, 10) for one in found.labels)
    # By chance half of the 20 are right, with a deviation of 2.2; by the others of a picture all of them.
    assert found.metrics["accuracy"] < 0.8
    assert not [one for one in found.issues if one.issue == "label"]


def test_with_fewer_subjects_than_folds_the_report_says_in_how_many_they_are(tmp_path: Path) -> None:
    for number in range(4):
        square(tmp_path / "data" / ("amber", "blue")[number % 2] / f"{number}.png", HUES["amber"], number)
    found = look_at(tmp_path / "data", tmp_path / "t.csv").report
    assert (found.folds, found.images) == (4, 4)
    assert (found.model, found.image_size, found.table) == ("test_vit", 32, str(tmp_path / "t.csv"))


def test_the_share_that_is_held_out_and_the_format_are_those_of_the_recipe(data: Path, tmp_path: Path) -> None:
    for index in range(12):
        name = ("amber", "blue")[index % 2]
        square(tmp_path / "data" / name / f"{index}.png", HUES[name], index)
    for share, held_out in ((0.5, 6), (0.2, 2)):
        asked = recipe(tmp_path / "data").replace(data={"val_fraction": share})
        assert len(look(asked, out=tmp_path / "t.csv").dataset.split("val")) == held_out
    with pytest.raises(EnvironmentFault, match="must be installed to read the format voc"):
        look(recipe(tmp_path / "data").replace(data={"format": "voc"}), out=tmp_path / "t.csv")


def test_what_is_sure_comes_first_and_what_is_unproved_last(tmp_path: Path) -> None:
    """Wrong labels, unproved ones of a class of four images, then contradictions: the most alike first."""
    data = class_folders(tmp_path / "data", 10)
    for index in range(4):
        square(data / "train" / "rare" / f"{index}.png", (60, 190, 60) if index else HUES["amber"], 4, index)
    pixels = {}
    for number in (1, 2):
        with Image.open(data / "train" / "amber" / f"{number}.png") as image:
            pixels[number] = np.asarray(image).astype(int)
    noise = np.random.default_rng(0).integers(-12, 13, pixels[1].shape)
    Image.fromarray((pixels[1] + noise).clip(0, 255).astype(np.uint8)).save(data / "val" / "blue" / "like 1.png")
    Image.fromarray(pixels[2].astype(np.uint8)).save(data / "val" / "blue" / "like 2.bmp")
    found = look_at(data, tmp_path / "t.csv").report
    kinds = [one.issue for one in found.issues]
    order = ["label", "label-unproved", "contradiction", "near-duplicate", "unreadable"]
    assert kinds == sorted(kinds, key=order.index)
    assert set(kinds) == set(order)
    scores = {kind: [one.score or 0 for one in found.issues if one.issue == kind] for kind in order}
    assert scores["label"] == sorted(scores["label"])
    assert scores["contradiction"] == sorted(scores["contradiction"], reverse=True)
    assert scores["contradiction"][0] > scores["contradiction"][-1]
    # By its score alone it would stand among the others.
    assert "train/rare/0.png" in {one.path for one in found.issues if one.issue == "label-unproved"}
    assert min(scores["label-unproved"]) < max(scores["label"])
    assert "labels that cannot be judged: rare; their issues are marked unproved" in found.notes
    assert found.counts == {kind: len(scores[kind]) for kind in order}


@pytest.mark.parametrize("cache_gb", [0, 1])
def test_features_and_pixels_are_kept_as_far_as_the_recipe_allows(
    cache_gb: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for index in range(6):
        name = ("amber", "blue")[index % 2]
        square(tmp_path / "data" / name / f"{index}.png", HUES[name], index)
    asked = recipe(tmp_path / "data").replace(train={"cache_gb": cache_gb}, data={"image_size": "auto"})
    assert look(asked, out=tmp_path / "t.csv").report.image_size == 160  # the model's own
    kept = {path.parent.parent.name for path in (tmp_path / "cache" / "ftx").rglob("content") if path.stat().st_size}
    assert kept == ({"features", "pixels"} if cache_gb else set())
