"""The order of an epoch over many shards: few are read at a time, and each by few processes, and chance still decides.

Images at random from all shards at once would open all of them for each batch, and fetch those of other machines again
and again. Shards are instead drawn at random, in parallel lanes. In each lane the images of a few shards are mixed, and
each batch takes from all lanes alike. A process takes a batch's images of neighbouring lanes (``Ranks.part``), and
so reads only the shards of these lanes. The order depends only on the seed and the epoch, and any batch can be the
first that is read: a training that resumes, with any number of processes, has the same batches.

Shapes: N images, and as many places in an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ftx.data.shards.paths import ENDING

# As many processes as that can read different shards. Sixteen lanes of four shards, and those that follow them, are
# open at a time: half of ``shard_store.MOST_OPEN``.
LANES = 16
MIXED = 4
# Up to this many shards are open at once, and the images of an epoch are mixed without regard to them.
AT_HAND = LANES * MIXED


def shard_numbers(paths: Sequence[str]) -> NDArray[np.intp] | None:
    """The number of the shard that each image lies in; None where these are few, or images do not lie in shards."""
    archives = [path.partition(f"{ENDING}/") for path in paths]
    names, number_N = np.unique([before if ending else "" for before, ending, _ in archives], return_inverse=True)
    return number_N if len(names) > AT_HAND else None


def shard_wise(
    order: NDArray[np.intp], shard_N: NDArray[np.intp], batch_size: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """The same images, in an order that goes from shard to shard.

    ``order`` names images by their place in ``shard_N``, some perhaps twice. Shape: [N] to [N].
    """
    places = len(order)
    turn_N = rng.permutation(int(shard_N.max()) + 1)[shard_N[order]]
    by_shard = np.lexsort((rng.random(places), turn_N))
    lane_N = np.arange(places) * LANES // places
    mixed = by_shard[np.lexsort((rng.random(places), turn_N[by_shard] // MIXED, lane_N))]
    # How far each place is through its lane: all lanes begin and end together.
    first_L, length_L = np.searchsorted(lane_N, np.arange(LANES)), np.bincount(lane_N, minlength=LANES)
    through_N = (np.arange(places) - first_L[lane_N] + 0.5) / length_L[lane_N]
    batch_N = np.empty(places, dtype=np.intp)
    batch_N[np.lexsort((lane_N, through_N))] = np.arange(places) // batch_size
    return order[mixed[np.lexsort((through_N, lane_N, batch_N))]]
