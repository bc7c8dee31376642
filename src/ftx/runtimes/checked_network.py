"""A network in 8 bits whose doubtful images also run in float, and get the float model's outputs.

An image is doubtful if one of its decisions is not clearer than a bound: the largest movement of calibration images.

Shapes: N images of H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import numpy as np

from ftx.data.preprocess import Pixels
from ftx.runtimes.compiled_network import CompiledNetwork, NetworkOutputs
from ftx.tasks.base import Task
from ftx.tasks.decisions import margins
from ftx.tasks.thresholds import Flags


class CheckedNetwork:
    """Requests as those of the network in 8 bits; ``exact`` is the same network in float.

    ``images`` have run so far, ``twice`` of them also in float.
    """

    def __init__(self, quick: CompiledNetwork, exact: CompiledNetwork, task: Task, bound: float) -> None:
        self.quick, self.exact, self._task, self.bound = quick, exact, task, bound
        self.images = self.twice = 0
        self._lock = Lock()

    def request(self, outputs: int | None = None) -> Callable[[Pixels], tuple[NetworkOutputs, Flags]]:
        """A request for one thread: the first few outputs, or all; and which images also ran in float.

        Shape: [N, H, W, 3], of any one size, to [N, ...] each, and [N].
        """
        quick, exact = self.quick.request(outputs), self.exact.request(outputs)

        def run(pixels_NHWC: Pixels) -> tuple[NetworkOutputs, Flags]:
            found = quick(pixels_NHWC)
            doubtful_N = ~(margins(self._task, found[0]) > self.bound)  # also where a logit is not a number
            if doubtful_N.any():
                for array, rows in zip(found, exact(pixels_NHWC[doubtful_N]), strict=True):
                    array[doubtful_N] = rows
            with self._lock:
                self.images += len(doubtful_N)
                self.twice += int(np.count_nonzero(doubtful_N))
            return found, doubtful_N

        return run
