"""Several processes with one command line, as torchrun starts them: what they have to say is said once.

All print to one terminal. Results are the first one's to print, and so is an error that each of them meets; one that a
single process meets is that one's: whoever is the first to ask the store by which they meet.
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
# Of the store, which is near or gone.
_ASKED_WITHIN = timedelta(seconds=5)
_chosen: list[bool] = []


def started_together() -> bool:
    """Whether torchrun has started this process, and others with it."""
    return all(os.environ.get(name) for name in _GIVEN) and os.environ["WORLD_SIZE"] != "1"


def refuse_several(what: str) -> None:
    """Raise InputError where several processes were started for what one does."""
    if started_together():
        found = f"{os.environ['WORLD_SIZE']} processes, started by torchrun"
        raise InputError(f"{what} is the work of one process", found=found, fix="call it without torchrun")


def is_first() -> bool:
    """Whether this process is alone, or the first of several."""
    return not started_together() or os.environ["RANK"] == "0"


def speaks() -> bool:
    """Whether an error is this process's to print."""
    if not _chosen:
        let(not started_together() or is_first_to_say())
    return _chosen[-1]


def let(speak: bool) -> None:
    """Decide whether this process prints its error."""
    _chosen.append(speak)


def is_first_to_say() -> bool:
    """Whether no other of the processes has said yet what went wrong.

    Who asks is about to end, and hears no signal any more: torchrun asks all to end when one does, which must not come
    between an error and what is said of it.
    """
    _be_deaf_to_signals()
    try:
        from torch._C._distributed_c10d import TCPStore  # what torch.distributed.TCPStore is

        store = TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), wait_for_workers=False, timeout=_ASKED_WITHIN
        )
        return store.add(f"ftx said {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    except (ImportError, RuntimeError, ValueError):  # the store is gone with the first process, or its whole machine
        return os.environ["RANK"] == "1" or os.environ["LOCAL_RANK"] == "0"


def _be_deaf_to_signals() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in TERMINATING:
            signal.signal(number, signal.SIG_IGN)
