"""Pillow's readers: which are loaded, and when."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

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
