"""The tasks by their equations: losses, masks, measures and decoding, with sklearn, torch and Model API as oracles."""

from __future__ import annotations

import json
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_api.models.classification import GreedyLabelsResolver, ProbabilisticLabelsResolver
from sklearn.metrics import average_precision_score, f1_score
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from ftx.core.errors import DataError
from ftx.tasks.base import LossChoice, Task, choosing_metric
from ftx.tasks.hierarchical import Hierarchical
from ftx.tasks.labels import LabelDeclaration, Labels, spaceless_names
from ftx.tasks.metrics import average_precision, f1_of, mean_average_precision
from ftx.tasks.multiclass import Multiclass
from ftx.tasks.multilabel import Multilabel
from ftx.tasks.output_meaning import TASKS, Meaning
from ftx.tasks.scores import binary_loss
from ftx.tasks.task_names import LossName, TaskName
from ftx.tasks.thresholds import Thresholds, best_threshold

TREE = Labels(
    names=("animal", "vehicle", "cat", "dog", "car", "bus", "wet", "night", "soaked"),
    groups=(("animal", "vehicle"), ("cat", "dog"), ("car", "bus")),
    singles=("wet", "night", "soaked"),
    parents={"cat": "animal", "dog": "animal", "car": "vehicle", "bus": "vehicle", "soaked": "wet"},
)


def draw(images: int, labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (images, labels)).astype(np.float32)
    return logits, (generator.random((images, labels)) < 0.3).astype(np.float32)


def test_binary_cross_entropy_is_torchs_mean_over_labels() -> None:
    logits, targets = (torch.from_numpy(values) for values in draw(7, 5))
    task = Multilabel(Labels(tuple("abcde"), singles=tuple("abcde")), Thresholds())
    expected = binary_cross_entropy_with_logits(logits, targets)
    assert torch.equal(task.loss(logits, targets, LossChoice("bce", 0.1)), expected)


def test_the_asymmetric_loss_is_its_equation() -> None:
    logits, targets = (torch.from_numpy(values).double() for values in draw(50, 4))
    p = torch.sigmoid(logits)
    shifted = torch.clamp(p - 0.05, min=0)
    # arXiv:2009.14119, eq. 6: gamma+ 0 on positives, gamma- 4 on negatives, margin 0.05.
    expected = -(targets * torch.log(p) + (1 - targets) * shifted**4 * torch.log(1 - shifted))
    # float64: the logarithm of a sigmoid by two ways
    torch.testing.assert_close(binary_loss(logits, targets, "asymmetric"), expected, rtol=1e-10, atol=1e-12)


def test_the_asymmetric_loss_stays_finite_for_any_logit() -> None:
    logits = torch.tensor([[-200.0, 200.0, 0.0]], requires_grad=True)
    loss = binary_loss(logits, torch.tensor([[1.0, 0.0, 1.0]]), "asymmetric").sum()
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_score_of_a_single_is_torchs_sigmoid_of_any_logit() -> None:
    task = Multilabel(Labels(("only",), singles=("only",)), Thresholds())
    logits = np.concatenate([np.linspace(-20, 20, 161), [-200, 200, -0.0]]).astype(np.float32)[:, None]
    # f32: one ulp of an exponential and of a quotient by another formula
    np.testing.assert_allclose(task.scores(logits), torch.from_numpy(logits).sigmoid().numpy(), rtol=1e-6, atol=1e-37)


