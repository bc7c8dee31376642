"""A hook of mkdocs: the links of CHANGELOG.md, CONTRIBUTING.md and SECURITY.md, which stand in another folder there."""

from __future__ import annotations

import re
from typing import Any

# The files of the repository's root that are pages too.
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make links from the repository's root lead to the same page from ``project/``."""
    if page.file.src_uri.removeprefix("project/") not in PAGES.values():
        return markdown
    markdown = re.sub(r"\]\(docs/(?:pages/)?", "](../", markdown)
    markdown = re.sub(r"\]\(([A-Z]+\.md)", lambda found: f"]({PAGES.get(found[1], found[1])}", markdown)
    # What is no page there: its text stays.
    return re.sub(r"\[([^]]+)\]\((?:README\.md|[a-z]+\.toml)[^)]*\)", r"\1", markdown)
