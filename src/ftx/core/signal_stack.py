"""The stack on which a thread handles signals: if its memory was freed, the next signal kills."""

from __future__ import annotations

import ctypes

# signal.h of Linux
OFF = 2


class SignalStack(ctypes.Structure):
    """``stack_t`` of Linux."""

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
