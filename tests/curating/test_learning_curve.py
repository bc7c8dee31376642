"""How much more images would help, by probes on half of them and on all."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ftx.cli.app import run
from ftx.curating.learning_curve import _curve, _mean_of_subjects, halves, with_learning_curve
from ftx.curating.probes import Features, out_of_fold, stratified_folds
from ftx.data.check import open_and_check
from ftx.data.near_duplicates import near_duplicate_groups
from ftx.recipe.schema import Recipe
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.thresholds import Thresholds

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


@pytest.mark.parametrize("sizes", [[4] * 5, [12, 11, 10, 9, 8, 7, 6, 5]], ids=["equal", "distinct"])
def test_both_halves_of_a_division_are_all_and_divisions_differ(sizes: list[int]) -> None:
    subjects = [f"{number}" for number, size in enumerate(sizes) for _ in range(size)]
    given = [("ab"[number % 2],) for number in range(len(subjects))]
    first, second, third, fourth = halves(given, subjects)
    assert (first != second).all()
    assert (third != fourth).all()
    assert (first != third).any()
    assert (first != fourth).any()
    for half in (first, third):
        assert len({(subject, bool(one)) for subject, one in zip(subjects, half, strict=True)}) == len(sizes)


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


def test_probes_on_more_images_are_those_that_are_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = open_and_check(write(tmp_path / "data", 60, 30.0), "multiclass")
    entries = checked.dataset.split("train")
    targets = np.array([entry.labels == ("dark",) for entry in entries])
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, (len(entries), 12)) + 0.55 * np.where(targets, 1, -1)[:, None]
    found = Features(values.astype(np.float32), 32)
    monkeypatch.setattr("ftx.curating.learning_curve.frozen_features", lambda *_: found)
    report = with_learning_curve(TINY, checked)
    curve = report.learning_curve
    assert curve is not None
    assert curve.images == report.images["train"] < 120
    labels, task = checked.dataset.labels, TASKS["multiclass"](checked.dataset.labels, Thresholds())
    given = [entry.labels for entry in entries]
    groups = near_duplicate_groups(entries, checked.opened.fingerprints)
    fold, one_hot = stratified_folds(given, groups.subjects), task.targets(given)

    def accuracy(known: np.ndarray) -> float:
        return float(task.correct(out_of_fold(found.values_NW, one_hot, labels, fold, known).logits_NC, one_hot).mean())

    assert curve.accuracy_80 == pytest.approx(accuracy(np.ones(len(entries), bool)), abs=1e-4)
    parts = [accuracy(half) for half in halves(given, groups.subjects)]
    assert curve.accuracy_40 == pytest.approx(np.mean(parts), abs=1e-4)
    assert curve.accuracy_80 > curve.accuracy_40


@pytest.mark.parametrize(
    ("gain", "images", "summary"),
    [
        ([1.0] * 10 + [0.0] * 40, 50, "have helped"),  # a fifth of the images
        ([0.0] * 1000, 1000, "hardly"),  # at most Wilson's 0.4 points
        ([0.0] * 50, 50, "unproved"),  # too few to exclude a point
        ([1.0] * 5 + [-1.0] * 4 + [0.0] * 41, 50, "unproved"),
    ],
)
def test_what_the_interval_means(gain: list[float], images: int, summary: str) -> None:
    of_80, of_40 = np.clip(gain, 0, 1), np.clip(-np.array(gain), 0, 1)
    curve = _curve(of_40, of_80, [f"{number}" for number in range(images)])
    assert summary in curve.summary
    assert curve.gain == pytest.approx(np.mean(gain))
    assert curve.gain_high - curve.gain >= 3.84 / (images + 3.85) - 1e-4


@pytest.mark.parametrize(("per_label", "measured"), [(9, False), (10, True)])
def test_too_few_groups_have_no_curve_but_a_reason(per_label: int, measured: bool, tmp_path: Path) -> None:
    write(tmp_path / "data", 24, 5.0)
    rows = [
        f"data/{name}/{index}.png,{name},{'val,other' if index > 20 else f'train,{name}{index % per_label}'}"
        for name in ("dark", "light")
        for index in range(24)
    ]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split,group", *rows]))
    report = with_learning_curve(TINY, open_and_check(tmp_path / "table.csv", "multiclass"))
    assert (report.learning_curve is not None) == measured, report.warnings
    assert any("the data has 18" in warning for warning in report.warnings) != measured


@pytest.mark.representative
def test_data_check_measures_it_only_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "data", 15, 30.0)
    assert run(["data", "check", str(data)]) == 0
    assert "more images" not in capsys.readouterr().out
    assert run(["data", "check", str(data), "--more-images"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    found = with_learning_curve(Recipe(), open_and_check(data)).learning_curve
    assert found is not None
    assert f"{100 * found.gain:+.1f} points from 40 % of them to 80 %" in printed
    assert found.summary in printed
