"""What is measured rarely still runs: nobody would see that a benchmark had broken."""

from __future__ import annotations

import csv
import importlib
import io
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.benchmarks import datasets
from tests.benchmarks.bench import as_good
from tests.benchmarks.dataset_items import Item, few_of_each_group
from tests.benchmarks.ldraw import Library, View

# One runs inside of a debugger, with its Python.
BENCHMARKS = sorted({path.stem for path in Path(__file__).with_name("benchmarks").glob("*.py")} - {"without_avx512"})


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_finds_what_it_measures(name: str) -> None:
    importlib.import_module(f"tests.benchmarks.{name}")


def test_a_peer_is_as_late_as_the_first_training_that_is_not_just_lucky() -> None:
    """Two seeds; of ours two epochs and more are as good in the mean, and one is in one seed alone."""
    right = {1: (85, 70), 2: (82, 80), 3: (90, 84)}
    points = [
        {"contestant": "ftx", "seed": seed, "epoch": epoch, "kept": kept, "test": 100, "seconds": 10.0 * epoch}
        for epoch, each in right.items()
        for seed, kept in enumerate(each)
    ]
    rows = [{"contestant": "ftx", "seed": seed, "seconds": 30.0, "kept_seconds": 30.0} for seed in (0, 1)]
    rows += [
        {"contestant": name, "seed": seed, "seconds": 100.0, "kept_seconds": 60.0, "accuracy": accuracy}
        for name, accuracies in {"peft": (0.80, 0.81), "full": (0.88, 0.89)}.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    (*_, line) = as_good({"rows": rows, "points": points}).splitlines()
    assert line == "| ftx | 5.0, 3.0 | never |"
    points[4]["kept"] = 70  # three epochs are worse than two: two were lucky
    (*_, line) = as_good({"rows": rows, "points": points}).splitlines()
    assert line == "| ftx | never | never |"


def test_the_data_path_is_measured_on_few_images(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.data_path", str(tmp_path), "--images", "20", "--side", "40"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    images, *each = answer.splitlines()[1].split()
    assert images == "20"
    assert all(int(one) > 0 for one in each[:3])


def test_no_training_image_of_a_data_set_is_nearly_a_test_image(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where a copy and a brighter copy of a test image stand in a group of the training part."""
    noise = np.random.default_rng(0).integers(0, 200, (40, 16, 16), dtype=np.uint8)

    def item(name: str, group: str, pixels_HW: np.ndarray) -> Item:
        return Item(name, "ab"[len(name) % 2], group, lambda: Image.fromarray(pixels_HW))

    source = [item(f"{number:0{2 + number % 2}}", f"group {number // 2}", noise[number]) for number in range(40)]

    def chosen(items: Sequence[Item]) -> dict[str, list[Item]]:
        monkeypatch.setattr(datasets, "items", lambda *_: items)
        parts = datasets.choose("source", datasets.Choice(0.5, most_train=8, least=3), tmp_path)
        return {part: [picture.item for picture in pictures] for part, pictures in parts.items()}

    once = chosen(source)
    groups = {part: {item.group for item in items} for part, items in once.items()}
    assert not groups["train"] & groups["test"]
    assert [sum(item.label == label for item in once["train"]) for label in "ab"] == [8, 8]
    (train, test), pixels_HW = (once["train"][0], once["test"][0]), np.asarray(once["test"][0].draw())
    copies = [item("copy", train.group, pixels_HW), item("brighter", train.group, pixels_HW + 50)]
    again = chosen([*copies, item("equal", test.group, pixels_HW), *source])
    assert [each.name for each in again["train"]] == [each.name for each in once["train"]]
    assert sum(np.array_equal(np.asarray(each.draw()), pixels_HW) for each in again["test"]) == 1


def test_a_source_has_few_items_of_each_group_whatever_their_order() -> None:
    """Of a group's name that two labels have, as of fighters of two races, each label has its own few."""
    source = [
        Item(f"{number}", label, group, lambda: Image.new("RGB", (1, 1)))
        for label, group, count in (("elves", "fighter", 5), ("orcs", "fighter", 4), ("orcs", "archer", 2))
        for number in range(count)
    ]
    few = list(few_of_each_group(source, 3))
    assert Counter((item.label, item.group) for item in few) == {
        ("elves", "fighter"): 3,
        ("orcs", "fighter"): 3,
        ("orcs", "archer"): 2,
    }
    assert {id(item) for item in few_of_each_group(source[::-1], 3)} == {id(item) for item in few}


def test_a_table_keeps_the_groups_of_a_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also fewer training images remain where a data set must have images that are less alike."""
    noise = np.random.default_rng(0).integers(0, 200, (40, 16, 16), dtype=np.uint8)
    source = [
        Item(f"{number}", "ab"[number % 2], f"group {number // 4}", partial(Image.fromarray, pixels_HW))
        for number, pixels_HW in enumerate(noise)
    ]
    monkeypatch.setattr(datasets, "items", lambda *_: source)

    def table(most_alike: float) -> list[dict[str, str]]:
        choice = datasets.Choice(0.5, least=1, most_alike=most_alike)
        contents = datasets.grouped_folders("source", choice, tmp_path)
        rows = list(csv.DictReader(io.StringIO(contents["metadata.csv"].decode())))
        assert {row["path"] for row in rows} == contents.keys() - {"metadata.csv"}
        return rows

    rows = table(0.98)
    assert len(rows) == 40
    for row in rows:
        part, label, file = row["path"].split("/")
        number = int(Path(file).stem)
        assert row == {"path": row["path"], "labels": label, "split": part, "group": f"group {number // 4}"}
    strict = table(0.1)
    assert Counter(row["split"] for row in strict)["train"] < Counter(row["split"] for row in rows)["train"]


def test_a_brick_shows_its_nearest_surfaces(tmp_path: Path) -> None:
    """A small red square, which is its own file, before a large one of the part's colour."""
    (tmp_path / "p").mkdir()
    (tmp_path / "parts").mkdir()
    (tmp_path / "LDConfig.ldr").write_text(
        "0 !COLOUR Red CODE 4 VALUE #C80000 EDGE #333333\n0 !COLOUR Blue CODE 1 VALUE #0000C8 EDGE #333333\n"
    )
    (tmp_path / "p" / "square.dat").write_text("4 16 -1 -1 0 1 -1 0 1 1 0 -1 1 0\n")
    (tmp_path / "parts" / "1.dat").write_text(
        "0 Square\n1 4 0 0 -5 3 0 0 0 3 0 0 0 3 SQUARE.DAT\n1 16 0 0 5 9 0 0 0 9 0 0 0 9 Square.dat\n"
    )
    image = Library(tmp_path).draw("1.dat", View(0, 0, colour=1, background=255), 50)
    colours = [image.getpixel(at) for at in ((25, 25), (10, 25), (1, 1))]
    assert [np.argmax(colour) for colour in colours[:2]] == [0, 2]
    assert colours[2] == (255, 255, 255)
