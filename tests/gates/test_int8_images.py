"""Which images make an INT8 model: told by the files that are opened while it is made."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.exporting.conftest import ARCHITECTURE, PREPROCESS
from tests.exporting.int8.test_quantize import body

from ftx.core.files import sha256_file
from ftx.core.progress import Progress, ProgressTask
from ftx.data.dataset import Entry, Split
from ftx.exporting.export_source import Source
from ftx.exporting.writers import WRITERS
from ftx.recipe.schema import Recipe
from ftx.runs.artifacts import IR_INT8
from ftx.runs.new_run import new_run, seal
from ftx.runs.reference_safetensors import ReferenceFile
from ftx.runs.run import Run
from ftx.runs.run_json import Manifest
from ftx.tasks.labels import Labels

CLASSES = ("few", "many", "most")
COUNTS: dict[Split, tuple[int, int, int]] = {"train": (20, 90, 130), "val": (6, 6, 6), "test": (4, 4, 4)}

opened: list[str] | None = None


def hear(event: str, arguments: tuple[object, ...]) -> None:
    if opened is not None and event == "open" and str(arguments[0]).endswith(".png"):
        opened.append(str(arguments[0]))


class Phases:
    """A listener that keeps, for each stretch of work, how many steps it had and which images were opened in it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int | None, list[str]]] = []
        self.advances: list[int] = []  # of the last stretch

    def advance(self, steps: int = 1, **fields: str) -> None:
        self.advances.append(steps)

    def track(self, description: str, total: int | None) -> AbstractContextManager[ProgressTask]:
        global opened
        opened, self.advances = [], []
        self.told.append((description, total, opened))
        return nullcontext(self)

    def note(self, text: str) -> None:
        pass


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """240 training images, 18 to choose epochs by and 12 to report on, each of a grey of its own."""
    root = tmp_path_factory.mktemp("int8")
    entries: list[Entry] = []
    for split, counts in COUNTS.items():
        for name, count in zip(CLASSES, counts, strict=True):
            for number in range(count):
                path = root / "data" / split / name / f"{number:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng([len(entries)]).integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
                entries.append(Entry(path.relative_to(root / "data").as_posix(), sha256_file(path), (name,), split))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        with new_run(root / "run") as new:
            (new.folder / "trained").mkdir()
            (new.folder / "trained" / "weights").write_text("")
            (new.folder / "recipe.yaml").write_text(Recipe().dumps())
            manifest = Manifest(
                task="multiclass",
                model=ARCHITECTURE,
                architecture=ARCHITECTURE,
                method="full",
                base_digest="0",
                labels=Labels.multiclass(CLASSES),
                preprocess=PREPROCESS,
                data_root=str(root / "data"),
            )
            seal(new.folder, manifest, tuple(entries))
    return Run.open(root / "run")


class SmallSource(Source):
    """With a body of three linear layers in the place of a network, as which images are read does not hang on it."""

    def __init__(self, run: Run, progress: Progress) -> None:
        super().__init__(run, None, progress)
        self.body = body(side=32, labels=len(CLASSES))
        logits = np.zeros((1, len(CLASSES)), np.float32)
        self.reference = ReferenceFile(("a",), np.zeros((1, 32, 32, 3), np.uint8), logits, logits)


@pytest.fixture(scope="module")
def listener() -> Phases:
    return Phases()


@pytest.fixture(scope="module")
def phases(
    run: Run, listener: Phases, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[str, int | None, list[str]]]:
    global opened
    sys.addaudithook(hear)
    WRITERS[IR_INT8].write(SmallSource(run, listener), IR_INT8, tmp_path_factory.mktemp("made"))
    opened = None
    return listener.told


def images(phases: list[tuple[str, int | None, list[str]]], run: Run) -> list[set[str]]:
    """The images that were read in each stretch of reading, by their names in the run."""
    root = run.data_root()
    # After those that it reads, the next ones are opened for their hash before their own stretch begins.
    read = [list(dict.fromkeys(paths))[:total] for what, total, paths in phases if what == "Reading images"]
    return [{Path(path).relative_to(root).as_posix() for path in paths} for paths in read]


def each_class(names: set[str]) -> list[int]:
    return [sum(f"/{name}/" in one for one in names) for name in CLASSES]


def test_32_images_calibrate_and_32_others_choose_all_of_them_for_training(
    phases: list[tuple[str, int | None, list[str]]], run: Run
) -> None:
    calibrating, choosing = images(phases, run)
    assert (len(calibrating), len(choosing)) == (32, 32)
    assert not calibrating & choosing
    assert {name.split("/")[0] for name in calibrating | choosing} == {"train"}


def test_the_classes_take_turns(phases: list[tuple[str, int | None, list[str]]], run: Run) -> None:
    calibrating, choosing = images(phases, run)
    # Of 20, 90 and 130 images all of the first are taken, and of the other two as many of one as of the other.
    few, many, most = (sum(counts) for counts in zip(each_class(calibrating), each_class(choosing), strict=True))
    assert few == 20
    assert abs(many - most) <= 1


def test_one_bar_shows_how_far_the_whole_search_is(
    phases: list[tuple[str, int | None, list[str]]], listener: Phases
) -> None:
    description, total, _ = phases[-1]
    assert (description, [one for one, *_ in phases].count(description)) == ("Comparing int8 settings", 1)
    assert total is not None
    assert 0.7 * total < sum(listener.advances) <= total
    # Each setting is calibrated with all images, and the best one is not made again.
    images = listener.advances.count(1)
    assert images % 32 == 0
    assert 3 <= images // 32 <= 4
