"""From an image's bytes to pixels as a viewer shows them: upright by EXIF, in RGB, what is transparent over white.

``ftx.data.decode_limits`` limits what an image may cost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile
from PIL.ExifTags import Base as Exif
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION

from ftx.core.errors import ImageError
from ftx.data.decode_limits import (
    DECODING,
    LimitedStream,
    check_directory,
    check_scans,
    check_size,
    decoding_bytes,
    is_sound_exif,
)

# What a camera, a browser or a scanner writes. Pillow reads more: some by starting another program
# (Ghostscript for EPS), some without a signature, so that any bytes may pass for an image.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "JPEG2000", "PPM")
Image.init()  # loads Pillow's readers; here, as it is not made for several threads at once
# An image lies in one piece of memory, not in pieces of 16 MB: the C library gives those over 32 MB back to the system
# when they are freed, and keeps smaller ones, for each thread. Six images of 25 megapixels, one after the other in six
# threads, took 700 MB and take 171.
Image.core.set_block_size(1 << 30)

# Rows that are converted at a time, in pixels: a megabyte of RGB.
_BAND_PIXELS = 1 << 18

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(content: bytes) -> Image.Image:
    """The first frame of an image; colour profiles are not applied, as timm's transform applies none.

    Raises: ImageError if it is no image, has no agreed look, or would cost more than ``ftx.data.decode_limits`` allow;
    what Pillow's readers raise if it is damaged.
    """
    stream = LimitedStream(content)
    try:
        image = read_header(stream)
        check_size(image)
        check_scans(image, content)
        with DECODING.holding(decoding_bytes(image)):
            image.load()
            turn = _turn(image)
            rgb = to_rgb(image)
            del image  # its pixels go before those of the turned image come
            return rgb if turn is None else rgb.transpose(turn)
    except Image.DecompressionBombError as error:  # WebP's reader checks before it allocates
        raise ImageError("the image is too large", found=str(error), fix="scale the image down") from error
    except Exception as error:
        if stream.exceeded is not None:  # Pillow may have made another error of it
            raise stream.exceeded from error
        raise


def read_header(stream: BinaryIO) -> ImageFile.ImageFile:
    """An image of which only the header is read.

    It is what Image.open does for these formats, but without its warning of large images: a warning can be
    silenced for the whole process only, and threads decode here. ``check_size`` rejects them.
    Raises: ImageError if it is none; what Pillow's readers raise if it is broken.
    """
    start = stream.read(512)
    if not start:
        raise ImageError("the image is empty", found="0 bytes", fix="copy the file again")
    for name in FORMATS:
        opened, signed = Image.OPEN.get(name, (None, None))
        if opened and signed and signed(start[:16]) is True:  # a text: this build of Pillow lacks the format
            if name == "TIFF":
                check_directory(stream)
            stream.seek(0)
            return opened(stream, "")
    raise ImageError("the file must be an image", found=_kind(start), fix=f"save it as one of {', '.join(FORMATS)}")


def _kind(start: bytes) -> str:
    if re.search(rb"<(!doctype\s+html|html|head|body)\b", start, re.IGNORECASE):
        return "an HTML page (a download that failed?)"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (git lfs pull fetches the image)"
    first = start[:8]
    text = first.decode("ascii", "replace").strip()
    return f"it begins with {text!r}" if text.isprintable() and text.isascii() else f"it begins with {first.hex(' ')}"


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How EXIF says that an image is to be turned; TIFF's reader has done so itself."""
    try:
        if not is_sound_exif(image.info.get("exif", b"")):
            return None
        return _TURNS.get(int(image.getexif().get(Exif.Orientation, 1)))
    except Exception:  # a viewer shows an image whose EXIF is broken as it lies
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes in RGB as a viewer shows it, what is transparent over white.

    Raises: ImageError where no brightness is agreed on: floats, integers beyond 16 bits.
    """
    if image.mode == "F":
        found = "floating-point pixels"
        raise ImageError(
            "the image must have brightness values of 8 or 16 bits", found=found, fix="save the image with 8 or 16 bits"
        )
    if not (image.mode.startswith("I") or image.mode == "La" or image.has_transparency_data):
        return image if image.mode == "RGB" else image.convert("RGB")
    # By bands, as what lies between takes several times the memory of the image.
    to_grey = _eight_bits(image) if image.mode.startswith("I") else None
    rgb = Image.new("RGB", image.size)
    for top, band in _bands(image):
        rgb.paste(_over_white(band if to_grey is None else to_grey(band)), (0, top))
    return rgb


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Some rows after the others, each with the number of its first."""
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # Pillow knows no way from here to RGBA
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    over = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")


def _eight_bits(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """12 and 16-bit grey by its eight high bits, as Pillow and libpng bring 16-bit colour to 8: what does it to a band.

    Raises: ImageError if a value has more bits.
    """
    tags = getattr(image, "tag_v2", {})  # a TIFF's: 12 bits fill a part of the range, and 0 may be white
    (stored,) = tags.get(BITSPERSAMPLE, (16,))
    bits = min(stored, 16)
    ends = [(int(values.min()), int(values.max())) for _, band in _bands(image) for values in (np.asarray(band),)]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    if low < 0 or high >= 1 << bits:
        found = f"grey values from {low} to {high}"
        raise ImageError(
            "the image must have brightness values of 8 or 16 bits", found=found, fix="save the image with 8 or 16 bits"
        )
    white_is_zero = tags.get(PHOTOMETRIC_INTERPRETATION) == 0
    key = image.info.get("transparency")  # a PNG's: the grey that stands for nothing

    def to_grey(band: Image.Image) -> Image.Image:
        values = np.asarray(band)
        grey = (values >> (bits - 8)).astype(np.uint8)
        if white_is_zero:
            grey = 255 - grey
        if key is None:
            return Image.fromarray(grey)
        alpha = np.where(values == key, 0, 255).astype(np.uint8)
        return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))

    return to_grey
