"""In which views a model is compared with the trained one, and by which kernels OpenVINO computes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

# By which kernels OpenVINO computes a model in 8 bits: those for batches, or, where these are others, those for single
# images (ftx.runtimes.single_kernels).
KernelPath = Literal["batch", "single"]
# graph: the same pixels into each model. one_image: the same pixels, by the kernels for single images.
PixelView = Literal["graph", "one_image"]
# files: each runtime with its own image path.
View = PixelView | Literal["files"]
VIEW_OF: Mapping[KernelPath, PixelView] = {"batch": "graph", "single": "one_image"}
PATH_OF: Mapping[View, KernelPath] = {view: path for path, view in VIEW_OF.items()}
