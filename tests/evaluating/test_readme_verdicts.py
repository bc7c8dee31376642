"""The section of a model card that holds the verdicts."""

from __future__ import annotations

import pytest

from ftx.evaluating.readme_verdicts import _SECTION


@pytest.mark.parametrize("after", ["", "## Use\n\ncode\n"])
def test_the_section_ends_at_the_next_heading_of_its_level(after: str) -> None:
    before = "# A model\n\n## Proof\n\ntext\n"
    assert _SECTION.sub("", f"{before}## Verdicts\n\n| a | b |\n### Below\nmore\n{after}") == before + after
