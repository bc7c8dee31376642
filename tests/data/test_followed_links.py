"""Links that lead out of the data are refused, unless the person who types the command says --follow-links."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.conftest import write_data
from tests.effects.lab import call
from tests.gates.faults import vouch

from ftx.core.errors import DataError
from ftx.data.sources import list_images
from ftx.data.sources.listing import path_below

Layout = Callable[[Path, Path], Path]


def linked(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)


def images(outside: Path) -> list[Path]:
    return sorted(outside.rglob("*.png"))


def image(data: Path, outside: Path) -> Path:
    for path in images(outside):
        linked(data / path.parent.name / path.name, path)
    return data


def class_folder(data: Path, outside: Path) -> Path:
    for folder in outside.iterdir():
        linked(data / folder.name, folder)
    return data


def split_folder(data: Path, outside: Path) -> Path:
    for split in ("Train", "Valid"):
        linked(data / split, outside)
        outside = Path(shutil.copytree(outside, outside.parent / f"{split} again"))
        for number, path in enumerate(images(outside)):
            path.write_bytes(path.read_bytes() + b"%d" % number)  # other images, by their bytes
    return data


def folder_of_a_tree(data: Path, outside: Path) -> Path:
    for folder in outside.iterdir():
        linked(data / "animal" / folder.name, folder)
    shutil.copytree(write_data(outside.parent / "more", 3, first=3) / "red", data / "none")
    return data


def images_of_a_table(data: Path, outside: Path) -> Path:
    linked(data / "photos", outside)
    rows = [f"photos/{path.relative_to(outside)},{path.parent.name}" for path in images(outside)]
    (data / "t.csv").write_text("\n".join(["path,label", *rows]))
    return data / "t.csv"


def images_of_json_lines(data: Path, outside: Path) -> Path:
    linked(data / "photos", outside)
    rows = [{"path": f"photos/{path.relative_to(outside)}", "labels": [path.parent.name]} for path in images(outside)]
    (data / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return data / "t.jsonl"


def one_image_of_a_table(data: Path, outside: Path) -> Path:
    names = [f"{number}.png" for number, _ in enumerate(images(outside))]
    for name, path in zip(names, images(outside), strict=True):
        linked(data / name, path)
    rows = [f"{name},{path.parent.name}" for name, path in zip(names, images(outside), strict=True)]
    (data / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    return data


def split_of_metadata(data: Path, outside: Path) -> Path:
    rows = [f"{path.relative_to(outside)},{path.parent.name}" for path in images(outside)]
    (outside / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    linked(data / "train", outside)
    return data


def coco(data: Path, outside: Path) -> Path:
    linked(data / "images", outside)
    names = [str(path.relative_to(outside)) for path in images(outside)]
    document = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"id": n, "image_id": n, "category_id": n % 2} for n, _ in enumerate(names)],
        "categories": [{"id": number, "name": name} for number, name in enumerate("ab")],
    }
    (data / "coco.json").write_text(json.dumps(document))
    return data / "coco.json"


def annotations(data: Path, outside: Path) -> Path:
    """The folder of annotations is the link, and the images are in place."""
    coco(data, outside)
    (data / "images").unlink()
    shutil.copytree(outside, data / "images")
    (data.parent / "elsewhere").mkdir()
    (data / "coco.json").rename(data.parent / "elsewhere" / "instances_default.json")
    linked(data / "annotations", data.parent / "elsewhere")
    return data


def datumaro(data: Path, outside: Path) -> Path:
    linked(data / "images", outside)
    items = [
        {
            "id": str(number),
            "image": {"path": f"images/{path.relative_to(outside)}"},
            "annotations": [{"id": 0, "type": "label", "label_id": number % 2}],
        }
        for number, path in enumerate(images(outside))
    ]
    labels = {"labels": [{"name": "a"}, {"name": "b"}]}
    (data / "d.json").write_text(json.dumps({"categories": {"label": labels}, "items": items}))
    return data / "d.json"


LAYOUTS: list[Layout] = [
    image,
    class_folder,
    split_folder,
    folder_of_a_tree,
    images_of_a_table,
    images_of_json_lines,
    one_image_of_a_table,
    split_of_metadata,
    coco,
    annotations,
    datumaro,
]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    return write_data(tmp_path / "share", 3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_links_are_refused_and_followed_by_the_flag(layout: Layout, outside: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = layout(tmp_path / "data", outside)
    said = call("data", "check", str(data))
    assert said.status == 2
    assert "--follow-links" in said.err
    with pytest.raises(DataError, match="link"):
        list_images(data, nested=True)
    followed = call("data", "check", str(data), "--follow-links")
    assert followed.status == 0, followed.err
    assert f"next: ftx train --data {data} " in followed.err.replace("\n", " ")
    assert "--follow-links" in followed.err


@pytest.mark.parametrize(
    "words",
    [
        ("data", "shard", "DATA", "OUT"),
        ("train", "--dry-run", "--model", "test_vit", "--weights", "none", "--data", "DATA"),
    ],
    ids=" ".join,
)
def test_each_command_hands_the_flag_on(words: tuple[str, ...], outside: Path, tmp_path: Path) -> None:
    named = {"DATA": str(class_folder(tmp_path / "data", outside)), "OUT": str(tmp_path / "out")}
    words = tuple(named.get(word, word) for word in words)
    assert call(*words).status == 2
    followed = call(*words, "--follow-links")
    assert followed.status == 0, followed.err


def test_no_recipe_of_a_run_follows_links(outside: Path, whole_run: Path, tmp_path: Path) -> None:
    """A stranger's run beside a stranger's images would read what a link points at."""
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"] |= {"path": str(class_folder(tmp_path / "data", outside)), "follow_links": True}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    vouch(run)
    said = call("train", "--from", str(run), "--dry-run")
    assert (said.status, "a link must not lead out of the data folder" in said.err) == (2, True)
    assert call("train", "--from", str(run), "--dry-run", "--follow-links").status == 0
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    mine = call("train", "--config", str(tmp_path / "mine.yaml"), "--dry-run")
    assert mine.status == 0, mine.err


@pytest.mark.parametrize("target", [".", "..", "../b", "../../data"])
def test_a_link_to_a_folder_that_is_listed_already_ends(target: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in "ab":
        (data / name).mkdir(parents=True)
        shutil.copy(images(write_data(tmp_path / name, 1))[0], data / name / "0.png")
        (data / name / "x").symlink_to(target.replace("b", "ab".replace(name, "")))
        (data / name / "y").symlink_to(target.replace("b", "ab".replace(name, "")))
    for follow_links in (False, True):
        with pytest.raises(DataError, match="read already"):
            list_images(data, nested=True, follow_links=follow_links)


def test_doubling_links_end(tmp_path: Path) -> None:
    """Sixty folders of two links each to the next would be 2^60 ways through them."""
    write_data(tmp_path / "data", 1)
    for level in range(60):
        folder = tmp_path / "deep" / f"{level}"
        folder.mkdir(parents=True)
        for name in "ab":
            (folder / name).symlink_to(tmp_path / "deep" / f"{level + 1}")
    (tmp_path / "data" / "way").symlink_to(tmp_path / "deep" / "0")
    with pytest.raises(DataError, match="read already"):
        list_images(tmp_path / "data", nested=True, follow_links=True)


@pytest.mark.parametrize("link", ["test", "val", "zest"])
def test_one_folder_in_two_splits_is_refused_in_any_order(link: str, tmp_path: Path) -> None:
    """Else the images that report would be those that trained."""
    write_data(tmp_path / "data" / "train", 3)
    if link != "zest":
        write_data(tmp_path / "data" / link, 2, first=7)
        shutil.rmtree(tmp_path / "data" / link / "red")
        linked(tmp_path / "data" / link / "red", tmp_path / "data" / "train" / "red")
        where = tmp_path / "data" / link / "red"
    else:  # a folder below train itself
        where = tmp_path / "data" / "train" / "zest"
        linked(where, tmp_path / "data" / "train" / "red")
    for follow in (False, True):
        with pytest.raises(DataError, match="a link must not lead to a folder that is read already") as caught:
            list_images(tmp_path / "data", follow_links=follow)
        assert caught.value.where == str(where)


def test_a_neighbour_whose_name_begins_alike_is_outside(tmp_path: Path) -> None:
    for name in ("pets", "pets-private"):
        write_data(tmp_path / name, 2)
    (tmp_path / "pets" / "red" / "link.png").symlink_to(min((tmp_path / "pets-private" / "red").iterdir()))
    (tmp_path / "pets" / "own.png").symlink_to(min((tmp_path / "pets" / "red").iterdir()))
    within = path_below(tmp_path / "pets")
    assert within("own.png") == "own.png"
    with pytest.raises(ValueError, match="leaves the data folder"):
        within("red/link.png")
