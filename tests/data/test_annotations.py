"""COCO's and Datumaro's annotation files: what is understood, and what does not hold in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ftx.core.errors import DataError, EnvironmentFault
from ftx.data.check import check
from ftx.data.open_dataset import survey
from ftx.data.shards.write import write_shards
from ftx.data.sources import list_images


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def dump(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return path


CATEGORIES = [
    {"id": 3, "name": "cat", "supercategory": "animal"},
    {"id": 7, "name": "dog", "supercategory": "animal"},
    {"id": 9, "name": "person", "supercategory": "person"},
    {"id": 11, "name": "unused", "supercategory": "none"},
]
# Of each image in turn; the last has no object.
HELD = [(3, 3, 9), (7,), (3, 7), (9,), ()]


def coco(first: int, count: int, name: str = "{number:06d}.png") -> dict[str, Any]:
    numbers = range(first, first + count)
    annotations = [
        {"id": 100 * number + index, "image_id": number, "category_id": category, "bbox": [0, 0, 4, 4], "iscrowd": 0}
        for number in numbers
        for index, category in enumerate(HELD[number % len(HELD)])
    ]
    images = [{"id": number, "file_name": name.format(number=number), "width": 8, "height": 8} for number in numbers]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


@pytest.fixture
def coco_folder(tmp_path: Path) -> Path:
    for side, first, count in (("train2017", 0, 15), ("val2017", 15, 5)):
        dump(tmp_path / "annotations" / f"instances_{side}.json", coco(first, count))
        # Captions lie beside instances and say nothing of categories.
        dump(tmp_path / "annotations" / f"captions_{side}.json", {"images": [], "annotations": []})
        for number in range(first, first + count):
            picture(tmp_path / side / f"{number:06d}.png", number)
    return tmp_path


def test_coco_is_multilabel_by_its_categories(coco_folder: Path) -> None:
    dataset = survey(coco_folder, "multilabel", val_fraction=0.2).dataset
    assert dataset.labels.singles == ("cat", "dog", "person")
    assert [entry.labels for entry in dataset.split("val")] == [
        ("cat", "person"), ("dog",), ("cat", "dog"), ("person",), ()
    ]  # fmt: skip
    assert dataset.split("train")[0].path == "train2017/000000.png"
    assert len(dataset.split("train")) == 15


def test_supercategories_are_a_tree_whose_labels_exclude_nothing(coco_folder: Path) -> None:
    labels = survey(coco_folder, "hierarchical", val_fraction=0.2).dataset.labels
    assert labels.groups == ()
    assert labels.singles == ("animal", "cat", "dog", "person")
    assert dict(labels.parents) == {"cat": "animal", "dog": "animal"}


@pytest.mark.parametrize(
    ("file", "images", "path"),
    [
        ("annotations/instances_default.json", "images", "images/000000.png"),  # CVAT
        ("annotations/instances_train.json", "images/train", "images/train/000000.png"),
        ("annotations/instances_train.json", "train2017", "train2017/000000.png"),
        ("train/_annotations.coco.json", "train", "train/000000.png"),  # Roboflow
        ("labels.json", ".", "000000.png"),
    ],
)
def test_where_coco_images_lie(file: str, images: str, path: str, tmp_path: Path) -> None:
    dump(tmp_path / file, coco(0, 10))
    for number in range(10):
        picture(tmp_path / images / f"{number:06d}.png", number)
    asked = tmp_path if "labels.json" not in file else tmp_path / file
    listing = list_images(asked)
    assert listing.root == tmp_path
    assert listing.files[0].path == path
    assert listing.files[0].split == ("train" if "train" in file else None)
    assert len(survey(asked, "multilabel", val_fraction=0.2).dataset.entries) == 10


def broken(**changes: object) -> dict[str, Any]:
    return {**coco(0, 5), **changes}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (broken(annotations=[{"image_id": 77, "category_id": 3}]), "the image 77, which is not listed"),
        (broken(annotations=[{"image_id": 0, "category_id": 5}]), "the category 5, which is not listed"),
        (broken(categories=[{"id": 3, "name": "a"}, {"id": 4, "name": "a"}]), "a different name and id"),
        (broken(categories=[{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]), "a different name and id"),
        (broken(images=[{"id": 0, "file_name": "/etc/passwd"}], annotations=[]), "is absolute"),
        (broken(images=[{"id": 0, "file_name": "../x.png"}], annotations=[]), "leaves the data folder"),
        (broken(images=[{"id": 0, "file_name": ""}], annotations=[]), "the path is empty"),
        (broken(images=[], annotations=[]), "must name at least one image"),
        (broken(images=[{"id": [1], "file_name": "a.png"}]), "images.0.id"),
        (broken(images=[{"id": 1, "file_name": None}]), "images.0.file_name"),
        (broken(images=[{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]), "two images have one id"),
        (broken(categories=["cat"]), "categories.0"),
        (broken(categories=[{"id": True, "name": "a"}]), "categories.0.id"),
        (broken(categories=[{"id": 3, "name": "a\x1b[0m"}]), "cannot be printed"),
        (broken(annotations="all"), "annotations: Input should be a valid array"),
        ({"images": []}, "in the format of COCO or Datumaro"),
        ([], "in the format of COCO or Datumaro"),
    ],
)
def test_coco_that_does_not_hold(document: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        list_images(dump(tmp_path / "labels.json", document))
    assert message in str(caught.value)


def test_files_that_disagree_on_a_supercategory_are_refused(tmp_path: Path) -> None:
    dump(tmp_path / "annotations" / "instances_train.json", coco(0, 5))
    other = coco(5, 5) | {"categories": [{**one, "supercategory": "pet"} for one in CATEGORIES]}
    dump(tmp_path / "annotations" / "instances_val.json", other)
    with pytest.raises(DataError) as caught:
        list_images(tmp_path)
    assert "cat is of the supercategory pet, in another file of animal" in str(caught.value)


def test_images_that_are_nowhere_are_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the images that the annotations name must exist") as caught:
        list_images(dump(tmp_path / "annotations" / "instances_train.json", coco(0, 5)))
    assert "none of 5 images, first 000000.png" in str(caught.value)


def test_only_held_out_images_are_nothing_to_train_on(coco_folder: Path) -> None:
    (coco_folder / "annotations" / "instances_train2017.json").unlink()
    with pytest.raises(DataError, match="must have images of the split train"):
        survey(coco_folder, "multilabel", val_fraction=0.2)


def test_a_linked_annotations_folder_is_refused(tmp_path: Path) -> None:
    dump(tmp_path / "elsewhere" / "instances_train.json", coco(0, 5))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "annotations").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="a link must not lead out"):
        list_images(tmp_path / "data")


def test_a_class_called_annotations_is_one(tmp_path: Path) -> None:
    for name in ("annotations", "pictures"):
        for number in range(3):
            picture(tmp_path / name / f"{number}.png", number + (name == "pictures") * 10)
    dump(tmp_path / "annotations" / "notes.json", {"by": "me"})
    assert list_images(tmp_path).declared.names == ("annotations", "pictures")


def test_a_missing_image_is_not_replaced_by_another_of_its_name(tmp_path: Path) -> None:
    dump(tmp_path / "annotations" / "instances_val.json", coco(0, 2))
    picture(tmp_path / "images" / "val" / "000000.png", 0)
    picture(tmp_path / "images" / "000001.png", 1)
    assert [file.path for file in list_images(tmp_path).files] == ["images/val/000000.png", "images/val/000001.png"]


def test_annotations_at_the_root_are_not_class_folders(tmp_path: Path) -> None:
    dump(tmp_path / "instances_train2017.json", coco(0, 5))
    for number in range(5):
        picture(tmp_path / "train2017" / f"{number:06d}.png", number)
    assert list_images(tmp_path).layout == "coco"


def test_one_exclusive_group_of_all_labels_is_multiclass(tmp_path: Path) -> None:
    document = datumaro([(0,), (1,)] * 4, "train", [[name for name, _ in LABELS]])
    for label in document["categories"]["label"]["labels"]:
        label["parent"] = ""
    for number in range(8):
        picture(tmp_path / "images" / "train" / f"train{number}.png", number)
    report = check(dump(tmp_path / "annotations" / "train.json", document))
    assert (report.task, report.ok) == ("multiclass", True)
    assert check(write_datumaro(tmp_path / "tree", GROUPS)).task == "hierarchical"


def test_an_annotation_file_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('{"categories": [], "images": [')
    with pytest.raises(DataError, match="the annotations have invalid values") as caught:
        list_images(tmp_path / "labels.json")
    assert "Invalid JSON" in str(caught.value)
    (tmp_path / "labels.xml").write_text("<a/>")
    with pytest.raises(DataError, match="must be a table, an annotation file"):
        list_images(tmp_path / "labels.xml")


LABELS = [("animal", ""), ("vehicle", ""), ("cat", "animal"), ("dog", "animal"), ("wet", ""), ("unused", "")]
GROUPS = [["animal", "vehicle"], ["cat", "dog", "unused"], ["wet"]]


def datumaro(held: list[tuple[int, ...]], side: str, groups: list[list[str]] | None = None) -> dict[str, Any]:
    """As datumaro 1.13 writes it."""
    listed = [{"name": str(number), "group_type": "exclusive", "labels": g} for number, g in enumerate(groups or [])]
    label = {
        "labels": [{"name": name, "parent": parent, "attributes": []} for name, parent in LABELS],
        **({"label_groups": listed} if groups else {}),
        "attributes": [],
    }
    items = [
        {
            "id": f"{side}{number}",
            "annotations": [
                {"id": 0, "type": "label", "attributes": {}, "group": 0, "label_id": index} for index in numbers
            ],
            "image": {"path": f"{side}{number}.png", "size": [8, 8]},
        }
        for number, numbers in enumerate(held)
    ]
    return {"dm_format_version": "1.0", "media_type": 2, "infos": {}, "categories": {"label": label}, "items": items}


def write_datumaro(root: Path, groups: list[list[str]] | None) -> Path:
    held = [(0, 2), (0, 3), (1,), (0, 2, 4), (0,)] * 2
    for seed, (side, numbers) in enumerate({"train": held, "val": held[:5]}.items()):
        dump(root / "annotations" / f"{side}.json", datumaro(numbers, side, groups))
        for number in range(len(numbers)):
            picture(root / "images" / side / f"{side}{number}.png", 100 * seed + number)
    return root


def test_label_groups_and_parents_of_datumaro(tmp_path: Path) -> None:
    dataset = survey(write_datumaro(tmp_path, GROUPS), "hierarchical", val_fraction=0.2).dataset
    assert dataset.labels.groups == (("animal", "vehicle"), ("cat", "dog"))
    assert dataset.labels.singles == ("wet",)
    assert dict(dataset.labels.parents) == {"cat": "animal", "dog": "animal"}
    assert [len(dataset.split(side)) for side in ("train", "val")] == [10, 5]
    assert dataset.split("val")[0].labels == ("animal", "cat")
    assert dataset.split("val")[0].path == "images/val/val0.png"


def test_datumaro_without_groups_is_a_tree_by_its_parents(tmp_path: Path) -> None:
    labels = survey(write_datumaro(tmp_path, None), "hierarchical", val_fraction=0.2).dataset.labels
    assert labels.groups == (("animal", "vehicle"), ("cat", "dog"))
    assert labels.singles == ("wet",)


def test_datumaro_as_multilabel(tmp_path: Path) -> None:
    dataset = survey(write_datumaro(tmp_path, GROUPS), "multilabel", val_fraction=0.2).dataset
    assert dataset.labels.singles == ("animal", "cat", "dog", "vehicle", "wet")
    with pytest.raises(DataError, match="exactly one label"):
        survey(tmp_path, val_fraction=0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held": [(0, 1)]}, "mutually exclusive"),
        ({"held": [(9,)]}, "no label number 9"),
        ({"items": [{"id": "a", "annotations": [], "image": {}}]}, "items.0.image.path: Field required"),
        ({"items": [{"id": "a", "annotations": [], "image": {"path": "/etc/x.png"}}]}, "is absolute"),
        ({"items": [{"id": 7, "annotations": [{"label_id": "x"}], "image": {"path": "a.png"}}]}, "items.0.id"),
        ({"items": {}}, "items: Input should be a valid array"),
        ({"categories": {}}, "categories.label: Field required"),
    ],
)
def test_datumaro_that_does_not_hold(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    document = datumaro(change.pop("held", [(0,)] * 4), "train", GROUPS) | change
    path = dump(tmp_path / "annotations" / "train.json", document)
    for number in range(4):
        picture(tmp_path / "images" / "train" / f"train{number}.png", number)
    with pytest.raises(DataError) as caught:
        survey(path, "hierarchical", val_fraction=0.2)
    assert message in str(caught.value)


def test_another_format_needs_the_package(tmp_path: Path) -> None:
    # The package itself is tested in tests/test_base_install.py, in an environment of its own: it holds Pillow back.
    with pytest.raises(EnvironmentFault, match="the datumaro package must be installed") as caught:
        list_images(tmp_path, form="voc_classification")
    assert "[datumaro]" in str(caught.value)


def test_labels_of_an_inclusive_group_may_hold_together(tmp_path: Path) -> None:
    """Of three groups: one whose labels exclude each other, one whose labels do not, and one of no label at all."""
    document = datumaro([(0, 2, 4), (1,), (0, 3), (0, 2), (1, 4), (0, 3)], "train", GROUPS[:1])
    document["categories"]["label"]["label_groups"] += [
        {"name": "kinds", "group_type": "inclusive", "labels": ["cat", "dog", "wet"]},
        {"name": "none", "group_type": "restricted", "labels": ["unused"]},
    ]
    for number in range(6):
        picture(tmp_path / "images" / "train" / f"train{number}.png", number)
    listing = list_images(dump(tmp_path / "annotations" / "train.json", document))
    assert listing.declared.groups == (("animal", "vehicle"),)
    labels = survey(tmp_path, "hierarchical", val_fraction=0.3).dataset.labels
    assert (labels.groups, labels.singles) == ((("animal", "vehicle"),), ("cat", "dog", "wet"))


def test_each_reader_of_data_hands_the_format_on(tmp_path: Path) -> None:
    """None of these folders is a data set of any other kind."""
    readers: list[Callable[[Path, str], object]] = [
        lambda path, form: check(path, form=form),
        lambda path, form: survey(path, form=form, val_fraction=0.2),
        lambda path, form: write_shards(path, tmp_path / "out", form=form),
    ]
    for read in readers:
        with pytest.raises(EnvironmentFault, match="the datumaro package must be installed to read the format voc"):
            read(tmp_path, "voc")
