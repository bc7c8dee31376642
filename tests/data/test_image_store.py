"""An image is the same wherever its bytes lie, and is decoded only if they are the ones that were asked for."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ftx.core.addresses import Address
from ftx.core.byte_semaphore import ByteSemaphore
from ftx.core.errors import DataError, ImageError
from ftx.data import image_store as images
from ftx.data.dataset import Entry
from ftx.data.decode_limits import FILES
from ftx.data.image_store import EncodedImage, ImageLike, ImageStore, OpenImageFile, open_hashed, open_image
from ftx.data.preprocess import Preprocess, load_pixels

PRE = Preprocess(8, 8, 8, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NOISE = np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8)
PIXELS = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)


def png(pixels: np.ndarray = PIXELS) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def stored(tmp_path: Path) -> tuple[ImageStore, Entry]:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(png())
    return ImageStore(tmp_path), Entry("a/1.png", sha256(png()).hexdigest(), ("a",), "test")


def test_a_file_its_bytes_and_a_member_of_an_archive_are_one_image(
    stored: tuple[ImageStore, Entry], tmp_path: Path
) -> None:
    store, entry = stored
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("1.png", png())
        archive.writestr("2.png", b"nonsense")
    member, broken = (
        EncodedImage(f"all.zip/{name}", partial(zipfile.Path(tmp_path / "all.zip", name).open, "rb"))
        for name in ("1.png", "2.png")
    )
    given: list[ImageLike] = [tmp_path / "a" / "1.png", png(), member, store[entry], store.at("a/1.png")]
    for image in given:
        np.testing.assert_array_equal(np.asarray(open_image(image)), PIXELS)
        np.testing.assert_array_equal(load_pixels(image, PRE), load_pixels(png(), PRE))
        assert open_hashed(image)[1] == entry.sha256
        assert OpenImageFile(image).size_bytes == 8 * PIXELS.nbytes // 3 + len(png())
    with pytest.raises(ImageError, match="the file must be an image") as caught:
        open_image(broken)
    assert caught.value.where == "all.zip/2.png"


class CountBatch(io.BytesIO):
    """A file that counts the bytes which are read of it."""

    read_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        some = super().read(size)
        self.read_bytes += len(some)
        return some


@pytest.mark.parametrize("content", [png(NOISE), b"nonsense" * 100_000], ids=["image", "damaged"])
def test_an_opened_image_is_in_memory_only_while_it_is_decoded(content: bytes) -> None:
    """So a thread can open many images ahead, and several threads read them: each whole file within one budget."""
    file, held_bytes = CountBatch(content), []
    opened = OpenImageFile(EncodedImage("1.png", lambda: file))
    assert file.read_bytes < 20_000 < len(content)

    class Noted(ByteSemaphore):
        def holding(self, size_bytes: int) -> AbstractContextManager[None]:
            held_bytes.append(size_bytes)
            return super().holding(size_bytes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "FILES", Noted(1 << 30))
        with suppress(ImageError):
            opened.decode()
    assert (file.read_bytes >= len(content), held_bytes, file.closed) == (True, [len(content)], True)


def test_an_image_that_nobody_decodes_is_closed() -> None:
    file = io.BytesIO(png())
    opened = OpenImageFile(EncodedImage("1.png", lambda: file))
    assert not file.closed
    del opened
    assert file.closed


def test_an_entry_whose_image_is_gone_is_named_at_once(stored: tuple[ImageStore, Entry]) -> None:
    store, entry = stored
    (store.root / entry.path).unlink()
    with pytest.raises(DataError, match="an image of the run is missing") as caught:
        store[entry]
    assert caught.value.where == str(store.root / "a" / "1.png")
    assert "--data DIR" in str(caught.value.fix)
    (store.root / entry.path).mkdir()  # nor is a folder of its name the image
    with pytest.raises(DataError, match="missing"):
        store[entry]


@pytest.mark.parametrize("content", [png(255 - PIXELS), png()[:200], b"nonsense", b""])
def test_an_entry_whose_image_has_changed_is_not_decoded(stored: tuple[ImageStore, Entry], content: bytes) -> None:
    store, entry = stored
    image = store[entry]
    (store.root / entry.path).write_bytes(content)
    for read in (open_image, open_hashed, lambda image: load_pixels(image, PRE)):
        with pytest.raises(DataError, match="has changed since training") as caught:
            read(image)
        assert (caught.value.where, caught.value.fix) == (
            str(store.root / "a" / "1.png"),
            "restore the image that the run was trained on",
        )


def test_a_hash_that_is_not_known_is_not_asked_for(stored: tuple[ImageStore, Entry]) -> None:
    store, entry = stored
    wrong = replace(entry, sha256="0" * 64)
    with pytest.raises(DataError):
        open_image(store[wrong])
    assert open_image(replace(store[wrong], sha256=None)).size == (12, 9)
    assert open_image(store.at(wrong.path)).size == (12, 9)


def test_bytes_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = png()
    monkeypatch.setattr(images, "MAX_FILE_BYTES", len(content))
    open_image(content)
    monkeypatch.setattr(images, "MAX_FILE_BYTES", len(content) - 1)
    with pytest.raises(ImageError, match="file is too large") as caught:
        open_image(content)
    assert caught.value.where == "<bytes>"


def test_the_budget_of_files_is_free_again_whatever_came_of_an_image(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(png()[:200])
    for image in (tmp_path / "cut.png", tmp_path / "gone.png", tmp_path, b"nonsense", png()):
        try:
            open_image(image)
        except ImageError:
            pass
        else:
            assert image == png()
    with FILES.holding(FILES.limit_bytes):  # waits for ever while anything is held
        pass


def test_bytes_are_not_shown_with_an_image() -> None:
    assert "PNG" not in repr(EncodedImage.of(png()))


class Watched(io.BytesIO):
    """A file that does something when it is read for good: not for its size, which is asked for by a seek."""

    def __init__(self, content: bytes, do: Callable[[], object]) -> None:
        super().__init__(content)
        self.do = do

    def read(self, size: int | None = -1, /) -> bytes:
        self.do()
        return super().read(size)


@pytest.mark.parametrize("spare", [-1, 0])
def test_files_that_threads_read_at_once_are_held_to_one_budget(spare: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one is read, another begins only if both fit; and it does once the first is done."""
    content = png()
    budget = ByteSemaphore(2 * len(content) + spare)
    monkeypatch.setattr(images, "FILES", budget)
    began = threading.Event()
    other = threading.Thread(target=open_image, args=(EncodedImage("b", lambda: Watched(content, began.set)),))
    met: list[bool] = []

    def meanwhile() -> None:
        if not other.ident:
            other.start()
            met.append(began.wait(0.3 if spare < 0 else 120))  # what must not happen is given as long as it takes

    open_image(EncodedImage("a", lambda: Watched(content, meanwhile)))
    other.join(120)
    assert met == [spare == 0]
    assert began.is_set()
    with budget.holding(budget.limit_bytes):  # all of it was given back
        pass


@pytest.mark.parametrize("name", ["IMG #1.jpg", "a?b.png", "a::b.png", "x\\y.png"])
def test_a_member_of_a_shard_at_an_address_may_be_called_as_no_file_there_is(name: str) -> None:
    image = ImageStore(Address("https://host/data")).at(f"0.tar/{name}")
    assert image.name == f"https://host/data/0.tar/{name}"
