"""The report of a training through 8 bits, ``ftx export --recover``."""

from __future__ import annotations

from ftx.core.command_report import CommandReport


class RecoverReport(CommandReport):
    """A run that was trained through 8 bits.

    Errors are mean absolute differences of a logit between the network with fake quantization and the run's model in
    f32 before, on training images that took no step; ``before`` and ``after`` these steps.
    """

    verb: str = "export"
    source: str
    steps: int
    lr: float
    error_before: float
    error_after: float
    metric: str
    metrics: dict[str, float]
