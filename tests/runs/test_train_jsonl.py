"""Which epoch of a training is kept: one alone may be lucky with few validation images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftx.runs.best_epoch import best_epoch, with_means
from ftx.runs.train_jsonl import EPOCHS_FILE, Epoch, epoch_lines, read_epochs


def epochs_of(*reached: float) -> list[Epoch]:
    """Epochs with such accuracies, as training notes them."""
    plain = [
        Epoch(number, 1.0, 1.0, one, {"accuracy": one}, 1e-3, 1.0, 1.0) for number, one in enumerate(reached, start=1)
    ]
    return with_means(plain, "accuracy")


@pytest.mark.parametrize(
    ("reached", "kept"),
    [
        ((0.25, 0.875, 0.5, 0.625, 0.75, 0.75, 0.625), 6),  # a lucky one is not; (0.625 + 0.75 + 0.75) / 3
        ((0.5, 0.9, 0.95, 0.7), 3),  # nor a bad one behind good ones, whose mean of 0.85 is the highest
        ((0.4, 0.5, 0.6, 0.7, 0.8), 5),
        ((0.8, 0.7, 0.6), 1),
        ((0.5,), 1),
    ],
)
def test_an_epoch_counts_for_what_it_and_its_mean_have_reached(reached: tuple[float, ...], kept: int) -> None:
    assert best_epoch(epochs_of(*reached), "accuracy").epoch == kept


def test_the_mean_is_that_of_three_and_of_fewer_at_first() -> None:
    assert [one.smoothed for one in epochs_of(0.25, 0.875, 0.5, 0.625)] == [0.25, 0.5625, 1.625 / 3, 2 / 3]


def test_of_equal_means_the_smaller_loss_decides_and_then_the_first() -> None:
    epochs = epochs_of(0.5, 0.5, 0.5)
    assert best_epoch(epochs, "accuracy").epoch == 1
    assert best_epoch([*epochs[:2], replace(epochs[2], val_loss=0.5)], "accuracy").epoch == 3


def test_what_an_earlier_version_wrote_is_judged_as_it_judged(tmp_path: Path) -> None:
    before = [replace(epoch, smoothed=None) for epoch in epochs_of(0.25, 0.875, 0.5, 0.75, 0.75)]
    (tmp_path / EPOCHS_FILE).parent.mkdir()
    lines = epoch_lines(before).replace(b', "smoothed": null', b"")
    assert b"smoothed" not in lines
    (tmp_path / EPOCHS_FILE).write_bytes(lines)
    assert read_epochs(tmp_path) == before
    assert best_epoch(read_epochs(tmp_path), "accuracy").epoch == 2
