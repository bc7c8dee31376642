"""How much more images would help, by probes on half of them and on all."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ftx.cli.app import run
from ftx.core.errors import DataError
from ftx.curating.learning_curve import _halves, _mean_of_subjects, learning_curve
from ftx.curating.probes import out_of_fold
from ftx.data.check import LearningCurve, open_and_check
from ftx.data.dataset import Entry
from ftx.recipe.schema import Recipe
from ftx.tasks.labels import Labels

TINY = Recipe.named({"name": "test_vit", "weights": "none", "image_size": 32})


def test_a_probe_learns_only_from_the_images_that_it_may_know() -> None:
    rng = np.random.default_rng(0)
    features, given = rng.normal(0, 1, (60, 4)).astype(np.float32), np.arange(60) % 3
    targets, fold = np.eye(3, dtype=np.float32)[given], np.arange(60) // 3 % 5
    known = np.arange(60) < 40
    labels = Labels.multiclass("abc")
    found = out_of_fold(features, targets, labels, fold, known)
    other = features.copy()
    other[~known] = rng.normal(5, 3, (20, 4))
    changed = out_of_fold(other, targets, labels, fold, known)
    if changed.strength == found.strength:
        np.testing.assert_array_equal(changed.logits_NC[known], found.logits_NC[known])
    alone = out_of_fold(features[known], targets[known], labels, fold[known])
    if alone.strength == found.strength:
        np.testing.assert_allclose(found.logits_NC[known], alone.logits_NC, atol=1e-3)  # where L-BFGS stops
    assert not np.allclose(found.logits_NC, out_of_fold(features, targets, labels, fold).logits_NC, atol=1e-2)


def test_the_interval_counts_groups_of_images_and_not_images() -> None:
    gain_N = np.array([1.0, 0, 0, -1, 1, 1, 0, 0])
    mean, error = _mean_of_subjects(gain_N, [f"{number}" for number in range(8)])
    assert (mean, error) == pytest.approx((0.25, gain_N.std(ddof=1) / math.sqrt(8)))
    # Each image twice shows nothing more.
    assert _mean_of_subjects(np.repeat(gain_N, 2), [f"{number // 2}" for number in range(16)]) == (
        pytest.approx(mean),
        pytest.approx(error),
    )
    # Of groups of other sizes the mean is still that of images.
    mean, _ = _mean_of_subjects(gain_N, ["a", "a", "a", "b", "b", "c", "d", "d"])
    assert mean == pytest.approx(0.25)


def test_both_halves_of_a_division_are_all_and_divisions_differ() -> None:
    entries = [Entry(f"{number}.png", f"{number:064x}", ("ab"[number % 2],), "train") for number in range(20)]
    subjects = [f"{number // 4}" for number in range(20)]
    first, second, third, fourth = _halves(entries, subjects)
    assert (first != second).all()
    assert (third != fourth).all()
    assert (first != third).any()
    assert (first != fourth).any()
    for half in (first, third):
        assert len({(subject, bool(one)) for subject, one in zip(subjects, half, strict=True)}) == 5


def write(root: Path, count: int, noise: float) -> Path:
    """Two classes, whose colours overlap by ``noise``."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for index in range(count):
            level = 90 + 60 * number + rng.normal(0, noise)
            pixels = np.clip(level + rng.normal(0, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def test_it_is_measured_on_training_images_only(tmp_path: Path) -> None:
    checked = open_and_check(write(tmp_path / "data", 20, 5.0), "multiclass")
    found = learning_curve(TINY, checked)
    assert found.images == checked.report.images["train"] < 40
    assert found.accuracy_all > 0.9
    assert found.gain == pytest.approx(found.accuracy_all - found.accuracy_half, abs=2e-4)
    assert found.gain_low <= found.gain <= found.gain_high


@pytest.mark.parametrize(
    ("low", "high", "summary"),
    [(0.001, 0.05, "would help"), (-0.02, 0.009, "hardly"), (-0.02, 0.05, "unproved"), (-0.02, 0.01, "unproved")],
)
def test_what_the_interval_means(low: float, high: float, summary: str) -> None:
    curve = LearningCurve(images=9, accuracy_half=0.5, accuracy_all=0.5, gain=0.0, gain_low=low, gain_high=high)
    assert summary in curve.summary


def test_images_of_one_group_have_no_curve(tmp_path: Path) -> None:
    write(tmp_path / "data", 6, 5.0)
    rows = [f"data/{n}/{i}.png,{n},{'val,two' if i > 4 else 'train,one'}" for n in ("dark", "light") for i in range(6)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split,group", *rows]))
    checked = open_and_check(tmp_path / "table.csv", "multiclass")
    assert checked.report.ok
    with pytest.raises(DataError, match="not near-duplicates") as caught:
        learning_curve(TINY, checked)
    assert caught.value.found == "10 training images in 1 group"


def test_data_check_measures_it_only_if_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "data", 12, 30.0)
    assert run(["data", "check", str(data)]) == 0
    assert "more images" not in capsys.readouterr().out
    assert run(["data", "check", str(data), "--more-images"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    found = learning_curve(Recipe(), open_and_check(data))
    assert f"{100 * found.gain:+.1f} points from half of them to all" in printed
    assert found.summary in printed
