"""Shards: what is written is what was there, others' are read, and one that does not hold is refused by name."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import Listener
from tests.data.test_annotations import GROUPS, write_datumaro
from webdataset.writer import TarWriter

from ftx.core.addresses import Address, typed
from ftx.core.errors import DataError, EnvironmentFault, ImageError, InputError
from ftx.core.progress import SILENT
from ftx.data.check import check
from ftx.data.image_store import ImageStore, open_hashed
from ftx.data.open_dataset import Survey, survey
from ftx.data.shards.paths import images_root, member_of
from ftx.data.shards.shard_store import MOST_OPEN, has_member
from ftx.data.shards.shards_json import read_shards_json
from ftx.data.shards.write import write_shards
from ftx.data.sources import list_images
from ftx.data.sources.shards import shard_names
from ftx.evaluating.predict import find_images, in_shards


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


Samples = Mapping[str, Mapping[str, bytes | dict[str, object]]]


def as_bytes(part: bytes | dict[str, object]) -> bytes:
    return json.dumps(part).encode() if isinstance(part, dict) else part


def written(file: Path, samples: Samples) -> Path:
    """A shard as webdataset's own writer makes it, of members by key and ending."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream, TarWriter(stream, encoder=False) as archive:
        for key, parts in samples.items():
            members = {
                name: json.dumps(part).encode() if isinstance(part, dict) else part for name, part in parts.items()
            }
            archive.write({"__key__": key, **members})
    return file


def labelled(
    *labels: str, count: int = 3, first: int = 0, **more: object
) -> dict[str, dict[str, bytes | dict[str, object]]]:
    return {
        f"{label}-{number}": {"png": png(1000 * first + 100 * nth + number), "json": {"labels": [label], **more}}
        for nth, label in enumerate(labels)
        for number in range(count)
    }


def source(root: Path) -> Path:
    """A table with splits, groups and several labels an image, one image of which cannot be read."""
    lines = ["path,labels,split,group"]
    for number in range(24):
        path = root / "pictures.v2" / f"a b.{number}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
        split = ("train", "val", "test")[number % 3]
        lines.append(f"{path.relative_to(root)},{'x;y' if number % 2 else 'y'},{split},{split} {number // 4}")
    (root / "broken.png").write_bytes(b"no image")
    lines.append("broken.png,x,train,alone")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    return root / "table.csv"


def surveyed(path: Path, task: str = "multilabel") -> Survey:
    return survey(typed(path), task, val_fraction=0.25, progress=SILENT)  # pyright: ignore[reportArgumentType]


def told(found: Survey) -> list[tuple[object, ...]]:
    return sorted((one.sha256, one.labels, one.split, one.group or "") for one in found.dataset.entries)


@pytest.mark.representative
def test_shards_hold_what_the_source_does(tmp_path: Path) -> None:
    table = source(tmp_path / "data")
    report = write_shards(table, tmp_path / "out", per_shard=5)
    assert (report.images, report.shards) == (24, 5)
    assert [line.partition(":")[0] for line in report.skipped] == ["broken.png"]
    before, after = surveyed(table), surveyed(tmp_path / "out")
    assert told(after) == told(before)
    assert after.dataset.labels == before.dataset.labels
    assert after.layout == "shards"
    assert surveyed(tmp_path / "out" / "{0000..0004}.tar").dataset == after.dataset
    store = ImageStore(after.dataset.root)
    for entry in after.dataset.entries:
        image, digest = open_hashed(store[entry])
        assert image is not None
        assert image.size == (8, 8)
        assert digest == entry.sha256
    # Splits one after the other: what is held out is not read while training.
    described = read_shards_json(tmp_path / "out")
    assert described is not None
    assert described.counts == {"train": 8, "val": 8, "test": 8}
    splits = [json.loads(one["json"])["split"] for one in read_by_webdataset(tmp_path / "out")]
    assert splits == sorted(splits, key=["train", "val", "test"].index)


