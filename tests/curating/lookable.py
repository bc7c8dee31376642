"""Data sets with known faults, looked at through a tiny network: coloured squares, whose colour is their class."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ftx.curating.choices import ChoiceTable, images_of
from ftx.curating.look import Look, look
from ftx.recipe.schema import Recipe
from ftx.tasks.task_names import TaskName

# What HTML would make of a class and of a file.
EVIL = "<img src=x onerror=alert(1)>&\"'"
EVIL_FILE = "<b onclick=alert(1)>7&amp;'.png"
HUES = {"amber": (200, 150, 40), "blue": (40, 60, 200), EVIL: (190, 40, 50)}
# Of the class that each stands in by mistake.
WRONG = {"amber/wrong.png": "blue", "blue/wrong.png": EVIL}


def square(path: Path, hue: tuple[int, int, int], *seed: int) -> Path:
    """Coarse noise over a colour, so that no two look alike to a perceptual hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).normal(0, 25, (8, 8, 1)).repeat(4, 0).repeat(4, 1)
    Image.fromarray((np.array(hue) + coarse).clip(0, 255).astype(np.uint8)).save(path)
    return path


def class_folders(root: Path, count: int = 14) -> Path:
    """Folders of class folders, two images in the wrong one, one broken, one held out that is in train as well."""
    for number, (name, hue) in enumerate(HUES.items()):
        for index in range(count):
            square(root / "train" / name / f"{index}.png", hue, number, index)
        for index in range(4):
            square(root / "val" / name / f"{index}.png", hue, number, 100 + index)
    (root / "train" / EVIL / "7.png").rename(root / "train" / EVIL / EVIL_FILE)
    for number, (path, hue) in enumerate(WRONG.items()):
        square(root / "train" / path, HUES[hue], 9, number)
    with Image.open(root / "train" / "blue" / "0.png") as image:
        image.save(root / "val" / "blue" / "again.bmp")
    (root / "train" / "amber" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return root


def contradicting(root: Path) -> Path:
    """As ``class_folders``, with one picture in two classes."""
    class_folders(root)
    shutil.copy(root / "train" / "amber" / "3.png", root / "train" / "blue" / "copy.png")
    return root


def recipe(data: Path) -> Recipe:
    flags = {"data.path": str(data), "model.name": "test_vit", "model.weights": "none", "data.image_size": "32"}
    return Recipe.build(None, (), flags)


def look_at(data: Path, out: Path, task: TaskName | None = None) -> Look:
    return look(recipe(data), task, out=out)


def undecided(found: Look, out: Path) -> Look:
    """The same, which took its time, with a table of its own."""
    table = ChoiceTable(out, found.table.spelling, found.report.issues, images_of(found.dataset))
    return replace(found, report=found.report.model_copy(update={"table": str(out)}), table=table)
