"""Probes: scikit-learn's answer, each group and single by itself, and folds that do not see what they judge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ftx.curating.probes import out_of_fold
from ftx.tasks.labels import Labels
from ftx.training.head_start import STRENGTHS, Scale, fit, mean_loss

MULTICLASS = Labels.multiclass("abc")
TREE = Labels(
    ("x", "y", "a", "b", "wet"), groups=(("x", "y"), ("a", "b")), singles=("wet",), parents={"a": "x", "b": "x"}
)


def points(n: int = 90, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    given = np.arange(n) % 3
    return torch.from_numpy(rng.normal(0, 1, (n, 5)) + given[:, None] * 0.7), given


def fitted(features: torch.Tensor, targets: np.ndarray, labels: Labels, strength: float) -> np.ndarray:
    start = torch.zeros(features.shape[1] + 1, targets.shape[1], dtype=torch.float64)
    return fit(features, torch.from_numpy(targets).double(), labels, strength, start).numpy()


@pytest.mark.parametrize("strength", STRENGTHS)
def test_it_is_scikit_learns_multinomial_regression(strength: float) -> None:
    features, given = points()
    ours = fitted(features, np.eye(3)[given], MULTICLASS, strength)
    theirs = LogisticRegression(C=1 / (strength * len(given)), tol=1e-10, max_iter=10_000).fit(features.numpy(), given)
    # Both stop at a gradient of 1e-5: with a curvature of at least the penalty, 1e-3, weights are right to 1e-2 of it.
    logits = features.numpy() @ ours[1:] + ours[0]
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert_allclose(share, theirs.predict_proba(features.numpy()), atol=2e-3)


def test_a_single_is_a_regression_by_itself() -> None:
    features, given = points()
    holds = np.stack([given == 0, given > 0, given == 2], axis=1).astype(float)
    ours = fitted(features, holds, Labels(("a", "b", "c"), singles=("a", "b", "c")), 0.01)
    for column in range(3):
        theirs = LogisticRegression(C=1 / (0.01 * 90), tol=1e-10, max_iter=10_000).fit(
            features.numpy(), holds[:, column]
        )
        assert_allclose(ours[1:, column], theirs.coef_[0], atol=2e-3)  # as above
        assert_allclose(ours[0, column], theirs.intercept_[0], atol=2e-3)


def test_groups_and_singles_of_a_tree_do_not_move_each_other_and_what_is_not_known_teaches_nothing() -> None:
    features, given = points()
    # x/a, x/b, and y, of which nothing below is known
    targets = np.zeros((90, 5))
    targets[:, 0], targets[:, 1] = given < 2, given == 2
    targets[:, 2], targets[:, 3], targets[:, 4] = given == 0, given == 1, np.arange(90) % 2
    together = fitted(features, targets, TREE, 0.01)
    roots = fitted(features, targets[:, :2], Labels.multiclass("xy"), 0.01)
    assert_allclose(together[1:, :2], roots[1:], atol=2e-3)  # as above
    known = given < 2
    # Of the mean over all images two thirds are known: the same as a penalty of 3/2 on those.
    below = fitted(features[known], targets[known][:, 2:4], Labels.multiclass("ab"), 0.01 * 90 / 60)
    assert_allclose(together[1:, 2:4], below[1:], atol=2e-3)


def test_features_are_scaled_as_scikit_learn_does_and_one_that_never_varies_is_left_out() -> None:
    features, _ = points()
    features[:, 2] = 7.1
    ours = Scale.of(features[:50]).standardised(features)
    theirs = StandardScaler().fit(features[:50].numpy()).transform(features.numpy())
    assert_allclose(ours.numpy(), theirs, rtol=1e-9, atol=1e-9)
    assert not ours[:, 2].any()


def test_an_image_is_judged_by_a_probe_that_did_not_see_it() -> None:
    """A feature that is 1 for one image alone gives it away to a probe that learnt from it, and to no other."""
    rng = np.random.default_rng(1)
    given = rng.integers(0, 3, 60)
    features = np.concatenate([np.eye(60), rng.normal(0, 1, (60, 3))], axis=1).astype(np.float32)
    targets = np.eye(3, dtype=np.float32)[given]
    fold = np.arange(60) % 5
    found = out_of_fold(features, targets, MULTICLASS, fold)
    assert (found.logits_NC.argmax(axis=1) == given).mean() < 0.6  # by chance a third
    changed = out_of_fold(
        features, np.roll(targets, 1, axis=1) * (fold == 0)[:, None] + targets * (fold > 0)[:, None], MULTICLASS, fold
    )
    if changed.strength == found.strength:
        assert_array_equal(changed.logits_NC[fold == 0], found.logits_NC[fold == 0])


def test_the_penalty_is_that_of_the_least_loss_on_images_not_seen() -> None:
    features, given = points(150)
    targets = np.eye(3, dtype=np.float32)[given]
    fold = np.arange(150) // 3 % 5
    found = out_of_fold(features.numpy().astype(np.float32), targets, MULTICLASS, fold)
    noise = out_of_fold(np.random.default_rng(0).normal(0, 1, (150, 40)).astype(np.float32), targets, MULTICLASS, fold)
    assert noise.strength == max(STRENGTHS) > found.strength
    least = float(mean_loss(torch.from_numpy(found.logits_NC), torch.from_numpy(targets), MULTICLASS))
    assert least < np.log(3)


def test_what_an_image_looks_like_moves_no_other_of_its_fold() -> None:
    """Features are scaled as those of the images that the probe learnt from are, not as those that it judges."""
    features, given = points(60)
    seen, targets, fold = features.numpy().astype(np.float32), np.eye(3, dtype=np.float32)[given], np.arange(60) // 12
    other = seen.copy()
    other[0] = -other[0] + 3  # within what the others are like, so that the same penalty is chosen
    before, after = (out_of_fold(each, targets, MULTICLASS, fold) for each in (seen, other))
    assert before.strength == after.strength
    assert_array_equal(before.logits_NC[1:12], after.logits_NC[1:12])
    assert (before.logits_NC[0] != after.logits_NC[0]).all()
    # Other folds learnt from it.
    assert (before.logits_NC[12:] != after.logits_NC[12:]).all()


def test_the_logits_are_those_of_the_penalty_that_is_told() -> None:
    """A weaker penalty was tried after it, whose logits are others."""
    features, given = points(150)
    targets, fold = np.eye(3, dtype=np.float32)[given], np.arange(150) // 3 % 5
    found = out_of_fold(features.numpy().astype(np.float32), targets, MULTICLASS, fold)
    exact = torch.from_numpy(features.numpy().astype(np.float32)).double()

    def of(strength: float) -> np.ndarray:
        logits = np.zeros((150, 3))
        for one in range(5):
            scaled = Scale.of(exact[fold != one]).standardised(exact)
            weights = fitted(scaled[fold != one], targets[fold != one], MULTICLASS, strength)
            logits[fold == one] = scaled[fold == one].numpy() @ weights[1:] + weights[0]
        return logits

    weaker = STRENGTHS[STRENGTHS.index(found.strength) + 1]
    # Where a fit begins moves where it stops, as above; biases may be moved all together.
    centred = found.logits_NC - found.logits_NC.mean(axis=1, keepdims=True)
    expected, others = (each - each.mean(axis=1, keepdims=True) for each in (of(found.strength), of(weaker)))
    assert_allclose(centred, expected, atol=5e-3)
    assert np.abs(others - expected).max() > 0.05
