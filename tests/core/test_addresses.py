"""What is an address, and what never becomes one."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import pytest

from ftx.core.addresses import Address, as_typed, data_option, if_address, is_elsewhere, names_address, typed
from ftx.core.errors import DataError, InputError
from ftx.data.sources.listing import relative_path
from ftx.recipe.schema import Recipe


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("https://host/a/b.tar", "https://host/a/b.tar"),
        (Path("https://host/a/b.tar"), "https://host/a/b.tar"),  # which has lost a slash
        (Path("S3://bucket") / "{0..9}.tar", "s3://bucket/{0..9}.tar"),
        ("http://host:80/", "http://host:80"),
        ("gs:/bucket/a", "gs://bucket/a"),
        (Path("hf://datasets/who/what/x.tar"), "hf://datasets/who/what/x.tar"),
    ],
)
def test_what_a_person_types_as_an_address_is_one(given: str | Path, found: str) -> None:
    assert typed(given) == Address(found)
    assert typed(Address(found)) == Address(found)


@pytest.mark.parametrize("given", ["data/x.tar", "/data/x.tar", "C:/data", "a::b", "data", "x:y"])
def test_what_is_a_path_stays_one(given: str) -> None:
    assert typed(given) == Path(given)
    assert not names_address(given)


@pytest.mark.parametrize(
    "given",
    [
        "reference://::evil.tar",
        "file:///data/x.tar",
        Path("local:///data/x.tar"),
        "https://host/x::zip://y.tar",
        "memory://x.tar",
        "github://who:what@main/x.tar",
        "sftp://host/x.tar",
        "jar:/x.tar",
        "zip+http://x/y.tar",
        "https://",
    ],
)
def test_any_other_address_is_refused(given: str | Path, tmp_path: Path) -> None:
    with chdir(tmp_path), pytest.raises(InputError, match="a URL must begin with https://") as caught:
        typed(given)
    assert caught.value.exit_code == 2
    assert names_address(str(given))
    if "/data/x.tar" in str(given):
        assert caught.value.fix == "give the path: /data/x.tar"


@pytest.mark.parametrize(
    "text",
    [
        "http:\\\\host\\x.png", "HTTPS:\\host", "simplecache::/etc/passwd", "filecache::http:host/x", "s3:/x",
        "a/http://host", "blockcache::x", "zip://x::y", "x y://z", "a.b::c",
    ],
)  # fmt: skip
def test_what_looks_like_an_address_in_a_document(text: str) -> None:
    assert names_address(text)
    with pytest.raises(ValueError, match="is a URL, and must be a path"):
        relative_path(text)


def test_a_folder_called_like_an_address_does_not_hide_one(tmp_path: Path) -> None:
    """What is typed is an address then as well, so a run that names it is asked in the same way."""
    (tmp_path / "https:" / "host" / "x.tar").mkdir(parents=True)
    with chdir(tmp_path):
        assert isinstance(typed("https://host/x.tar"), Address)
        assert is_elsewhere("https://host/x.tar")
        assert if_address(Path("https://host/x.tar")) == Path("https:/host/x.tar")


def test_a_name_that_is_too_long_is_no_folder() -> None:
    text = "https://host/x.tar?signature=" + "a" * 5000
    assert is_elsewhere(text)
    assert not is_elsewhere("a" * 5000)
    with pytest.raises(InputError, match="a URL must begin with"):
        typed("old:/" + "a" * 5000)


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("https:/host/x", "--data https://host/x"), ("s3://b/{0..9}.tar", "--data 's3://b/{0..9}.tar'"),
        ("file:///etc", "--data DIR"), ("memory://x", "--data DIR"), ("http://h/a::b", "--data DIR"),
    ],
)  # fmt: skip
def test_an_address_that_ftx_would_not_open_is_not_recommended(text: str, option: str) -> None:
    assert data_option(text) == option


def test_a_folder_may_be_called_like_a_scheme_that_ftx_does_not_open(tmp_path: Path) -> None:
    (tmp_path / "old:" / "data").mkdir(parents=True)
    with chdir(tmp_path):
        assert typed("old:/data") == Path("old:/data")


def test_what_is_there_is_no_address_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "old:" / "data").mkdir(parents=True)
    with chdir(tmp_path):
        assert not is_elsewhere("old:/data")
        assert is_elsewhere("old:/other")
        assert if_address(Path("old:/data")) is None
        assert if_address(Path("old:/other")) == Path("old:/other")
        assert not is_elsewhere("other")


def test_names_are_joined_to_an_address() -> None:
    shards = Address("https://host/x/{0..1}.tar")
    assert (shards.name, shards.parent, str(shards.parent / "0.tar")) == (
        "{0..1}.tar",
        Address("https://host/x"),
        "https://host/x/0.tar",
    )
    host = Address("https://host")
    assert (host.name, host.parent, host / "a.tar" / "b/c.jpg") == ("", host, Address("https://host/a.tar/b/c.jpg"))


@pytest.mark.parametrize(
    "name",
    ["../x.tar", "a/../x.tar", "/x.tar", "http://other/x.tar", "a::b.tar", "x.tar?y", "x#y", "a\\b", "x\ny", "s3:/x"],
)
def test_no_name_leads_elsewhere(name: str) -> None:
    with pytest.raises(DataError, match="must not contain '"):
        Address("https://host/x") / name


def test_a_recipe_keeps_an_address_as_it_was_typed() -> None:
    recipe = Recipe.named({"path": "https://host/{0..3}.tar"})
    assert "path: https://host/{0..3}.tar" in recipe.dumps()
    assert Recipe.loads(recipe.dumps()) == recipe
    assert as_typed(Path("gs://bucket/a")) == "gs://bucket/a"
    assert as_typed(Path("data/x")) == "data/x"