def read_by_webdataset(folder: Path) -> list[dict[str, bytes]]:
    """In a process of its own, as the library leaves its files to the collector."""
    files = sorted(str(path) for path in folder.glob("*.tar"))
    read = "import pickle, sys, webdataset; w = webdataset.WebDataset(sys.argv[1:], shardshuffle=False)"
    write = "sys.stdout.buffer.write(pickle.dumps([dict(one) for one in w]))"
    ended = subprocess.run([sys.executable, "-c", f"{read}; {write}", *files], capture_output=True, check=True)
    return pickle.loads(ended.stdout)


def test_webdataset_reads_what_is_written(tmp_path: Path) -> None:
    write_shards(source(tmp_path / "data"), tmp_path / "out", per_shard=7)
    samples = read_by_webdataset(tmp_path / "out")
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(24)]
    for sample in samples:
        said = json.loads(sample["json"])
        assert said["sha256"] == sha256(sample["png"]).hexdigest()
        assert (tmp_path / "data" / said["path"]).read_bytes() == sample["png"]


def test_equal_data_give_equal_shards_wherever_they_lie(tmp_path: Path) -> None:
    table = source(tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "elsewhere")
    for name, path in (("one", table), ("two", tmp_path / "elsewhere" / "table.csv")):
        write_shards(path, tmp_path / name, per_shard=7)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["0000.tar", "0001.tar", "0002.tar", "0003.tar", "shards.json"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_images_in_no_split_are_divided_as_the_source_is(tmp_path: Path) -> None:
    """By content: the same images are held out, whether they come from a folder or from shards."""
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(8):
            (tmp_path / "data" / name / f"{number}.png").write_bytes(png(ord(name) * 100 + number))
    write_shards(tmp_path / "data", tmp_path / "out", per_shard=3)
    assert told(surveyed(tmp_path / "out", "multiclass")) == told(surveyed(tmp_path / "data", "multiclass"))


def test_a_tree_of_labels_stays_one(tmp_path: Path) -> None:
    for number, name in enumerate(["animal/cat", "animal/dog", "plant"] * 3):
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name / f"{number}.png").write_bytes(png(number))
    write_shards(tmp_path / "data", tmp_path / "out")
    before, after = (surveyed(tmp_path / name, "hierarchical").dataset for name in ("data", "out"))
    assert after.labels == before.labels
    assert check(tmp_path / "out").task == "hierarchical"


def test_shards_can_be_cut_anew(tmp_path: Path) -> None:
    write_shards(source(tmp_path / "data"), tmp_path / "one", per_shard=5)
    write_shards(tmp_path / "one", tmp_path / "two", per_shard=24)
    assert [path.name for path in (tmp_path / "two").glob("*.tar")] == ["0000.tar"]
    assert told(surveyed(tmp_path / "two")) == told(surveyed(tmp_path / "one"))


def test_others_shards(tmp_path: Path) -> None:
    """Labels as text beside the image or as ``label`` in its JSON, the split in the archive's name, other members."""
    for split, first in (("train", 0), ("val", 1)):
        written(
            tmp_path / f"set-{split}-000000.tar",
            {
                **{f"deep/er/{n}": {"jpg": png(10 * first + n), "cls": b"7 " if n % 2 else b"3"} for n in range(6)},
                **{
                    f"told{n}": {"PNG": png(100 + 10 * first + n), "json": {"label": 3}, "seg.png": b"a mask"}
                    for n in range(2)
                },
            },
        )
    found = surveyed(tmp_path / "set-{train,val}-000000.tar", "multiclass")
    assert found.counts() == {"3": {"train": 5, "val": 5}, "7": {"train": 3, "val": 3}}
    assert "set-val-000000.tar/deep/er/5.jpg" in {entry.path for entry in found.dataset.entries}


