"""What one image may cost, checked before it is decoded if its file shows it, and otherwise while it is decoded.

A few kilobytes can need gigabytes and minutes. The limits allow the photographs of telephones and medium-format cameras
(108 and 102 megapixels) and scans (A3 at 600 dpi: 70).
"""

from __future__ import annotations

import io
import re
import struct
import time
from typing import BinaryIO

from PIL import Image

from ftx.core.byte_semaphore import ByteSemaphore
from ftx.core.errors import ImageError

MAX_PIXELS = 1 << 27
# The centre crop of a longer strip shows next to nothing of it, and its resized long side has no bound.
MAX_ASPECT = 32
# The largest image at four bytes a pixel, not compressed.
MAX_FILE_BYTES = 1 << 29
# Decoding one image. With the bytes below: 100 megapixels of JPEG 2000, 125 of WebP, 134 of anything else.
MAX_DECODING_BYTES = 2_000_000_000
# Bytes a pixel that decoding takes at most, measured by the peak of a process; twice four unless the format is listed:
# Pillow holds RGB in four, and a copy is made of what must be converted or turned. A progressive JPEG holds two for
# each of its (at most four) coefficients in addition.
PIXEL_BYTES = 8
_PIXEL_BYTES = {"JPEG": 12, "MPO": 12, "WEBP": 16, "AVIF": 12, "JPEG2000": 20}
# Each scan of a progressive JPEG walks over all pixels. Programs write 4 to 20; the largest image may have 16.
MAX_SCANNED_PIXELS = 16 * MAX_PIXELS
# What decoding may take of one core: the largest images take 1 to 10 seconds of a server's, an edge device's is slower.
MAX_DECODING_S = 60.0
# A decoder reads its file once or twice; a directory of a TIFF may point at the same bytes thousands of times.
MAX_READ_TIMES = 8
# Bytes that the entries of such a directory may hold, in addition to a megabyte.
MAX_HELD_TIMES = 2
_SLACK_BYTES = 1 << 20
# Numbers in one entry of a TIFF's directory, each 36 bytes and more in memory: a strip a line and more.
MAX_ENTRY_NUMBERS = 1 << 20
_SAVE_AGAIN = "open the image in an image editor, and save it as a new file"


# All threads together: files that are read whole, and what is being decoded of them.
FILES = ByteSemaphore(MAX_FILE_BYTES)
DECODING = ByteSemaphore(MAX_DECODING_BYTES)


def decoding_bytes(image: Image.Image) -> int:
    """Memory that decoding takes, by an image's header."""
    return image.width * image.height * _PIXEL_BYTES.get(image.format or "", PIXEL_BYTES)


def too_narrow(width: int, height: int) -> ImageError:
    """The error of an image whose longer side is more than ``MAX_ASPECT`` times the shorter."""
    return ImageError(
        f"the longer side of the image must be at most {MAX_ASPECT} times the shorter",
        found=f"{width} x {height} pixels",
        fix="crop the image, or cut it into several",
    )


def check_size(image: Image.Image) -> None:
    """Raise ImageError for an image of too many pixels, or too long a strip, by its header."""
    pixels, shape = image.width * image.height, f"{image.width} x {image.height}"
    if pixels > MAX_PIXELS:
        found = f"{shape}, {pixels / 1e6:.0f} megapixels of at most {MAX_PIXELS / 1e6:.0f}"
        raise ImageError("the image is too large", found=found, fix="scale the image down")
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise too_narrow(image.width, image.height)
    if (needed := decoding_bytes(image)) > MAX_DECODING_BYTES:
        found = f"{shape} in {image.format}, {needed / 1e9:.1f} GB of at most {MAX_DECODING_BYTES / 1e9:.0f} to decode"
        raise ImageError(
            "the image is too large for its format", found=found, fix="scale the image down, or save it as PNG"
        )


def check_scans(image: Image.Image, content: bytes) -> None:
    """Raise ImageError for a JPEG that goes over its pixels too often."""
    if image.format not in ("JPEG", "MPO"):
        return
    most = MAX_SCANNED_PIXELS // (image.width * image.height)
    # The plain count, which is quick, takes thumbnails and chance for scans as well.
    if content.count(_SCAN) > most and (scans := count_scans(content)) > most:
        shape = f"{image.width} x {image.height}"
        raise ImageError(
            "the image has too many scans",
            found=f"{scans} scans for an image of {shape}; at most {most} are allowed",
            fix="save the image again as a baseline (not progressive) JPEG",
        )


