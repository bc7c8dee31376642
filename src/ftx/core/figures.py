"""Pictures by matplotlib, which comes with the training extra: the same figures give the same file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def drawn(
    target: Path | BinaryIO, inches: tuple[float, float], settings: Mapping[str, Any] | None = None
) -> Iterator[Figure]:
    """A figure to draw in, written as SVG when the block ends; figures and settings of the caller's stay as they are.

    ``settings`` are matplotlib's own, for this figure alone.
    Raises: ModuleNotFoundError where matplotlib is not installed.
    """
    # Its list of fonts belongs to this process, and not into the user's home folder.
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("MPLCONFIGDIR")
        os.environ["MPLCONFIGDIR"] = before or folder
        try:
            import matplotlib as mpl
            from matplotlib.figure import Figure

            chosen: dict[Any, Any] = {"svg.hashsalt": "ftx", **(settings or {})}
            with mpl.rc_context(chosen):
                figure = Figure(figsize=inches, layout="constrained")
                yield figure
                figure.savefig(target, format="svg", metadata={"Date": None})
        finally:
            if before is None:
                del os.environ["MPLCONFIGDIR"]
