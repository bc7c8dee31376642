"""Several processes with one command line, as torchrun starts them: what they have to say is said once.

All print to one terminal. Results are the first one's to print, and so is an error that each of them meets; one that a
single process meets is that one's (``let``).
"""

from __future__ import annotations

import os

_RANK, _TOGETHER = "RANK", ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_chosen: list[bool] = []


def is_first() -> bool:
    """Whether this process is alone, or the first of several."""
    return not all(name in os.environ for name in _TOGETHER) or os.environ.get(_RANK, "0") == "0"


def speaks() -> bool:
    """Whether an error is this process's to print."""
    return _chosen[-1] if _chosen else is_first()


def let(speak: bool) -> None:
    """Decide whether this process prints its error."""
    _chosen.append(speak)