def test_a_shard_written_by_tar_in_any_of_its_formats(tmp_path: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "s.tar", "w", format=form) as archive:
            for key, parts in labelled("a", "b").items():
                for name, part in parts.items():
                    content = as_bytes(part)
                    info = tarfile.TarInfo(f"{'long' * 40}/é {key}.{name}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        found = surveyed(tmp_path / "s.tar", "multiclass")
        assert len(found.dataset.entries) == 6
        assert all(open_hashed(ImageStore(tmp_path)[entry])[1] == entry.sha256 for entry in found.dataset.entries)


WRONG: dict[str, tuple[Samples, str]] = {
    "no label": ({"k": {"png": png(1), "json": {"split": "train"}}}, "0.tar/k: it must have a label"),
    "nothing said": ({"k": {"png": png(1)}}, "0.tar/k: it must have a label"),
    "no image": ({"k": {"json": {"labels": ["a"]}}}, "0.tar/k: no images with this key"),
    "two images": ({"k": {"png": png(1), "jpg": png(2), "json": {"labels": ["a"]}}}, "0.tar/k: 2 images with this key"),
    "another image": (
        {"k": {"png": png(1), "json": {"labels": ["a"], "sha256": "0" * 64}}},
        "does not match its sha256",
    ),
    "no JSON": ({"k": {"png": png(1), "json": b"{"}}, "0.tar/k: "),
    "a list": ({"k": {"png": png(1), "json": b"[1]"}}, "its JSON must be an object"),
    "an unknown split": (
        {"k": {"png": png(1), "json": {"labels": ["a"], "split": "spare"}}},
        "split 'spare' must be one of",
    ),
    "no text": ({"k": {"png": png(1), "cls": b"\xff"}}, "its class must be UTF-8 text"),
    "out": ({"../k": {"png": png(1), "json": {"labels": ["a"]}}}, "0.tar: ../k.json leaves the data folder"),
    "absolute": ({"/k": {"png": png(1), "json": {"labels": ["a"]}}}, "0.tar: /k.json is absolute"),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_image_that_does_not_hold_is_named(tmp_path: Path, what: str) -> None:
    samples, said = WRONG[what]
    shard = written(tmp_path / "0.tar", {**labelled("a", "b"), **samples})
    with pytest.raises(DataError, match="the shards have invalid images: ") as error:
        list_images(shard)
    assert said in str(error.value)


def test_links_are_refused(tmp_path: Path) -> None:
    shard = written(tmp_path / "0.tar", labelled("a", "b"))
    with tarfile.open(shard, "a") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match="invalid images") as error:
        list_images(shard)
    assert "0.tar/link.png is a link or a device" in str(error.value)
    # Nor are they asked of a model, which needs no labels.
    (item,) = in_shards(tmp_path / "0.tar")
    assert isinstance(item.image, ImageError)
    assert "link.png is a link or a device" in str(item.image)
    written(tmp_path / "1.tar", {"../k": {"png": png(1)}})
    (item,) = in_shards(tmp_path / "1.tar")
    assert isinstance(item.image, ImageError)
    assert "leaves the data folder" in str(item.image)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["0007.tar", "0008.tar", "0009.tar", "0010.tar"], "'FOLDER/{0007..0010}.tar'"),
        (["set-train-000.tar", "set-train-001.tar"], "'FOLDER/set-train-{000..001}.tar'"),
        (["0007.tar", "0009.tar"], "2, such as 'FOLDER/0007.tar', and several as 'FOLDER/{one,another}.tar'"),
        (["1.tar", "1a.tar", "3.tar"], "3, such as 'FOLDER/1.tar', and several as 'FOLDER/{one,another}.tar'"),
        (["train.tar"], "'FOLDER/train.tar'"),
    ],
)
def test_archives_without_shards_json_are_told_how_they_are_named(tmp_path: Path, names: list[str], said: str) -> None:
    said = said.replace("FOLDER", str(tmp_path))
    for number, name in enumerate(names):
        written(tmp_path / name, {"k": {"png": png(number), "json": {"labels": ["a"]}}})
    with pytest.raises(DataError, match=r"without shards\.json") as error:
        surveyed(tmp_path)
    assert error.value.fix == f"give their names: {said}"
    with pytest.raises(InputError, match="no images") as none:
        find_images(tmp_path)
    assert f"its archives are named: {said}" in str(none.value.found)


