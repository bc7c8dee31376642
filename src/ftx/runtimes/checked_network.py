"""A quick network whose doubtful images also run in float, and get the float model's outputs.

An image is doubtful if one of its decisions is not clearer than a bound: the largest movement of calibration images;
or if the model drops patches, and two of the image tie for the last place.

Shapes: N images of H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import numpy as np

from ftx.core.statistics import rise_by_chance
from ftx.data.preprocess import Pixels
from ftx.runtimes.compiled_network import CompiledNetwork, NetworkOutputs
from ftx.tasks.base import Task
from ftx.tasks.decisions import LEAST_MARGIN, margins
from ftx.tasks.thresholds import Flags

# After this number of images, the part that ran twice is compared with that of the images that gave the bound.
WINDOW = 1_000
# The fraction of comparisons that find a rise although the images have not changed, at most.
FALSE_ALARMS = 0.001


class CheckedNetwork:
    """Requests as those of the quick network, in 8 bits or bf16; ``exact`` is the same network in float.

    With ``drops_patches``, the quick network has one more output (``add_choice_margins``).
    ``images`` have run so far, ``twice`` of them also in float. Of the ``known[1]`` images that gave the bound,
    ``known[0]`` did. If more do now, in ``rises`` of the windows so far, the bound may not hold for such images: then
    ``note`` gets a sentence, once.
    """

    def __init__(
        self,
        quick: CompiledNetwork,
        exact: CompiledNetwork,
        task: Task,
        bound: float,
        known: tuple[int, int] | None = None,
        *,
        drops_patches: bool = False,
    ) -> None:
        self._drops_patches = drops_patches
        self.quick, self.exact, self._task, self.bound = quick, exact, task, bound
        self.images = self.twice = self.rises = 0
        self.note: Callable[[str], None] = _ignore
        self._known = known
        self._window = (0, 0)
        self._lock = Lock()

    def request(self, outputs: int | None = None) -> Callable[[Pixels], tuple[NetworkOutputs, Flags]]:
        """A request for one thread: the first few outputs, or all; and which images also ran in float.

        Shape: [N, H, W, 3], of any one size, to [N, ...] each, and [N].
        """
        quick = self.quick.request(None if self._drops_patches else outputs)
        exact = self.exact.request(outputs)

        def run(pixels_NHWC: Pixels) -> tuple[NetworkOutputs, Flags]:
            found = quick(pixels_NHWC)
            doubtful_N = ~(margins(self._task, found[0]) > self.bound)  # also where a logit is not a number
            if self._drops_patches:
                doubtful_N |= ~(found[-1] > LEAST_MARGIN)
                found = found[:-1][:outputs]
            if doubtful_N.any():
                for array, rows in zip(found, exact(pixels_NHWC[doubtful_N]), strict=True):
                    array[doubtful_N] = rows
            self._count(int(np.count_nonzero(doubtful_N)), len(doubtful_N))
            return found, doubtful_N

        return run

    def _count(self, twice: int, images: int) -> None:
        with self._lock:
            self.twice, self.images = self.twice + twice, self.images + images
            twice, images = self._window[0] + twice, self._window[1] + images
            self._window = (0, 0) if images >= WINDOW else (twice, images)
        if images < WINDOW or self._known is None or rise_by_chance(twice, images, *self._known) >= FALSE_ALARMS:
            return
        with self._lock:
            self.rises += 1
            first = self.rises == 1
        if first:
            before, of = self._known
            self.note(
                f"{twice / images:.1%} of the last {images:,} images also ran in fp32, but only {before / of:.1%} of "
                f"the {of:,} images of the certificate. By chance, this happens in at most {FALSE_ALARMS:.1%} of such "
                f"comparisons. The certificate may not hold for the new images; to certify the model with some of them"
            )


def _ignore(_text: str) -> None:
    """Without a reader."""