_SCAN = b"\xff\xda"
# In the bits of a scan 0xFF stands before 0 or a restart marker, or before another 0xFF that fills.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")


def count_scans(content: bytes) -> int:
    """The scans of a JPEG's first image.

    Source: ITU-T T.81, B.1.1: each segment but those without a length names its own.
    """
    at, scans = 2, 0
    while (marker := _MARKER.search(content, at)) is not None:
        kind, at = marker[1][0], marker.end()
        if kind == 0xD9:  # the end of the image; what follows is another's
            break
        if kind in (0x01, 0xD8):
            continue
        scans += kind == 0xDA
        at += int.from_bytes(content[at : at + 2])
    return scans


def check_directory(stream: BinaryIO) -> None:
    """Raise ImageError for a TIFF whose first directory would take many times its file in memory."""
    entries = tiff_directory(stream)
    if crowded := [count for kind, count, _ in entries if kind not in _BYTE_KINDS and count > MAX_ENTRY_NUMBERS]:
        found = f"{max(crowded):,} numbers in one entry, at most {MAX_ENTRY_NUMBERS:,}"
        raise ImageError("the TIFF directory of the image is too large", found=found, fix=_SAVE_AGAIN)
    size_bytes, held_bytes = stream.seek(0, io.SEEK_END), sum(held for _, _, held in entries)
    if held_bytes > MAX_HELD_TIMES * size_bytes + _SLACK_BYTES:
        found = f"{held_bytes / 1e6:,.0f} MB in a file of {size_bytes / 1e6:,.1f}"
        raise ImageError(
            "the TIFF directory of the image must list each block of bytes only once",
            found=found,
            fix=_SAVE_AGAIN,
        )


def is_sound_exif(exif: bytes) -> bool:
    """Whether reading an EXIF block takes little more memory than the block has: each entry holds its own bytes."""
    content = exif.removeprefix(b"Exif\0\0")
    held_bytes = sum(held for _, _, held in tiff_directory(io.BytesIO(content)))
    return held_bytes <= MAX_HELD_TIMES * len(content) + _SLACK_BYTES


# Bytes of one value by its kind in TIFF 6.0 (page 15) and BigTIFF; byte, text and undefined are held as they stand.
_KIND_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_BYTE_KINDS = (1, 2, 7)


def tiff_directory(stream: BinaryIO) -> list[tuple[int, int, int]]:
    """The entries of the first directory of a TIFF or an EXIF block: kind, count of values, bytes that are read.

    Of a truncated or damaged directory, those that are complete.
    """
    size_bytes = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(16)
    order = ">" if head[:2] == b"MM" else "<"
    big = head[2:4] in (b"+\0", b"\0+")  # version 43, in either order
    start, number, entry = (order + form for form in (("Q", "Q", "HHQ8x") if big else ("I", "H", "HHI4x")))
    try:
        (at,) = struct.unpack_from(start, head, 8 if big else 4)
        stream.seek(min(at, size_bytes))
        (entries,) = struct.unpack(number, stream.read(struct.calcsize(number)))
    except struct.error:
        return []
    content = stream.read(min(entries * struct.calcsize(entry), size_bytes))
    whole = content[: len(content) - len(content) % struct.calcsize(entry)]
    return [
        (kind, count, min(count * _KIND_BYTES.get(kind, 0), size_bytes))
        for _, kind, count in struct.iter_unpack(entry, whole)
    ]


class LimitedStream(io.BytesIO):
    """A file's bytes for a decoder, which stops it if it has read, or computed, far more than an image needs.

    Pillow's decoders read a few kilobytes again and again, so each such read can end them.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._left_bytes = MAX_READ_TIMES * len(content) + _SLACK_BYTES
        self.exceeded: ImageError | None = None
        # In the time of the thread that decodes.
        self._until_s = time.thread_time() + MAX_DECODING_S

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._until_s:
            self._stop("the image takes too long to decode", f"more than {MAX_DECODING_S:.0f} s of one core")
        some = super().read(size)
        self._left_bytes -= len(some)
        if self._left_bytes < 0:
            self._stop("the image needs its file to be read too many times", f"more than {MAX_READ_TIMES} times")
        return some

    def _stop(self, what: str, found: str) -> None:
        self.exceeded = ImageError(what, found=found, fix="save the image again, or remove it from the data")
        raise self.exceeded
