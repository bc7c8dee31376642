"""Output of several processes with one command line, as torchrun starts them: each result and each error once.

All of them print to one terminal. Rank zero prints results, and errors that every process meets. An error that only one
process meets is printed by that process: the first that claims it in the store by which the processes meet.
"""

from __future__ import annotations

import os
import signal
import threading
from datetime import timedelta

from ftx.core.errors import TERMINATING, InputError

# What torchrun gives to each process that it starts: who it is, of how many, and where they meet.
NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_GIVEN = (*NUMBERS, "MASTER_ADDR", "MASTER_PORT")
# The store is near, or it is gone.
_STORE_TIMEOUT = timedelta(seconds=5)
_allowed: list[bool] = []


def is_distributed() -> bool:
    """Whether torchrun has started this process, and others with it."""
    return all(os.environ.get(name) for name in _GIVEN) and os.environ["WORLD_SIZE"] != "1"


def check_one_process(work: str) -> None:
    """Raise InputError if several processes were started for work that one process does."""
    if is_distributed():
        found = f"{os.environ['WORLD_SIZE']} processes, started by torchrun"
        raise InputError(f"{work} must run in one process", found=found, fix="run the command without torchrun")


def is_rank_zero() -> bool:
    """Whether this process is the only one, or the first of several."""
    return not is_distributed() or os.environ["RANK"] == "0"


def may_print_error() -> bool:
    """Whether this process is the one that prints an error."""
    if not _allowed:
        allow_error_output(not is_distributed() or claim_error_output())
    return _allowed[-1]


def allow_error_output(allowed: bool) -> None:
    """Decide whether this process prints its error."""
    _allowed.append(allowed)


def claim_error_output() -> bool:
    """Whether this process is the first to claim that it prints what went wrong.

    The caller is about to end and ignores signals from here on: torchrun terminates all processes when one ends, which
    must not come between an error and its message.
    """
    if threading.current_thread() is threading.main_thread():
        for number in TERMINATING:
            signal.signal(number, signal.SIG_IGN)
    try:
        from torch._C._distributed_c10d import TCPStore  # what torch.distributed.TCPStore is

        store = TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), wait_for_workers=False, timeout=_STORE_TIMEOUT
        )
        return store.add(f"ftx error {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    except (ImportError, RuntimeError, ValueError):  # the store is gone with the first process, or its whole machine
        return os.environ["RANK"] == "1" or os.environ["LOCAL_RANK"] == "0"
