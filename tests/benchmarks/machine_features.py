"""The machine, in a line."""

from __future__ import annotations

import torch

from ftx.runs.machine import this_machine


def features() -> str:
    machine = this_machine()
    return f"{machine.cpu}, {torch.get_num_threads()} threads, {' '.join(machine.instructions)}"
