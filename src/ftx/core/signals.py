"""Signals that come at a bad moment: while a module is imported, or to a thread whose signal stack was freed."""

from __future__ import annotations

import ctypes
import os
import threading
from types import FrameType

_POSTPONED_BY_S = 0.02
_IMPORTLIB = "<frozen importlib._bootstrap"
# signal.h of Linux
OFF = 2


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


class SignalStack(ctypes.Structure):
    """``stack_t`` of Linux: where a thread handles signals. If it points to freed memory, the next signal kills."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size_bytes", ctypes.c_size_t))


def handle_signals_on_own_stack() -> None:
    """Let this thread handle signals on the stack where it computes, which is every thread's default.

    On CPUs with AMX OpenVINO gives a thread another stack with each Core that it makes there, and frees it with the
    Core. It restores the previous one only in the same thread, even if the older Core ended first and that stack is
    freed as well: Ctrl-C ended in a segmentation fault (2026.4.1).
    """
    sigaltstack = getattr(ctypes.CDLL(None), "sigaltstack", None)
    if sigaltstack is not None:
        sigaltstack(ctypes.byref(SignalStack(flags=OFF)), None)
