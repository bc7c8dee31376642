from __future__ import annotations

import functools
import io
import math
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ftx.core.errors import ImageError
from ftx.data.decode import to_rgb
from ftx.data.decode_limits import MAX_PIXELS
from ftx.data.image_store import open_image
from ftx.data.preprocess import Preprocess, crop_fraction, load_pixels, normalise, resize_crop

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RED, WHITE = (255, 0, 0), (255, 255, 255)
Sides = tuple[int, int]
sides = st.integers(1, 400)


def recipe(size: int, crop_pct: float = 1.0, interpolation: Literal["bicubic", "bilinear"] = "bicubic") -> Preprocess:
    return Preprocess(size, size, math.floor(size / crop_pct), interpolation, MEAN, STD)


@given(height=sides, width=sides, box=st.tuples(sides, sides))
def test_a_side_of_a_box_is_rounded_to_the_nearest_and_half_to_even(height: int, width: int, box: Sides) -> None:
    """As Python rounds fractions, which are exact."""
    found = Preprocess(1, 1, box, "bicubic", MEAN, STD).resized(height, width)
    scale = max(Fraction(box[0], height), Fraction(box[1], width))  # what covers the box
    assert found == (round(scale * height), round(scale * width))


@given(height=sides, width=sides, box=st.tuples(sides, sides))
def test_the_share_of_a_crop_is_that_of_its_larger_cut(height: int, width: int, box: Sides) -> None:
    pre = Preprocess(min(height, box[0]), min(width, box[1]), box, "bicubic", MEAN, STD)
    # It may be a few units in the last place less, so that rounding down finds the box again.
    assert crop_fraction(pre) == pytest.approx(min(pre.height / box[0], pre.width / box[1]))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes = b"", extra: tuple[bytes, bytes] | None = None
) -> bytes:
    """A PNG by hand: for kinds and sizes that Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    middle = chunk(*extra) if extra else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + middle
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def colours(image: Image.Image) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


def photographs() -> list[Path]:
    """What the scikit-image wheel itself lists, without downloading."""
    wheel = distribution("scikit-image")
    names = (
        "astronaut.png",
        "chelsea.png",
        "coffee.png",
        "retina.jpg",
        "rocket.jpg",
        "camera.png",
        "motorcycle_left.png",
    )
    return [Path(str(file.locate())) for file in wheel.files or [] if file.name in names and "data" in file.parts]


# --- equal to timm


@functools.cache
def timm_transform(size: int, crop_pct: float, interpolation: str) -> Any:
    from timm.data.transforms_factory import create_transform

    return create_transform(
        (3, size, size), is_training=False, interpolation=interpolation, mean=MEAN, std=STD, crop_pct=crop_pct
    )


def assert_equals_timm(image: Image.Image, size: int, crop_pct: float, interpolation: Any) -> None:
    pre = recipe(size, crop_pct, interpolation)
    found = normalise(resize_crop(image, pre)[None], pre)[0]
    expected = timm_transform(size, crop_pct, interpolation)(image).numpy()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.95, 0.9, 0.875])
def test_photographs_equal_timm_to_the_bit(interpolation: str, crop_pct: float) -> None:
    assert len(photographs()) == 7
    for path in photographs():
        assert_equals_timm(open_image(path), 224, crop_pct, interpolation)


@settings(max_examples=80, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size=st.sampled_from([8, 15, 32]),
    crop_pct=st.sampled_from([1.0, 0.95, 0.875, 0.7]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)
def test_every_size_equals_timm_to_the_bit(
    width: int, height: int, size: int, crop_pct: float, interpolation: str
) -> None:
    # A taller image Pillow 13 resizes in another order: the next test.
    assert_equals_timm(noise(width, min(height, 2 * width)), size, crop_pct, interpolation)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_tall_image_is_resized_in_the_order_of_any_other(interpolation: Literal["bicubic", "bilinear"]) -> None:
    pre = recipe(64, 1.0, interpolation)
    tall = noise(150, 700)
    wide_first = tall.resize((64, 700), Image.Resampling[interpolation.upper()])
    expected = wide_first.resize((64, 64 * 700 // 150), Image.Resampling[interpolation.upper()])
    top = (expected.height - 64) // 2
    np.testing.assert_array_equal(resize_crop(tall, pre), np.asarray(expected)[top : top + 64])
    for path in photographs():
        strip = open_image(path).crop((100, 0, 200, 400))
        found, timms = (
            255 * (images * np.array(STD)[:, None, None] + np.array(MEAN)[:, None, None])
            for images in (
                normalise(resize_crop(strip, pre)[None], pre)[0],
                timm_transform(64, 1.0, interpolation)(strip).numpy(),
            )
        )
        # Two roundings to grey levels, the one or the other first, and bicubic held in 0..255 after each.
        assert np.abs(found - timms).max() < 3


def test_an_image_of_the_networks_size_is_left_alone() -> None:
    image = noise(32, 32)
    np.testing.assert_array_equal(resize_crop(image, recipe(32)), np.asarray(image))


@pytest.mark.parametrize(
    "changed",
    [
        {"resize": 31},
        {"height": 33},
        {"height": 0},
        {"width": 0},
        {"std": (0.2, 0.0, 0.2)},
        {"std": (0.2, 1e-40, 0.2)},  # above zero, and what is divided by it is infinite
        {"std": (0.2, math.nan, 0.2)},
        {"std": (0.2, math.inf, 0.2)},
        {"mean": (0.5, 1e300, 0.5)},
        {"mean": (0.5, math.nan, 0.5)},
    ],
    ids=lambda changed: str(changed),
)
def test_a_path_that_cannot_be_walked_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"crop of|(mean|std) of a channel"):
        Preprocess(
            **{"height": 32, "width": 32, "resize": 32, "interpolation": "bicubic", "mean": MEAN, "std": STD, **changed}
        )


# --- as a viewer shows it


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(noise(7, 4), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    found = open_image(content)
    assert found.size == ((4, 7) if orientation >= 5 else (7, 4))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x01"]
)
def test_a_broken_exif_block_turns_nothing(exif: bytes) -> None:
    assert open_image(encoded(noise(7, 4), "JPEG", exif=exif)).size == (7, 4)


def half_red(mode: str) -> Image.Image:
    """One opaque red (or black) pixel, one pixel of which nothing may be seen."""
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    return image.convert(mode)


def test_alpha_is_laid_over_white() -> None:
    assert colours(open_image(encoded(half_red("RGBA"), "PNG"))) == [RED, WHITE]
    grey = half_red("LA")
    lightness = grey.getpixel((0, 0))[0]
    assert colours(open_image(encoded(grey, "PNG"))) == [(lightness,) * 3, WHITE]
    half = Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    assert colours(open_image(encoded(half, "PNG"))) == [(255, 127, 127)]  # 0.498 of white's 255 shines through


def test_premultiplied_alpha_is_laid_over_white() -> None:
    assert colours(to_rgb(half_red("RGBA").convert("RGBa"))) == [RED, WHITE]
    assert colours(to_rgb(Image.new("LA", (1, 1), (77, 0)).convert("La"))) == [WHITE]
    assert colours(to_rgb(Image.new("LA", (1, 1), (77, 255)).convert("La"))) == [(77,) * 3]


def test_a_palette_and_its_transparent_entries() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 0, 255, 0, 255, 0])
    image.putdata([0, 1, 2])
    assert colours(open_image(encoded(image, "PNG"))) == [RED, (0, 0, 255), (0, 255, 0)]
    assert colours(open_image(encoded(image, "PNG", transparency=1))) == [RED, WHITE, (0, 255, 0)]
    assert colours(open_image(encoded(image, "PNG", transparency=b"\xff\0\xff"))) == [RED, WHITE, (0, 255, 0)]
    assert colours(open_image(encoded(image, "GIF", transparency=1))) == [RED, WHITE, (0, 255, 0)]
    both = Image.new("PA", (3, 1))
    both.putpalette(image.getpalette())
    for index, alpha in enumerate((255, 0, 255)):
        both.putpixel((index, 0), (index, alpha))
    assert colours(open_image(encoded(both, "TIFF"))) == [RED, WHITE, (0, 255, 0)]


def test_a_colour_that_stands_for_nothing() -> None:
    grey = png(2, 1, 8, 0, bytes([0, 9, 10]), (b"tRNS", struct.pack(">H", 9)))
    assert colours(open_image(grey)) == [WHITE, (10,) * 3]
    colour = png(2, 1, 8, 2, bytes([0, 9, 9, 9, *RED]), (b"tRNS", struct.pack(">HHH", 9, 9, 9)))
    assert colours(open_image(colour)) == [WHITE, RED]
    deep = png(2, 1, 16, 0, struct.pack(">xHH", 0x1234, 0x1235), (b"tRNS", struct.pack(">H", 0x1234)))
    assert colours(open_image(deep)) == [WHITE, (0x12,) * 3]


def test_bilevel_and_grey() -> None:
    image = Image.fromarray(np.array([[0, 255]], np.uint8))
    for mode, kind in (("1", "PNG"), ("L", "PNG"), ("1", "TIFF"), ("1", "BMP"), ("1", "PPM")):
        assert colours(open_image(encoded(image.convert(mode), kind))) == [(0, 0, 0), WHITE], (mode, kind)


def test_cmyk_and_other_colour_spaces() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    content = encoded(red, "JPEG", quality=100)
    assert b"Adobe" in content  # whose CMYK is stored inverted
    np.testing.assert_allclose(
        np.asarray(open_image(content)), np.broadcast_to(RED, (16, 16, 3)), atol=3
    )  # JPEG's loss
    assert open_image(encoded(red, "TIFF")).getpixel((0, 0)) == RED
    # Pillow 12 cannot read what it writes of YCbCr: an error there.
    for mode in ("YCbCr", "LAB") if version("pillow") >= "13" else ("LAB",):
        content = encoded(Image.new("RGB", (2, 2), RED).convert(mode), "TIFF")
        assert Image.open(io.BytesIO(content)).mode == mode
        # A step of 8-bit Lab is up to 5 grey levels in saturated red.
        np.testing.assert_allclose(np.asarray(open_image(content)), np.broadcast_to(RED, (2, 2, 3)), atol=5)
    assert to_rgb(Image.new("RGB", (1, 1), RED).convert("HSV")).getpixel((0, 0)) == RED


DEEP = np.array([[0, 255, 256, 0x7FFF, 0x8000, 0xFFFF]], np.uint16)
EXPECTED_DEEP = [(grey,) * 3 for grey in (0, 0, 1, 127, 128, 255)]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF big-endian", "PPM", "JPEG2000", "I"])
def test_sixteen_bits_keep_their_high_byte(kind: str) -> None:
    if kind == "TIFF big-endian":
        image = Image.frombytes("I;16B", (6, 1), DEEP.astype(">u2").tobytes())
        content = encoded(image, "TIFF")
    elif kind == "I":
        content = encoded(Image.fromarray(DEEP.astype(np.int32)), "TIFF")
    else:
        content = encoded(Image.fromarray(DEEP), kind)
    assert Image.open(io.BytesIO(content)).mode.startswith("I")
    assert colours(open_image(content)) == EXPECTED_DEEP


def test_grey_is_the_same_as_sixteen_bit_grey_or_colour() -> None:
    values = np.arange(0, 1 << 16, 37, dtype=">u2")
    grey = png(len(values), 1, 16, 0, b"\0" + values.tobytes())
    colour = png(len(values), 1, 16, 2, b"\0" + values.repeat(3).tobytes())
    wide = [np.asarray(to_rgb(Image.open(io.BytesIO(content)))) for content in (grey, colour)]
    np.testing.assert_array_equal(*wide)


def test_a_tiff_whose_zero_is_white_and_one_of_twelve_bits() -> None:
    white_is_zero = encoded(Image.fromarray(DEEP), "TIFF", tiffinfo={262: 0})
    assert colours(open_image(white_is_zero)) == [(255 - grey[0],) * 3 for grey in EXPECTED_DEEP]
    content = bytearray(encoded(Image.fromarray(np.zeros((1, 2), np.uint16)), "TIFF"))
    with Image.open(io.BytesIO(content)) as image:
        (offset,) = image.tag_v2[273]
    entry = content.index(struct.pack("<HHIH", 258, 3, 1, 16))
    content[entry + 8 : entry + 10] = struct.pack("<H", 12)
    content[offset : offset + 3] = bytes([0xFF, 0xF8, 0x00])  # two values of 12 bits: 4095 and 0x800
    assert colours(open_image(bytes(content))) == [WHITE, (128,) * 3]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.zeros((1, 2), np.float32), "floating-point pixels"),
        (np.array([[-1, 9]], np.int32), "grey values from -1 to 9"),
        (np.array([[9, 1 << 16]], np.int32), "grey values from 9 to 65536"),
    ],
)
def test_brightness_that_nobody_agreed_on_is_refused(values: np.ndarray, found: str) -> None:
    with pytest.raises(ImageError, match="brightness values of 8 or 16 bits") as caught:
        open_image(encoded(Image.fromarray(values), "TIFF"))
    assert caught.value.found == found


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255))]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    assert open_image(content).getpixel((3, 3)) == RED


# --- what cannot be shown


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "0 bytes"),
        (b"\r\n<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"<!-- moved --><HTML lang='en'>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1", "Git LFS"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "it begins with"),  # Pillow would start Ghostscript
        (b"a", "it begins with 'a'"),
        (b"\0\1\xff" + b"a" * 9, "it begins with 00 01 ff 61 61 61 61 61"),
        (png(20_000, 10_000, 8, 2), "200 megapixels of at most 134"),
        (png(11_600, 11_600, 8, 2), "135 megapixels of at most 134"),
        (png(1 << 30, 1 << 30, 8, 2), "megapixels of at most 134"),
        (png(100, 3, 1, 0), "100 x 3 pixels"),
        (png(0, 3, 1, 0), ""),
        (png(3, 3, 8, 2), ""),
        (encoded(noise(64, 64), "JPEG")[:-200], "truncated"),
        (encoded(noise(64, 64), "PNG")[:-200], "truncated"),
        (encoded(noise(64, 64), "GIF")[:-200], "truncated"),
        (encoded(noise(64, 64), "BMP")[:-200], "truncated"),
        (encoded(noise(64, 64), "WEBP")[:-200], ""),
        (encoded(noise(64, 64), "AVIF")[:-200], ""),
        (encoded(noise(64, 64), "TIFF")[:-200], ""),
        (encoded(noise(64, 64), "TIFF", compression="tiff_lzw")[:-5000], ""),
        (encoded(noise(64, 64), "JPEG2000")[:200], ""),
        (encoded(noise(64, 64), "PPM")[:-200], "truncated"),
    ],
)
def test_what_is_no_whole_image_says_why(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    with warnings.catch_warnings(record=True, action="always") as heard, pytest.raises(ImageError) as caught:
        open_image(path)
    assert not [warning for warning in heard if warning.category is Image.DecompressionBombWarning]
    assert caught.value.where == str(path)
    assert told in (caught.value.found or "")
    with pytest.raises(ImageError, match=f"^{caught.value.what}"):
        open_image(content)


def test_what_is_no_file_says_so(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.jpg", tmp_path, tmp_path / "nul\0.jpg"):
        with pytest.raises(ImageError) as caught:
            open_image(path)
        assert caught.value.where == str(path)


@pytest.mark.representative
def test_as_many_pixels_as_allowed_pass_and_pillow_is_left_as_it_was() -> None:
    before = Image.MAX_IMAGE_PIXELS
    assert 11_585**2 <= MAX_PIXELS < 11_585 * 11_586
    with pytest.raises(ImageError, match="too large"):
        open_image(png(11_585, 11_586, 8, 2))
    assert open_image(encoded(Image.new("1", (11_585, 11_585)), "PNG")).size == (11_585, 11_585)
    assert before == Image.MAX_IMAGE_PIXELS


def test_threads_read_what_one_reads() -> None:
    paths = photographs() * 4
    pre = recipe(64)
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda path: load_pixels(path, pre), paths)]
    for pixels, path in zip(found, paths, strict=True):
        np.testing.assert_array_equal(pixels, load_pixels(path, pre))


WHOLE = [
    encoded(noise(9, 7), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
    encoded(half_red("RGBA"), "PNG"),
    encoded(Image.fromarray(DEEP), "PNG"),
    encoded(noise(9, 7).convert("P"), "GIF"),
    encoded(noise(9, 7), "TIFF"),
    encoded(noise(9, 7), "TIFF", compression="tiff_lzw"),
    encoded(noise(9, 7), "BMP"),
    encoded(noise(9, 7), "WEBP"),
    encoded(noise(9, 7), "AVIF"),
    encoded(noise(9, 7), "JPEG2000"),
    encoded(noise(9, 7), "PPM"),
]


def attempt(content: bytes) -> None:
    try:
        image = open_image(content)
    except ImageError:
        return
    assert image.mode == "RGB"


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=400), start=st.sampled_from([b"", *(whole[:12] for whole in WHOLE)]))
def test_any_bytes_give_an_image_or_an_image_error(content: bytes, start: bytes) -> None:
    attempt(start + content)


@settings(max_examples=400, deadline=None)
@given(
    whole=st.sampled_from(WHOLE),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    kept=st.floats(0.3, 1),
)
def test_a_damaged_image_gives_an_image_or_an_image_error(
    whole: bytes, changes: list[tuple[float, int]], kept: float
) -> None:
    content = bytearray(whole)
    for place, value in changes:
        content[int(place * len(content))] = value
    attempt(bytes(content[: math.ceil(kept * len(content))]))
