"""Ctrl-C, SIGTERM and a closed terminal during a training.

The current step is finished first, so that the saved state is complete.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

from ftx.core.errors import TERMINATING, Termination
from ftx.core.signal_stack import handle_signals_on_own_stack
from ftx.core.signals import postponed_by_import

StopRequest = Literal["interrupt", "terminate"] | None


class Stop:
    """A request to end the training, which the loop reads between steps.

    Within ``between_steps`` a signal waits for the step to end. Elsewhere it ends the work at once, and so does a
    second Ctrl-C.
    """

    def __init__(self) -> None:
        self.requested: StopRequest = None
        self._deferred = False

    def __bool__(self) -> bool:
        return self.requested is not None

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Let a signal wait until the loop reads it."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        again = self.requested is not None
        if (again or not self._deferred) and postponed_by_import(number, frame):
            return
        self.requested = "terminate" if number in TERMINATING else "interrupt"
        if self._deferred and not again:
            return
        raise Termination if number in TERMINATING else KeyboardInterrupt


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Receive signals until the block ends, except those that the process ignores.

    A shell starts background jobs so that they ignore Ctrl-C. Python delivers signals to the main thread only.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # None: a handler that is not Python's, which could not be put back.
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *TERMINATING)}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    handle_signals_on_own_stack()
    for number in before:
        signal.signal(number, stop.receive)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
