"""Pictures by matplotlib, which comes with the training extra: the same figures give the same file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def drawing() -> Iterator[Any]:
    """Its pyplot, without a screen; what was drawn is closed when the block ends.

    Raises: ModuleNotFoundError where matplotlib is not installed.
    """
    # Its list of fonts belongs to this process, and not into the user's home folder.
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("MPLCONFIGDIR")
        os.environ["MPLCONFIGDIR"] = before or folder
        try:
            import matplotlib as mpl

            mpl.use("svg")
            from matplotlib import pyplot as plt

            mpl.rcParams["svg.hashsalt"] = "ftx"
            try:
                yield plt
            finally:
                plt.close("all")
        finally:
            if before is None:
                del os.environ["MPLCONFIGDIR"]
