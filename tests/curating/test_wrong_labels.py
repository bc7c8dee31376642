"""From logits to suggestions, for the three tasks; and labels that cannot be judged."""

from __future__ import annotations

import numpy as np
import pytest

from ftx.curating.wrong_labels import Judgement, judge
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.task_names import TaskName
from ftx.tasks.thresholds import Thresholds

FLAT = Labels.multiclass("abc")
SINGLES = Labels(("p", "q"), singles=("p", "q"))
TREE = Labels(
    ("animal", "plant", "cat", "dog", "fern", "rose", "wet"),
    groups=(("animal", "plant"), ("cat", "dog"), ("fern", "rose")),
    singles=("wet",),
    parents={"cat": "animal", "dog": "animal", "fern": "plant", "rose": "plant"},
)


def judged(
    name: TaskName, labels: Labels, given: list[tuple[str, ...]], seen: list[tuple[str, ...]], sure: float = 4
) -> Judgement:
    """As if a probe saw in each image the labels ``seen``, and was as sure of them as the logits say."""
    task = TASKS[name](labels, Thresholds())
    logits = (2 * task.targets(seen) - 1) * sure
    # As sure as in the mean is what it takes: an image that is none of the least sure is above that.
    logits[[one != other for one, other in zip(given, seen, strict=True)]] *= 1.5
    noise = np.random.default_rng(0).normal(0, 0.1, logits.shape)
    return judge(
        (logits + noise).astype(np.float32), task.targets(given), task, given, [str(i) for i in range(len(given))]
    )


def test_multiclass() -> None:
    seen: list[tuple[str, ...]] = [(name,) for name in "abc" * 10]
    given = [*seen]
    given[4], given[9] = ("a",), ("c",)  # b, a
    found = judged("multiclass", FLAT, given, seen)
    assert {(one.row, one.suggested) for one in found.suspicions} == {(4, ("b",)), (9, ("a",))}
    assert all(one.score < 0.01 and not one.unproved for one in found.suspicions)
    assert [one.score for one in found.suspicions] == sorted(one.score for one in found.suspicions)
    assert [(one.name, one.images, one.suspected) for one in found.labels] == [("a", 10, 1), ("b", 9, 0), ("c", 11, 1)]
    assert found.possible


def test_multilabel_adds_and_takes_away_in_one_suggestion() -> None:
    seen: list[tuple[str, ...]] = [(("p",), ("q",), ("p", "q"), ())[index % 4] for index in range(48)]
    given = [*seen]
    given[0], given[1], given[3] = ("q",), ("p", "q"), ("p",)
    found = judged("multilabel", SINGLES, given, seen)
    assert {(one.row, one.suggested) for one in found.suspicions} == {(0, ("p",)), (1, ("q",)), (3, ())}


def test_a_tree_is_kept_whole() -> None:
    leaves = ("cat", "dog", "fern", "rose")
    seen: list[tuple[str, ...]] = [(leaves[index % 4], *(("wet",) if index % 3 == 0 else ())) for index in range(96)]
    given = [*seen]
    given[0] = ("dog", "wet")  # a wet cat: another child
    given[1] = ("fern",)  # a dog: another root, and the likeliest child below it
    given[2] = ("plant",)  # a fern, known to its first level: nothing is wrong
    given[6] = ("animal", "wet")  # a wet fern: a level above is all that was known, and is all that is said
    given[9] = ("dog",)  # a wet dog
    found = judged("hierarchical", TREE, given, seen)
    assert {(one.row, one.suggested) for one in found.suspicions} == {
        (0, ("cat", "wet")),
        (1, ("dog",)),
        (6, ("plant", "wet")),
        (9, ("dog", "wet")),
    }


@pytest.mark.parametrize(("count", "reason"), [(4, "4 different images"), (5, "")])
def test_a_label_of_few_images_is_not_judged(count: int, reason: str) -> None:
    seen: list[tuple[str, ...]] = [("a",)] * 30 + [("b",)] * 30 + [("c",)] * count
    given = [*seen]
    given[0] = ("b",)
    found = judged("multiclass", FLAT, given, [*seen[:-1], ("b",)])
    by_row = {one.row: one for one in found.suspicions}
    assert not by_row[0].unproved
    assert by_row[len(seen) - 1].unproved.startswith(reason)
    assert bool(by_row[len(seen) - 1].unproved) == bool(reason)


def test_near_chance_there_is_no_list() -> None:
    rng = np.random.default_rng(0)
    given: list[tuple[str, ...]] = [(str(name),) for name in rng.choice([*"abc"], 90)]
    task = TASKS["multiclass"](FLAT, Thresholds())
    logits = rng.normal(0, 1, (90, 3)).astype(np.float32)
    found = judge(logits, task.targets(given), task, given, [str(index) for index in range(90)])
    assert not found.suspicions
    assert not found.possible
    assert all("perhaps by chance" in one.unproved for one in found.labels)