def test_a_key_that_comes_again_is_refused(tmp_path: Path) -> None:
    shard = written(tmp_path / "0.tar", labelled("a", "b"))
    with shard.open("r+b") as stream, tarfile.open(fileobj=stream, mode="a:") as archive:
        for name, content in (("a-0.png", png(77)), ("a-0.json", b'{"labels": ["b"]}')):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError) as error:
        list_images(shard)
    assert "0.tar/a-0: it is listed twice" in str(error.value)


@pytest.mark.parametrize("left", [0, 100, 512, 1024, 5000, -1, -512, -1024])
@pytest.mark.parametrize("known", [True, False], ids=["with shards.json", "without"])
def test_a_cut_shard_is_refused(tmp_path: Path, left: int, known: bool) -> None:
    """Between two images too, where reading it would end as if that were all; ``left`` bytes, or so many before."""
    write_shards(source(tmp_path / "data"), tmp_path / "out", per_shard=12)
    shard = tmp_path / "out" / "0001.tar"
    if not known:
        (tmp_path / "out" / "shards.json").unlink()
    content = shard.read_bytes()
    images = content.rstrip(b"\0")
    end = len(images) + -len(images) % 512
    shard.write_bytes(content[:left] if left >= 0 else content[: end + left])
    with pytest.raises(DataError, match="a tar archive") as error:
        list_images(tmp_path / "out" / "{0000..0001}.tar")
    assert error.value.where == str(shard)


def test_zeros_amid_a_shard_do_not_end_it(tmp_path: Path) -> None:
    shard = written(tmp_path / "0.tar", labelled("a", "b"))
    content = bytearray(shard.read_bytes())
    content[2048:3072] = bytes(1024)
    shard.write_bytes(content)
    with pytest.raises(DataError):
        list_images(shard)


def test_an_archive_that_seems_to_end_in_its_middle_is_refused(tmp_path: Path) -> None:
    """Behind as many zeros as end one, with others at its own end: three of five images would be missing."""
    shard = written(tmp_path / "0.tar", labelled("a", "b", "c", "d", "e"))
    content = bytearray(shard.read_bytes())
    with tarfile.open(shard) as archive:
        third = archive.getmembers()[4].offset
    content[third : third + 1024] = bytes(1024)
    shard.write_bytes(content)
    with pytest.raises(DataError, match="the shard is incomplete"):
        list_images(shard)


def test_a_shard_that_was_changed_is_not_the_one_that_shards_json_tells_of(tmp_path: Path) -> None:
    write_shards(source(tmp_path / "data"), tmp_path / "out", per_shard=12)
    shutil.copy(tmp_path / "out" / "0001.tar", tmp_path / "out" / "0000.tar")
    with pytest.raises(DataError, match=r"must be the one in shards\.json") as error:
        list_images(tmp_path / "out")
    assert error.value.where == str(tmp_path / "out" / "0000.tar")
    assert error.value.fix == "copy the shard again"


def test_what_is_no_plain_tar_archive(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(b"x" * 2048)
    with pytest.raises(DataError, match="a tar archive"):
        list_images(tmp_path / "0.tar")
    with tarfile.open(tmp_path / "1.tar", "w:gz") as archive:
        archive.add(tmp_path / "0.tar")
    with pytest.raises(DataError, match="a tar archive"):
        list_images(tmp_path / "1.tar")
    with pytest.raises(DataError, match="the shard does not exist") as error:
        list_images(tmp_path / "{2..3}.tar")
    assert error.value.where == str(tmp_path / "2.tar")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"format": "ftx shards 2"}', "format"),
        ("[]", "is invalid"),
        ("{", "is invalid"),
        (
            '{"images": 1, "counts": {}, "labels": {}, "shards": [{"name": "../x.tar", "images": 1, "bytes": 1}]}',
            "name",
        ),
    ],
)
def test_a_shards_json_that_does_not_hold(tmp_path: Path, content: str, said: str) -> None:
    written(tmp_path / "0.tar", labelled("a", "b"))
    (tmp_path / "shards.json").write_text(content)
    with pytest.raises(DataError, match=r"shards\.json is invalid") as error:
        list_images(tmp_path)
    assert said in str(error.value)


