"""The store of images: an image's bytes, wherever they lie, and the one place where they are decoded."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ftx.core.addresses import Address, Location
from ftx.core.errors import DataError, EnvironmentFault, FtxError, ImageError, InputError
from ftx.core.untrusted_input import open_file
from ftx.data.dataset import Entry
from ftx.data.decode import decode, read_header, to_rgb
from ftx.data.decode_limits import FILES, MAX_FILE_BYTES, decoding_bytes
from ftx.data.shards.paths import member_of
from ftx.data.shards.shard_store import has_member, open_member

_RESTORE_IMAGE = "restore the image that the run was trained on"


@dataclass(frozen=True)
class EncodedImage:
    """An image before it is decoded: what errors and reports call it, and how to open its bytes.

    ``sha256`` is what the bytes must hash to, where that is known; whatever decodes them checks it.
    """

    name: str
    open: Callable[[], BinaryIO] = field(repr=False)
    sha256: str | None = None

    @classmethod
    def of(cls, given: ImageLike) -> EncodedImage:
        """An image in a file, or one that was sent as bytes."""
        if isinstance(given, EncodedImage):
            return given
        if isinstance(given, bytes):
            return cls("<bytes>", partial(io.BytesIO, given))
        return cls(str(given), partial(open_file, given))

    @property
    def key(self) -> str:
        """Its identity as hex: the hash of its bytes, or of its name if that is unknown."""
        return self.sha256 or sha256(self.name.encode(errors="surrogateescape")).hexdigest()


ImageLike = EncodedImage | Path | bytes


class Item(NamedTuple):
    """One of the images to be predicted, under the name that it was given; or the error that takes its place."""

    name: str
    image: EncodedImage | ImageError

    @classmethod
    def of(cls, image: EncodedImage) -> Item:
        """An image under its own name."""
        return cls(image.name, image)


# Pixels in memory: Pillow's image, or RGB of 8 bits. Shape: [H, W, 3].
InMemory = Image.Image | NDArray[np.uint8]


def in_memory(pixels: InMemory, name: str) -> EncodedImage:
    """An image whose pixels are in memory, upright and in RGB as a viewer shows them once it is opened.

    Raises: InputError for an array of another shape or type.
    """
    if not isinstance(pixels, Image.Image):
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            found = f"{pixels.dtype} {list(pixels.shape)}"
            raise InputError(
                "pixels must be RGB of 8 bits", found=found, fix="give a uint8 array of [height, width, 3]"
            )
        pixels = Image.fromarray(pixels)
    return EncodedImage(name, partial(_as_file, pixels))


def _as_file(pixels: Image.Image) -> io.BytesIO:
    file = io.BytesIO()
    to_rgb(ImageOps.exif_transpose(pixels)).save(file, "PPM")
    file.seek(0)
    return file


@dataclass(frozen=True)
class ImageStore:
    """The images of a data set, each a file below ``root``, or a member of a shard there."""

    root: Location

    def __getitem__(self, entry: Entry) -> EncodedImage:
        """The image of an entry; decoding it raises DataError if it is no longer the one that the run was made with.

        Raises: DataError if it is gone.
        """
        member = member_of(self.root, entry.path)
        if member is not None:
            there = has_member(*member)
        else:
            there = isinstance(self.root, Path) and (self.root / entry.path).is_file()
        if not there:
            where = f"{self.root}/{entry.path}"
            raise DataError(
                "an image of the run is missing",
                where=where,
                fix="restore the file, or give the folder of the images: --data DIR",
            )
        return self.at(entry.path, entry.sha256)

    def at(self, path: str, sha256: str | None = None) -> EncodedImage:
        """The image at a path below the root, whatever its bytes are if no hash is given."""
        member = member_of(self.root, path)
        if member is not None:  # at an address, too, it may have a name that no file has
            return EncodedImage(f"{self.root}/{path}", partial(open_member, *member), sha256)
        file = self.root / path
        if isinstance(file, Address):
            raise ImageError(
                "images at a URL must be in shards",
                where=file,
                fix="give the shards, as in https://host/{0..9}.tar",
            )
        return replace(EncodedImage.of(file), sha256=sha256)


def open_image(given: ImageLike) -> Image.Image:
    """Decode an image as a viewer shows it: upright, in RGB, what is transparent over white.

    Of an animation the first frame; colour profiles are not applied, as timm's transform applies none.
    Raises: ImageError if it is missing, no regular file, broken, of a kind with no agreed look, or would cost more
    than ``ftx.data.decode_limits`` allow; DataError if its bytes are not those of its hash.
    """
    with _content(EncodedImage.of(given)) as content:
        return decode(content)


def open_hashed(given: ImageLike, known: Callable[[str], bool] | None = None) -> tuple[Image.Image | None, str]:
    """An image, and the SHA-256 of the very bytes that it was decoded from; None where that is ``known`` to decode.

    Raises: as ``open_image``.
    """
    with _content(EncodedImage.of(given)) as content:
        digest = sha256(content).hexdigest()
        return None if known is not None and known(digest) else decode(content), digest


class OpenImageFile:
    """An image whose file is open, and how much memory decoding it takes by its header; 0 if that cannot be read.

    So one thread can open many images in order, and know their sizes, while several read and decode them.
    Decoding parses the header again, from the hashed bytes: 0.03 ms of 1.2 ms for a JPEG of 640 x 480. To pass it on,
    the whole file would have to be in memory before its turn.
    """

    def __init__(self, given: ImageLike) -> None:
        self.size_bytes = 0
        self._stream: BinaryIO | None = None
        self._error: FtxError | None = None
        try:
            self._image = EncodedImage.of(given)
            with _image_faults(self._image.name):
                self._stream = self._image.open()
        except FtxError as error:
            self._error = error
            return
        with suppress(Exception):  # decoding it raises the error
            self.size_bytes = _size_bytes(self._stream) + decoding_bytes(read_header(self._stream))

    def __del__(self) -> None:
        if self._stream is not None:
            self._stream.close()  # of an image that nobody decodes any more

    def decode(self) -> Image.Image:
        """As ``open_image``."""
        if self._error is not None:
            raise self._error
        with _content(self._image, self._stream) as content:
            return decode(content)


@contextmanager
def _content(image: EncodedImage, opened: BinaryIO | None = None) -> Generator[bytes, None, None]:
    """The bytes of an image, while they are decoded."""
    with _image_faults(image.name), image.open() if opened is None else opened as stream:
        size_bytes = _size_bytes(stream)
        with FILES.holding(size_bytes):
            content = stream.read(size_bytes)
            if image.sha256 not in (None, sha256(content).hexdigest()):
                raise DataError("an image of the run has changed since training", where=image.name, fix=_RESTORE_IMAGE)
            yield content


def _size_bytes(stream: BinaryIO) -> int:
    size_bytes = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if size_bytes > MAX_FILE_BYTES:
        found = f"{size_bytes / 1e6:,.0f} MB of at most {MAX_FILE_BYTES / 1e6:.0f}"
        raise ImageError("the image's file is too large", found=found, fix="scale the image down, or compress it more")
    return size_bytes


@contextmanager
def _image_faults(name: str) -> Generator[None, None, None]:
    """Turn whatever goes wrong with an image into an ImageError that names it."""
    try:
        yield
    except (DataError, EnvironmentFault):  # of the data, or of a network: not of one image
        raise
    except FileNotFoundError as error:
        raise ImageError("the image does not exist", where=name, fix="check the path of the image") from error
    except FtxError as error:
        raise ImageError(error.what, where=name, found=error.found, fix=error.fix) from error
    except Exception as error:  # Pillow's decoders let struct, value and memory errors through on damaged files
        found = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError("the image cannot be read", where=name, found=found, fix="copy the file again") from error
