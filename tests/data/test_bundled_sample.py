from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ftx.core.errors import DataError
from ftx.core.files import STAGING_PREFIX
from ftx.core.shipped_files import models_folder, sample_file
from ftx.data.bundled_sample import place_sample, unpack_sample
from ftx.data.open_dataset import survey

SCRIPTS = Path(__file__).parents[2] / "models"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = {"T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"}


def write_zip(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_sample(sample_file("fashion-mnist.zip"), tmp_path_factory.mktemp("sample") / "fashion-mnist")


def test_the_sample_is_a_data_set_of_ten_even_classes_without_doubles(unpacked: Path) -> None:
    found = survey(unpacked, val_fraction=0.2)
    assert set(found.dataset.labels.names) == CLASSES
    assert found.counts() == {name: {"train": 80, "val": 20, "test": 50} for name in sorted(CLASSES)}
    assert (found.copies, found.leaks, dict(found.ignored), found.dataset.unreadable) == (0, 0, {}, ())
    assert found.dataset.report_split == "test"


@pytest.mark.parametrize("name", ["fashion-mnist.zip", "fashion-tree.csv", "fashion-sheets.zip"])
def test_the_card_gives_the_hash_of_each_file(name: str) -> None:
    card = (models_folder() / "sample" / "README.md").read_text()
    assert sha256(sample_file(name).read_bytes()).hexdigest() in card


def test_the_sample_as_a_tree_with_a_single(tmp_path: Path) -> None:
    table = place_sample("hierarchical", tmp_path)
    dataset = survey(table, "hierarchical", val_fraction=0.2).dataset
    assert dataset.labels.groups == (
        ("Bag", "clothing", "footwear"),
        ("Dress", "Trouser", "tops"),
        ("Ankle boot", "Sandal", "Sneaker"),
        ("Coat", "Pullover", "Shirt", "T-shirt"),
    )
    assert dataset.labels.singles == ("light",)
    assert len(dataset.split("test")) == 500
    assert place_sample("hierarchical", tmp_path) == table
    table.write_text("mine")
    with pytest.raises(DataError, match="already exists at the path"):
        place_sample("hierarchical", tmp_path)


def test_the_sample_as_sheets(tmp_path: Path) -> None:
    found = survey(place_sample("multilabel", tmp_path), "multilabel", val_fraction=0.2)
    assert [len(found.dataset.split(side)) for side in ("train", "val", "test")] == [600, 150, 300]
    assert set(found.dataset.labels.singles) == CLASSES
    assert found.leaks == 0
    assert sum(not entry.labels for entry in found.dataset.entries) == 67


def test_the_script_makes_the_tree_and_the_sheets_we_carry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import make_tasks  # pyright: ignore[reportMissingImports]

    shutil.copy(sample_file("fashion-mnist.zip"), tmp_path)
    monkeypatch.setattr(make_tasks, "ARCHIVE", tmp_path / "fashion-mnist.zip")
    make_tasks.main()
    assert (tmp_path / "fashion-tree.csv").read_bytes() == sample_file("fashion-tree.csv").read_bytes()
    archives = (tmp_path / "fashion-sheets.zip", sample_file("fashion-sheets.zip"))
    with zipfile.ZipFile(archives[0]) as made, zipfile.ZipFile(archives[1]) as carried:
        assert made.read("metadata.csv") == carried.read("metadata.csv")
        for name in (name for name in made.namelist() if name.endswith(".png")):
            with made.open(name) as one, carried.open(name) as other:
                assert np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's dataset-fashion-mnist, the script's source")
def test_the_script_makes_the_archive_we_carry(tmp_path: Path) -> None:
    archives = [tmp_path / "first.zip", tmp_path / "second.zip"]
    script = SCRIPTS / "make_sample.py"
    for archive in archives:
        subprocess.run([sys.executable, str(script), "--out", str(archive)], check=True, capture_output=True)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    # Against the archive in the repository by pixel: another zlib packs the same picture into other bytes.
    with zipfile.ZipFile(archives[0]) as made, zipfile.ZipFile(sample_file("fashion-mnist.zip")) as carried:
        assert made.namelist() == carried.namelist()
        for name in made.namelist():
            with made.open(name) as one, carried.open(name) as other:
                assert np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))


def test_a_whole_folder_is_reused(unpacked: Path) -> None:
    image = next(unpacked.rglob("*.png"))
    before = image.stat()
    assert unpack_sample(sample_file("fashion-mnist.zip"), unpacked) == unpacked
    assert image.stat().st_mtime_ns == before.st_mtime_ns
    assert image.stat().st_ino == before.st_ino


@pytest.mark.parametrize("harm", ["altered", "missing", "spare"])
def test_a_folder_with_other_contents_is_refused_and_left_alone(tmp_path: Path, harm: str) -> None:
    archive = write_zip(tmp_path / "a.zip", {"train/cat/1.png": b"one", "train/dog/1.png": b"two"})
    folder = unpack_sample(archive, tmp_path / "out")
    target = folder / "train/dog/1.png"
    if harm == "altered":
        target.write_bytes(b"tw0")
    elif harm == "missing":
        target.unlink()
    else:
        (folder / "mine.txt").write_text("precious")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="already exists at the path"):
        unpack_sample(archive, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png", "C:/evil.png", "..\\evil.png"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    archive = write_zip(tmp_path / "a.zip", {"train/cat/1.png": b"one", name: b"evil"})
    with pytest.raises(DataError, match="stay below its folder"):
        unpack_sample(archive, tmp_path / "in" / "out")
    assert not (tmp_path / "in").exists()


def test_a_link_in_the_archive_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("train/cat")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(DataError, match="stay below its folder"):
        unpack_sample(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("harm", ["truncated", "flipped"])
def test_a_damaged_archive_is_refused_and_nothing_remains(tmp_path: Path, harm: str) -> None:
    archive = write_zip(tmp_path / "a.zip", {"train/cat/1.png": b"one" * 100, "train/dog/1.png": b"two" * 100})
    content = bytearray(archive.read_bytes())
    if harm == "truncated":
        del content[200:]
    else:
        content[content.index(b"twotwo")] ^= 1
    archive.write_bytes(bytes(content))
    with pytest.raises(DataError, match="damaged"):
        unpack_sample(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(f"{STAGING_PREFIX}*"))
