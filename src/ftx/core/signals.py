"""A signal that comes while a module is imported is sent again a moment later."""

from __future__ import annotations

import os
import threading
from types import FrameType

_POSTPONED_BY_S = 0.02
_IMPORTLIB = "<frozen importlib._bootstrap"


def postponed_by_import(number: int, frame: FrameType | None) -> bool:
    """Whether a handler's ``frame`` is inside of an import; then the signal is sent once more, a moment later.

    An exception that a handler raises inside of an import may be swallowed by C code that imports on its own, as torch
    does numpy. The signal is then lost, or the module half loaded, and later code fails as a bug would.
    """
    while frame is not None and not frame.f_code.co_filename.startswith(_IMPORTLIB):
        frame = frame.f_back
    if frame is None:
        return False
    again = threading.Timer(_POSTPONED_BY_S, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()
    return True
