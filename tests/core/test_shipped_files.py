"""Files that come with ftx: one that is missing names the distribution that brings it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftx.core import shipped_files
from ftx.core.errors import EnvironmentFault, RecipeError


def test_what_is_missing_is_installed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fix names no package: on an index its name may be another's."""
    monkeypatch.setitem(shipped_files.BUNDLED, "other", ("vit", "other/model.safetensors"))
    monkeypatch.setattr(shipped_files, "_SHIPPED", tmp_path)
    for ask, name in (
        (lambda: shipped_files.sample_file("gone.zip"), "gone.zip"),
        (lambda: shipped_files.bundled_weights("other"), "model.safetensors"),
        (shipped_files.architecture_table, "architectures.json"),
    ):
        with pytest.raises(EnvironmentFault, match=f"lacks {name}") as refused:
            ask()
        assert refused.value.fix == "install ftx and its models again, as README.md says"


def test_weights_that_do_not_travel_with_ftx_are_none() -> None:
    assert shipped_files.bundled_weights("resnet18") is None
    weights = shipped_files.bundled_weights("dinov2-small")
    assert weights is not None
    assert weights.parent.name == "dinov2-small"


def test_a_recipe_is_a_file_of_the_users_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = shipped_files.recipe_names()[0]
    assert shipped_files.recipe_file(name).parent.name == "recipes"
    Path(name).write_text("seed: 3")
    assert shipped_files.recipe_file(name) == Path(name)
    with pytest.raises(RecipeError) as refused:
        shipped_files.recipe_file(f"{name}x")
    assert refused.value.fix == f"did you mean {name}?"
