"""The section of a model card that holds the verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.runs.test_certificate_json import certificate

from ftx.evaluating.readme_verdicts import _SECTION, _section
from ftx.runs.parity_json import read_parity


@pytest.mark.parametrize("after", ["", "## Use\n\ncode\n"])
def test_the_section_ends_at_the_next_heading_of_its_level(after: str) -> None:
    before = "# A model\n\n## Proof\n\ntext\n"
    assert _SECTION.sub("", f"{before}## Verdicts\n\n| a | b |\n### Below\nmore\n{after}") == before + after


def test_the_card_has_what_is_certified_and_whether_that_proves_it(validated_run: Path) -> None:
    report = read_parity(validated_run)
    assert report is not None
    assert "Certificate" not in _section(report)
    certificates = [certificate(), certificate(isa="avx2", images=200, changed=2)]
    section = _section(report.model_copy(update={"certificates": certificates}))
    assert "Certificate of openvino/int8-checked, for new images from the same source:" in section
    assert f"- avx512_vnni, int8, batch: proved, {certificates[0].summary}\n" in section
    assert "- avx2, int8, batch: unproved, not certified: needs 299 images to differ less than int8; " in section
