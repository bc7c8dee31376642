"""What is drawn for one purpose, seed, epoch, image or step says nothing of what is drawn for another."""

from __future__ import annotations

from itertools import product

from ftx.data.random_draws import occurrences, order_generator, patch_generator, step_seed, view_generator

IMAGES = ("0123456789abcdef" * 4, "fedcba9876543210" * 4)


def test_each_draw_is_of_its_own_and_comes_again() -> None:
    """Views and patches of two images, in two epochs, twice in each, by two seeds; and orders of the epochs."""

    def drawn() -> list[float]:
        each = product((view_generator, patch_generator), (0, 1), (1, 2), IMAGES, (0, 1))
        found = [of(seed, epoch, image, again).random() for of, seed, epoch, image, again in each]
        return found + [order_generator(seed, epoch).random() for seed, epoch in product((0, 1), (1, 2))]

    assert len(set(drawn())) == 2 * 2**4 + 4
    assert drawn() == drawn()
    # The first time is what is meant where it is not said.
    assert view_generator(0, 1, IMAGES[0]).random() == view_generator(0, 1, IMAGES[0], 0).random()
    assert patch_generator(0, 1, IMAGES[0]).random() == patch_generator(0, 1, IMAGES[0], 0).random()


def test_each_step_of_each_process_has_a_seed_of_its_own() -> None:
    seeds = [step_seed(seed, step, rank) for seed, step, rank in product((0, 1), (0, 1, 2), (0, 1, 2))]
    assert len(set(seeds)) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)  # what torch takes
    assert step_seed(5, 7) == step_seed(5, 7, 0)


def test_occurrences_count_what_stood_before() -> None:
    assert occurrences([3, 5, 3, 3, 5]) == [0, 0, 1, 2, 1]