def test_one_flat_group_is_multiclass() -> None:
    names = tuple("abcd")
    flat, plain = Hierarchical(Labels.multiclass(names), Thresholds()), Multiclass(Labels.multiclass(names))
    logits = draw(9, 4)[0]
    samples = [(names[index % 4],) for index in range(9)]
    targets = flat.targets(samples)
    assert np.array_equal(targets, plain.targets(samples))
    assert targets.dtype == plain.targets(samples).dtype == logits.dtype  # else the loss is in another
    pair = torch.from_numpy(logits), torch.from_numpy(targets)
    # f32: one mean of the same nine numbers
    torch.testing.assert_close(flat.loss(*pair, LossChoice("bce", 0.1)), plain.loss(*pair, LossChoice("bce", 0.1)))
    np.testing.assert_allclose(flat.scores(logits), plain.scores(logits), rtol=1e-6)
    assert np.array_equal(flat.predicted(logits), plain.predicted(logits))
    assert np.array_equal(flat.correct(logits, targets), plain.correct(logits, targets))
    assert flat.metrics(logits, targets)["path_accuracy"] == plain.metrics(logits, targets)["accuracy"]


@pytest.mark.parametrize("kind", ["asymmetric", "bce"])
def test_singles_alone_are_multilabel(kind: str) -> None:
    labels = Labels(tuple("abcd"), singles=tuple("abcd"))
    thresholds = Thresholds({"a": 0.3, "d": 0.8})
    tree, plain = Hierarchical(labels, thresholds), Multilabel(labels, thresholds)
    logits, targets = draw(9, 4)
    pair = torch.from_numpy(logits), torch.from_numpy(targets)
    assert torch.equal(tree.loss(*pair, LossChoice(kind, 0.1)), plain.loss(*pair, LossChoice(kind, 0.1)))
    assert np.array_equal(tree.predicted(logits), plain.predicted(logits))
    assert np.array_equal(tree.correct(logits, targets), plain.correct(logits, targets))
    assert tree.tuned_thresholds(logits, targets) == plain.tuned_thresholds(logits, targets)


def test_a_group_is_masked_where_it_is_unknown_and_nothing_else_is() -> None:
    task = Hierarchical(TREE, Thresholds())
    targets = torch.from_numpy(task.targets([("cat", "wet"), ("vehicle",), ("bus", "soaked"), ()]))
    logits = torch.from_numpy(draw(4, 9)[0]).requires_grad_()
    loss = task.loss(logits, targets, LossChoice("bce", 0.0))
    (gradient,) = torch.autograd.grad(loss, logits)
    learns = gradient.abs() > 0
    # Image by image: top group, cats and dogs, cars and buses; the singles of every image, negatives included.
    assert learns[:, 0].tolist() == learns[:, 1].tolist() == [True, True, True, False]
    assert learns[:, 2].tolist() == learns[:, 3].tolist() == [True, False, False, False]
    assert learns[:, 4].tolist() == learns[:, 5].tolist() == [False, False, True, False]
    assert learns[:, 6:].all()
    groups = [
        cross_entropy(logits[:3, :2], targets[:3, :2]),
        cross_entropy(logits[:1, 2:4], targets[:1, 2:4]),
        cross_entropy(logits[2:3, 4:6], targets[2:3, 4:6]),
        binary_cross_entropy_with_logits(logits[:, 6:], targets[:, 6:]),
    ]
    torch.testing.assert_close(loss, sum(groups) / 4)  # f32: sums in another order


def test_below_what_is_unknown_nothing_is_known() -> None:
    """Of an image that is called an animal and no more, a model may say which cat it is."""
    labels = Labels(
        ("animal", "vehicle", "cat", "dog", "pug", "spitz"),
        groups=(("animal", "vehicle"), ("cat", "dog"), ("pug", "spitz")),
        parents={"cat": "animal", "dog": "animal", "pug": "dog", "spitz": "dog"},
    )
    task = Hierarchical(labels, Thresholds())
    truth = task.targets([("animal",), ("vehicle",), ("cat",)])
    known = [[name for name, flag in zip(labels.names, row, strict=True) if flag] for row in task.known(truth)]
    assert known == [["animal", "vehicle"], [*labels.names], [*labels.names]]
    logits = np.array([[2.0, 0.0, 0.0, 2.0, 2.0, 0.0]] * 3, np.float32)  # an animal, a dog, a pug
    assert task.correct(logits, truth).tolist() == [True, False, False]


