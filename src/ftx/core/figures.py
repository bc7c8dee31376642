"""Pictures by matplotlib, which comes with the training extra: the same figures give the same file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def drawn(path: Path, inches: tuple[float, float]) -> Iterator[Figure]:
    """A figure to draw in, written as SVG when the block ends; figures and settings of the caller's stay as they are.

    Raises: ModuleNotFoundError where matplotlib is not installed.
    """
    # Its list of fonts belongs to this process, and not into the user's home folder.
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("MPLCONFIGDIR")
        os.environ["MPLCONFIGDIR"] = before or folder
        try:
            import matplotlib as mpl
            from matplotlib.figure import Figure

            with mpl.rc_context({"svg.hashsalt": "ftx"}):
                figure = Figure(figsize=inches, layout="constrained")
                yield figure
                figure.savefig(path, format="svg", metadata={"Date": None})
        finally:
            if before is None:
                del os.environ["MPLCONFIGDIR"]
