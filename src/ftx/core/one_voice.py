"""Several processes with one command line, as torchrun starts them: what they have to say is said once.

All print to one terminal. Results are the first one's to print, and so is an error that each of them meets; one that a
single process meets is that one's (``let``).
"""

from __future__ import annotations

import os

from ftx.core.errors import InputError

# What torchrun gives to each process that it starts: who it is, of how many, and where they meet.
NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_GIVEN = (*NUMBERS, "MASTER_ADDR", "MASTER_PORT")
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
    return _chosen[-1] if _chosen else is_first()


def let(speak: bool) -> None:
    """Decide whether this process prints its error."""
    _chosen.append(speak)
