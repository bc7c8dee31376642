"""A signal that comes while a module is imported waits until it is there.

An exception that a handler raises inside of an import may be taken by C code that imports on its own, as torch does
numpy: the signal is then lost, or the module half there, and what uses it later fails as a bug would.
"""

from __future__ import annotations

import os
import threading
from types import FrameType

_AGAIN_AFTER_S = 0.02
_IMPORTLIB = "<frozen importlib._bootstrap"


def comes_again_after_import(number: int, frame: FrameType | None) -> bool:
    """Whether a handler's ``frame`` is inside of an import; then the signal is sent once more, a moment later."""
    while frame is not None and not frame.f_code.co_filename.startswith(_IMPORTLIB):
        frame = frame.f_back
    if frame is None:
        return False
    again = threading.Timer(_AGAIN_AFTER_S, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()
    return True
