"""Images that ask for more than an image needs: refused before it is spent; and photographs that need much, read."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.strangers.test_reading import KINDS, irregular

from ftx.core.byte_semaphore import ByteSemaphore
from ftx.core.errors import ImageError
from ftx.data import decode
from ftx.data import decode_limits as costs
from ftx.data.decode import to_rgb
from ftx.data.decode_limits import MAX_DECODING_BYTES, MAX_PIXELS, MAX_SCANNED_PIXELS, count_scans
from ftx.data.image_store import OpenImageFile, open_hashed, open_image
from ftx.data.threads import in_threads


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, size=(height, width, bands), dtype=np.uint8)
    return Image.frombytes(mode, (width, height), pixels.tobytes())


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, depth: int, colour: int, *more: bytes) -> bytes:
    """All black, in a thousandth of its bytes; ``more`` chunks stand before the pixels."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    packer = zlib.compressobj(9)
    row = b"\0" + bytes(width * channels * depth // 8)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def refused(content: bytes | Path, most_s: float = 1.0) -> ImageError:
    """The error of an image, which must come soon and say what was found and what to do."""
    before = time.process_time()
    with pytest.raises(ImageError) as caught:
        open_image(content)
    assert time.process_time() - before < most_s
    assert caught.value.exit_code == 2
    assert caught.value.found
    assert caught.value.fix
    return caught.value


def in_fresh_process(program: str, *arguments: str) -> Any:
    """What a program prints as JSON; ``peak()`` gives the megabytes that were taken since ``begin()``."""
    frame = """
import json, os, re, sys
from pathlib import Path
import numpy as np
from PIL import Image
from ftx.data.image_store import open_image
from ftx.core.errors import ImageError
def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1000
def begin():
    global before
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (Linux, proc(5))
    before = status("VmRSS")
def peak():
    return status("VmHWM") - before
"""
    done = subprocess.run(
        [sys.executable, "-c", frame + program, *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(done.stdout)


# --- pixels and bytes

# Each kind at four megapixels; what a pixel may take stands in costs, and for the rest is twice Pillow's four bytes.
KINDS_OF_IMAGE: dict[str, Callable[[], bytes]] = {
    "PNG 16-bit grey": lambda: png(2000, 2000, 16, 0),
    "PNG 16-bit colour and alpha": lambda: png(2000, 2000, 16, 6),
    "PNG colour and alpha turned": lambda: encoded(noise(2000, 2000, "RGBA"), "PNG", exif=turned(6), compress_level=1),
    "PNG palette": lambda: encoded(noise(2000, 2000, "L").convert("P"), "PNG", transparency=0, compress_level=1),
    "JPEG turned": lambda: encoded(noise(2000, 2000), "JPEG", exif=turned(6)),
    "JPEG progressive": lambda: encoded(noise(2000, 2000), "JPEG", progressive=True, subsampling=0),
    "JPEG CMYK progressive": lambda: encoded(noise(2000, 2000, "CMYK"), "JPEG", progressive=True, subsampling=0),
    "TIFF 16-bit": lambda: encoded(Image.fromarray(np.zeros((2000, 2000), np.uint16)), "TIFF"),
    "TIFF LZW": lambda: encoded(noise(2000, 2000), "TIFF", compression="tiff_lzw"),
    "GIF": lambda: encoded(noise(2000, 2000, "L"), "GIF"),
    "BMP": lambda: encoded(noise(2000, 2000), "BMP"),
    "WEBP": lambda: encoded(noise(2000, 2000), "WEBP", method=0, quality=1),
    "AVIF": lambda: encoded(Image.new("RGB", (2000, 2000), "red"), "AVIF", speed=10),
    "JPEG2000": lambda: encoded(Image.new("RGB", (2000, 2000), "red"), "JPEG2000"),
}


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.slow
def test_decoding_takes_no_more_memory_than_is_reckoned_with(tmp_path: Path) -> None:
    for name, make in KINDS_OF_IMAGE.items():
        (tmp_path / name).write_bytes(make())
    program = """
found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    reading, writing = os.pipe()
    if not os.fork():  # each in a process of its own, where no memory is left over
        begin()
        open_image(path)
        os.write(writing, str(peak()).encode())
        os._exit(0)
    found[path.name] = float(os.read(reading, 99)) / 4
    os.wait()
print(json.dumps(found))
"""
    found = in_fresh_process(program, str(tmp_path))
    assert found.keys() == KINDS_OF_IMAGE.keys()
    for name, pixel in found.items():
        content = (tmp_path / name).read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            reckoned = costs.decoding_bytes(image) / 4e6
        # The file's own bytes, and six megabytes of libraries, bands and buffers.
        assert pixel < reckoned + len(content) / 4e6 + 1.5, name
        assert pixel > 2, name  # else nothing was measured
    assert found["PNG 16-bit grey"] < 10  # 19 when it was converted as a whole, by way of 64-bit integers


@pytest.mark.representative
def test_six_deep_images_in_six_threads_take_the_memory_of_one_budget(tmp_path: Path) -> None:
    content = png(5000, 5000, 16, 0)
    assert len(content) < 60_000
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(content)
    program = """
from concurrent.futures import ThreadPoolExecutor
from ftx.data.decode_limits import DECODING
DECODING.limit_bytes = 250_000_000  # 25 megapixels, at eight bytes each, go one after the other
begin()
with ThreadPoolExecutor(6) as pool:
    sizes = [*pool.map(lambda path: open_image(path).size, sorted(Path(sys.argv[1]).iterdir()))]
print(json.dumps([sizes, peak()]))
"""
    sizes, peak_mb = in_fresh_process(program, str(tmp_path))
    assert sizes == [[5000, 5000]] * 6
    assert 100 < peak_mb < 250 + 20  # 900 in six threads without a budget


@pytest.mark.slow
def test_a_photograph_of_108_megapixels_is_read_and_turned(tmp_path: Path) -> None:
    path = tmp_path / "telephone.jpg"
    Image.new("RGB", (12_000, 9_000), (10, 200, 30)).save(path, exif=turned(6))
    program = """
begin()
image = open_image(Path(sys.argv[1]))
print(json.dumps([image.size, image.getpixel((5, 5)), peak()]))
"""
    size, pixel, peak_mb = in_fresh_process(program, str(path))
    assert size == [9_000, 12_000]
    assert np.abs(np.subtract(pixel, (10, 200, 30))).max() <= 2  # JPEG's loss
    assert peak_mb < 8 * 108 + 50


def test_the_bounds_hold_for_each_format() -> None:
    assert MAX_PIXELS == 134_217_728
    content = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG2000"))
    for width, height, what in ((10_000, 10_001, "too large for its format"), (20_000, 10_000, "is too large")):
        at = content.index(b"ihdr") + 4  # ISO/IEC 15444-1, I.5.3.1: height, width
        content[at : at + 8] = struct.pack(">II", height, width)
        at = content.index(b"\xff\x51") + 6  # A.5.1: Xsiz, Ysiz, offsets, then the tile's sides
        content[at : at + 8] = struct.pack(">II", width, height)
        content[at + 16 : at + 24] = struct.pack(">II", width, height)
        assert what in refused(bytes(content)).what
    assert 20 * 10_000 * 10_000 <= MAX_DECODING_BYTES < 20 * 10_000 * 10_001


def test_the_largest_webp_is_refused_before_its_canvas_is_made() -> None:
    content = bytearray(encoded(Image.new("RGB", (16, 16)), "WEBP", lossless=True))
    at = content.index(b"VP8L") + 9  # RFC 9649, 3.4: width and height, each less one, in 14 bits
    kept = int.from_bytes(content[at : at + 4], "little") >> 28 << 28
    content[at : at + 4] = (kept | 16_382 << 14 | 16_382).to_bytes(4, "little")
    assert refused(bytes(content), most_s=0.1).what == "the image is too large"


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "endless.png"
    path.write_bytes(png(1, 1, 8, 0))
    with path.open("r+b") as stream:
        stream.truncate(costs.MAX_FILE_BYTES + 1)  # a hole, which takes no space
    error = refused(path, most_s=0.1)
    assert error.what == "the image's file is too large"
    assert error.where == str(path)


def test_converting_by_bands_changes_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_BAND_PIXELS", 40)
    white = Image.new("RGBA", (13, 31), "white")
    palette = noise(13, 31, "L").convert("P")
    palette.putpalette(np.random.default_rng(1).integers(0, 256, 768, dtype=np.uint8).tobytes())
    palette.info["transparency"] = bytes(range(256))
    for image in (noise(13, 31, "RGBA"), noise(13, 31, "LA"), palette):
        whole = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(whole))
    values = np.random.default_rng(2).integers(0, 1 << 16, (31, 13), dtype=np.uint16)
    for image in (Image.fromarray(values), Image.frombytes("I;16B", (13, 31), values.astype(">u2").tobytes())):
        np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.repeat((values // 256)[..., None], 3, axis=2))
    with pytest.raises(ImageError, match="brightness"):  # in the last band alone
        to_rgb(Image.fromarray(np.where(np.arange(31)[:, None] < 30, values.astype(np.int32), 70_000)))


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    from hashlib import sha256

    path = tmp_path / "a.png"
    path.write_bytes(encoded(noise(9, 5), "PNG"))
    image, digest = open_hashed(path)
    assert digest == sha256(path.read_bytes()).hexdigest()
    assert image is not None
    np.testing.assert_array_equal(np.asarray(image), np.asarray(noise(9, 5)))
    assert open_hashed(path, {digest}.__contains__) == (None, digest)
    assert OpenImageFile(path).size_bytes == 8 * 9 * 5 + path.stat().st_size
    path.write_bytes(b"nonsense")
    assert OpenImageFile(path).size_bytes == 0


# --- scans

# What libjpeg's jpeg_simple_progression writes (jcparam.c): 10 scans for colour, 6 for grey.
SCANS = {"RGB": 10, "L": 6}


@pytest.mark.parametrize("mode", SCANS)
def test_scans_are_counted(mode: str) -> None:
    image = noise(64, 48, mode)
    assert count_scans(encoded(image, "JPEG")) == 1
    content = encoded(image, "JPEG", progressive=True)
    assert count_scans(content) == SCANS[mode]
    # Beside the image's own: a thumbnail within EXIF, what a telephone lays behind it, and restart markers within.
    thumbnail = b"Exif\0\0" + content
    assert count_scans(encoded(image, "JPEG", progressive=True, exif=thumbnail)) == SCANS[mode]
    assert count_scans(content + b"\0\0\0\x18ftypmp42" + b"\xff\xda" * 5000) == SCANS[mode]
    assert count_scans(encoded(image, "JPEG", restart_marker_rows=1)) == 1
    assert count_scans(content[:200]) <= 1


def scanned(image: Image.Image, times: int) -> bytes:
    """A progressive JPEG whose last scan stands so often."""
    content = encoded(image, "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * times + content[-2:]


def test_a_thousand_scans_are_refused_before_they_are_walked() -> None:
    content = scanned(Image.new("RGB", (3000, 2000)), 991)
    assert count_scans(content) == 1000
    error = refused(content, most_s=0.5)
    assert (
        error.found == f"1000 scans for an image of 3000 x 2000; at most {MAX_SCANNED_PIXELS // 6_000_000} are allowed"
    )
    # A small image with as many is soon done.
    assert open_image(scanned(Image.new("RGB", (30, 20)), 991)).size == (30, 20)


def test_every_progressive_photograph_has_room() -> None:
    # mozjpeg writes some 20 scans at most; the largest photograph of a telephone is of 108 megapixels.
    assert MAX_SCANNED_PIXELS >= 16 * MAX_PIXELS
    assert MAX_SCANNED_PIXELS // 108_000_000 >= 19


# --- seconds


def many_chunks() -> bytes:
    return png(4, 4, 8, 0, chunk(b"tEXt", b"a\0b") * 200_000)


def many_markers() -> bytes:
    content = encoded(noise(4, 4), "JPEG")
    return content[:2] + b"\xff\xfe\0\3x" * 200_000 + content[2:]


def many_comments() -> bytes:
    content = encoded(noise(4, 4, "L"), "GIF")
    at = content.index(b"\x2c")  # the image's descriptor
    return content[:at] + b"\x21\xfe\1x\0" * 200_000 + content[at:]


def plain_text() -> bytes:
    return b"P3 2000 1000 255 " + b"1 " * 6_000_000


@pytest.mark.parametrize("make", [many_chunks, many_markers, many_comments, plain_text])
def test_what_takes_too_long_is_stopped(make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    content = make()
    monkeypatch.setattr(costs, "MAX_DECODING_S", 0.1)
    error = refused(content, most_s=0.6)
    assert error.what == "the image takes too long to decode"
    assert error.found == "more than 0 s of one core"


def test_the_seconds_are_those_of_its_thread_not_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "MAX_DECODING_S", 0.2)
    content = encoded(noise(300, 300), "PNG")
    stream = costs.LimitedStream(content)
    time.sleep(0.3)
    assert stream.read() == content


# --- directories, texts and frames


def tiff(entries: list[tuple[int, int, int, int]], more: bytes, order: str = "<") -> bytes:
    """A TIFF's header and first directory, ``more`` from byte 8 on; an entry is tag, kind, count and value."""
    start = 8 + len(more)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    rows = b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    return head + more + struct.pack(order + "H", len(entries)) + rows + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_directory_that_names_the_same_bytes_over_and_over(order: str) -> None:
    shared = bytes(1 << 20)
    content = tiff([(40_000 + number, 7, len(shared), 8) for number in range(3000)], shared, order)
    error = refused(content, most_s=0.2)  # of 3 GB
    assert error.what == "the TIFF directory of the image must list each block of bytes only once"
    assert error.found == "3,146 MB in a file of 1.1"


def test_a_directory_of_millions_of_strips() -> None:
    numbers = 2_000_000
    sides = [(256, 3, 1, 1), (257, 3, 1, 1)]
    content = tiff([*sides, (273, 4, numbers, 8), (279, 4, numbers, 8)], bytes(4 * numbers))
    assert refused(content, most_s=0.2).found == "2,000,000 numbers in one entry, at most 1,048,576"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_exif_block_of_gigabytes_is_left_alone(kind: str) -> None:
    shared = bytes(1 << 20)
    rows = [(274, 3, 1, 6), *((40_000 + number, 7, len(shared), 8) for number in range(3000))]
    image = noise(8, 5)
    content = encoded(
        image, kind, exif=b"Exif\0\0" + tiff(rows, shared), **({"lossless": True} if kind == "WEBP" else {})
    )
    # Pillow 13 refuses such a block itself; earlier ones hold a megabyte for each of its entries.
    assert not costs.is_sound_exif(Image.open(io.BytesIO(content)).info["exif"])
    np.testing.assert_array_equal(np.asarray(open_image(content)), np.asarray(image))  # not turned
    sound = encoded(image, kind, exif=b"Exif\0\0" + tiff(rows[:2], shared))
    assert open_image(sound).size == (5, 8)


def test_a_text_or_profile_of_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    packed = zlib.compress(bytes(200_000_000), 9)
    for name, head in (("zTXt", b"a\0\0"), ("iCCP", b"a\0\0"), ("iTXt", b"a\0\1\0\0\0")):
        (tmp_path / name).write_bytes(png(4, 4, 8, 0, chunk(name.encode(), head + packed)))
    program = """
found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    begin()
    try:
        open_image(path)
        said = "read"
    except ImageError as error:
        said = error.what
    found[path.name] = said, peak()
print(json.dumps(found))
"""
    found = in_fresh_process(program, str(tmp_path))
    assert found.keys() == {"zTXt", "iCCP", "iTXt"}
    for name, (said, peak_mb) in found.items():
        assert said in ("read", "the image cannot be read"), name
        assert peak_mb < 30, name


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_many_frames_the_first_alone_is_decoded(kind: str) -> None:
    first = Image.new("RGB", (200, 200), (255, 0, 0))
    rest = [Image.new("RGB", (200, 200), (0, 0, number)) for number in range(100)]
    options = {"lossless": True, "method": 0} if kind == "WEBP" else {}
    content = encoded(first, kind, save_all=True, append_images=rest, **options)
    before = time.process_time()
    image = open_image(content)
    assert time.process_time() - before < 0.05  # a frame takes a millisecond
    assert image.getpixel((7, 7)) == (255, 0, 0)


# --- no file


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_no_image(kind: str, tmp_path: Path) -> None:
    path = irregular(tmp_path, kind)
    error = refused(path, most_s=0.1)
    assert (error.where, error.found) == (str(path), kind)
    assert OpenImageFile(path).size_bytes == 0


# --- what threads hold together


def test_a_budget_is_kept_by_all_threads_and_what_is_larger_goes_alone() -> None:
    budget = ByteSemaphore(100)
    lock, held, most, alone = threading.Lock(), [], [0], []

    def work(size: int) -> None:
        with budget.holding(size):
            with lock:
                held.append(size)
                most[0] = max(most[0], sum(held)) if size <= 100 else most[0]
                alone.append(len(held) == 1) if size > 100 else None
            time.sleep(0.001)
            with lock:
                held.remove(size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [30, 70, 20, 500, 40, 60, 100, 300, 10, 10] * 5))
    assert 70 < most[0] <= 100
    assert alone == [True] * 10
    assert not held


def test_a_budget_leaves_three_quarters_of_the_memory_free() -> None:
    from ftx.core.memory import available_bytes

    assert ByteSemaphore(1 << 60).limit_bytes == pytest.approx(available_bytes() / 4, rel=0.5)
    assert ByteSemaphore(5).limit_bytes == 5


def test_results_that_wait_are_held_to_their_bytes() -> None:
    sizes = [10, 10, 10, 40, 90, 200, 10, 10, 30, 30, 30, 30, 5, 100, 1]
    waiting: list[int] = []
    most: list[int] = []

    def work(size: int) -> int:
        waiting.append(size)
        most.append(sum(waiting) if len(waiting) > 1 else 0)
        return size

    found = []
    for result in in_threads(work, sizes, workers=3, prefetch=6, size_of=lambda size: size, most_bytes=100):
        found.append(result)
        time.sleep(0.002)
        waiting.remove(result)
    assert found == sizes
    # Beside what waits the one that was taken last is still here.
    assert max(most) <= 100 + 200
    assert max(most) > 10
