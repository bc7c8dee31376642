"""The stack that a thread handles signals on: where it points to freed memory, the next signal kills."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager


class SignalStack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size_bytes", ctypes.c_size_t))


def signal_stack() -> SignalStack | None:
    """The one in use now; None where the system knows none."""
    found = SignalStack()
    known = getattr(ctypes.CDLL(None), "sigaltstack", None)
    return found if known is not None and known(None, ctypes.byref(found)) == 0 else None


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Put the stack back that was in use before the block.

    On CPUs with AMX OpenVINO gives a thread one with each Core that it makes there, and frees it with the Core; in
    another thread than its own nothing is put back, and Ctrl-C ended in a segmentation fault (2026.4.1).
    """
    before = signal_stack()
    try:
        yield
    finally:
        if before is not None:
            ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)
