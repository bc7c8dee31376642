"""A damaged or hostile update ends in one error before it costs memory, and nothing is at its place."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save
from tests.updating.test_apply import repacked, shipped

from ftx.core.errors import ExportError
from ftx.runs.update_zip import MOST_TIMES, SMALL_BYTES, read_update, write_update
from ftx.updating.apply import apply

__all__ = ["shipped"]

ANSWERS = "answers.safetensors"


def header(document: dict[str, object], data: bytes = b"") -> bytes:
    text = json.dumps(document).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(kind: str, shape: list[int], size: int) -> dict[str, object]:
    return {"logits": {"dtype": kind, "shape": shape, "data_offsets": [0, size]}}


# What takes the place of the answers, or what is made of them.
WRONG: dict[str, bytes | Callable[[bytes], bytes]] = {
    "garbage": b"\x93NUMPY" * 40,
    "empty": b"",
    "a header of 2^63": struct.pack("<Q", 1 << 63) + b"{}",
    "a header of 99 MB": struct.pack("<Q", 99_000_000) + b"{" + b" " * 99_000_000,
    "truncated": lambda content: content[:-7],
    "bf16": header(tensor("BF16", [2, 1], 4), b"\0" * 4),
    "f8": header(tensor("F8_E4M3", [2, 2], 4), b"\0" * 4),
    "whole numbers": save({"logits": np.zeros((2, 4), np.int64)}),
    "no logits": lambda content: save({name: one for name, one in load(content).items() if name != "logits"}),
    "nothing": header({}),
    "of other images": lambda content: save(load(content) | {"logits": np.zeros((3, 4), np.float32)}),
    "of other labels": lambda content: save(load(content) | {"logits": np.zeros((64, 9), np.float32)}),
    "not finite": lambda content: save(load(content) | {"logits": np.full((64, 4), np.nan, np.float32)}),
    "a shape of one": lambda content: save(load(content) | {"logits": np.zeros(4, np.float32)}),
    "targets of other labels": lambda content: save(load(content) | {"targets": np.zeros((64, 9), np.float32)}),
}


def with_answers(update: Path, target: Path, wrong: bytes | Callable[[bytes], bytes]) -> Path:
    """An update whose hashes hold."""
    said, files = read_update(update)
    files[ANSWERS] = wrong(files[ANSWERS]) if callable(wrong) else wrong
    write_update(target, said, files)
    return target


@pytest.mark.parametrize("name", WRONG)
def test_answers_that_do_not_hold_are_refused(name: str, shipped: Path, tmp_path: Path) -> None:
    update = with_answers(shipped / "one", tmp_path / "update", WRONG[name])
    with pytest.raises(Exception) as caught:  # noqa: PT011
        apply(update, shipped / "base", tmp_path / "device" / "model")
    assert getattr(caught.value, "exit_code", 70) in (1, 2), caught.value
    # By its own name, before anything is merged; how many images the base has is known later.
    assert name == "of other images" or getattr(caught.value, "where", None) == str(update)
    assert list((tmp_path / "device").iterdir()) == []


def test_a_byte_anywhere_is_noticed(shipped: Path, tmp_path: Path) -> None:
    """But for those that mean nothing, as of a date: what is unpacked is then the same."""
    whole, said = (shipped / "one").read_bytes(), read_update(shipped / "one")
    chance = random.Random(0)
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        (tmp_path / "update").write_bytes(content)
        try:
            assert read_update(tmp_path / "update") == said
        except ExportError:
            refused += 1
    assert refused > 250


def zeros(size: int) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update({ANSWERS: bytes(size)})


def many(files: dict[str, bytes]) -> None:
    files.update({f"{number}.bin": b"" for number in range(5_000)})


@pytest.mark.parametrize(
    "change",
    [
        zeros(60_000_000),
        lambda files: files.update({name: bytes(12_000_000) for name in (ANSWERS, "adapter_model.safetensors")}),
        lambda files: files.update({"update.json": b" " * 70_000_000}),
        many,
        lambda files: files.update({"../outside": b"x"}),
        lambda files: files.update({"README.md": b"x"}),
    ],
    ids=["zeros", "twice", "blanks", "5,000 files", "outside", "another file"],
)
def test_what_no_update_has_is_refused_before_it_is_unpacked(
    change: Callable[[dict[str, bytes]], None], shipped: Path, tmp_path: Path
) -> None:
    plain = repacked(shipped / "one", tmp_path / "plain", change)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(tmp_path / "update", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    tracemalloc.start()
    try:
        with pytest.raises(ExportError, match=r"must be an update|too large when unpacked"):
            read_update(tmp_path / "update")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert not (tmp_path / "outside").exists()


def test_a_large_update_is_taken_up_to_the_bound(shipped: Path, tmp_path: Path) -> None:
    """An adapter that was not trained yet has zeros in it."""
    half = zeros(MOST_TIMES * (shipped / "one").stat().st_size // 2)
    assert MOST_TIMES * (shipped / "one").stat().st_size < SMALL_BYTES
    packed = repacked(shipped / "one", tmp_path / "update", half)
    with pytest.raises(ExportError, match="changed since ftx wrote it"):  # its hash is another: it was unpacked
        read_update(packed)


def with_entry(source: Path, target: Path, *, method: int, says: int | None = None) -> Path:
    """An update whose answers are 60 MB of zeros, and whose entry says that they are ``says`` bytes."""
    with zipfile.ZipFile(source) as given, zipfile.ZipFile(target, "w") as made:
        for name in given.namelist():
            content = bytes(60_000_000) if name == ANSWERS else given.read(name)
            made.writestr(name, content, method if name == ANSWERS else zipfile.ZIP_DEFLATED)
        size = made.getinfo(ANSWERS).file_size
    if says is not None:
        content = target.read_bytes()
        assert content.count(struct.pack("<I", size)) == 2  # before the file, and in the directory
        target.write_bytes(content.replace(struct.pack("<I", size), struct.pack("<I", says)))
    return target


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("says", [1, 1000, 900_000])
def test_an_entry_that_says_less_than_it_holds_is_not_unpacked(
    method: int, says: int, shipped: Path, tmp_path: Path
) -> None:
    hostile = with_entry(shipped / "one", tmp_path / "update", method=method, says=says)
    tracemalloc.start()
    try:
        with pytest.raises(ExportError, match="the update cannot be read"):
            read_update(hostile)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("where", ["directory", "file"])
def test_a_name_that_is_no_text_is_an_error(where: str, shipped: Path, tmp_path: Path) -> None:
    content = bytearray((shipped / "one").read_bytes())
    mark, flags, name = (b"PK\x01\x02", 8, 46) if where == "directory" else (b"PK\x03\x04", 6, 30)
    at = content.index(mark)
    content[at + flags + 1] |= 0x08  # names are UTF-8
    content[at + name] = 0xFF
    (tmp_path / "update").write_bytes(content)
    with pytest.raises(ExportError):
        read_update(tmp_path / "update")
