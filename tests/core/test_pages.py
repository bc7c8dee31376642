"""Pages: values stay text, nothing is loaded, and tables sort; figures drawn inside of somebody's program."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt
from tests.browsing import needs_chromium, visit

from ftx.core.pages import drawn, render

EVIL = '<script>document.title = "taken"</script>'
TEMPLATE = """{% extends "base.html" %}
{% from "parts.html" import table, badge %}
{% block title %}{{ name }}{% endblock %}
{% block header %}<h1>{{ name }}</h1>{% endblock %}
{% block main %}{{ badge("proved", "ok") }}
{{ table("Labels", ["label", "images"], rows, sortable=true, numeric=[1]) }}{% endblock %}
{% block footer %}<p>end</p>{% endblock %}
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    template = tmp_path / "page.html"
    template.write_text(TEMPLATE, encoding="utf-8")
    rows = [["b", "10"], [EVIL, "9"], ["c", "-"], ["a", "1,000"]]
    written = tmp_path / "written.html"
    written.write_text(render(template, name=EVIL, rows=rows), encoding="utf-8")
    return written


def test_what_is_given_stays_text(page: Path) -> None:
    assert EVIL not in page.read_text(encoding="utf-8")


def test_a_value_that_is_missing_is_an_error(tmp_path: Path) -> None:
    from jinja2 import UndefinedError

    (tmp_path / "page.html").write_text("{{ nmae }}", encoding="utf-8")
    with pytest.raises(UndefinedError, match="nmae"):
        render(tmp_path / "page.html", name="x")


@pytest.mark.representative
@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_sorts_and_nothing_is_wrong_for_those_who_see_otherwise(page: Path, scheme: str) -> None:
    with visit(page.as_uri(), scheme=scheme, width=390) as seen:
        column = lambda: seen.page.locator("tbody tr td:nth-child(2)").all_inner_texts()  # noqa: E731
        assert column() == ["10", "9", "-", "1,000"]
        seen.page.get_by_role("button", name="images").press("Enter")
        assert column() == ["9", "10", "1,000", "-"]  # numbers as numbers, what is missing last
        seen.page.get_by_role("button", name="images").press("Enter")
        assert column() == ["1,000", "10", "9", "-"]
        assert seen.page.title() == EVIL
        assert seen.sideways() == 0
        assert not seen.violations()
        assert not seen.errors
        assert [one for one in seen.requests if not one.startswith(("data:", "file:"))] == []


def test_what_the_caller_draws_is_left_alone(tmp_path: Path) -> None:
    own = plt.figure()
    before = (mpl.get_backend(), mpl.rcParams["svg.hashsalt"])
    with drawn(tmp_path / "picture.svg", (3, 2)) as figure:
        figure.subplots().plot([1, 2])
    assert (tmp_path / "picture.svg").read_text().lstrip().startswith("<?xml")
    assert plt.get_fignums() == [own.number]
    assert (mpl.get_backend(), mpl.rcParams["svg.hashsalt"]) == before
    plt.close(own)


def test_a_picture_that_fails_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), drawn(tmp_path / "picture.svg", (3, 2)):
        raise ZeroDivisionError
    assert not (tmp_path / "picture.svg").exists()
