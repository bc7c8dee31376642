"""Pictures of bricks from the LDraw parts library: read a part, turn it, draw its nearest surfaces.

Shapes: T triangles of three corners in three dimensions; an image of S × S pixels.
Source: the LDraw file format, https://www.ldraw.org/article/218.html. A line begins with 1 (another file, placed by
a matrix), 3 (triangle) or 4 (quadrilateral); colour 16 is that of the line which refers to the file. y points down.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Codes = NDArray[np.int32]

INHERITED = 16
# Images are drawn at twice their size and averaged, so that edges are smooth.
OVERSAMPLING = 2
# The fraction of the side of the image that the part fills.
FILLED = 0.88
# Light comes from above, the left and the viewer; a surface that faces away from it has this brightness.
LIGHT = np.array([-0.4, -0.8, -0.45], dtype=np.float32) / np.float32(np.linalg.norm([0.4, 0.8, 0.45]))
AMBIENT = 0.35
# Finely divided curves look the same at this size as the usual ones, and take four times as long.
_FINE = "48/"


@dataclass(frozen=True)
class View:
    """Where the viewer stands, in radians, and the code of the part's colour."""

    yaw: float
    pitch: float
    colour: int
    background: int


@dataclass(frozen=True)
class Mesh:
    """Triangles and the code of the colour of each. Shape: [T, 3, 3] and [T]."""

    corners_T33: Floats
    codes_T: Codes


