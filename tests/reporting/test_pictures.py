"""Images inside a page: within its bytes, of each label, each with the maps of its labels."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ftx.core.files import sha256_file
from ftx.data.dataset import Entry
from ftx.data.image_store import ImageStore
from ftx.data.preprocess import Pixels, Preprocess
from ftx.explaining.explain import Explainer
from ftx.reporting import pictures
from ftx.reporting.pictures import PictureBudget, cases, samples
from ftx.tasks.labels import Labels
from ftx.tasks.multiclass import Multiclass
from ftx.tasks.thresholds import Floats, Thresholds

PRE = Preprocess(height=8, width=12, resize=(8, 12), interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))
LABELS = Labels.multiclass(("a", "b", "c"))


def images(root: Path, labels: list[str], *, size: tuple[int, int] = (40, 20)) -> list[Entry]:
    entries: list[Entry] = []
    for number, label in enumerate(labels):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        entries.append(Entry(f"{number}.png", sha256_file(root / f"{number}.png"), (label,), "train"))
    return entries


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def explainer(*, finite: bool = True) -> Explainer:
    """The map of a is black, of b grey and of c white, all over."""

    def ask(pixels_NHWC: Pixels) -> tuple[Floats, Floats]:
        assert pixels_NHWC.shape == (1, PRE.height, PRE.width, 3)
        maps = np.array([0, 0.5, 1 if finite else np.nan], np.float32)
        return np.zeros((1, 3), np.float32), np.broadcast_to(maps[None, :, None, None], (1, 3, 2, 3)).copy()

    return Explainer(None, "made", ask, by_label=True, task=Multiclass(LABELS, Thresholds()), preprocess=PRE)


def test_a_picture_counts_with_the_maps_beside_it(tmp_path: Path) -> None:
    (entry,) = images(tmp_path, ["a"])
    store, rows = ImageStore(tmp_path), [(entry, ["b", "c"])]
    (whole,) = cases(rows, store, explainer(), PictureBudget()).values()
    sizes = [len(whole.uri), *(len(uri) for _, uri in whole.maps)]
    assert len(sizes) == 3
    exact = PictureBudget(left=sum(sizes))
    assert list(cases(rows, store, explainer(), exact)) == [entry.path]
    assert (exact.left, exact.left_out) == (0, 0)
    short = PictureBudget(left=sum(sizes) - 1)
    assert cases(rows, store, explainer(), short) == {}
    assert (short.left, short.left_out) == (sum(sizes) - 1, 1)


def test_one_without_room_leaves_it_to_a_smaller_one(tmp_path: Path) -> None:
    entries = images(tmp_path, ["a", "b"])
    Image.new("RGB", (40, 20)).save(tmp_path / "1.png")  # plain, and so small
    entries[1] = Entry("1.png", sha256_file(tmp_path / "1.png"), ("b",), "train")
    store, rows = ImageStore(tmp_path), [(entry, []) for entry in entries]
    large, small = (len(case.uri) for case in cases(rows, store, None, PictureBudget()).values())
    assert small < large
    budget = PictureBudget(left=large - 1)
    assert list(cases(rows, store, None, budget)) == ["1.png"]
    assert (budget.left, budget.left_out) == (large - 1 - small, 1)


def test_each_label_has_its_own_map(tmp_path: Path) -> None:
    (entry,) = images(tmp_path, ["a"])
    (case,) = cases([(entry, ["c", "a"])], ImageStore(tmp_path), explainer(), PictureBudget()).values()
    assert [label for label, _ in case.maps] == ["c", "a"]
    bright, dark = (np.asarray(decoded(uri).convert("RGB"), float).mean() for _, uri in case.maps)
    assert bright > dark  # light is what speaks for a label
    assert decoded(case.uri).size == (pictures.CASE, pictures.CASE // 2)


def test_without_a_map_or_a_label_the_image_is_shown_alone(tmp_path: Path) -> None:
    (entry,) = images(tmp_path, ["a"])
    store = ImageStore(tmp_path)
    for labels, with_maps in (([], explainer()), (["c"], None), (["a"], explainer(finite=False))):
        (case,) = cases([(entry, labels)], store, with_maps, PictureBudget()).values()
        assert list(case.maps) == []
    (tmp_path / entry.path).unlink()
    budget = PictureBudget()
    assert cases([(entry, ["a"])], store, explainer(), budget) == {}
    assert budget.left_out == 0  # it is not there, which is something else


def test_each_label_has_as_many_samples_spread_over_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "EACH", 3)
    entries = images(tmp_path, ["a"] * 7 + ["b"] * 2 + ["c"] * 3)
    found = samples(entries, LABELS.names, ImageStore(tmp_path), PictureBudget())
    assert {name: [path for path, _ in each] for name, each in found.items()} == {
        "a": ["0.png", "2.png", "4.png"],
        "b": ["7.png", "8.png"],
        "c": ["9.png", "10.png", "11.png"],
    }
    side = decoded(found["a"][0][1]).size
    assert side == (pictures.SAMPLE, pictures.SAMPLE)
    # Of many labels fewer each, and of more than there is room for the first.
    monkeypatch.setattr(pictures, "MOST", 3)
    few = samples(entries, LABELS.names, ImageStore(tmp_path), PictureBudget())
    assert {name: len(each) for name, each in few.items()} == {"a": 1, "b": 1, "c": 1}
    monkeypatch.setattr(pictures, "MOST", 2)
    assert list(samples(entries, LABELS.names, ImageStore(tmp_path), PictureBudget())) == ["a", "b"]


def test_samples_without_room_are_counted(tmp_path: Path) -> None:
    entries = images(tmp_path, ["a", "b", "c"])
    whole = samples(entries, LABELS.names, ImageStore(tmp_path), PictureBudget())
    sizes = {name: len(each[0][1]) for name, each in whole.items()}
    budget = PictureBudget(left=sizes["a"] + sizes["b"])
    assert list(samples(entries, LABELS.names, ImageStore(tmp_path), budget)) == ["a", "b"]
    assert (budget.left, budget.left_out) == (0, 1)