def test_the_parent_of_a_known_child_is_known() -> None:
    (row,) = Hierarchical(TREE, Thresholds()).targets([("dog", "soaked")])
    assert [name for name, value in zip(TREE.names, row, strict=True) if value] == ["animal", "dog", "wet", "soaked"]


FLAT = tuple("abcde")


@pytest.mark.parametrize(
    ("task", "samples"),
    [
        (Multiclass(Labels.multiclass(FLAT)), [(name,) for name in "abcdeba"]),
        (Multilabel(Labels(FLAT, singles=FLAT), Thresholds()), [("a",), ("b", "c"), (), ("e",), ("a",), (), ("d",)]),
        (
            Hierarchical(TREE, Thresholds()),
            [("cat", "wet"), ("vehicle",), ("bus", "soaked"), (), ("dog",), ("car", "night"), ("animal", "wet")],
        ),
    ],
    ids=["multiclass", "multilabel", "hierarchical"],
)
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("kind", ["bce", "asymmetric"])
def test_the_losses_of_the_parts_of_a_batch_add_up_to_its_own(
    task: Task, samples: list[tuple[str, ...]], weighed: bool, kind: LossName
) -> None:
    """Of two images and of five, as the last part of an epoch is smaller: each counts as often as its images do."""
    targets = torch.from_numpy(task.targets(samples))
    logits = torch.from_numpy(draw(7, len(task.labels))[0]).requires_grad_()
    weights = torch.linspace(0.5, 2, 2 * len(task.labels)).reshape(2, -1) if weighed else None

    def loss(rows: slice, whole: torch.Tensor | None) -> torch.Tensor:
        return task.loss(logits[rows], targets[rows], LossChoice(kind, 0.1, weights), whole)

    whole, parts = loss(slice(None), None), loss(slice(2), targets) + loss(slice(2, None), targets)
    # f32: the same numbers, summed in another order
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(parts, logits)[0], torch.autograd.grad(whole, logits)[0], rtol=1e-5, atol=1e-8
    )
    assert loss(slice(2), None) != loss(slice(2), targets)


@pytest.mark.parametrize("kind", ["bce", "asymmetric"])
def test_a_label_weighs_by_its_own_weight_for_the_truth_that_it_has(kind: LossName) -> None:
    logits, targets = (torch.from_numpy(values) for values in draw(6, 3))
    weights_2C = torch.tensor([[2.0, 3.0, 5.0], [7.0, 11.0, 13.0]])
    found = binary_loss(logits, targets, kind, weights_2C) / binary_loss(logits, targets, kind)
    expected = torch.where(targets > 0, weights_2C[0], weights_2C[1])
    known = found.isfinite()  # the easiest negatives of the asymmetric loss are 0
    assert known.float().mean() > 0.7
    torch.testing.assert_close(found[known], expected[known], rtol=1e-5, atol=0)  # f32: a product and a quotient


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_decoding_agrees_with_the_tree_and_with_both_resolvers_of_model_api(seed: int) -> None:
    task = Hierarchical(TREE, Thresholds())
    logits = draw(1, 9, seed)[0]
    scores = task.scores(logits)[0]
    answer = {label.name: label.score for label in task.decode(scores)}
    for name in answer:
        assert set(TREE.path(name)) <= set(answer)
    config = json.loads(task.model_info()["hierarchical_config"])
    raw = [(TREE.names[row], float(scores[row])) for row in np.flatnonzero(task.raw(scores[None])[0])]
    for resolver in (GreedyLabelsResolver(config), ProbabilisticLabelsResolver(config)):
        assert {label.name: label.confidence for label in resolver.resolve_labels(raw)} == pytest.approx(answer)


