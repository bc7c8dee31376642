"""Images of one group, as the digests that exported models carry."""

from __future__ import annotations

from dataclasses import replace

from ftx.data.dataset import Entry, groups_of

A, B, C = "a" * 64, "b" * 64, "c" * 64


def entry(path: str, digest: str, group: str | None = None) -> Entry:
    return Entry(path, digest, ("x",), "test", group)


def test_images_of_a_group_have_one_digest_and_others_each_their_own() -> None:
    entries = [entry("1", A, "p"), entry("2", B, "p"), entry("3", C, "q"), entry("4", A), entry("5", B), entry("6", A)]
    found = groups_of(entries)
    assert len({*found}) == 4
    assert found[0] == found[1]
    assert found[3] == found[5]  # the same picture, in two files
    # Nothing of a name is in it; and wherever the images lie, and whatever their labels are, it is the same.
    assert all(len(one) == 64 and set(one) <= set("0123456789abcdef") for one in found)
    assert groups_of([replace(one, path=f"moved/{one.path}", labels=("y",)) for one in entries]) == found


def test_a_group_is_never_taken_for_an_image() -> None:
    """Though a group may be called as the hash of one."""
    assert len({*groups_of([entry("1", A, B), entry("2", B)])}) == 2


def test_without_a_group_there_are_none() -> None:
    assert groups_of([entry("1", A), entry("2", B)]) == ()
    assert groups_of([]) == ()
