"""An epoch over many shards: every image as often as it was drawn, few shards at a time, each by few processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ftx.data.shards.shard_wise import AT_HAND, LANES, MIXED, shard_numbers, shard_wise
from ftx.recipe.sections import TrainRecipe
from ftx.training.class_balance import Balance
from ftx.training.loop import epoch_order
from ftx.training.ranks import Ranks
from ftx.training.step import Training

SHARDS, EACH, BATCH = 320, 30, 64


def epoch(seed: int = 0, batch: int = BATCH) -> tuple[np.ndarray, np.ndarray]:
    shard_N = np.repeat(np.arange(SHARDS), EACH)
    rng = np.random.default_rng(seed)
    return shard_wise(rng.permutation(len(shard_N)), shard_N, batch, rng), shard_N


@given(st.integers(1, 400), st.integers(1, 90), st.integers(1, 50), st.integers(0, 5))
def test_the_images_are_those_that_were_drawn(images: int, shards: int, batch: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shard_N, order = rng.integers(0, shards, images), rng.integers(0, images, images)  # some twice, some never
    found = shard_wise(order, shard_N, batch, rng)
    assert sorted(found.tolist()) == sorted(order.tolist())


def test_few_shards_are_read_at_a_time() -> None:
    """Each is read in one stretch of the epoch, and in any batch's neighbourhood lie few."""
    order, shard_N = epoch()
    read = shard_N[order]
    for start in range(0, len(read), 16 * BATCH):
        assert len(set(read[start : start + BATCH].tolist())) <= LANES * (MIXED + 1)
    first = {int(shard): int(np.flatnonzero(read == shard)[0]) for shard in range(SHARDS)}
    last = {int(shard): int(np.flatnonzero(read == shard)[-1]) for shard in range(SHARDS)}
    at_once = max(sum(first[one] <= place <= last[one] for one in range(SHARDS)) for place in range(0, len(read), 97))
    # In each lane the shards that are mixed, and where a lane ends one of its neighbour's.
    assert at_once <= LANES * (MIXED + 2)
    assert at_once < SHARDS / 3


def test_each_process_reads_shards_of_its_own() -> None:
    order, shard_N = epoch()
    for world in (2, 4, 8):
        read = [set[int]() for _ in range(world)]
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH].tolist()
            for rank in range(world):
                read[rank] |= {int(shard_N[image]) for image in Ranks(rank, world, rank, world).part(batch)}
        # Beside its own share, those at the ends of its lanes.
        assert max(map(len, read)) <= SHARDS / world + 2 * LANES
        assert sum(map(len, read)) < 1.4 * SHARDS


def test_batches_mix_shards_and_epochs_differ() -> None:
    order, shard_N = epoch()
    other, _ = epoch(1)
    assert (order != other).mean() > 0.9
    batches = [len(set(shard_N[order[start : start + BATCH]].tolist())) for start in range(0, len(order), BATCH)]
    assert min(batches[:-1]) >= LANES
    # Of two neighbours in a shard, few come into one batch: by chance alone 2 of 100 would, of lanes some more.
    place = np.empty(len(order), dtype=int)
    place[order] = np.arange(len(order)) // BATCH
    assert (place[0::2] == place[1::2]).mean() < 0.15


def test_few_shards_need_no_care() -> None:
    paths = [f"{number:04d}.tar/x.jpg" for number in range(AT_HAND)]
    assert shard_numbers(paths) is None
    numbers = shard_numbers([*paths, "more.tar/x.jpg", "0000.tar/y.jpg"])
    assert numbers is not None
    assert numbers[-1] == numbers[0]
    assert len(set(numbers.tolist())) == AT_HAND + 1
    assert shard_numbers([f"{number}/x.jpg" for number in range(1000)]) is None


def test_a_training_goes_from_shard_to_shard() -> None:
    shard_N = np.repeat(np.arange(SHARDS), EACH)
    nothing: Any = None  # but its order is asked for
    balance, recipe = Balance(len(shard_N)), TrainRecipe(batch_size=BATCH)
    plain = Training(nothing, nothing, nothing, nothing, recipe, balance, lr=0.1, bf16=False, seed=0)
    orders = [epoch_order(one, 1) for one in (plain, replace(plain, shard_N=shard_N))]
    assert all(sorted(order.tolist()) == list(range(len(shard_N))) for order in orders)
    read = [len(set(shard_N[order[: 16 * BATCH]].tolist())) for order in orders]
    assert read[0] > 0.9 * SHARDS
    assert read[1] < SHARDS / 3