def test_which_archives_a_path_names(tmp_path: Path) -> None:
    assert shard_names(tmp_path / "s-{08..11}.tar") == ["s-08.tar", "s-09.tar", "s-10.tar", "s-11.tar"]
    assert shard_names(tmp_path / "{a,b}.tar") == ["a.tar", "b.tar"]
    assert shard_names(typed("https://host/x/{0..1}.tar")) == ["0.tar", "1.tar"]
    assert images_root(typed("https://host/x/{0..1}.tar")) == Address("https://host/x")
    for wrong, said in (
        ("{0..999999999}.tar", "at most 100,000"),
        ("{1.." + "9" * 200 + "}.tar", "at most 100,000"),
        ("{a,b}" * 60 + ".tar", "at most 100,000"),
        ("{a,a}.tar", "only once"),
        ("{a..z}{a..z}{a..z}{a..z}.tar", "at most 100,000"),
        ("{a,{b,c}}.tar", "braces in braces"),
        ("{0.." + "9" * 4400 + "}.tar", "are invalid"),
        ("{a.tar", "braces"),
        ("{a,b}/x.tar", "several"),
    ):
        with pytest.raises(DataError) as error:
            shard_names(tmp_path / wrong)
        assert said in str(error.value)


def test_a_folder_may_be_called_as_an_archive(tmp_path: Path) -> None:
    root = tmp_path / "photos.tar"
    for name in ("a", "b.tar"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            (root / name / f"{number}.png").write_bytes(png(ord(name[0]) * 10 + number))
    found = surveyed(root, "multiclass")
    assert found.layout == "folders"
    assert member_of(root, "b.tar/0.png") is None
    assert open_hashed(ImageStore(root)[found.dataset.entries[-1]])[1] == found.dataset.entries[-1].sha256


def test_a_shard_that_changes_or_goes_is_noticed(tmp_path: Path) -> None:
    write_shards(source(tmp_path / "data"), tmp_path / "out", per_shard=12)
    found = surveyed(tmp_path / "out").dataset
    store, entry = ImageStore(found.root), found.entries[0]
    image = store[entry]
    open_hashed(image)
    shard = tmp_path / "out" / "0000.tar"
    written(shard, {"000000000": {"png": png(5), "json": {"labels": ["x"]}}, "000000001": {"png": png(6)}})
    with pytest.raises(DataError, match="has changed since training"):
        open_hashed(image)
    shard.unlink()
    with pytest.raises(DataError, match="an image of the run is missing") as error:
        _ = store[entry]
    assert error.value.where == str(tmp_path / "out" / entry.path)


def test_few_archives_are_open_at_a_time(tmp_path: Path) -> None:
    for number in range(MOST_OPEN + 40):
        written(tmp_path / f"{number:03d}.tar", {f"{number}": {"png": png(number), "json": {"labels": ["a"]}}})
        assert has_member(tmp_path / f"{number:03d}.tar", f"{number}.png")
    open_files = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink() and path.exists()]
    held = [path for path in open_files if path.parent == tmp_path]
    assert len(held) <= MOST_OPEN