def test_the_measures_of_a_tree_count_class_zero() -> None:
    task = Hierarchical(TREE, Thresholds())
    truth = task.targets([("cat",), ("dog",), ("car",), ("bus",)])
    # All four answers are vehicle, bus: one of four is right; animal, the first class, is missed twice.
    logits = np.tile(task.targets([("bus",)]) * 9 - 4, (4, 1)).astype(np.float32)
    found = task.metrics(logits, truth)
    assert found["path_accuracy"] == 0.25
    assert found["accuracy_roots"] == 0.5
    assert found["accuracy_vehicle"] == 0.5
    # 2 true and 2 told labels an image; image 3 has 1 hit, image 4 has 2. A child of a wrong parent is wrong too.
    assert found["hierarchical_f1"] == pytest.approx(2 * 3 / (8 + 8))


def test_what_the_truth_does_not_say_is_no_mistake() -> None:
    task = Hierarchical(TREE, Thresholds())
    truth = task.targets([("animal",), ("cat",)])
    known = dict(zip(TREE.names, task.known(truth).T.tolist(), strict=True))
    # Of the first image it is known that no vehicle is there, and not which animal.
    assert (known["animal"], known["cat"], known["car"]) == ([True, True], [False, True], [True, True])
    logits = (task.targets([("dog",), ("bus",)]) * 9 - 4).astype(np.float32)
    assert task.correct(logits, truth).tolist() == [True, False]
    # Told that can be judged: animal; vehicle, bus. True: animal; animal, cat.
    assert task.metrics(logits, truth)["hierarchical_f1"] == pytest.approx(2 * 1 / (3 + 3))


@pytest.mark.parametrize("seed", range(5))
def test_the_measures_of_a_tree_counted_one_image_after_the_other(seed: int) -> None:
    """With labels that only some images have, three groups of unequal numbers, and thresholds that differ."""
    thresholds = Thresholds({"wet": 0.2, "night": 0.7}, shared=0.9)
    task = Hierarchical(TREE, thresholds)
    samples = [("cat", "wet"), ("vehicle",), ("bus", "soaked"), ("dog",), ("animal", "wet"), ("night",), ("cat",)]
    truth, logits = task.targets(samples), draw(7, 9, seed)[0]
    found, called = task.metrics(logits, truth), task.predicted(logits)
    limits = dict(zip(TREE.names, (0.5,) * 6 + (0.2, 0.7, 0.5), strict=True))
    groups = {"roots": ("animal", "vehicle"), "animal": ("cat", "dog"), "vehicle": ("car", "bus")}
    correct: dict[str, list[bool]] = {name: [] for name in ("path", "singles", "contradiction", *groups)}
    hits = either = 0
    for row, names in enumerate(samples):
        true = set(chain.from_iterable(TREE.path(name) for name in names))
        of = dict(zip(TREE.names, (1 / (1 + np.exp(-logits[row].astype(np.float64)))).tolist(), strict=True))
        raw = {name for name in TREE.singles if of[name] > limits[name]}
        for group, members in groups.items():
            best = max(members, key=of.__getitem__)  # the largest logit, and so the largest share of its group
            raw.add(best)
            if true & set(members):
                correct[group].append(best in true)
        told = {name for name in raw if set(TREE.path(name)) <= raw}
        assert {name for name, flag in zip(TREE.names, called[row], strict=True) if flag} == told
        known = dict(zip(TREE.names, task.known(truth)[row], strict=True))
        correct["path"].append(all((name in told) == (name in true) for name in TREE.names if known[name]))
        correct["singles"] += [(name in raw) == (name in true) for name in TREE.singles]
        correct["contradiction"].append("soaked" in raw and "wet" not in raw)
        counted = {name for name in told if known[name]}
        hits, either = hits + len(counted & true), either + len(counted) + len(true)
    mean = {name: sum(values) / len(values) for name, values in correct.items()}
    assert len({len(values) for name, values in correct.items() if name in groups}) == 3
    assert found == pytest.approx(
        {
            "path_accuracy": mean["path"],
            "singles_accuracy": mean["singles"],
            "inconsistent": mean["contradiction"],
            "hierarchical_f1": 2 * hits / either,
            "macro_f1": f1_of(called & task.known(truth), truth > 0)[0],
            **{f"accuracy_{name}": mean[name] for name in groups},
        }
    )


