"""Rare labels count as frequent ones do, by the images that are drawn or by the weight of their loss."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from ftx.evaluating.evaluate import evaluate
from ftx.recipe.schema import Recipe
from ftx.tasks.base import LossChoice
from ftx.tasks.hierarchical import Hierarchical
from ftx.tasks.labels import Labels
from ftx.tasks.multiclass import Multiclass
from ftx.tasks.multilabel import Multilabel
from ftx.tasks.thresholds import Thresholds
from ftx.training import train
from ftx.training.class_balance import balance_of, draw_probabilities, label_weights

CLASSES = Labels.multiclass(("a", "b", "c"))
SINGLES = Labels(("a", "b", "c"), singles=("a", "b", "c"))
TWO = Labels.multiclass(("frequent", "rare"))
# 12, 6 and 2 images.
ROWS = np.repeat(np.arange(3), (12, 6, 2))
ONE_HOT = np.eye(3, dtype=np.float32)[ROWS]
SEVERAL = (np.random.default_rng(0).random((40, 3)) < (0.6, 0.3, 0.1)).astype(np.float32)


def test_weights_of_a_group_are_sklearns_and_the_loss_is_torchs_with_them() -> None:
    weights_2C = label_weights(CLASSES, ONE_HOT)
    np.testing.assert_allclose(weights_2C[0], compute_class_weight("balanced", classes=np.arange(3), y=ROWS), rtol=1e-6)
    logits_NC = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    ours = Multiclass(CLASSES).loss(
        logits_NC,
        torch.from_numpy(ONE_HOT),
        LossChoice("asymmetric", 0.0, torch.from_numpy(weights_2C)),
    )
    # With class numbers torch divides by the sum of the weights, which is the number of images here.
    theirs = cross_entropy(logits_NC, torch.from_numpy(ROWS), weight=torch.from_numpy(weights_2C[0]))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)  # f32 rounding of a mean


@pytest.mark.parametrize("task", [Multiclass(TWO), Hierarchical(TWO, Thresholds())], ids=["multiclass", "tree"])
def test_smoothing_does_not_teach_the_rare_label_on_every_image(task: Multiclass | Hierarchical) -> None:
    """The least loss of 200 images to 2, with a pair of logits for each class."""
    targets = np.eye(2, dtype=np.float32)[np.repeat([0, 1], (200, 2))]
    weights = torch.from_numpy(label_weights(TWO, targets))
    free_2C = torch.zeros(2, 2, requires_grad=True)
    descent = torch.optim.LBFGS([free_2C], max_iter=200)

    def loss() -> torch.Tensor:
        descent.zero_grad()
        logits_NC = free_2C[torch.from_numpy(np.repeat([0, 1], (200, 2)))]
        found = task.loss(logits_NC, torch.from_numpy(targets), LossChoice("bce", 0.1, weights))
        found.backward()
        return found

    descent.step(loss)
    # What smoothing asks of every image, rare or not.
    np.testing.assert_allclose(free_2C.softmax(dim=1).detach(), [[0.95, 0.05], [0.05, 0.95]], atol=0.01)


def test_weights_of_singles_are_sklearns_for_each_answer() -> None:
    weights_2C = label_weights(SINGLES, SEVERAL)
    for row in range(3):
        no, yes = compute_class_weight("balanced", classes=np.arange(2), y=SEVERAL[:, row].astype(int))
        np.testing.assert_allclose(weights_2C[:, row], (yes, no), rtol=1e-6)
    logits_NC, targets_NC = torch.randn(40, 3, generator=torch.Generator().manual_seed(1)), torch.from_numpy(SEVERAL)
    given = torch.from_numpy(weights_2C)
    ours = Multilabel(SINGLES, Thresholds()).loss(logits_NC, targets_NC, LossChoice("bce", 0.0, given))
    each = binary_cross_entropy_with_logits(logits_NC, targets_NC, reduction="none")
    torch.testing.assert_close(ours, (each * torch.where(targets_NC > 0, given[0], given[1])).mean(), rtol=0, atol=1e-6)
    tree = Hierarchical(SINGLES, Thresholds())
    for kind in ("bce", "asymmetric"):
        expected = Multilabel(SINGLES, Thresholds()).loss(logits_NC, targets_NC, LossChoice(kind, 0.0, given))
        found = tree.loss(logits_NC, targets_NC, LossChoice(kind, 0.0, given))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_label_of_no_image_or_of_all_weighs_as_before() -> None:
    """Nothing is rarer than the other answer there: no weight is infinite, and none is 0."""
    targets_NC = np.array([[1, 1, 0], [0, 1, 0]], dtype=np.float32)
    np.testing.assert_array_equal(label_weights(SINGLES, targets_NC), 1)
    np.testing.assert_array_equal(label_weights(CLASSES, targets_NC[:1, [0, 2, 2]])[0], 1)


def test_one_flat_group_is_weighed_as_multiclass_and_others_by_their_own_images() -> None:
    logits_NC, targets_NC = torch.randn(20, 3, generator=torch.Generator().manual_seed(2)), torch.from_numpy(ONE_HOT)
    given = torch.from_numpy(label_weights(CLASSES, ONE_HOT))
    losses = [
        task.loss(logits_NC, targets_NC, LossChoice("bce", 0.1, given))
        for task in (Multiclass(CLASSES), Hierarchical(CLASSES, Thresholds()))
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-6)  # the sum in another order
    two = Labels(("x", "y", "u", "v"), groups=(("x", "y"), ("u", "v")), parents={"u": "x", "v": "x"})
    targets = np.array([[1, 0, 1, 0]] * 3 + [[1, 0, 0, 1]] + [[0, 1, 0, 0]] * 4, dtype=np.float32)
    np.testing.assert_allclose(label_weights(two, targets)[0], [1, 1, 4 / 6, 2], rtol=1e-6)


def test_images_are_drawn_so_that_each_class_is_equally_frequent() -> None:
    probability_N = draw_probabilities(ONE_HOT)
    np.testing.assert_allclose([probability_N[row == ROWS].sum() for row in range(3)], 1 / 3)
    order = balance_of("sampling", CLASSES, ONE_HOT).order(np.random.default_rng(0))
    assert len(order) == 20
    assert len(set(balance_of("none", CLASSES, ONE_HOT).order(np.random.default_rng(0)))) == 20
    many = np.concatenate(
        [balance_of("sampling", CLASSES, ONE_HOT).order(np.random.default_rng(seed)) for seed in range(500)]
    )
    # 10,000 draws: the standard deviation of a share is 0.005
    np.testing.assert_allclose(np.bincount(ROWS[many]) / len(many), 1 / 3, atol=0.02)


def test_the_rarest_label_of_an_image_decides_and_images_without_one_are_a_class() -> None:
    targets = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], dtype=np.float32)
    np.testing.assert_allclose(draw_probabilities(targets), np.array([1 / 3, 1 / 3, 1, 1]) / (8 / 3))


def uneven(root: Path) -> Path:
    """Two shades that overlap, 60 images to 6."""
    for name, count, mean in (("common", 60, 120), ("rare", 6, 136)):
        (root / "train" / name).mkdir(parents=True)
        (root / "test" / name).mkdir(parents=True)
        for index in range(count + 20):
            generator = np.random.default_rng([mean, index])
            grey = generator.normal(mean, 9) + generator.normal(0, 12, (32, 32, 1))
            pixels = np.repeat(grey, 3, axis=2).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / ("train" if index < count else "test") / name / f"{index}.png")
    return root


@pytest.mark.parametrize(
    "balance",
    [pytest.param("sampling", marks=pytest.mark.representative), pytest.param("loss", marks=pytest.mark.slow)],
)
def test_the_rare_class_is_found_more_often(balance: str, tmp_path: Path) -> None:
    data = uneven(tmp_path / "data")
    recall = {}
    for name in ("none", balance):
        recipe = Recipe().with_overrides(
            [
                f"data.path={data}",
                "data.image_size=32",
                "model.name=vit_tiny_patch16_224",
                "model.weights=none",
                "model.peft=none",
                "train.epochs=10",
                "train.lr=1e-3",
                "train.precision=f32",
                "train.augment=none",
                f"train.balance={name}",
            ]
        )
        torch.set_num_threads(1)
        with chdir(tmp_path):
            train(recipe, out=tmp_path / name)
            report = evaluate(tmp_path / name, "trained")
        recall[name] = {score.name: score.recall for score in report.classes}
    assert recall[balance]["rare"] > recall["none"]["rare"] + 0.2, recall
    assert recall[balance]["common"] > 0.5, recall  # the shades overlap; whoever says rare to all finds none
