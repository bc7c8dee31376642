"""The stack that a thread handles signals on: where it points to freed memory, the next signal kills."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

# signal.h of Linux
OFF = 2


class SignalStack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size_bytes", ctypes.c_size_t))


def signal_stack() -> SignalStack | None:
    """The one in use now; None where the system knows none."""
    found, known = SignalStack(), _sigaltstack()
    return found if known is not None and known(None, ctypes.byref(found)) == 0 else None


def handle_signals_on_own_stack() -> None:
    """Let this thread handle signals where it computes, as threads do that ask for nothing else.

    On CPUs with AMX OpenVINO gives a thread another stack with each Core that it makes there, and frees it with the
    Core. It puts back what was there before only in the same thread, and then also what is freed already where the
    older Core went first: Ctrl-C ended in a segmentation fault (2026.4.1).
    """
    known = _sigaltstack()
    if known is not None:
        known(ctypes.byref(SignalStack(flags=OFF)), None)


def _sigaltstack() -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), "sigaltstack", None)