def test_a_group_that_no_image_has_has_no_accuracy_and_two_of_one_parent_have_names_of_their_own() -> None:
    labels = Labels(tuple("abcdef"), groups=(("a", "b"), ("c", "d"), ("e", "f")), parents={"e": "a", "f": "b"})
    task = Hierarchical(labels, Thresholds())
    truth = task.targets([("a", "c"), ("a", "d"), ("b",)])
    logits = (task.targets([("a", "c"), ("b", "c"), ("b",)]) * 9 - 4).astype(np.float32)
    found = {name: value for name, value in task.metrics(logits, truth).items() if name.startswith("accuracy_")}
    assert found == {"accuracy_roots": pytest.approx(2 / 3), "accuracy_group_1": 0.5}


@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.booleans())
def test_average_precision_is_sklearns(images: int, seed: int, coarse: bool) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.random(images).astype(np.float32)
    if coarse:  # many equal scores
        scores = np.round(scores * 4) / 4
    truth = generator.random(images) < 0.4
    found = average_precision(scores, truth)
    if not truth.any():
        assert found is None
    else:
        assert found == pytest.approx(average_precision_score(truth, scores), abs=1e-9)


def test_a_label_without_an_image_counts_in_no_mean() -> None:
    scores, truth = 1 / (1 + np.exp(-draw(30, 5)[0])), draw(30, 5)[1] > 0
    truth[:, [1, 4]] = False
    expected = np.mean([average_precision_score(truth[:, row], scores[:, row]) for row in (0, 2, 3)])
    assert mean_average_precision(scores, truth) == pytest.approx(expected, abs=1e-9)
    task = Multilabel(Labels(FLAT, singles=FLAT), Thresholds())
    assert task.metrics(draw(30, 5)[0], truth.astype(np.float32))["mAP"] == pytest.approx(expected, abs=1e-9)
    assert mean_average_precision(scores, np.zeros_like(truth)) == 0.0


def test_f1_is_sklearns() -> None:
    called, truth = (values > 0.5 for values in (draw(40, 6, 1)[1], draw(40, 6, 2)[1]))
    expected = tuple(f1_score(truth, called, average=kind) for kind in ("macro", "micro"))
    assert f1_of(called, truth) == pytest.approx(expected)


