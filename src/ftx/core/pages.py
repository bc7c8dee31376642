"""HTML pages with one look, and figures as SVG: equal values give equal files.

A page is one file: its style is inside, it loads nothing, and its own policy would block a request to a network.
jinja2 comes with the extras `train` and `serve`, matplotlib with `train`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHARED = Path(__file__).with_name("shipped") / "pages"


def render(template: Path, **values: object) -> str:
    """Fill a template: values are text unless the template marks them otherwise.

    It may extend `base.html` and use the macros of `parts.html`, which are in core/shipped/pages.
    Raises: jinja2.UndefinedError if the template names a value that was not given.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, _SHARED]),
        autoescape=True,  # a label or a path with HTML in it stays text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(
        style=(_SHARED / "page.css").read_text(encoding="utf-8"),
        table_script=(_SHARED / "tables.js").read_text(encoding="utf-8"),
        **values,
    )


@contextmanager
def drawn(
    target: Path | BinaryIO, inches: tuple[float, float], settings: Mapping[str, Any] | None = None
) -> Iterator[Figure]:
    """A figure to draw in, written as SVG when the block ends; the caller's own figures and settings do not change.

    ``settings`` are matplotlib's, for this figure only.
    Raises: ModuleNotFoundError if matplotlib is not installed.
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
