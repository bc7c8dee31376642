"""Ctrl-C, SIGTERM and a terminal that is closed, in a training.

The step that is computed is finished, so that the state that is left is whole.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

from ftx.core.errors import TERMINATING, Termination
from ftx.core.signals import handle_signals_on_own_stack, postponed_by_import


class Stop:
    """Whether somebody wants the training to end, and how; between steps it is asked.

    Within ``between_steps`` a signal waits for the step to end. Elsewhere it ends the work at once, and so does a
    second Ctrl-C.
    """

    def __init__(self) -> None:
        self.asked: Literal["interrupt", "terminate"] | None = None
        self._deferred = False

    def __bool__(self) -> bool:
        return self.asked is not None

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Let a signal wait until it is asked for."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        again = self.asked is not None
        if (again or not self._deferred) and postponed_by_import(number, frame):
            return
        self.asked = "terminate" if number in TERMINATING else "interrupt"
        if self._deferred and not again:
            return
        raise Termination if number in TERMINATING else KeyboardInterrupt


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Watch for signals until the block ends, but for those that the process was told to ignore.

    A shell starts what is in the background so, and Ctrl-C then is for another. In another thread than the first,
    Python tells of none.
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