@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_no_other_threshold_has_a_larger_f1(images: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores, truth = generator.random(images).astype(np.float32), generator.random(images) < 0.4

    def f1(threshold: float) -> float:
        called = scores > threshold
        return 2 * (called & truth).sum() / max(called.sum() + truth.sum(), 1)

    tuned = best_threshold(scores, truth)
    if truth.any():
        # Calling every image is left out: it would want a threshold below all scores, and says nothing.
        assert f1(tuned) >= max(f1(value) for value in scores[scores > scores.min()])
    else:
        assert tuned == 0.5


@pytest.mark.parametrize(
    ("scores", "truth", "expected"),
    [
        # Called the first alone, or the first four: 2 · 1 / (1 + 2) = 2 · 2 / (4 + 2).
        ((0.95, 0.9, 0.6, 0.5, 0.3), "TFFTF", 0.4),
        ((0.6, 0.4, 0.35, 0.2, 0.05), "TFFTF", 0.5),
        ((0.99, 0.95, 0.9, 0.8, 0.78), "TFFTF", 0.79),
    ],
)
def test_of_equally_good_thresholds_it_is_the_nearest_to_a_half(
    scores: tuple[float, ...], truth: str, expected: float
) -> None:
    found = best_threshold(np.array(scores, np.float32), np.array([one == "T" for one in truth]))
    assert found == pytest.approx(expected, abs=1e-6)  # of scores in f32


def test_a_label_has_its_own_threshold_or_a_half_and_readers_of_one_the_shared() -> None:
    """Between the last true score and the first false one: of each label, and of all together."""
    scores = np.array([[0.9, 0.45], [0.8, 0.2], [0.3, 0.1]], np.float32)
    truth = np.array([[1, 1], [1, 0], [0, 0]], np.float32)
    logits = np.log(scores / (1 - scores))
    for task in (
        Multilabel(Labels(("u", "v"), singles=("u", "v")), Thresholds()),
        Hierarchical(Labels(("u", "v"), singles=("u", "v")), Thresholds()),
    ):
        tuned = task.tuned_thresholds(logits, truth)
        assert dict(tuned.labels) == pytest.approx({"u": 0.55, "v": 0.325}, abs=1e-6)
        assert tuned.shared == pytest.approx(0.375, abs=1e-6)
        assert float(task.with_thresholds(tuned).model_info()["confidence_threshold"]) == pytest.approx(tuned.shared)
        # A label that came later has none of its own yet, and is called as it was exported: above a half.
        np.testing.assert_allclose(tuned.of(["new", "v", "u"]), [0.5, 0.325, 0.55], atol=1e-6)
    # In a tree the singles alone are tuned.
    tree = Hierarchical(Labels(("a", "b", "u", "v"), (("a", "b"),), ("u", "v")), Thresholds())
    more = np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    assert tree.tuned_thresholds(np.hstack([more, logits]), np.hstack([1 - more, truth])) == tuned
    assert Multiclass(Labels.multiclass(("a", "b"))).tuned_thresholds(logits, truth) == Thresholds()


def test_labels_above_their_own_threshold_are_told_the_surest_first() -> None:
    task = Multilabel(Labels(tuple("abcd"), singles=tuple("abcd")), Thresholds({"a": 0.3, "c": 0.9}, shared=0.1))
    told = task.decode(np.array([0.4, 0.8, 0.85, 0.45], np.float32))
    assert [(label.name, label.score) for label in told] == [("b", pytest.approx(0.8)), ("a", pytest.approx(0.4))]


def test_images_of_equal_scores_are_called_together() -> None:
    # Between the two of 0.5 the F1 would be 1, but no threshold lies there: 2/3 above them, 4/5 below.
    scores = np.array([0.875, 0.5, 0.5, 0.125], np.float32)
    assert best_threshold(scores, np.array([True, True, False, False])) == (0.5 + 0.125) / 2


def test_one_label_works_and_no_label_at_all() -> None:
    task = Multilabel(Labels(("only",), singles=("only",)), Thresholds({"only": 0.6}))
    targets = task.targets([("only",), ()])
    logits = np.array([[2.0], [-2.0]], dtype=np.float32)
    assert targets.tolist() == [[1.0], [0.0]]
    assert task.correct(logits, targets).all()
    assert task.metrics(logits, targets)["mAP"] == 1.0
    assert [len(task.decode(scores)) for scores in task.scores(logits)] == [1, 0]


def test_a_class_without_images_is_a_label() -> None:
    """As a folder without an image: it is told, and not passed over."""
    declared = LabelDeclaration(names=("boat", "cat", "dog"))
    for task, samples in (
        ("multiclass", {"1": ("dog",), "2": ("cat",)}),
        ("multilabel", {"1": ("dog",), "2": ()}),
        ("hierarchical", {"1": ("dog/pug",), "2": ("cat",), "3": ("dog/spitz",)}),
    ):
        labels, named = TASKS[task].relate(samples, declared, "here")
        assert set(labels.names) >= {"boat", "cat", "dog"}, task
        assert [TASKS[task](labels, Thresholds()).targets([one])[0, labels.index("boat")] for one in named] == [
            0
        ] * len(samples)
    assert labels.groups[0] == ("boat", "cat", "dog")


@pytest.mark.parametrize("parents", [{"a": "gone"}, {"gone": "a"}, {"a": "b", "b": "gone"}])
def test_a_tree_of_labels_that_do_not_exist_is_refused(parents: dict[str, str]) -> None:
    with pytest.raises(DataError, match="only labels that exist") as refused:
        Labels(("a", "b"), singles=("a", "b"), parents=parents)
    assert refused.value.found == "gone"


def test_names_without_blanks_are_all_others() -> None:
    assert spaceless_names(["a b", "a_b", "a\tb", " ", "c", "a  b"]) == ("a_b_2", "a_b", "a_b_3", "_", "c", "a_b_4")


@pytest.mark.parametrize("task", TASKS)
def test_what_an_artifact_records_of_its_logits_is_what_they_are_read_by(task: TaskName) -> None:
    """The task, its labels in their order, and their thresholds; and the metric that chooses an epoch."""
    labels = {"multilabel": Labels(("b", "a"), singles=("b", "a")), "hierarchical": TREE}.get(
        task, Labels.multiclass(("b", "a"))
    )
    meaning = Meaning(task=task, labels=labels, thresholds=Thresholds({labels.names[-1]: 0.25}, shared=0.75))
    opened = Meaning.model_validate_json(meaning.model_dump_json()).open()
    assert type(opened) is TASKS[task]
    assert opened.labels == labels
    assert opened.thresholds == Thresholds({labels.names[-1]: 0.25}, shared=0.75)
    assert (choosing_metric(opened, balanced=False), choosing_metric(opened, balanced=True)) == {
        "multiclass": ("accuracy", "macro_f1"),
        "multilabel": ("mAP", "mAP"),
        "hierarchical": ("path_accuracy", "macro_f1"),
    }[task]


def test_labels_that_are_no_tree_are_refused() -> None:
    names = tuple("ab")
    with pytest.raises(DataError, match="must not be its own parent"):
        Labels(names, singles=names, parents={"a": "b", "b": "a"})
    with pytest.raises(DataError, match="sorted by group"):
        Hierarchical(Labels(("a", "b", "c"), groups=(("b", "c"),), singles=("a",)), Thresholds())
    assert list(chain.from_iterable(TREE.path(name) for name in ("soaked", "bus"))) == [
        "wet",
        "soaked",
        "vehicle",
        "bus",
    ]


def test_a_single_without_its_parent_is_a_contradiction_and_a_group_given_its_parent_is_none() -> None:
    task = Hierarchical(TREE, Thresholds())
    truth = task.targets([("cat",), ("cat", "soaked")])
    logits = np.where(task.targets([("cat",), ("cat",)]) > 0, 4, -4).astype(np.float32)
    assert task.metrics(logits, truth)["inconsistent"] == 0.0
    logits[1, TREE.index("soaked")] = 4  # while wet, its parent, is not called
    assert task.metrics(logits, truth)["inconsistent"] == 0.5


def test_of_two_labels_that_are_equally_sure_one_wins() -> None:
    """As may be in int8: the first, in a group of a tree as in a single choice."""
    logits = np.array([[2.0, 2.0, -1.0]], np.float32)
    labels = Labels(names=("a", "b", "c"), groups=(("a", "b", "c"),))
    for task in (Multiclass(labels), Hierarchical(labels, Thresholds())):
        assert task.predicted(logits).tolist() == [[True, False, False]]


def test_labels_whose_declared_parents_exclude_each_other_stand_in_no_image() -> None:
    declared = LabelDeclaration(groups=(("warm", "cold"),), parents={"red": "warm", "blue": "cold"})
    samples = {"1": ("red",), "2": ("blue",), "3": ("red",)}
    labels, _ = Hierarchical.relate(samples, declared, "here")
    assert labels.groups == (("warm", "cold"),)
    with pytest.raises(DataError, match="mutually exclusive") as caught:
        Hierarchical.relate(samples | {"4": ("red", "blue")}, declared, "here")
    assert "4" in str(caught.value.found)