class Library:
    """The files of a folder that holds ``parts``, ``p`` and ``LDConfig.ldr``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._meshes: dict[str, Mesh] = {}

    @cached_property
    def _paths(self) -> dict[str, Path]:
        """Files by the name that others use, in lower case: names have no case."""
        return {
            path.relative_to(folder).as_posix().lower(): path
            for folder in (self._folder / "p", self._folder / "parts")
            for path in sorted(folder.rglob("*.dat"))
        }

    @cached_property
    def colours(self) -> dict[int, tuple[int, int, int]]:
        """Red, green and blue of each code."""
        text = (self._folder / "LDConfig.ldr").read_text(encoding="utf-8")
        found = re.findall(r"^0 !COLOUR \S+\s+CODE\s+(\d+)\s+VALUE\s+#([0-9A-Fa-f]{6})", text, re.MULTILINE)
        return {int(code): _rgb(int(value, 16)) for code, value in found}

    def parts(self) -> list[Path]:
        """The files of whole parts."""
        return sorted((self._folder / "parts").glob("*.dat"))

    def mesh(self, name: str) -> Mesh:
        """All triangles of a file, those of the files that it refers to included."""
        if name not in self._meshes:
            self._meshes[name] = self._read(name)
        return self._meshes[name]

    def _read(self, name: str) -> Mesh:
        plain = name.removeprefix(_FINE)
        path = self._paths.get(plain) or self._paths[name]
        corners: list[Floats] = [np.zeros((0, 3, 3), np.float32)]
        codes: list[Codes] = [np.zeros(0, np.int32)]
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.split()
            if not words or words[0] not in ("1", "3", "4"):
                continue
            code = int(words[1], 0)
            if words[0] == "1":
                place = np.array(words[2:14], dtype=np.float32)
                other = self.mesh(" ".join(words[14:]).lower().replace("\\", "/"))
                corners.append(other.corners_T33 @ place[3:].reshape(3, 3).T + place[:3])
                codes.append(np.where(other.codes_T == INHERITED, code, other.codes_T).astype(np.int32))
            else:
                points_P3 = np.array(words[2 : 2 + 3 * int(words[0])], dtype=np.float32).reshape(-1, 3)
                fan = points_P3[[0, 1, 2] if len(points_P3) == 3 else [0, 1, 2, 0, 2, 3]].reshape(-1, 3, 3)
                corners.append(fan)
                codes.append(np.full(len(fan), code, np.int32))
        return Mesh(np.concatenate(corners), np.concatenate(codes))

    def draw(self, name: str, view: View, size: int) -> Image.Image:
        """A part as a viewer far away sees it, in the middle of a grey square of ``size`` pixels a side.

        Raises: KeyError if the part or a file that it refers to is not in the library.
        """
        mesh = self.mesh(name)
        corners_T33 = mesh.corners_T33 @ _rotation(view).T
        normals_T3 = np.cross(corners_T33[:, 1] - corners_T33[:, 0], corners_T33[:, 2] - corners_T33[:, 0])
        lengths_T1 = np.linalg.norm(normals_T3, axis=1, keepdims=True)
        normals_T3 = normals_T3 / np.maximum(lengths_T1, 1e-9)
        normals_T3 *= -np.sign(normals_T3[:, 2:] + 1e-9)  # towards the viewer, who sees z grow
        shade_T = AMBIENT + (1 - AMBIENT) * np.clip(normals_T3 @ LIGHT, 0, 1)
        colour_T3 = np.array([self._rgb(int(code), view.colour) for code in mesh.codes_T], dtype=np.float32)
        pixels = size * OVERSAMPLING
        flat_T32 = corners_T33[:, :, :2]
        low, high = flat_T32.min((0, 1)), flat_T32.max((0, 1))
        scale = FILLED * pixels / max(float((high - low).max()), 1e-6)
        flat_T32 = (flat_T32 - (low + high) / 2) * scale + pixels / 2
        canvas = _nearest(flat_T32, corners_T33[:, :, 2], shade_T[:, None] * colour_T3, view.background, pixels)
        return Image.fromarray(canvas).resize((size, size), Image.Resampling.BOX)

    def _rgb(self, code: int, main: int) -> tuple[int, int, int]:
        if code >= 0x2000000:  # 0x2RRGGBB
            return _rgb(code & 0xFFFFFF)
        return self.colours.get(main if code == INHERITED else code, (127, 127, 127))


def _rgb(value: int) -> tuple[int, int, int]:
    return value >> 16, value >> 8 & 255, value & 255


def _rotation(view: View) -> Floats:
    """Turn about the vertical axis, then tip the top towards the viewer."""
    (s, c), (t, d) = ((math.sin(angle), math.cos(angle)) for angle in (view.yaw, view.pitch))
    turned = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    tipped = np.array([[1, 0, 0], [0, d, -t], [0, t, d]])
    return (tipped @ turned).astype(np.float32)


def _nearest(flat_T32: Floats, depth_T3: Floats, colour_T3: Floats, background: int, pixels: int) -> NDArray[np.uint8]:
    """The colour of the nearest triangle at each pixel. Shape: [S, S, 3]."""
    canvas = np.full((pixels, pixels, 3), background, np.uint8)
    near = np.full((pixels, pixels), np.inf, np.float32)
    low_T2 = np.clip(np.floor(flat_T32.min(1)), 0, pixels).astype(int)
    high_T2 = np.clip(np.ceil(flat_T32.max(1)) + 1, 0, pixels).astype(int)
    (ax, ay), (bx, by), (cx, cy) = (flat_T32[:, corner].T for corner in range(3))
    area_T = (by - cy) * (ax - cx) + (cx - bx) * (ay - cy)
    for t in np.flatnonzero(np.abs(area_T) > 1e-3):
        (x0, y0), (x1, y1) = low_T2[t], high_T2[t]
        x = np.arange(x0, x1, dtype=np.float32)[None] + 0.5 - cx[t]
        y = np.arange(y0, y1, dtype=np.float32)[:, None] + 0.5 - cy[t]
        a = ((by[t] - cy[t]) * x + (cx[t] - bx[t]) * y) / area_T[t]
        b = ((cy[t] - ay[t]) * x + (ax[t] - cx[t]) * y) / area_T[t]
        z = a * depth_T3[t, 0] + b * depth_T3[t, 1] + (1 - a - b) * depth_T3[t, 2]
        seen = (a >= 0) & (b >= 0) & (a + b <= 1) & (z < near[y0:y1, x0:x1])
        near[y0:y1, x0:x1][seen] = z[seen]
        canvas[y0:y1, x0:x1][seen] = colour_T3[t].astype(np.uint8)
    return canvas
