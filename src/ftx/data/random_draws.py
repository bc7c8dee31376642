"""What training draws at random, each by the seed of the recipe, the epoch, and the image or the step that it is for.

No generator lives from one draw to the next: a training that is resumed, and each of several processes, draws the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Sets what is drawn for one purpose apart from what is drawn for another.
_ORDER, _VIEW, _STEP, _PATCHES = 0, 1, 2, 3


def order_generator(seed: int, epoch: int) -> np.random.Generator:
    """Draws the order of an epoch's images."""
    return np.random.default_rng([_ORDER, seed, epoch])


def view_generator(seed: int, epoch: int, sha256: str, occurrence: int = 0) -> np.random.Generator:
    """Draws how an image is augmented, by the digest of its file.

    ``occurrence`` counts how often it was drawn before in this epoch: where rare labels are drawn more often, an image
    comes again.
    """
    return _image_generator(_VIEW, seed, epoch, sha256, occurrence)


def patch_generator(seed: int, epoch: int, sha256: str, occurrence: int = 0) -> np.random.Generator:
    """Draws which patches of an image are left out, as ``view_generator`` draws how it is augmented."""
    return _image_generator(_PATCHES, seed, epoch, sha256, occurrence)


def _image_generator(purpose: int, seed: int, epoch: int, sha256: str, occurrence: int) -> np.random.Generator:
    return np.random.default_rng([purpose, seed, epoch, int(sha256[:16], 16), occurrence])


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Seeds what is drawn while an optimizer's step is computed: dropout, stochastic depth; in each process its own."""
    drawn_for = [_STEP, seed, step, *([rank] if rank else [])]
    return int(np.random.SeedSequence(drawn_for).generate_state(1, np.uint64)[0] >> np.uint64(1))


def occurrences(order: Sequence[int]) -> list[int]:
    """For each place of an order, how often its image stands before it."""
    seen: dict[int, int] = {}
    counts: list[int] = []
    for index in order:
        counts.append(seen.get(index, 0))
        seen[index] = counts[-1] + 1
    return counts