@pytest.mark.parametrize(("copies", "judged"), [(1, True), (100, False)])
def test_copies_of_a_picture_are_one_trial(copies: int, judged: bool) -> None:
    """A probe that is right of 300 images in 500 of each label proves something, unless they are five in 100 copies."""
    given: list[tuple[str, ...]] = [("p",)] * 500 + [()] * 500
    right_N = np.arange(1000) // 100 % 5 < 3
    task = TASKS["multilabel"](Labels(("p",), singles=("p",)), Thresholds())
    targets = task.targets(given)
    logits = np.where(right_N[:, None], 1, -1) * (2 * targets - 1).astype(np.float32)
    found = judge(logits, targets, task, given, [str(index // copies) for index in range(1000)])
    assert found.possible == judged
    assert (found.labels[0].found, found.labels[0].mistaken) == (0.6, 0.4)
    assert judged or "60% of its 5 different images so and 40% of the 5 others" in found.labels[0].unproved


def test_a_label_that_every_image_has_is_not_judged() -> None:
    labels = Labels(("p",), singles=("p",))
    found = judged("multilabel", labels, [("p",)] * 20, [("p",)] * 19 + [()])
    assert not found.suspicions
    assert "0 different images without it" in found.labels[0].unproved


@pytest.mark.parametrize(("count", "reason"), [(4, "4 different images"), (6, "")])
def test_a_label_that_cannot_be_judged_is_no_proved_suggestion(count: int, reason: str) -> None:
    """Of an image whose own label can be judged, and that looks like one of a label that cannot."""
    seen: list[tuple[str, ...]] = [("a",)] * 30 + [("b",)] * 30 + [("c",)] * count
    given = [*seen, ("a",)]
    found = judged("multiclass", FLAT, given, [*seen, ("c",)])
    (one,) = [one for one in found.suspicions if one.row == len(seen)]
    assert one.suggested == ("c",)
    assert one.unproved.startswith(reason)
    assert bool(one.unproved) == bool(reason)
    assert [label.unproved.startswith(reason) and bool(label.unproved) for label in found.labels] == [
        False,
        False,
        bool(reason),
    ]


def test_what_is_told_of_a_label_and_of_the_others_is_not_exchanged() -> None:
    """6 images that have it, of which 4 are called so, and 8 that have not, of which 3 are."""
    given: list[tuple[str, ...]] = [("p",)] * 6 + [()] * 8
    called = np.array([1, 1, 1, 1, -1, -1] + [1, 1, 1, -1, -1, -1, -1, -1], dtype=np.float32)
    task = TASKS["multilabel"](Labels(("p",), singles=("p",)), Thresholds())
    (found,) = judge(called[:, None], task.targets(given), task, given, [str(index) for index in range(14)]).labels
    assert (found.images, found.subjects, found.found, found.mistaken) == (6, 6, 0.6667, 0.375)
    assert found.unproved == (
        "the probe calls 67% of its 6 different images so and 38% of the 8 others: perhaps by chance"
    )


def test_pictures_of_a_level_of_a_tree_are_counted_by_their_own_copies() -> None:
    """Ferns and roses come after the animals, of which nothing below plants is known: 20 images of 2 pictures each."""
    leaves = ["cat"] * 20 + ["dog"] * 20 + ["fern"] * 20 + ["rose"] * 20
    given: list[tuple[str, ...]] = [(name,) for name in leaves]
    task = TASKS["hierarchical"](TREE, Thresholds())
    targets = task.targets(given)
    subjects = [str(index) for index in range(40)] + [f"plant {index // 10}" for index in range(40)]
    logits = ((2 * targets - 1) * 4).astype(np.float32)
    found = {one.name: one for one in judge(logits, targets, task, given, subjects).labels}
    assert {name: (one.images, one.subjects) for name, one in found.items()} == {
        "animal": (40, 40),
        "plant": (40, 4),
        "cat": (20, 20),
        "dog": (20, 20),
        "fern": (20, 2),
        "rose": (20, 2),
        "wet": (0, 0),
    }


def test_of_two_changes_the_surer_one_ranks_an_image() -> None:
    """Its labels are as sure as the less sure of the two; and images come by that, the least sure first."""
    seen: list[tuple[str, ...]] = [(("p",), ("q",), ("p", "q"), ())[index % 4] for index in range(48)]
    given = [*seen]
    given[0], given[3] = ("q",), ("p",)
    task = TASKS["multilabel"](SINGLES, Thresholds())
    logits = (2 * task.targets(seen) - 1) * 4
    logits += np.random.default_rng(0).normal(0, 0.1, logits.shape)
    logits[0], logits[3] = (5, -9), (-7, -5)  # of 0 one label is less sure, and one far less, than of 3 its only one
    found = judge(
        logits.astype(np.float32), task.targets(given), task, given, [str(index) for index in range(48)]
    ).suspicions
    assert [one.row for one in found] == [0, 3]
    assert [one.score for one in found] == pytest.approx([1 / (1 + np.exp(9)), 1 / (1 + np.exp(7))], rel=1e-4)


def test_a_rare_label_is_called_where_it_is_likelier_than_it_is_frequent() -> None:
    """10 of 100 images have it; of these the probe gives it 30 %, of the others 5 %, and of four of these 12 %."""
    given: list[tuple[str, ...]] = [("p",)] * 10 + [()] * 90
    share = np.array([0.3] * 10 + [0.12] * 4 + [0.05] * 86)
    task = TASKS["multilabel"](Labels(("p",), singles=("p",)), Thresholds())
    logits = np.log(share / (1 - share))[:, None].astype(np.float32)
    (found,) = judge(logits, task.targets(given), task, given, [str(index) for index in range(100)]).labels
    assert (found.found, found.mistaken, found.unproved) == (1.0, round(4 / 90, 4), "")
