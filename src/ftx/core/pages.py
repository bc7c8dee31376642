"""HTML pages: one look, filled from templates where everything given is text unless a template says otherwise.

A page is one file: its style stands inside, it loads nothing, and its own policy would refuse a request to a network.
jinja2 comes with the extras `train` and `serve`.
"""

from __future__ import annotations

from pathlib import Path

_SHARED = Path(__file__).with_name("shipped") / "pages"


def render(template: Path, **values: object) -> str:
    """Fill a template; it may extend `base.html` and use the macros of `parts.html`, which lie in core/shipped/pages.

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
