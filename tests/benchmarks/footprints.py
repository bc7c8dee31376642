"""Pictures of electronic parts' footprints from KiCad's libraries: read the file, turn it, draw copper and silkscreen.

Shapes: N points of two coordinates, in millimetres; y points down.
Source: KiCad's file format, https://dev-docs.kicad.org/en/file-formats/sexpr-intro/. Text and outlines that are not on
the board are not drawn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.float64]
# A list of the file: its first entry is its name.
Node = list["Node | str"]
Colour = tuple[int, int, int]

# Images are drawn at this many times their size and averaged, so that edges are smooth.
OVERSAMPLING = 3
# Points of a full circle.
CIRCLE = 32
HOLE = (35, 35, 35)
TOKENS = re.compile(r'\(|\)|"(?:\\.|[^"\\])*"|[^\s()]+')


@dataclass(frozen=True)
class Board:
    """The colours of a board, and how the part lies on it: the angle in radians, the fraction of the side it fills."""

    mask: Colour
    silkscreen: Colour
    copper: Colour
    angle: float
    filled: float


@dataclass(frozen=True)
class Shape:
    """A filled polygon, or a line of a width, on one layer. Shape of ``points``: [N, 2]."""

    layer: str
    points_N2: Floats
    width_mm: float | None = None


def parse(text: str) -> Node:
    """The list that a file is."""
    stack: list[Node] = [[]]
    for token in TOKENS.findall(text):
        if token == "(":
            stack.append([])
        elif token == ")":
            stack[-2].append(stack.pop())
        else:
            stack[-1].append(token.strip('"'))
    (root,) = stack[0]
    assert isinstance(root, list)
    return root


def children(node: Node, name: str) -> Iterator[Node]:
    return (child for child in node if isinstance(child, list) and child and child[0] == name)


def values(node: Node, name: str) -> list[str]:
    """What the child of this name lists, nothing if there is none."""
    return next(([each for each in child[1:] if isinstance(each, str)] for child in children(node, name)), [])


def numbers(node: Node, name: str) -> Floats:
    """The numbers that it lists."""
    return np.array([float(each) for each in values(node, name) if re.fullmatch(r"[-+.\de]+", each)])


def points(node: Node) -> Floats:
    """The corners of a polygon. Shape: [N, 2]."""
    corners = [child for pts in children(node, "pts") for child in children(pts, "xy")]
    return np.array([[float(str(x)), float(str(y))] for _, x, y in corners]).reshape(-1, 2)


def rounded(sides_2: Floats, radius: float) -> Floats:
    """A rectangle around 0 with round corners; with a radius of half a side it is an oval or a circle."""
    if radius <= 0:
        return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * sides_2 / 2
    angles_N = (np.arange(CIRCLE) + 0.5) * 2 * np.pi / CIRCLE
    unit_N2 = np.stack([np.cos(angles_N), np.sin(angles_N)], axis=1)
    return unit_N2 * radius + np.sign(unit_N2) * (sides_2 / 2 - radius)


def turned(points_N2: Floats, angle: float) -> Floats:
    """Counterclockwise, for a reader to whom y points down."""
    cos, sin = math.cos(angle), math.sin(angle)
    return points_N2 @ np.array([[cos, -sin], [sin, cos]])


def arc(start_2: Floats, middle_2: Floats, end_2: Floats) -> Floats:
    """Points of the circle through three points, from the first to the last. Shape: [N, 2]."""
    (ax, ay), (bx, by), (cx, cy) = start_2, middle_2, end_2
    twice = 2 * (ax * (by - cy) + bx * (cy - ay) + cx * (ay - by))
    if abs(twice) < 1e-9:
        return np.stack([start_2, end_2])
    squares = [float(each @ each) for each in (start_2, middle_2, end_2)]
    x = (squares[0] * (by - cy) + squares[1] * (cy - ay) + squares[2] * (ay - by)) / twice
    y = (squares[0] * (cx - bx) + squares[1] * (ax - cx) + squares[2] * (bx - ax)) / twice
    first, middle, last = (math.atan2(py - y, px - x) for px, py in (start_2, middle_2, end_2))
    sweep = (last - first) % (2 * math.pi)
    if (middle - first) % (2 * math.pi) > sweep:
        sweep -= 2 * math.pi
    angles_N = first + sweep * np.linspace(0, 1, CIRCLE)
    return np.array([x, y]) + math.hypot(ax - x, ay - y) * np.stack([np.cos(angles_N), np.sin(angles_N)], axis=1)


def pad_shapes(pad: Node) -> Iterator[Shape]:
    """Copper on the upper side, and holes."""
    _, _, kind, form = pad[:4]
    at, sides_2 = numbers(pad, "at"), numbers(pad, "size")[:2]
    angle = math.radians(at[2]) if len(at) > 2 else 0.0
    ratio = {"circle": 0.5, "oval": 0.5, "roundrect": float(next(iter(numbers(pad, "roundrect_rratio")), 0.25))}
    if kind != "np_thru_hole" and {"F.Cu", "*.Cu"} & set(values(pad, "layers")):
        outlines = [rounded(sides_2, ratio.get(str(form), 0) * float(sides_2.min()))]
        outlines += [points(each) for own in children(pad, "primitives") for each in children(own, "gr_poly")]
        for outline_N2 in outlines:
            yield Shape("copper", turned(outline_N2, angle) + at[:2])
    if len(drill := numbers(pad, "drill")):
        sides_2 = drill[:2] if len(drill) > 1 else drill.repeat(2)
        yield Shape("hole", turned(rounded(sides_2, float(sides_2.min()) / 2), angle) + at[:2])


def printed_shapes(footprint: Node) -> Iterator[Shape]:
    """Lines and areas of the silkscreen."""
    for child in footprint:
        if not isinstance(child, list) or "F.SilkS" not in values(child, "layer"):
            continue
        width = [float(each) for stroke in children(child, "stroke") for each in numbers(stroke, "width")]
        start_2, end_2 = numbers(child, "start"), numbers(child, "end")
        if child[0] == "fp_line":
            outline_N2 = np.stack([start_2, end_2])
        elif child[0] == "fp_arc":
            outline_N2 = arc(start_2, numbers(child, "mid"), end_2)
        elif child[0] == "fp_circle":
            centre_2 = numbers(child, "center")
            radius = float(np.hypot(*(end_2 - centre_2)))
            outline_N2 = rounded(np.full(2, 2 * radius), radius) + centre_2
        elif child[0] == "fp_rect":
            outline_N2 = rounded(np.abs(end_2 - start_2), 0) + (start_2 + end_2) / 2
        elif child[0] == "fp_poly":
            outline_N2 = points(child)
        else:
            continue
        if {"yes", "solid"} & set(values(child, "fill")):
            yield Shape("silkscreen", outline_N2)
        closed = child[0] in ("fp_circle", "fp_rect", "fp_poly")
        yield Shape("silkscreen", np.concatenate([outline_N2, outline_N2[:1]]) if closed else outline_N2, *width[:1])


def draw(path: Path, board: Board, side: int) -> Image.Image:
    """A footprint in the middle of a square board; without copper it is an empty one."""
    footprint = parse(path.read_text(encoding="utf-8"))
    shapes = [*printed_shapes(footprint), *(shape for pad in children(footprint, "pad") for shape in pad_shapes(pad))]
    image = Image.new("RGB", (side * OVERSAMPLING, side * OVERSAMPLING), board.mask)
    if any(shape.layer == "copper" for shape in shapes):
        canvas, colours = ImageDraw.Draw(image), {"silkscreen": board.silkscreen, "copper": board.copper, "hole": HOLE}
        outlines = [turned(shape.points_N2, board.angle) for shape in shapes]
        corners_N2 = np.concatenate(outlines)
        low_2, high_2 = corners_N2.min(axis=0), corners_N2.max(axis=0)
        scale = board.filled * image.width / float((high_2 - low_2).max())
        for layer, colour in colours.items():  # a hole lies on copper, and copper on the silkscreen
            for shape, outline_N2 in zip(shapes, outlines, strict=True):
                if shape.layer == layer:
                    pixels = ((outline_N2 - (low_2 + high_2) / 2) * scale + image.width / 2).ravel().tolist()
                    if shape.width_mm is None:
                        canvas.polygon(pixels, fill=colour)
                    else:
                        canvas.line(pixels, fill=colour, width=max(OVERSAMPLING, round(shape.width_mm * scale)))
    return image.resize((side, side), Image.Resampling.BOX)
