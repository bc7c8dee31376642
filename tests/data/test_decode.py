"""Pillow's readers: which are loaded, and when."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ftx.data.decode import _kind

# Eight threads of a new process at once, with nothing of Pillow used before.
READ = """
import sys
from concurrent.futures import ThreadPoolExecutor

from ftx.data.image_store import open_image

with ThreadPoolExecutor(8) as pool:
    print(*(image.size for image in pool.map(open_image, (open(path, "rb").read() for path in sys.argv[1:]))))
"""


def test_the_first_images_of_a_process_may_be_of_any_kind(tmp_path: Path) -> None:
    paths: list[str] = []
    for kind in ("webp", "avif", "jp2", "tiff", "png"):
        paths.append(str(tmp_path / f"image.{kind}"))
        Image.fromarray(np.zeros((4, 7, 3), np.uint8)).save(paths[-1])
    done = subprocess.run([sys.executable, "-c", READ, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == " ".join(["(7, 4)"] * len(paths))


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"GARBAGE!more", "it begins with 'GARBAGE!'"),
        (b"\xff\xd8\xffabcde", "it begins with ff d8 ff 61 62 63 64 65"),
        (b"a\x00b\x01c\x02d\x03", "it begins with 61 00 62 01 63 02 64 03"),
    ],
)
def test_what_is_no_image_is_shown_as_text_only_if_it_is_text(start: bytes, expected: str) -> None:
    assert _kind(start) == expected
