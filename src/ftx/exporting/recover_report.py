"""The report of a training through 8 bits, ``ftx export --recover``."""

from __future__ import annotations

from ftx.core.command_report import CommandReport


class RecoverReport(CommandReport):
    """A new run whose weights were trained further, to make its int8 model more exact."""

    verb: str = "export"
    source: str
    """The run that it is made from."""
    steps: int
    """The number of training steps."""
    lr: float
    """The learning rate of the first step."""
    error_before: float
    """The mean absolute difference of a logit between the simulated int8 model and the fp32 model, before these steps.
    It is measured on training images that no step uses.
    """
    error_after: float
    """The same difference after these steps."""
    metric: str
    """The name of the main metric of the task."""
    metrics: dict[str, float]
    """The metrics of the new run on validation images by name, from 0 to 1."""
