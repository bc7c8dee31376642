"""Which epoch of a training is kept: by a mean over three, as one alone may be lucky with few validation images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ftx.runs.train_jsonl import EPOCHS_FILE, Epoch, best_epoch, epoch_lines, read_epochs, smoothed


def epochs_of(*reached: float) -> list[Epoch]:
    """Epochs with such accuracies, as training notes them."""
    found: list[Epoch] = []
    for number, one in enumerate(reached, start=1):
        mean = smoothed(found, one, "accuracy")
        found.append(Epoch(number, 1.0, 1.0, one, {"accuracy": one}, 1e-3, 1.0, 1.0, smoothed=mean))
    return found


def test_a_lucky_epoch_is_not_kept() -> None:
    epochs = epochs_of(0.25, 0.875, 0.5, 0.625, 0.75, 0.75, 0.625)
    assert [epoch.smoothed for epoch in epochs[:4]] == [0.25, 0.5625, 1.625 / 3, 2 / 3]
    assert best_epoch(epochs, "accuracy").epoch == 6  # (0.625 + 0.75 + 0.75) / 3, as of the seventh


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
