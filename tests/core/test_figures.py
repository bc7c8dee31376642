"""Pictures that are drawn inside of somebody's program."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt

from ftx.core.figures import drawn


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