def test_nothing_is_written_over_and_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = source(tmp_path / "data")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="must not exist yet"):
        write_shards(table, tmp_path / "out")

    def full(self: object, content: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ftx.data.shards.write._HashedFile.write", full)
    with pytest.raises(EnvironmentFault, match="the disk is full"):
        write_shards(table, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


def test_an_archive_that_leads_back_into_itself_ends(tmp_path: Path) -> None:
    """A pax header may state a size below 0, behind which old readers go round for ever (CVE-2025-8194)."""
    shard = written(tmp_path / "0.tar", labelled("a", "b"))
    with tarfile.open(tmp_path / "pax.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("evil.png")
        info.pax_headers = {"size": "-1536"}
        archive.addfile(info)
    evil = (tmp_path / "pax.tar").read_bytes().rstrip(b"\0")
    evil += bytes(-len(evil) % 512)
    shard.write_bytes(shard.read_bytes()[:1024] + evil + bytes(1024))
    with pytest.raises(DataError):
        list_images(shard)


@pytest.mark.parametrize("per_shard", [5, 8, 24, 100])
def test_shards_json_says_what_each_archive_holds(per_shard: int, tmp_path: Path) -> None:
    """24 images: the last archive has what is left."""
    report = write_shards(source(tmp_path / "data"), tmp_path / "out", per_shard=per_shard)
    described = read_shards_json(tmp_path / "out")
    assert described is not None
    sizes = {5: [5, 5, 5, 5, 4], 8: [8, 8, 8], 24: [24], 100: [24]}[per_shard]
    assert [shard.images for shard in described.shards] == sizes
    for shard in described.shards:
        content = (tmp_path / "out" / shard.name).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(content), sha256(content).hexdigest())
        with tarfile.open(tmp_path / "out" / shard.name) as archive:
            assert len(archive.getnames()) == 2 * shard.images
    assert (described.images, report.images, report.shards) == (24, 24, len(sizes))
    assert report.bytes == sum(shard.bytes for shard in described.shards)


class Meanwhile(Listener):
    """Does something when a stretch of work begins."""

    def __init__(self, description: str, do: Callable[[], object]) -> None:
        super().__init__()
        self.description, self.do = description, do

    def track(self, description: str, total: int | None) -> Any:
        if description == self.description:
            self.do()
        return super().track(description, total)


def test_an_image_that_changes_while_shards_are_written_ends_it(tmp_path: Path) -> None:
    """Nothing is written under the hash of other bytes, be they as many as before; and nothing half."""
    table = source(tmp_path / "data")
    one = tmp_path / "data" / "pictures.v2" / "a b.7.PNG"
    content = bytearray(one.read_bytes())
    content[-20] ^= 1
    progress = Meanwhile("Writing shards", lambda: one.write_bytes(content))
    with pytest.raises(DataError, match="an image changed while it was read") as error:
        write_shards(table, tmp_path / "out", per_shard=5, progress=progress)
    assert error.value.where == "pictures.v2/a b.7.PNG"
    assert not (tmp_path / "out").exists()


def test_what_an_image_says_of_its_split_comes_before_its_archive(tmp_path: Path) -> None:
    shard = written(
        tmp_path / "set-train-0.tar",
        {
            "a": {"png": png(1), "json": {"labels": ["x"], "split": "test"}},
            "b": {"png": png(2), "json": {"labels": ["x"], "split": ""}},
            "c": {"png": png(3), "json": {"labels": ["y"]}},
        },
    )
    assert [file.split for file in list_images(shard).files] == ["test", "train", "train"]


def test_what_the_source_declares_of_its_labels_is_kept_by_shards(tmp_path: Path) -> None:
    """Labels that exclude each other, their parents, and singles, which no path of an image would tell."""
    table = write_datumaro(tmp_path / "data", GROUPS)
    write_shards(table, tmp_path / "out")
    before, after = (survey(path, "hierarchical", val_fraction=0.2).dataset for path in (table, tmp_path / "out"))
    assert after.labels == before.labels
    assert after.labels.groups == (("animal", "vehicle"), ("cat", "dog"))
    assert dict(after.labels.parents) == {"cat": "animal", "dog": "animal"}
    declared, stated = list_images(table).declared, read_shards_json(tmp_path / "out")
    assert stated is not None
    assert stated.labels.open() == declared


def test_archives_that_were_read_last_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftx.data.shards.shard_store.MOST_OPEN", 2)
    for name in "abc":
        written(tmp_path / f"{name}.tar", {name: {"png": png(ord(name))}})
    for name in "abac":
        assert has_member(tmp_path / f"{name}.tar", f"{name}.png")
    open_files = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink() and path.exists()]
    assert {path.name for path in open_files if path.parent == tmp_path} == {"a.tar", "c.tar"}


def test_at_an_address_no_other_format_is_read() -> None:
    with pytest.raises(DataError, match="must be auto for a URL") as caught:
        list_images(Address("https://host/x.tar"), form="voc_classification")
    assert "voc_classification" in str(caught.value.found)
